//! A float model run in floating point.

//! Calibration and the choice of integers.

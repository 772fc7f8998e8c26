//! Whole inferences between two threads: against a share-level replay bit for bit, and against the plaintext executor.

mod inference;

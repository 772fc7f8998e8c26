//! What is served: models with their plans, and the repository on disk that they come from.

pub mod repository;
pub mod root;

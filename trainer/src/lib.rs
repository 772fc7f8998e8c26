//! SENet: from a trained convolutional network to one that keeps few ReLUs.
//!
//! Kundu, Lu, Zhang, Liu, Beerel, "Learning to Linearize Deep Neural Networks for Secure and
//! Efficient Private Inference", ICLR 2023. [`teacher`] trains the all-ReLU network; [`budget`]
//! spreads the ReLUs over the layers (stage 1); [`search`] finds their positions (stage 2);
//! [`finetune`] trains the rest of the way (stage 3). A network is a [`net::Graph`] of the model format's operations: one of the
//! architectures with names, or a float model that pi-convert has imported.

pub mod average;
pub mod bench;
pub mod budget;
pub mod checkpoint;
pub mod data;
pub mod device;
mod error;
pub mod evaluate;
pub mod export;
pub mod finetune;
pub mod import;
pub mod interrupt;
pub mod loss;
pub mod net;
pub mod optim;
pub mod preset;
pub mod recipe;
pub mod report;
pub mod run;
pub mod search;
pub mod selection;
pub mod sensitivity;
pub mod svg;
pub mod teacher;
mod torch_file;
pub mod whiten;

pub use error::{Error, Result};

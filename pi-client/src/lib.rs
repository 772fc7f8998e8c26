//! Sends private queries: the server never sees the image, the client never sees the weights.
//!
//! [`Client`] is asynchronous and runs on any executor: threads of its own do the protocol's work. A future that is dropped
//! leaves the client usable: a query that had begun is finished and its answer thrown away, one that had not begins never.
//!
//! ```no_run
//! use pi_client::{Client, Config, Image};
//!
//! # async fn example() -> Result<(), pi_client::ClientError> {
//! let config = Config::new("https://models.example.com:50051").keep_prepared(8);
//! let client = Client::connect(config).await?;
//! client.prepare(2).await?;
//! let prediction = client.infer(&Image::open("cat.png")?).await?;
//! println!("{} in {:.3} s", prediction.label.unwrap_or_default(), prediction.stats.online_seconds);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::series`] announces how many images come, so that they are prepared for together; an [`Observer`] hears how it goes.
//!
//! Beneath lies [`blocking`], which does one thing at a time on the caller's thread.

mod client;
mod config;
pub mod connect;
pub mod error;
pub mod image;
pub mod input;
mod kept;
pub mod observer;
mod pool;
pub mod report;
pub mod retry;
pub mod session;
mod stats;
pub mod store;
mod trace;

pub use client::{Client, Series};
pub use config::Config;
pub use connect::{ConnectOptions, Description, Token};
pub use error::{ClientError, ErrorClass};
pub use image::{Image, Sizing};
pub use observer::Observer;
pub use report::Report;
pub use stats::{Prediction, Scored, Stats};
pub use store::Store;

/// The same with calls that block. Do not use it on a thread of an asynchronous runtime.
pub mod blocking {
    pub use crate::connect::Client;
    pub use crate::session::{Answer, Session};
}

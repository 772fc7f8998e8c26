//! Classifies images privately: `cargo run -p pi-client --example classify -- http://127.0.0.1:50051 IMAGE...`
//!
//! Keeps inferences prepared, so that each image after the first waits for the online phase only.

use pi_client::{Client, ClientError, Config, Image};

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or("http://127.0.0.1:50051".into());
    let client = Client::connect(Config::new(url).keep_prepared(4)).await?;
    client.prepare(1).await?;
    for path in args {
        let answer = client.infer(&Image::open(&path)?).await?;
        for note in &answer.notes {
            eprintln!("{path}: {note}");
        }
        println!(
            "{path}: {} in {:.3} s online, {:.3} s prepared {}",
            answer.label.unwrap_or_default(),
            answer.stats.online_seconds,
            answer.stats.offline_seconds,
            if answer.stats.prepared_ahead {
                "ahead"
            } else {
                "while it waited"
            }
        );
    }
    client.close().await;
    Ok(())
}

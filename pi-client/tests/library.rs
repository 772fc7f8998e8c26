//! The asynchronous client as an application uses it: answers, statistics, background, and futures that are dropped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use pi_client::observer::{Activity, Observer, Work};
use pi_client::{Client, ClientError, Config, ErrorClass, Image};
use pi_model::{Model, executor};

fn image(shade: u8) -> Image {
    let bytes = (0..192).map(|i| (i as u8).wrapping_mul(7) ^ shade);
    Image::from_pixels(8, 8, 3, bytes.collect()).unwrap()
}

fn in_the_clear(dir: &Path, shade: u8) -> Option<usize> {
    let model = Model::load(dir).unwrap();
    let fitted = image(shade).fit(model.public(), Default::default());
    let run = executor::run(&model, &fitted.unwrap().input.values).unwrap();
    Some(run.class())
}

/// Waits until `what` holds.
async fn until(mut what: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < patience, "it does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn connect_prepare_infer_and_see_what_it_cost() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let client = Client::connect(Config::new(&url).model("small"))
        .await
        .unwrap();
    assert_eq!(client.models().await.unwrap(), ["small"]);
    let first = client
        .prepare(3)
        .await
        .unwrap()
        .infer(&image(1))
        .await
        .unwrap();
    assert_eq!(first.class, in_the_clear(dir.path(), 1));
    assert_eq!(Some(first.top(2)[0].class), first.class);
    assert_eq!(first.label.as_ref(), Some(&first.top(1)[0].label));
    assert!(first.stats.prepared_ahead && first.stats.online_bytes > 0);
    assert!(first.stats.offline_bytes > first.stats.online_bytes);
    assert_eq!(client.last_stats(), Some(first.stats));
    assert_eq!(client.n_prepared(), 2);
    for shade in 2..5 {
        let answer = client.infer(&image(shade)).await.unwrap();
        assert_eq!(answer.class, in_the_clear(dir.path(), shade));
        // The last one finds nothing prepared.
        assert_eq!(answer.stats.prepared_ahead, shade < 4);
    }
    client.close().await;
    let nobody = Client::connect(Config::new(url).model("other")).await;
    assert_eq!(nobody.unwrap_err().class(), ErrorClass::Refused);
}

#[tokio::test]
async fn an_input_of_another_model_spends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 1);
    let client = Client::connect(Config::new(&url)).await.unwrap();
    client.prepare(2).await.unwrap();
    let fitted = image(1).fit(&client.description().model, Default::default());
    let fitted = fitted.unwrap();
    let mut short = fitted.input.clone();
    short.values.pop();
    let mut large = fitted.input.clone();
    large.values[0] = i64::MAX;
    for wrong in [short, large] {
        let refused = client.series(1).infer_input(&wrong).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Input, "{refused}");
        assert_eq!(client.n_prepared(), 2);
    }
    client.series(1).infer_input(&fitted.input).await.unwrap();
    assert_eq!(client.n_prepared(), 1);
    client.close().await;
}

#[derive(Debug)]
struct Fails;

impl Observer for Fails {
    fn begins(&self, work: &Work) -> Box<dyn Send> {
        assert!(work.activity != Activity::Inferring, "as the test wants");
        Box::new(())
    }
}

#[tokio::test]
async fn an_observer_that_panics_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    for keep in [0, 2] {
        let config = Config::new(&url).keep_prepared(keep).observer(Fails);
        let client = Client::connect(config).await.unwrap();
        for _ in 0..2 {
            let image = image(1);
            let answer = tokio::time::timeout(Duration::from_secs(60), client.infer(&image));
            let error = answer.await.expect("nobody answers").unwrap_err();
            assert!(matches!(error, ClientError::Closed), "{error}");
        }
        assert!(client.trouble().unwrap().contains("panic"));
        let closed = tokio::time::timeout(Duration::from_secs(60), client.close());
        closed.await.expect("closing does not end");
    }
}

#[tokio::test]
async fn a_number_of_inferences_is_kept_prepared() {
    let dir = tempfile::tempdir().unwrap();
    // With one place at the server the second session is refused, and the first does it all.
    for n_places in [2, 1] {
        let url = common::server(dir.path(), n_places);
        let client = Client::connect(Config::new(&url).keep_prepared(3))
            .await
            .unwrap();
        until(|| client.n_prepared() >= 3).await;
        for shade in 0..6 {
            let answer = client.infer(&image(shade)).await.unwrap();
            assert_eq!(answer.class, in_the_clear(dir.path(), shade));
            until(|| client.n_prepared() >= 3).await;
            assert!(client.n_prepared() < 3 + 2);
            assert!(answer.stats.prepared_ahead, "{shade}");
        }
        assert_eq!(client.trouble(), None);
        client.close().await;
    }
}

#[tokio::test]
async fn more_than_the_server_holds_is_refused_before_any_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 1);
    let client = Client::connect(Config::new(&url)).await.unwrap();
    client.prepare(2).await.unwrap();
    let n = client.n_prepared();
    let error = client.prepare(usize::MAX / 2).await.unwrap_err();
    assert!(matches!(error, ClientError::Full { n_prepared, .. } if n_prepared == n));
    assert_eq!(error.class(), ErrorClass::Quota);
    assert_eq!(client.n_prepared(), n);
    let answer = client.infer(&image(1)).await.unwrap();
    assert!(answer.stats.prepared_ahead);
}

#[tokio::test]
async fn a_dropped_future_leaves_a_client_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 1);
    let client = Client::connect(Config::new(&url)).await.unwrap();
    for delay_ms in [0, 1, 3, 10, 30] {
        let delay = Duration::from_millis(delay_ms);
        let _ = tokio::time::timeout(delay, client.prepare(2)).await;
        let _ = tokio::time::timeout(delay, client.infer(&image(9))).await;
        let answer = client.infer(&image(delay_ms as u8)).await.unwrap();
        assert_eq!(answer.class, in_the_clear(dir.path(), delay_ms as u8));
    }
    // A query that never began costs nothing: two wait behind a preparation, and are dropped before it ends.
    let (b, c) = (image(2), image(3));
    loop {
        // All that was dropped above is over when this is answered.
        assert!(client.infer(&image(4)).await.is_ok());
        let n_before = client.n_prepared();
        let mut preparing = Box::pin(client.prepare(20));
        let waiting = async { tokio::join!(client.infer(&b), client.infer(&c)) };
        tokio::select! {
            biased;
            done = &mut preparing => panic!("done at the first look: {done:?}"),
            _ = waiting => panic!("answered before what was asked first"),
            () = std::future::ready(()) => {}
        }
        let was_overtaken = tokio::select! {
            biased;
            _ = &mut preparing => true,
            () = std::future::ready(()) => false,
        };
        if was_overtaken {
            // This thread slept so long that they may have begun: once more.
            continue;
        }
        preparing.await.unwrap();
        assert!(client.infer(&image(4)).await.is_ok());
        assert_eq!(client.n_prepared(), n_before + 20 - 1);
        break;
    }
    // Dropped in the middle of everything, here on an asynchronous thread; the server's only place is free again soon.
    let _ = tokio::time::timeout(Duration::from_millis(2), client.prepare(50)).await;
    drop(client);
    let started = Instant::now();
    loop {
        let client = Client::connect(Config::new(&url)).await.unwrap();
        match client.infer(&image(5)).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.class(), ErrorClass::Quota, "{error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_session_for_single_inferences_gives_way_to_one_for_batches() {
    let dir = tempfile::tempdir().unwrap();
    // One place: the small session must be gone before the large one comes.
    let url = common::server(dir.path(), 1);
    let client = Client::connect(Config::new(&url)).await.unwrap();
    client.infer(&image(1)).await.unwrap();
    client.prepare(3).await.unwrap();
    assert_eq!(client.n_prepared(), 3);
    let batched = client.infer(&image(2)).await.unwrap();
    // What is in store is kept, in batches as large as before.
    client.prepare(4).await.unwrap();
    assert_eq!(client.n_prepared(), 2 + 6);
    let single = Client::connect(Config {
        batch: Some(1),
        ..Config::new(&url)
    });
    let single = {
        client.close().await;
        single.await.unwrap().infer(&image(2)).await.unwrap()
    };
    assert!(batched.stats.offline_bytes < single.stats.offline_bytes);
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_replaced_before_anything_is_spent() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::serve_with(dir.path(), 2, 150, |o| {
        o.limits.idle_timeout = Duration::from_millis(150);
    });
    let client = Client::connect(Config::new(&url)).await.unwrap();
    client.prepare(2).await.unwrap();
    until(|| client.n_prepared() == 0).await;
    let answer = client.infer(&image(1)).await.unwrap();
    assert!(!answer.stats.prepared_ahead);
}

#[tokio::test]
async fn bad_input_spends_nothing_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let client = Client::connect(Config::new(&url)).await.unwrap();
    client.prepare(1).await.unwrap();
    let bad = Image::from_tensor(&[3, 8, 8], vec![f32::NAN; 192]).unwrap();
    let error = client.infer(&bad).await.unwrap_err();
    assert!(matches!(&error, ClientError::Input { .. }), "{error}");
    assert_eq!(client.n_prepared(), 1);
    let nowhere = Client::connect(Config {
        retries: pi_client::retry::Retries::NONE,
        ..Config::new("http://127.0.0.1:1")
    });
    assert_eq!(nowhere.await.unwrap_err().class(), ErrorClass::Unreachable);
}

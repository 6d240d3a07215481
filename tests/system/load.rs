//! Many clients at one slow engine.

use std::time::Duration;

use futures_util::future::join_all;
use resnetd::engine::{Engine, EngineError, EngineInfo};

use super::client::{Ask, Client};
use super::common::{GREEN, TestServer, colours, config, png};

const CLIENTS: usize = 16;
const REQUESTS: usize = 25;

/// Takes its time over a batch of any size, as a large network does on hardware that is not full.
struct Slow(Box<dyn Engine>);

impl Engine for Slow {
    fn info(&self) -> &EngineInfo {
        self.0.info()
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        std::thread::sleep(Duration::from_millis(50));
        self.0.forward(batch, input, logits)
    }
}

#[tokio::test]
async fn batches_grow_under_load() {
    let server = TestServer::batching(config(), 32, 64).await;
    let (mut model, remote) = colours("m");
    let engine = model.engines.pop().unwrap();
    model.engines.push(Box::new(Slow(engine)));
    server.classifier.load_model(model).unwrap();
    let warm_up = remote.executed();
    let clients = (0..CLIENTS).map(|i| {
        let client = Client::new(server.bound.http, server.bound.grpc);
        tokio::spawn(async move {
            for _ in 0..REQUESTS {
                let ask = Ask::one(png(GREEN));
                let answer = match i % 2 {
                    0 => client.raw(ask).await,
                    _ => client.unary(ask).await,
                };
                assert_eq!(answer.unwrap()[0].as_ref().unwrap()[0].0, 1, "green");
            }
        })
    });
    join_all(clients)
        .await
        .into_iter()
        .for_each(|client| client.unwrap());
    let images = server.metric("resnetd_batch_size_sum", &[]);
    let batches = server.metric("resnetd_batch_size_count", &[]);
    println!("{images} images in {batches} batches");
    assert_eq!(images, (CLIENTS * REQUESTS) as f64);
    assert_eq!(images, (remote.executed() - warm_up) as f64);
    assert_eq!(
        batches,
        server.metric("resnetd_inference_duration_seconds_count", &[])
    );
    assert!(
        images / batches > 4.0,
        "{images} images in {batches} batches"
    );
}

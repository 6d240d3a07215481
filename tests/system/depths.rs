//! Two networks of different depth at once.

use bytes::Bytes;
use futures_util::future::join_all;

use super::client::{Ask, Client};
use super::common::process::{Process, data};
use super::common::{metric, weights};

/// Requests that name a model in one way.
struct Sent {
    model: Option<&'static str>,
    /// HTTP requests of one image.
    single: u64,
    /// HTTP requests of three images.
    triple: u64,
    /// gRPC requests of one image.
    grpc: u64,
}

/// The first two go to the default, of depth 20; the last to the other, of depth 32.
const SENT: [Sent; 3] = [
    Sent {
        model: None,
        single: 7,
        triple: 3,
        grpc: 11,
    },
    Sent {
        model: Some("resnet20"),
        single: 2,
        triple: 4,
        grpc: 6,
    },
    Sent {
        model: Some("deep"),
        single: 13,
        triple: 5,
        grpc: 8,
    },
];

#[tokio::test]
async fn each_depth_counts_the_requests_sent_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("deep");
    weights::folder(&deep, "resnet32", "weights.safetensors");
    let deep = format!("deep={}", deep.display());
    let trained = concat!(
        "resnet20=",
        env!("CARGO_MANIFEST_DIR"),
        "/models/resnet20-cifar10"
    );
    let process = Process::serve(&["--model", trained, "--model", &deep]).await;

    let image = Bytes::from(std::fs::read(data("preprocess/tiny.png")).unwrap());
    let mut asking = Vec::new();
    for sent in &SENT {
        for (requests, images, over_http) in [
            (sent.single, 1, true),
            (sent.triple, 3, true),
            (sent.grpc, 1, false),
        ] {
            let client = Client::new(process.http, process.grpc);
            let ask = Ask {
                images: vec![image.clone(); images],
                model: sent.model,
            };
            asking.push(tokio::spawn(async move {
                for _ in 0..requests {
                    let answer = match over_http {
                        true => client.form(ask.clone()).await,
                        false => client.unary(ask.clone()).await,
                    };
                    assert!(answer.unwrap().iter().all(Result::is_ok));
                }
            }));
        }
    }
    join_all(asking)
        .await
        .into_iter()
        .for_each(|asked| asked.unwrap());

    let text = process.metrics().await;
    check(&text, "resnet20", "20", &SENT[..2]);
    check(&text, "deep", "32", &SENT[2..]);
}

fn check(text: &str, model: &str, depth: &str, sent: &[Sent]) {
    let http: u64 = sent.iter().map(|s| s.single + s.triple).sum();
    let grpc: u64 = sent.iter().map(|s| s.grpc).sum();
    let images: u64 = sent.iter().map(|s| s.single + 3 * s.triple + s.grpc).sum();
    let count = |name: &str, labels: &[(&str, &str)]| {
        let series = [
            ("model", model),
            ("depth", depth),
            ("family", "cifar_resnet"),
        ];
        metric(text, name, &[&series, labels].concat()) as u64
    };
    for (protocol, requests) in [("http", http), ("grpc", grpc)] {
        let protocol = ("protocol", protocol);
        assert_eq!(
            count("resnetd_requests_total", &[protocol, ("code", "ok")]),
            requests,
            "{model}"
        );
        assert_eq!(
            count("resnetd_requests_total", &[protocol]),
            requests,
            "{model}"
        );
        assert_eq!(
            count("resnetd_request_duration_seconds_count", &[protocol]),
            requests,
            "{model}"
        );
    }
    assert_eq!(count("resnetd_images_total", &[]), images, "{model}");
    for stage in ["decode", "preprocess", "queue", "inference"] {
        let stages = count("resnetd_stage_duration_seconds_count", &[("stage", stage)]);
        assert_eq!(stages, images, "{model} {stage}");
    }
    let batches = count("resnetd_inference_duration_seconds_count", &[]);
    assert!((1..=images).contains(&batches), "{model}: {batches}");
    assert_eq!(count("resnetd_batch_size_count", &[]), batches, "{model}");
    assert_eq!(count("resnetd_batch_size_sum", &[]), images, "{model}");
}

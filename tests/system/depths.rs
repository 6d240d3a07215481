//! Two networks of different depth at once.

use futures_util::future::join_all;

use super::client::{Ask, Client};
use super::common::process::{Process, data};
use super::common::{metric, weights};

#[tokio::test]
async fn each_depth_counts_the_requests_sent_to_it() {
    let folder = tempfile::tempdir().unwrap();
    weights::folder(
        &folder.path().join("deep"),
        "resnet32",
        "weights.safetensors",
    );
    let embedded = format!(
        "resnet20={}/models/resnet20-cifar10",
        env!("CARGO_MANIFEST_DIR")
    );
    let deep = format!("deep={}", folder.path().join("deep").display());
    let process = Process::serve(&["--model", &embedded, "--model", &deep]).await;

    // requests of each kind to each model: model, http, http of three images, grpc
    let counts = [
        (None, 7, 3, 11),
        (Some("resnet20"), 2, 4, 6),
        (Some("deep"), 13, 5, 8),
    ];
    let image = bytes::Bytes::from(std::fs::read(data("preprocess/tiny.png")).unwrap());
    let mut asking = Vec::new();
    for (model, single, triple, grpc) in counts {
        for (requests, images, over_http) in
            [(single, 1, true), (triple, 3, true), (grpc, 1, false)]
        {
            let client = Client::new(process.http, process.grpc);
            let ask = Ask {
                images: vec![image.clone(); images],
                model,
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
    for (depth, name, models) in [
        ("20", "resnet20", &counts[..2]),
        ("32", "deep", &counts[2..]),
    ] {
        let sum =
            |per: fn(&(Option<&str>, u64, u64, u64)) -> u64| models.iter().map(per).sum::<u64>();
        let (http, grpc) = (sum(|m| m.1 + m.2), sum(|m| m.3));
        let images = sum(|m| m.1 + 3 * m.2 + m.3);
        let count = |metric_name: &str, labels: &[(&str, &str)]| {
            let model = [
                ("depth", depth),
                ("model", name),
                ("family", "cifar_resnet"),
            ];
            metric(&text, metric_name, &[&model, labels].concat()) as u64
        };
        let requests = |protocol| {
            count(
                "resnetd_requests_total",
                &[("protocol", protocol), ("code", "ok")],
            )
        };
        assert_eq!((requests("http"), requests("grpc")), (http, grpc), "{name}");
        assert_eq!(count("resnetd_requests_total", &[]), http + grpc, "{name}");
        assert_eq!(
            count("resnetd_request_duration_seconds_count", &[]),
            http + grpc,
            "{name}"
        );
        assert_eq!(count("resnetd_images_total", &[]), images, "{name}");
        assert_eq!(count("resnetd_batch_size_sum", &[]), images, "{name}");
        let batches = count("resnetd_inference_duration_seconds_count", &[]);
        assert_eq!(batches, count("resnetd_batch_size_count", &[]), "{name}");
        assert!((1..=images).contains(&batches), "{name}");
        for stage in ["decode", "preprocess", "queue", "inference"] {
            let stages = count("resnetd_stage_duration_seconds_count", &[("stage", stage)]);
            assert_eq!(stages, images, "{name} {stage}");
        }
    }
}

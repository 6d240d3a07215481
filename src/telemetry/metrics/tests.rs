//! What a scrape shows.

use super::families::{BATCH_EDGES, LATENCY_EDGES};
use super::*;

const CODES: [&str; 3] = ["queue_full", "internal", "cancelled"];

fn labels(model: &str) -> ModelLabels {
    ModelLabels {
        model: model.into(),
        family: "resnet".into(),
        depth: "20".into(),
        version: "1".into(),
        device: "cpu".into(),
    }
}

const OF_A: &str = r#"depth="20",device="cpu",family="resnet",model="a""#;

/// Value of the series of that name whose labels hold all of `with`.
fn sample(text: &str, name: &str, with: &[&str]) -> Option<f64> {
    let mut found = text.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
            && with.iter().all(|w| line.contains(w))
    });
    let value = found.next()?.rsplit(' ').next()?.parse().ok();
    assert!(
        found.next().is_none(),
        "{name} {with:?} names more than one series"
    );
    value
}

#[test]
fn every_series_of_a_model_exists_at_zero() {
    let metrics = Metrics::new(&CODES);
    metrics.model(&labels("a"));
    let text = metrics.render();
    let zero = |name: &str, with: &[&str]| {
        let with: Vec<&str> = with
            .iter()
            .copied()
            .chain([OF_A, r#"version="1""#])
            .collect();
        assert_eq!(
            sample(&text, name, &with),
            Some(0.0),
            "{name} {with:?}\n{text}"
        );
    };
    zero("resnetd_inference_duration_seconds_count", &[]);
    zero("resnetd_batch_size_count", &[]);
    zero("resnetd_queue_depth", &[]);
    zero("resnetd_images_total", &[]);
    zero("resnetd_workers", &[]);
    zero("resnetd_devices_lost_total", &[]);
    for stage in ["decode", "preprocess", "queue", "inference"] {
        zero(
            "resnetd_stage_duration_seconds_count",
            &[&format!("stage=\"{stage}\"")],
        );
    }
    for reason in [
        "queue_full",
        "deadline",
        "cancelled",
        "invalid_image",
        "too_large",
    ] {
        zero("resnetd_rejected_total", &[&format!("reason=\"{reason}\"")]);
    }
    for protocol in ["http", "grpc"] {
        let protocol = format!("protocol=\"{protocol}\"");
        zero("resnetd_request_duration_seconds_count", &[&protocol]);
        for code in ["ok", "queue_full", "internal", "cancelled"] {
            zero(
                "resnetd_requests_total",
                &[&protocol, &format!("code=\"{code}\"")],
            );
        }
    }
}

#[test]
fn requests_of_no_model_have_empty_labels() {
    let metrics = Metrics::new(&CODES);
    let empty = r#"depth="",device="",family="",model="""#;
    let ok = [
        empty,
        r#"version="""#,
        r#"protocol="grpc""#,
        r#"code="internal""#,
    ];
    assert_eq!(
        sample(&metrics.render(), "resnetd_requests_total", &ok),
        Some(0.0)
    );
    metrics.request(None, Protocol::Grpc, "internal", 0.5);
    metrics.rejected(None, RejectReason::Cancelled, 2);
    let text = metrics.render();
    assert_eq!(sample(&text, "resnetd_requests_total", &ok), Some(1.0));
    let cancelled = [empty, r#"reason="cancelled""#];
    assert_eq!(
        sample(&text, "resnetd_rejected_total", &cancelled),
        Some(2.0)
    );
    let duration = [empty, r#"protocol="grpc""#];
    assert_eq!(
        sample(&text, "resnetd_request_duration_seconds_sum", &duration),
        Some(0.5)
    );
}

#[test]
fn models_count_apart() {
    let metrics = Metrics::new(&CODES);
    let (a, b) = (metrics.model(&labels("a")), metrics.model(&labels("b")));
    assert!(
        Arc::ptr_eq(&a, &metrics.model(&labels("a"))),
        "found, not made again"
    );
    metrics.request(Some(&a), Protocol::Http, "ok", 0.01);
    metrics.request(Some(&a), Protocol::Http, "ok", 0.01);
    metrics.request(Some(&b), Protocol::Http, "queue_full", 0.01);
    metrics.rejected(Some(&b), RejectReason::QueueFull, 3);
    b.rejected(RejectReason::TooLarge, 1);
    a.images.inc_by(5);
    a.device("cpu").unwrap().batch_size.observe(32.0);
    let text = metrics.render();
    let get = |name: &str, model: &str, with: &[&str]| {
        let model = format!("model=\"{model}\"");
        let with: Vec<&str> = with.iter().copied().chain([model.as_str()]).collect();
        sample(&text, name, &with)
    };
    let ok = [r#"protocol="http""#, r#"code="ok""#];
    assert_eq!(get("resnetd_requests_total", "a", &ok), Some(2.0));
    assert_eq!(get("resnetd_requests_total", "b", &ok), Some(0.0));
    let full = [r#"protocol="http""#, r#"code="queue_full""#];
    assert_eq!(get("resnetd_requests_total", "b", &full), Some(1.0));
    assert_eq!(
        get("resnetd_rejected_total", "b", &[r#"reason="queue_full""#]),
        Some(3.0)
    );
    assert_eq!(
        get("resnetd_rejected_total", "b", &[r#"reason="too_large""#]),
        Some(1.0)
    );
    assert_eq!(
        get("resnetd_rejected_total", "a", &[r#"reason="queue_full""#]),
        Some(0.0)
    );
    assert_eq!(get("resnetd_images_total", "a", &[]), Some(5.0));
    assert_eq!(
        get("resnetd_batch_size_bucket", "a", &[r#"le="32""#]),
        Some(1.0)
    );
    assert_eq!(
        get("resnetd_batch_size_bucket", "a", &[r#"le="24""#]),
        Some(0.0)
    );
}

#[test]
fn a_removed_model_leaves_nothing() {
    let metrics = Metrics::new(&CODES);
    let before = series(&metrics.render());
    metrics.model(&labels("a"));
    let info = ModelInfo {
        engine: "candle".into(),
        precision: "f32".into(),
        isa: "avx2".into(),
        parameters: 272_474,
    };
    metrics.set_model_info(&labels("a"), &info);
    let text = metrics.render();
    let line = concat!(
        r#"resnetd_model_info{depth="20",device="cpu",engine="candle",family="resnet",isa="avx2","#,
        r#"model="a",parameters="272474",precision="f32",version="1"} 1"#,
    );
    assert!(text.lines().any(|l| l == line), "{text}");
    // the engine changes: one line, the new one
    let other = ModelInfo {
        isa: "avx512".into(),
        ..info
    };
    metrics.set_model_info(&labels("a"), &other);
    let text = metrics.render();
    assert_eq!(
        sample(&text, "resnetd_model_info", &[r#"model="a""#]),
        Some(1.0)
    );
    assert!(text.contains("avx512") && !text.contains("avx2"));

    metrics.remove_model(&labels("a"));
    assert_eq!(series(&metrics.render()), before);
}

/// What a worker observes carries its device, what the model does all of them.
#[test]
fn of_several_devices_each_has_series_of_its_own() {
    let metrics = Metrics::new(&CODES);
    let before = series(&metrics.render());
    let both = ModelLabels {
        device: "cuda:0,cuda:1".into(),
        ..labels("a")
    };
    let model = metrics.model(&both);
    model.images.inc();
    model.device("cuda:1").unwrap().inference.observe(0.5);
    assert!(model.device("cuda:2").is_none());
    let text = metrics.render();
    let get = |name, device: &str| sample(&text, name, &[&format!("device=\"{device}\"")]);
    assert_eq!(get("resnetd_images_total", "cuda:0,cuda:1"), Some(1.0));
    assert_eq!(get("resnetd_images_total", "cuda:1"), None);
    let inference = "resnetd_inference_duration_seconds_count";
    assert_eq!(get(inference, "cuda:1"), Some(1.0));
    assert_eq!(get(inference, "cuda:0"), Some(0.0));
    assert_eq!(get(inference, "cuda:0,cuda:1"), None);
    assert_eq!(get("resnetd_workers", "cuda:0"), Some(0.0));

    // loaded anew on one of them, which goes on with its series
    let one = ModelLabels {
        device: "cuda:1".into(),
        ..both.clone()
    };
    metrics.model(&one);
    metrics.remove_model(&both);
    let text = metrics.render();
    let get = |name, device: &str| sample(&text, name, &[&format!("device=\"{device}\"")]);
    assert_eq!(get(inference, "cuda:1"), Some(1.0));
    assert!(!text.contains("cuda:0"), "{text}");
    metrics.remove_model(&one);
    assert_eq!(series(&metrics.render()), before);
}

#[test]
fn loads_are_counted_by_their_result_until_the_model_is_forgotten() {
    let metrics = Metrics::new(&CODES);
    let before = series(&metrics.render());
    metrics.loaded("a", false);
    metrics.loaded("a", false);
    metrics.loaded("b", true);
    let text = metrics.render();
    let of = |model: &str, result: &str| {
        let with = [format!("model=\"{model}\""), format!("result=\"{result}\"")];
        let with = with.each_ref().map(String::as_str);
        sample(&text, "resnetd_model_loads_total", &with)
    };
    assert_eq!((of("a", "ok"), of("a", "failed")), (Some(0.0), Some(2.0)));
    assert_eq!((of("b", "ok"), of("b", "failed")), (Some(1.0), Some(0.0)));
    metrics.remove_loads("a");
    metrics.remove_loads("b");
    assert_eq!(series(&metrics.render()), before);
}

#[test]
fn replays_are_counted_by_bucket_where_an_engine_has_any() {
    let metrics = Metrics::new(&CODES);
    let before = series(&metrics.render());
    let model = metrics.model(&labels("a"));
    assert!(!metrics.render().contains("resnetd_graph_replays_total{"));
    let device = model.device("cpu").unwrap();
    for bucket in [4, 8] {
        device.replays.announce(bucket);
    }
    device.replays.count(8, 5);
    device.replays.count(8, 8);
    let text = metrics.render();
    let replays = |bucket: &str| {
        let bucket = format!("bucket=\"{bucket}\"");
        sample(&text, "resnetd_graph_replays_total", &[OF_A, &bucket])
    };
    assert_eq!((replays("4"), replays("8")), (Some(0.0), Some(2.0)));
    assert_eq!(
        sample(&text, "resnetd_padding_images_total", &[OF_A]),
        Some(3.0)
    );
    metrics.remove_model(&labels("a"));
    assert_eq!(series(&metrics.render()), before);
}

/// Of a model that is loaded anew on more devices, whichever goes first.
#[test]
fn replays_of_one_device_are_the_same_in_all_registrations() {
    let [one, both] = ["cuda:0", "cuda:0,cuda:1"].map(|device| ModelLabels {
        device: device.into(),
        ..labels("a")
    });
    for order in [[&one, &both], [&both, &one]] {
        let metrics = Metrics::new(&CODES);
        let before = series(&metrics.render());
        let [first, second] = [&one, &both].map(|l| metrics.model(l).device("cuda:0").unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        first.replays.announce(4);
        second.replays.announce(8);
        metrics.remove_model(order[0]);
        let text = metrics.render();
        for bucket in ["4", "8"] {
            let with = [format!("bucket=\"{bucket}\""), "device=\"cuda:0\"".into()];
            let with = with.each_ref().map(String::as_str);
            let replays = sample(&text, "resnetd_graph_replays_total", &with);
            assert_eq!(replays, Some(0.0), "{bucket}");
        }
        metrics.remove_model(order[1]);
        assert_eq!(series(&metrics.render()), before);
        // a last batch is counted unseen
        first.replays.count(8, 7);
        assert_eq!(series(&metrics.render()), before);
    }
}

/// Names and labels of every series of ours.
fn series(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("resnetd_"));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

#[test]
fn edges_rise_and_are_dense_where_latencies_lie() {
    assert!(LATENCY_EDGES.is_sorted_by(|a, b| a < b));
    assert_eq!(
        (LATENCY_EDGES[0], LATENCY_EDGES[LATENCY_EDGES.len() - 1]),
        (0.0001, 10.0)
    );
    let dense: Vec<f64> = LATENCY_EDGES
        .into_iter()
        .filter(|e| (0.001..=0.1).contains(e))
        .collect();
    assert!(dense.windows(2).all(|w| w[1] / w[0] <= 1.6), "{dense:?}");
    assert!(BATCH_EDGES.is_sorted_by(|a, b| a < b));
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_reports_itself() {
    let text = Metrics::new(&[]).render();
    assert!(
        text.contains("process_resident_memory_bytes")
            && text.contains("process_cpu_seconds_total")
    );
}

//! `resnetd compare`.

use serde_json::Value;

use super::common::process::run;
use super::refused;

#[test]
fn what_is_measured_can_be_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ran = run(&[
        "compare",
        "resnet20",
        "--seconds",
        "0.05",
        "--json",
        "--threads",
        "1",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let comparison: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(comparison["machine"]["threads"], 1);
    let models = comparison["models"].as_array().unwrap();
    let [row] = &models[..] else {
        panic!("{models:?}");
    };
    assert_eq!(
        (&row["name"], &row["depth"], &row["year"]),
        (&"resnet20".into(), &20.into(), &2015.into())
    );
    assert_eq!(row["parameters"], 269_722);
    // the first stage's three values of 16 x 32 x 32: a block's input, and the input and output of its last convolution
    assert_eq!(row["peak_activation_bytes"], 3 * 16 * 32 * 32 * 4);
    let number = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert!(
        0.0 < number("/latency_ms/p50") && number("/latency_ms/p50") <= number("/latency_ms/p99")
    );
    let rate = number("/throughput/images_per_second");
    let per_gmac = number("/images_per_second_per_gmac");
    assert!((per_gmac * number("/gmacs") / rate - 1.0).abs() < 1e-4);
    assert!((1.0..=32.0).contains(&number("/throughput/batch")));
    // as models/resnet20-cifar10/model.toml states it
    assert_eq!(
        (number("/accuracy/top1"), number("/accuracy/top5")),
        (88.1, 99.61)
    );
    assert_eq!(row["accuracy"]["source"], "model.toml of resnet20-cifar10");

    std::fs::write(path("a.json"), &ran.stdout).unwrap();
    let again = run(&[
        "compare",
        "--from",
        &path("a.json"),
        "--json",
        "--plot",
        &path("a.svg"),
    ]);
    assert_eq!(
        (again.code, &again.stdout),
        (Some(0), &ran.stdout),
        "{again:?}"
    );
    assert!(
        std::fs::read_to_string(path("a.svg"))
            .unwrap()
            .contains("1 network on one machine")
    );
    let table = run(&[
        "compare",
        "res*",
        "--from",
        &path("a.json"),
        "--plot",
        &path("a.png"),
    ]);
    assert!(
        table.stdout.contains("resnet20") && table.stdout.contains("88.10"),
        "{table:?}"
    );
    assert_eq!(std::fs::read(path("a.png")).unwrap()[..4], *b"\x89PNG");
}

#[test]
fn what_cannot_be_compared_is_said_before_measuring() {
    let error = refused(&["compare", "resnet20", "resnet21"]);
    assert!(error.contains("\"resnet21\""), "{error}");
    let error = refused(&["compare", "--plot", "plot.pdf"]);
    assert!(error.contains(".svg or .png"), "{error}");
    let error = refused(&["compare", "--from", "Cargo.toml"]);
    assert!(
        error.contains("Cargo.toml is not what `compare --json` prints"),
        "{error}"
    );
    assert_eq!(run(&["compare", "--csv", "--json"]).code, Some(2));
}

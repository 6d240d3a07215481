//! `resnetd bench`.

use std::sync::Arc;

use resnetd::engine::{EngineOptions, select_one};
use resnetd::families;
use resnetd::weights::{Generator, Parameters};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::common::process::run;
use super::common::weights;
use super::refused;

/// Of the weights and the input that bench generates, as for the goldens.
const SEED: u64 = 20_151_210;
const BATCH: usize = 2;

/// The last line of `bench --json` and the logits it dumped, for the input checked here.
fn bench(more: &[&str]) -> (Value, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump.safetensors");
    let dump = dump.to_str().unwrap();
    let command = [
        "bench",
        "--architecture",
        "resnet20",
        "--batch",
        "2",
        "--seconds",
        "0.2",
    ];
    let ran = run(&[&command, ["--json", "--dump", dump].as_slice(), more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let bytes = std::fs::read(dump).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str, shape: &[usize]| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape()),
            (Dtype::F32, shape),
            "{name}"
        );
        let values = tensor.data().chunks_exact(4);
        values
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    };
    let graph = families::find("resnet20").unwrap().default_graph().unwrap();
    let input = Generator::input(SEED, BATCH, graph.input());
    assert_eq!(tensor("input", &[BATCH, 3, 32, 32]), input);
    let last = ran.stdout.lines().last().unwrap();
    (
        serde_json::from_str(last).unwrap(),
        tensor("logits", &[BATCH, 10]),
    )
}

/// What the engine makes of the same input with these weights.
fn expected(weights: fn(&resnetd::ir::Graph) -> Generator) -> Vec<f32> {
    let graph = Arc::new(families::find("resnet20").unwrap().default_graph().unwrap());
    let parameters = Parameters::load(&graph, &weights(&graph)).unwrap();
    let mut engine = select_one(&graph, parameters, &EngineOptions::default()).unwrap();
    let mut logits = vec![0.0; BATCH * 10];
    let input = Generator::input(SEED, BATCH, graph.input());
    engine.forward(BATCH, &input, &mut logits).unwrap();
    logits
}

fn assert_close(found: &[f32], expected: &[f32]) {
    let largest = expected
        .iter()
        .fold(0f32, |max, logit| max.max(logit.abs()));
    assert!(largest > 0.1, "{expected:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * largest,
            "{found} for {expected}"
        );
    }
}

#[test]
fn bf16_without_its_instructions_is_f32_and_says_so() {
    let ran = run(&[
        "bench",
        "--architecture",
        "resnet20",
        "--seconds",
        "0.1",
        "--json",
        "--precision",
        "bf16",
        "--max-isa",
        "avx2",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(line["precision"], "f32");
    assert!(ran.stderr.contains("bf16 needs a CPU"), "{}", ran.stderr);
}

#[test]
fn the_last_line_is_json_and_the_dump_is_what_was_computed() {
    let (line, logits) = bench(&["--threads", "1"]);
    assert!(line["images_per_second"].as_f64().unwrap() > 0.0);
    let latency = |p: &str| line["latency_ms"][p].as_f64().unwrap();
    assert!(
        0.0 < latency("p50")
            && latency("p50") <= latency("p90")
            && latency("p90") <= latency("p99")
    );
    for key in ["engine", "precision", "isa"] {
        assert!(
            line[key].as_str().is_some_and(|text| !text.is_empty()),
            "{line}"
        );
    }
    assert_eq!(
        (&line["precision"], &line["threads"]),
        (&"f32".into(), &1.into())
    );
    assert_eq!(
        (&line["batch"], &line["architecture"]),
        (&2.into(), &"resnet20".into())
    );
    assert_close(
        &logits,
        &expected(|graph| Generator::new(graph, SEED, [0.5, 0.9])),
    );
}

#[test]
fn weights_come_from_a_file_where_one_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resnet20.pth");
    std::fs::write(&file, weights::pth("resnet20")).unwrap();
    let (_, logits) = bench(&["--weights", file.to_str().unwrap()]);
    assert_close(&logits, &expected(|_| weights::generator("resnet20")));

    std::fs::write(&file, weights::pth("plain20")).unwrap();
    let file = file.to_str().unwrap();
    refused(&["bench", "--architecture", "resnet32", "--weights", file]);
    let error = refused(&["bench", "--architecture", "resnet21"]);
    assert!(error.contains("resnet21"), "{error}");
}

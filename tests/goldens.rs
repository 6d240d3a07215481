//! Logits of torchvision, timm and the reference CIFAR nets, computed in f64, against both engines in f32.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use resnetd::engine::{DeviceChoice, EngineChoice, EngineOptions, select_one};
use resnetd::families;
use resnetd::ir::Shape;
use resnetd::weights::{Generator, Parameters};
use safetensors::SafeTensors;

/// max|d| / max|logit|.
const TOLERANCE: f64 = 2e-5;

#[derive(serde::Deserialize)]
struct Golden {
    input: [usize; 4],
    seed: u64,
    bn_weight: [f64; 2],
    parameters: u64,
    top5: Vec<Vec<usize>>,
}

/// Compares a batch's logits with what is expected of it.
fn check(what: &str, logits: &[f32], expected: &[f32], golden: &Golden) {
    let largest = expected
        .iter()
        .fold(0.0f64, |m, &x| m.max(f64::from(x).abs()));
    let apart = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).abs();
    let error = logits.iter().zip(expected).map(apart).fold(0.0, f64::max) / largest;
    println!("{what}: {error:.1e}");
    assert!(error <= TOLERANCE, "{what}: {error:.2e}");
    let classes = logits.len() / golden.top5.len();
    for (row, top5) in logits.chunks_exact(classes).zip(&golden.top5) {
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        assert_eq!(best, Some(top5[0]), "{what}");
    }
}

#[test]
fn every_golden_matches() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let list = std::fs::read_to_string(folder.join("goldens.json")).expect("goldens.json");
    let list: BTreeMap<String, Golden> = serde_json::from_str(&list).expect("the list of goldens");
    let file = std::fs::read(folder.join("goldens.safetensors")).expect("goldens.safetensors");
    let file = SafeTensors::deserialize(&file).expect("safetensors");
    let mut compared = Vec::new();
    for (name, golden) in &list {
        let architecture = families::find(name).expect(name);
        let expected: Vec<f32> = file
            .tensor(&format!("{name}.logits"))
            .expect("logits")
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let [batch, channels, height, width] = golden.input;
        let graph = (architecture.build)(Shape::new(channels, height, width), architecture.classes);
        let graph = Arc::new(graph.expect(name));
        assert_eq!(graph.counts().parameters, golden.parameters, "{name}");
        let source = Generator::new(&graph, golden.seed, golden.bn_weight);
        for choice in [EngineChoice::Fused, EngineChoice::Candle] {
            let parameters = Parameters::load(&graph, &source).expect(name);
            let options = EngineOptions {
                device: DeviceChoice::Cpu,
                engine: choice,
                ..EngineOptions::default()
            };
            let mut engine = select_one(&graph, parameters, &options).expect(name);
            let input = Generator::input(golden.seed, batch, graph.input());
            let mut logits = vec![f32::NAN; expected.len()];
            engine.forward(batch, &input, &mut logits).expect(name);
            check(&format!("{name}, {choice:?}"), &logits, &expected, golden);
        }
        compared.push(name);
    }
    assert_eq!(compared.len(), 30, "{compared:?}");
}

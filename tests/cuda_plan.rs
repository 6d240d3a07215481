//! The plan of the fused CUDA engine, in plain loops, against the fused engine of the CPU: every registered architecture.

use std::sync::Arc;

use resnetd::engine::{CudaReference, Engine, FusedEngine, Token};
use resnetd::families;
use resnetd::ir::{Graph, Shape};
use resnetd::weights::{Generator, Parameters};

const SEED: u64 = 20151210;

fn parameters(graph: &Graph, norm_weights: [f64; 2]) -> Parameters {
    Parameters::load(graph, &Generator::new(graph, SEED, norm_weights)).expect("generated weights")
}

fn run(engine: &mut dyn Engine, graph: &Graph, input: &[f32]) -> Vec<f32> {
    let mut logits = vec![f32::NAN; 2 * graph.classes()];
    engine
        .forward(2, input, &mut logits)
        .expect("a forward pass");
    logits
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// |a - b| / |b|; NaN if a value is.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(a, b)| a - b)) / norm(b.iter().copied())
}

#[test]
fn every_architecture_gives_the_logits_of_the_cpu() {
    // the deepest are built as their shallower siblings are
    for architecture in families::all().filter(|a| a.depth <= 152) {
        let name = architecture.name;
        // the smallest image that the last layers have pixels of
        let mut sides = [17, 33, 64, 75].into_iter();
        let graph = sides.find_map(|side| (architecture.build)(Shape::new(3, side, side), 10).ok());
        let graph = Arc::new(graph.expect(name));
        let steady = ["plain", "googlenet", "inception"];
        let steady = steady.iter().any(|family| name.starts_with(family));
        let norm_weights = match steady || name.ends_with("_bn") {
            true => [0.9, 1.3],
            false => [0.5, 0.9],
        };
        let input = Generator::input(SEED, 2, graph.input());
        let weights = || parameters(&graph, norm_weights);
        let cpu = FusedEngine::new(&graph, weights(), Token::detect(None), None);
        let expected = run(&mut cpu.expect(name), &graph, &input);
        let plan = CudaReference::new(&graph, weights());
        let found = run(&mut plan.expect(name), &graph, &input);
        let (first, second) = expected.split_at(graph.classes());
        let (error, contrast) = (apart(&found, &expected), apart(first, second));
        println!("{name}: {error:.1e}, two images {contrast:.1e} apart");
        assert!(error <= 1e-5, "{name}: {error:.2e}");
        // two images give different logits, and each its own
        assert!(
            contrast >= 50.0 * error.max(1e-6),
            "{name}: only {contrast:.1e} apart"
        );
    }
}

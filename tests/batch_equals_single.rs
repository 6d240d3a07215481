//! The answer to an image does not depend on the batch it came in.

use std::sync::Arc;

use resnetd::engine::{Engine, EngineOptions, Precision, select_one};
use resnetd::families;
use resnetd::ir::{Builder, Graph, Shape};
use resnetd::weights::{Generator, Parameters};

const SEED: u64 = 11;
const IMAGES: usize = 9;
/// Of the largest logit of an image.
const TOLERANCE: f32 = 1e-5;

struct Network {
    graph: Arc<Graph>,
    engine: Box<dyn Engine>,
    /// `[IMAGES, c, h, w]`.
    input: Vec<f32>,
}

impl Network {
    fn new(graph: Graph, precision: Precision) -> Self {
        let options = EngineOptions {
            precision,
            ..EngineOptions::default()
        };
        let graph = Arc::new(graph);
        let weights = Generator::new(&graph, SEED, [0.5, 0.9]);
        let parameters = Parameters::load(&graph, &weights).unwrap();
        Self {
            engine: select_one(&graph, parameters, &options).unwrap(),
            input: Generator::input(SEED, IMAGES, graph.input()),
            graph,
        }
    }

    /// Logits of these images as one batch, image by image.
    fn logits(&mut self, images: &[usize]) -> Vec<Vec<f32>> {
        let (len, classes) = (self.graph.input().elements(), self.graph.classes());
        let image = |&i: &usize| &self.input[i * len..(i + 1) * len];
        let input: Vec<f32> = images.iter().flat_map(image).copied().collect();
        let mut logits = vec![f32::NAN; images.len() * classes];
        self.engine
            .forward(images.len(), &input, &mut logits)
            .unwrap();
        logits.chunks_exact(classes).map(<[f32]>::to_vec).collect()
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

fn check_family(name: &str) {
    check_at(name, families::find(name).unwrap().input_size);
}

/// On images of `side` by `side` pixels.
fn check_at(name: &str, side: usize) {
    let architecture = families::find(name).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let graph = (architecture.build)(Shape::new(3, side, side), architecture.classes);
        check(name, graph.unwrap(), precision);
    }
}

fn check(name: &str, graph: Graph, precision: Precision) {
    let mut network = Network::new(graph, precision);
    let alone: Vec<Vec<f32>> = (0..IMAGES)
        .map(|i| network.logits(&[i]).remove(0))
        .collect();
    let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
    assert!(differ(&alone[0], &alone[1]), "images are told apart");
    for size in 1..=IMAGES {
        let images: Vec<usize> = (0..size).collect();
        let together = network.logits(&images);
        for (image, (logits, alone)) in together.iter().zip(&alone).enumerate() {
            let largest = alone.iter().fold(0f32, |max, logit| max.max(logit.abs()));
            for (logit, alone) in logits.iter().zip(alone) {
                let off = (logit - alone).abs() / largest;
                assert!(
                    off <= TOLERANCE,
                    "{name}: image {image} of {size} is off by {off}"
                );
            }
        }
        // at the same size neither the place nor the neighbours count, nor when it is computed
        let mut turned = images.clone();
        turned.rotate_left(size / 2);
        for (logits, &image) in network.logits(&turned).iter().zip(&turned) {
            assert_eq!(
                bits(logits),
                bits(&together[image]),
                "{name}: image {image} of {size}"
            );
        }
        let again = network.logits(&images);
        assert!(
            again.iter().zip(&together).all(|(a, b)| bits(a) == bits(b)),
            "{name}: {size}"
        );
    }
}

#[test]
fn residual_networks() {
    check_family("resnet20");
}

#[test]
fn pre_activation_and_wide_networks() {
    check_family("wrn16_4");
}

#[test]
fn large_linear_layers() {
    check_at("alexnet", 64);
}

#[test]
fn branches_side_by_side() {
    check_at("googlenet", 64);
    check_at("inception_resnet_v2", 75);
}

/// On AVX-512 the table of algorithms has another for this layer from four images on.
#[test]
fn a_layer_with_an_algorithm_for_large_batches() {
    let (mut b, x) = Builder::new(Shape::new(512, 7, 7));
    let x = b.conv("conv", x, 512, 3, 1);
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, 10);
    check("512->512 7x7", b.finish().unwrap(), Precision::F32);
}

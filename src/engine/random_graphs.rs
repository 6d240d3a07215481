//! Graphs of random operations, and every engine held to candle on them.

use std::sync::Arc;

use candle_core::Device;
use proptest::prelude::*;

use super::{CandleEngine, CudaReference, Engine, EngineInfo, FusedEngine};
use crate::ir::{Builder, Graph, NodeId, Op, Pool2d, Shape};
use crate::kernels::{Element, Token};
use crate::weights::{Generator, Parameters};

/// An operation to try on the last values of a growing graph.
#[derive(Clone, Debug)]
pub(super) enum Try {
    Conv {
        out: usize,
        kernel: (usize, usize),
        stride: usize,
        padding: (usize, usize),
        groups: usize,
        bias: bool,
    },
    Norm,
    Relu,
    Scale,
    /// With the value so many places back.
    Add(usize),
    Concat(usize),
    MaxPool(Pool2d),
    AvgPool(Pool2d, bool),
    Adaptive(usize, usize),
    Subsample(usize),
    PadChannels(usize),
}

fn any_window() -> impl Strategy<Value = Pool2d> {
    (
        1usize..4,
        1usize..4,
        1usize..4,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(a, b, stride, pad, ceil)| Pool2d {
            kernel: (a, b),
            stride,
            padding: if pad { (a / 2, b / 2) } else { (0, 0) },
            ceil,
        })
}

pub(super) fn any_try() -> impl Strategy<Value = Try> {
    let conv = (
        1usize..40,
        (1usize..4, 1usize..4),
        1usize..3,
        (0usize..2, 0usize..3),
        1usize..5,
        any::<bool>(),
    );
    prop_oneof![
        4 => conv.prop_map(|(out, kernel, stride, padding, groups, bias)| Try::Conv {
            out, kernel, stride, padding, groups, bias,
        }),
        3 => Just(Try::Norm),
        3 => Just(Try::Relu),
        1 => Just(Try::Scale),
        3 => (0usize..5).prop_map(Try::Add),
        2 => (0usize..5).prop_map(Try::Concat),
        1 => any_window().prop_map(Try::MaxPool),
        1 => (any_window(), any::<bool>()).prop_map(|(w, c)| Try::AvgPool(w, c)),
        1 => (1usize..5, 1usize..5).prop_map(|(a, b)| Try::Adaptive(a, b)),
        1 => (1usize..3).prop_map(Try::Subsample),
        1 => (1usize..20).prop_map(Try::PadChannels),
    ]
}

/// The operations that fit, in order, and a classifier on some of the graphs.
pub(super) fn grow(input: Shape, tries: &[Try], classify: bool) -> Graph {
    let (mut b, x) = Builder::new(input);
    let mut values: Vec<NodeId> = vec![x];
    for (i, attempt) in tries.iter().enumerate() {
        let x = values[values.len() - 1];
        let shape = b.shape(x);
        let back = |n: usize| values[values.len().saturating_sub(n + 1)];
        let fits = |w: &Pool2d| w.kernel.0 <= shape.height && w.kernel.1 <= shape.width;
        let (op, inputs) = match attempt.clone() {
            Try::Conv {
                out,
                kernel,
                stride,
                padding,
                groups,
                bias,
            } => {
                let groups = if shape.channels % groups == 0 {
                    groups
                } else {
                    1
                };
                let op = Op::Conv2d {
                    in_channels: shape.channels,
                    out_channels: out * groups,
                    kernel: (kernel.0.min(shape.height), kernel.1.min(shape.width)),
                    stride,
                    padding,
                    groups,
                    bias,
                };
                (op, vec![x])
            }
            Try::Norm => {
                let channels = shape.channels;
                (
                    Op::BatchNorm {
                        channels,
                        eps: 1e-5,
                    },
                    vec![x],
                )
            }
            Try::Relu => (Op::Relu, vec![x]),
            Try::Scale => (Op::Scale { factor: 0.5 }, vec![x]),
            Try::Add(n) if b.shape(back(n)) == shape => (Op::Add, vec![x, back(n)]),
            Try::Concat(n)
                if b.shape(back(n)).height == shape.height
                    && b.shape(back(n)).width == shape.width =>
            {
                (Op::Concat, vec![x, back(n)])
            }
            Try::MaxPool(w) if fits(&w) => (Op::MaxPool(w), vec![x]),
            Try::AvgPool(window, count_include_pad) if fits(&window) => {
                let op = Op::AvgPool {
                    window,
                    count_include_pad,
                };
                (op, vec![x])
            }
            Try::Adaptive(height, width) => (
                Op::AdaptiveAvgPool {
                    output: (height, width),
                },
                vec![x],
            ),
            Try::Subsample(stride) => (Op::Subsample { stride }, vec![x]),
            Try::PadChannels(extra) => (Op::PadChannels { extra }, vec![x]),
            _ => continue,
        };
        values.push(b.layer(&format!("layer{i}"), op, &inputs));
    }
    if classify {
        let x = b.flatten(values[values.len() - 1]);
        b.linear("fc", x, 7);
    }
    b.finish().expect("every operation was made to fit")
}

fn parameters(graph: &Graph) -> Parameters {
    Parameters::load(graph, &Generator::new(graph, 1, [0.5, 0.9])).expect("generated weights")
}

fn candle(graph: &Arc<Graph>) -> CandleEngine {
    let info = EngineInfo {
        engine: "candle",
        precision: "f32",
        isa: "portable",
        device: "cpu".into(),
    };
    CandleEngine::new(graph, parameters(graph), Device::Cpu, info).expect("an engine")
}

/// The logits of two images.
fn run(engine: &mut dyn Engine, graph: &Graph, input: &[f32]) -> Vec<f32> {
    let mut logits = vec![f32::NAN; 2 * graph.classes()];
    engine
        .forward(2, input, &mut logits)
        .expect("a forward pass");
    logits
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_give_candles_values(
        tries in proptest::collection::vec(any_try(), 1..14),
        channels in 1usize..20,
        (height, width) in (3usize..14, 3usize..18),
        classify in any::<bool>(),
    ) {
        let graph = Arc::new(grow(Shape::new(channels, height, width), &tries, classify));
        let input = Generator::input(1, 2, graph.input());
        let expected = run(&mut candle(&graph), &graph, &input);
        let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for token in Token::available() {
            let mut engine =
                FusedEngine::new(&graph, parameters(&graph), token, None).expect("an engine");
            let found = run(&mut engine, &graph, &input);
            // a layer's rounding can outweigh what later layers leave of its values
            let most = if token.element() == Element::F32 { 1e-5 } else { 5e-2 } * scale;
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                prop_assert!((a - b).abs() <= most, "{}: value {i}: {a}, expected {b}", token.isa());
            }
        }
        if classify {
            let mut plan = CudaReference::new(&graph, parameters(&graph)).expect("a plan");
            let found = run(&mut plan, &graph, &input);
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                prop_assert!((a - b).abs() <= 1e-5 * scale, "CUDA plan: value {i}: {a}, expected {b}");
            }
        }
    }
}

//! Operations that candle lacks and this engine composes, against loops over single pixels.

use std::sync::Arc;

use super::*;
use crate::ir::{Builder, NodeId, Shape, windows};
use crate::weights::Generator;

const INPUT: Shape = Shape::new(2, 9, 11);

/// Input values and the output of a graph whose only layers `build` adds.
fn run(build: impl Fn(&mut Builder, NodeId)) -> (Vec<f32>, Vec<f32>, Shape) {
    let (mut builder, x) = Builder::new(INPUT);
    build(&mut builder, x);
    let graph = Arc::new(builder.finish().expect("a graph"));
    let parameters = Parameters::load(&graph, &Generator::new(&graph, 7, [0.5, 0.9]));
    let info = EngineInfo {
        engine: "candle",
        precision: "f32",
        isa: "portable",
        device: "cpu".into(),
    };
    let parameters = parameters.expect("generated weights");
    let mut engine = CandleEngine::new(&graph, parameters, Device::Cpu, info).expect("an engine");
    // negative values too: a padding of zero must not win a maximum
    let input: Vec<f32> = (0..INPUT.elements())
        .map(|i| ((i * 7919) % 101) as f32 / 50.0 - 2.5)
        .collect();
    let mut output = vec![f32::NAN; graph.classes()];
    engine
        .forward(1, &input, &mut output)
        .expect("a forward pass");
    let last = graph.nodes()[graph.nodes().len() - 1].shape;
    (input, output, last)
}

/// The input pixels under each window of `pool` and how many padding pixels lie beside them, for every output value.
fn under_windows(input: &[f32], pool: &Pool2d) -> Vec<(Vec<f32>, usize)> {
    let rows = windows(
        INPUT.height,
        pool.kernel.0,
        pool.stride,
        pool.padding.0,
        pool.ceil,
    );
    let columns = windows(
        INPUT.width,
        pool.kernel.1,
        pool.stride,
        pool.padding.1,
        pool.ceil,
    );
    let mut all = Vec::new();
    for c in 0..INPUT.channels {
        for i in 0..rows {
            for j in 0..columns {
                let (mut pixels, mut padding) = (Vec::new(), 0);
                for ki in 0..pool.kernel.0 {
                    for kj in 0..pool.kernel.1 {
                        let (y, x) = (i * pool.stride + ki, j * pool.stride + kj);
                        let inside =
                            |at: usize, pad: usize, size: usize| at >= pad && at < size + pad;
                        if inside(y, pool.padding.0, INPUT.height)
                            && inside(x, pool.padding.1, INPUT.width)
                        {
                            let (y, x) = (y - pool.padding.0, x - pool.padding.1);
                            pixels.push(input[(c * INPUT.height + y) * INPUT.width + x]);
                        } else if y < INPUT.height + 2 * pool.padding.0
                            && x < INPUT.width + 2 * pool.padding.1
                        {
                            padding += 1;
                        }
                    }
                }
                all.push((pixels, padding));
            }
        }
    }
    all
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= 1e-5 * b.abs().max(1.0),
            "{what}, value {i}: {a}, expected {b}"
        );
    }
}

fn pools() -> impl Iterator<Item = Pool2d> {
    let sizes = [
        ((3, 3), 2, (1, 1)),
        ((3, 3), 2, (0, 0)),
        ((2, 3), 2, (1, 0)),
        ((3, 3), 1, (1, 1)),
        ((4, 4), 3, (2, 1)),
    ];
    sizes.into_iter().flat_map(|(kernel, stride, padding)| {
        [false, true].map(|ceil| Pool2d {
            kernel,
            stride,
            padding,
            ceil,
        })
    })
}

#[test]
fn max_pools_with_padding_and_partial_windows() {
    for pool in pools() {
        let (input, output, _) = run(|b, x| {
            b.layer("", Op::MaxPool(pool), &[x]);
        });
        let expected: Vec<f32> = under_windows(&input, &pool)
            .iter()
            .map(|(pixels, _)| pixels.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            .collect();
        assert_close(&output, &expected, &format!("{pool:?}"));
    }
}

#[test]
fn average_pools_count_padding_only_when_asked() {
    for window in pools() {
        for count_include_pad in [false, true] {
            let op = Op::AvgPool {
                window,
                count_include_pad,
            };
            let (input, output, _) = run(|b, x| {
                b.layer("", op.clone(), &[x]);
            });
            let expected: Vec<f32> = under_windows(&input, &window)
                .iter()
                .map(|(pixels, padding)| {
                    let counted = pixels.len() + if count_include_pad { *padding } else { 0 };
                    pixels.iter().sum::<f32>() / counted as f32
                })
                .collect();
            assert_close(&output, &expected, &format!("{op:?}"));
        }
    }
}

#[test]
fn adaptive_average_pool_has_pytorchs_borders() {
    let output = (4, 3);
    let (input, found, _) = run(|b, x| {
        b.layer("", Op::AdaptiveAvgPool { output }, &[x]);
    });
    let mut expected = Vec::new();
    for c in 0..INPUT.channels {
        for i in 0..output.0 {
            for j in 0..output.1 {
                let rows = i * INPUT.height / output.0..((i + 1) * INPUT.height).div_ceil(output.0);
                let columns =
                    j * INPUT.width / output.1..((j + 1) * INPUT.width).div_ceil(output.1);
                let count = rows.len() * columns.len();
                let sum: f32 = rows
                    .flat_map(|y| columns.clone().map(move |x| (y, x)))
                    .map(|(y, x)| input[(c * INPUT.height + y) * INPUT.width + x])
                    .sum();
                expected.push(sum / count as f32);
            }
        }
    }
    assert_close(&found, &expected, "adaptive average pool");
}

#[test]
fn shortcut_a_keeps_every_second_pixel_and_appends_zeros() {
    let (input, found, shape) = run(|b, x| {
        let s = b.layer("", Op::Subsample { stride: 2 }, &[x]);
        b.layer("", Op::PadChannels { extra: 3 }, &[s]);
    });
    assert_eq!(shape, Shape::new(5, 5, 6));
    let mut expected = vec![0.0; shape.elements()];
    for c in 0..2 {
        for y in 0..5 {
            for x in 0..6 {
                expected[(c * 5 + y) * 6 + x] = input[(c * 9 + 2 * y) * 11 + 2 * x];
            }
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn convolutions_with_bias_groups_and_oblong_kernels() {
    let (kernel, padding, groups) = ((1, 7), (0, 3), 2);
    let op = Op::Conv2d {
        in_channels: 2,
        out_channels: 4,
        kernel,
        stride: 2,
        padding,
        groups,
        bias: true,
    };
    let mut lists = Vec::new();
    let (input, found, shape) = run(|b, x| {
        b.layer("conv", op.clone(), &[x]);
    });
    let (mut b, x) = Builder::new(INPUT);
    b.layer("conv", op, &[x]);
    let graph = b.finish().expect("a graph");
    let mut parameters = Parameters::load(&graph, &Generator::new(&graph, 7, [0.5, 0.9]))
        .expect("generated weights");
    for name in ["conv.weight", "conv.bias"] {
        lists.push(parameters.take(name).expect(name));
    }
    assert_eq!(shape, Shape::new(4, 5, 6));
    let mut expected = Vec::new();
    for o in 0..4 {
        for y in 0..5 {
            for x in 0..6 {
                let mut sum = lists[1][o];
                for k in 0..7usize {
                    let column = (2 * x + k).wrapping_sub(3);
                    if column < 11 {
                        // one input channel a group
                        sum += input[(o / 2 * 9 + 2 * y) * 11 + column] * lists[0][o * 7 + k];
                    }
                }
                expected.push(sum);
            }
        }
    }
    assert_close(&found, &expected, "oblong convolution");
}

#[test]
fn slices_of_the_wrong_length_are_refused() {
    let (mut b, x) = Builder::new(INPUT);
    b.relu(x);
    let graph = Arc::new(b.finish().expect("a graph"));
    let info = EngineInfo {
        engine: "candle",
        precision: "f32",
        isa: "portable",
        device: "cpu".into(),
    };
    let mut engine =
        CandleEngine::new(&graph, Parameters::default(), Device::Cpu, info).expect("an engine");
    let mut logits = vec![0.0; INPUT.elements()];
    let error = engine
        .forward(2, &[0.0; 5], &mut logits)
        .expect_err("too short");
    let text = error.to_string();
    assert!(
        text.contains("input has 5 values") && text.contains("396"),
        "{text}"
    );
}

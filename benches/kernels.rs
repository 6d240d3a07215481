//! Convolution kernels on the layers of ResNet-18 and ResNet-50 (and the grouped ones of ResNeXt-50), one image on one
//! thread, for each instruction set of the machine and each algorithm: `cargo bench --bench kernels -- avx512`.
//!
//! Throughput is in multiply-accumulates of the direct convolution, so algorithms compare; twice that is FLOP/s.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use resnetd::kernels::{
    Algorithm, Buffer, Conv, ConvCall, ConvParts, ConvSpec, Element, Epilogue, Layout, Operation,
    Serial, Token,
};

struct Shape {
    name: &'static str,
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    /// Side of the input.
    size: usize,
    groups: usize,
}

const fn shape(
    name: &'static str,
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    size: usize,
    groups: usize,
) -> Shape {
    Shape {
        name,
        channels,
        kernel,
        stride,
        size,
        groups,
    }
}

const SHAPES: &[Shape] = &[
    shape("stem", (3, 64), 7, 2, 224, 1),
    shape("3x3 56", (64, 64), 3, 1, 56, 1),
    shape("3x3 28", (128, 128), 3, 1, 28, 1),
    shape("3x3 14", (256, 256), 3, 1, 14, 1),
    shape("3x3 7", (512, 512), 3, 1, 7, 1),
    shape("3x3/2 28", (256, 256), 3, 2, 28, 1),
    shape("1x1 56", (64, 256), 1, 1, 56, 1),
    shape("1x1 28", (512, 128), 1, 1, 28, 1),
    shape("1x1 14", (256, 1024), 1, 1, 14, 1),
    shape("1x1 7", (2048, 512), 1, 1, 7, 1),
    shape("4 a group", (128, 128), 3, 1, 56, 32),
    shape("8 a group", (256, 256), 3, 1, 28, 32),
    shape("16 a group", (512, 512), 3, 1, 14, 32),
    shape("linear", (2048, 1000), 1, 1, 1, 1),
];

fn convolutions(c: &mut Criterion) {
    for shape in SHAPES {
        let mut group = c.benchmark_group(shape.name);
        for token in Token::available() {
            for algorithm in Algorithm::ALL {
                one(&mut group, shape, token, algorithm);
            }
        }
        group.finish();
    }
}

fn one(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    shape: &Shape,
    token: Token,
    algorithm: Algorithm,
) {
    let padding = shape.kernel / 2;
    let spec = ConvSpec {
        in_channels: shape.channels.0,
        out_channels: shape.channels.1,
        kernel: (shape.kernel, shape.kernel),
        stride: shape.stride,
        padding: (padding, padding),
        groups: shape.groups,
    };
    let (lanes, element) = (token.lanes(), token.element());
    if !algorithm.supports(&spec) || (algorithm != Algorithm::Direct && element != Element::F32) {
        return;
    }
    let input = Layout {
        channels: spec.in_channels,
        height: shape.size,
        width: shape.size,
        element,
        lanes: lanes.min(spec.in_channels.div_ceil(element.packed())),
        border: padding,
        gap: 0,
    };
    let (height, width) = spec.output_size(shape.size, shape.size);
    let output = Layout {
        channels: spec.out_channels,
        height,
        width,
        element,
        lanes,
        border: 0,
        gap: 0,
    };
    let pattern = |n: usize| {
        (0..n)
            .map(|i| (i % 17) as f32 / 17.0 - 0.5)
            .collect::<Vec<f32>>()
    };
    let bias = Operation::Bias(Buffer::zeroed(output.listed()));
    let conv = Conv::new(ConvParts {
        token,
        algorithm,
        spec,
        input,
        output,
        weights: &pattern(spec.macs_per_pixel()),
        epilogue: Epilogue::new(vec![bias, Operation::Relu]),
    });
    let conv = conv.expect("shapes that fit");
    let image = Buffer::padded(&pattern(input.image()), input.image());
    let mut result = Buffer::zeroed(output.image());
    group.throughput(Throughput::Elements(
        (spec.macs_per_pixel() * height * width) as u64,
    ));
    let id = format!("{} {element:?}", token.isa());
    let id = BenchmarkId::new(id, algorithm.name());
    group.bench_function(id, |b| {
        b.iter(|| {
            let call = ConvCall {
                batch: 1,
                input: &image,
                added: &[],
            };
            conv.run(&Serial, call, &mut result);
        });
    });
}

criterion_group!(benches, convolutions);
criterion_main!(benches);

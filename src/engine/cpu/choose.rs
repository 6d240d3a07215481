//! Which algorithm computes a convolution: a checked-in table of what was fastest, and an estimate for what is not in
//! it. Nothing is measured at load, so replicas and runs agree bit for bit.
//!
//! `resnetd bench --architecture NAME --tune` prints the table's lines for one network; algorithms.txt says how they
//! were made.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Instant;

use super::passes::{self, LayerOp};
use crate::engine::EngineError;
use crate::ir::Graph;
use crate::kernels::{
    Algorithm, Buffer, Conv, ConvCall, ConvParts, ConvSpec, Element, Epilogue, Isa, Layout,
    Threads, Token,
};
use crate::weights::Parameters;

const TABLE: &str = include_str!("algorithms.txt");

/// Batches that a line of the table weighs, and runs of each.
const TUNED_BATCHES: [usize; 2] = [1, 8];
const TUNED_RUNS: usize = 15;

/// What a line is about: the convolutions that have a choice are 3x3, of stride 1, in one group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    isa: Isa,
    in_channels: usize,
    out_channels: usize,
    height: usize,
    width: usize,
}

static LINES: LazyLock<BTreeMap<Key, Algorithm>> =
    LazyLock::new(|| TABLE.lines().filter_map(parse).collect());

/// How to compute a convolution of an image of that size.
pub(super) fn algorithm(token: Token, spec: &ConvSpec, input: &Layout) -> Algorithm {
    // an image that keeps its few channels together has no blocks to transform
    if !Algorithm::Winograd4.supports(spec)
        || (input.lanes, input.element) != (token.lanes(), Element::F32)
    {
        return Algorithm::Direct;
    }
    let key = Key {
        isa: token.isa(),
        in_channels: spec.in_channels,
        out_channels: spec.out_channels,
        height: input.height,
        width: input.width,
    };
    LINES
        .get(&key)
        .copied()
        .unwrap_or_else(|| estimate(spec, input))
}

/// A guess from the work: multiplications, transforms, and the weights, which a small image hardly reuses.
fn estimate(spec: &ConvSpec, input: &Layout) -> Algorithm {
    // narrow layers gain little, and the networks made of them are so deep that the rounding of transforms adds up
    if spec.in_channels.min(spec.out_channels) < 64 {
        return Algorithm::Direct;
    }
    let (height, width) = spec.output_size(input.height, input.width);
    let pairs = spec.in_channels * spec.out_channels;
    let cost = |tile: usize, transforms: usize| {
        let points = (tile + 2) * (tile + 2);
        let tiles = height.div_ceil(tile) * width.div_ceil(tile);
        tiles * (points * pairs + transforms * (spec.in_channels + spec.out_channels))
            + 16 * points * pairs
    };
    let costs = [
        (
            9 * height * width * pairs + 16 * 9 * pairs,
            Algorithm::Direct,
        ),
        (cost(4, 400), Algorithm::Winograd4),
        (cost(6, 1600), Algorithm::Winograd6),
    ];
    costs
        .into_iter()
        .min_by_key(|(cost, _)| *cost)
        .map_or(Algorithm::Direct, |(_, algorithm)| algorithm)
}

/// `avx512 64->64 56x56 winograd6`; None for a comment or what no algorithm is named in.
fn parse(line: &str) -> Option<(Key, Algorithm)> {
    let mut words = line.split_whitespace();
    let isa = words.next()?.parse().ok()?;
    let (in_channels, out_channels) = words.next()?.split_once("->")?;
    let (height, width) = words.next()?.split_once('x')?;
    let name = words.next()?;
    let key = Key {
        isa,
        in_channels: in_channels.parse().ok()?,
        out_channels: out_channels.parse().ok()?,
        height: height.parse().ok()?,
        width: width.parse().ok()?,
    };
    Some((key, Algorithm::ALL.into_iter().find(|a| a.name() == name)?))
}

/// Times every algorithm on each distinct convolution of a network that has a choice; returns the table's lines.
///
/// # Errors
/// When a parameter is missing.
pub fn tune(
    graph: &Graph,
    mut parameters: Parameters,
    token: Token,
    threads: &dyn Threads,
) -> Result<Vec<String>, EngineError> {
    let layers = passes::lower(graph, &mut parameters)?;
    let mut lines = BTreeMap::new();
    for layer in &layers {
        let LayerOp::Conv { spec, weights } = &layer.op else {
            continue;
        };
        let from = layers[layer.inputs[0]].shape;
        let narrow = from.channels < token.lanes();
        if !Algorithm::Winograd4.supports(spec) || narrow {
            continue;
        }
        let layout = |shape: crate::ir::Shape| Layout {
            channels: shape.channels,
            height: shape.height,
            width: shape.width,
            element: token.element(),
            lanes: token.lanes(),
            border: 1,
        };
        let shapes = format!(
            "{} {}->{} {}x{}",
            token.isa(),
            spec.in_channels,
            spec.out_channels,
            from.height,
            from.width
        );
        if lines.contains_key(&shapes) {
            continue;
        }
        let mut best = (f64::INFINITY, Algorithm::Direct);
        for algorithm in Algorithm::ALL {
            let parts = ConvParts {
                token,
                algorithm,
                spec: *spec,
                input: layout(from),
                output: layout(layer.shape),
                weights,
                epilogue: Epilogue::default(),
            };
            let conv = Conv::new(parts).map_err(|e| EngineError::Device(e.to_string()))?;
            // a product weighs both batches' ratios alike
            let time = TUNED_BATCHES
                .map(|batch| time(&conv, threads, batch, layout(from), layout(layer.shape)));
            let time = time.iter().product();
            if time < best.0 {
                best = (time, algorithm);
            }
        }
        lines.insert(shapes, best.1);
    }
    Ok(lines
        .into_iter()
        .map(|(shapes, algorithm)| format!("{shapes} {}", algorithm.name()))
        .collect())
}

/// Median seconds of one call.
fn time(conv: &Conv, threads: &dyn Threads, batch: usize, from: Layout, to: Layout) -> f64 {
    let mut input = Buffer::zeroed(batch * from.image());
    for (i, value) in input.iter_mut().enumerate() {
        *value = (i % 13) as f32 / 13.0;
    }
    let mut output = Buffer::zeroed(batch * to.image());
    let call = ConvCall {
        batch,
        input: &input,
        added: &[],
    };
    let mut times: Vec<f64> = (0..TUNED_RUNS)
        .map(|_| {
            let start = Instant::now();
            conv.run(threads, call, &mut output);
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[TUNED_RUNS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(
            LINES.len(),
            lines.count(),
            "a line that cannot be read, or two for one shape"
        );
    }

    #[test]
    fn only_what_winograd_supports_has_a_choice() {
        let token = Token::detect(None);
        let layout = |channels, lanes| Layout {
            channels,
            height: 56,
            width: 56,
            element: Element::F32,
            lanes,
            border: 1,
        };
        let spec = |stride, groups| ConvSpec {
            in_channels: 64,
            out_channels: 64,
            kernel: (3, 3),
            stride,
            padding: (1, 1),
            groups,
        };
        let whole = layout(64, token.lanes());
        assert_ne!(algorithm(token, &spec(1, 1), &whole), Algorithm::Direct);
        assert_eq!(algorithm(token, &spec(2, 1), &whole), Algorithm::Direct);
        assert_eq!(algorithm(token, &spec(1, 2), &whole), Algorithm::Direct);
        assert_eq!(
            algorithm(token, &spec(1, 1), &layout(64, 64)),
            Algorithm::Direct
        );
    }

    #[test]
    fn tuning_writes_lines_that_are_read_back() {
        let (mut b, x) = crate::ir::Builder::new(crate::ir::Shape::new(16, 6, 6));
        let x = b.conv("a", x, 16, 3, 1);
        let x = b.conv("b", x, 32, 3, 2);
        let x = b.conv("c", x, 32, 3, 1);
        b.conv("d", x, 32, 3, 1);
        let graph = b.finish().expect("a graph");
        let source = crate::weights::Generator::new(&graph, 3, [0.5, 0.9]);
        let parameters = Parameters::load(&graph, &source).expect("generated weights");
        let token = Token::detect(None);
        let lines = tune(&graph, parameters, token, &crate::kernels::Serial).expect("lines");
        let keys: Vec<Key> = lines
            .iter()
            .map(|line| parse(line).expect("a line").0)
            .collect();
        let shape = |isa, channels, side| Key {
            isa,
            in_channels: channels,
            out_channels: channels,
            height: side,
            width: side,
        };
        assert_eq!(keys, [shape(token.isa(), 16, 6), shape(token.isa(), 32, 3)]);
    }
}

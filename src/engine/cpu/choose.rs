//! Which algorithm computes a convolution in which batches: a checked-in table of what was fastest, and an estimate for
//! what is not in it. Nothing is measured at load, so replicas and runs agree bit for bit at equal batch size.
//!
//! `resnetd bench --architecture NAME --tune` prints the table's lines for one network ([`super::tune`]); algorithms.txt
//! says how they were made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use crate::ir::Shape;
use crate::kernels::{Algorithm, ConvSpec, Element, Isa, Layout, Token};

const TABLE: &str = include_str!("algorithms.txt");

/// What lines are about: the convolutions that have a choice are 3x3, of stride 1, in one group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    isa: Isa,
    in_channels: usize,
    out_channels: usize,
    height: usize,
    width: usize,
}

/// An algorithm and the smallest batch that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) from: usize,
    pub(super) algorithm: Algorithm,
}

/// Choices by ascending batch.
static LINES: LazyLock<BTreeMap<Key, Vec<Choice>>> = LazyLock::new(|| read(TABLE));

impl Key {
    /// For an image of that size; None where only the direct convolution will do.
    pub(super) fn new(token: Token, spec: &ConvSpec, input: Shape, lanes: usize) -> Option<Self> {
        // an image that keeps its few channels together has no blocks to transform
        (Algorithm::Winograd4.supports(spec) && lanes == token.lanes()).then_some(Self {
            isa: token.isa(),
            in_channels: spec.in_channels,
            out_channels: spec.out_channels,
            height: input.height,
            width: input.width,
        })
    }
}

/// A line without its batch and algorithm.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            isa,
            in_channels,
            out_channels,
            height,
            width,
        } = self;
        write!(f, "{isa} {in_channels}->{out_channels} {height}x{width}")
    }
}

/// How to compute a convolution of an image of that size: what small batches take, and from which batch on another.
pub(super) fn algorithms(
    token: Token,
    spec: &ConvSpec,
    input: &Layout,
) -> (Algorithm, &'static [Choice]) {
    if token.element() != Element::F32 {
        return (Algorithm::Direct, &[]);
    }
    if narrow_groups(token, spec) && input.lanes == token.lanes() {
        return (Algorithm::Grouped, &[]);
    }
    let shape = Shape::new(input.channels, input.height, input.width);
    let Some(key) = Key::new(token, spec, shape, input.lanes) else {
        return (Algorithm::Direct, &[]);
    };
    match LINES.get(&key).and_then(|choices| choices.split_first()) {
        Some((first, rest)) => (first.algorithm, rest),
        None => (estimate(spec, input), &[]),
    }
}

/// Whether groups are so narrow that the direct convolution would multiply zeros half of the time or more. The portable
/// path has no instruction that permutes, and is as fast with the zeros.
fn narrow_groups(token: Token, spec: &ConvSpec) -> bool {
    token.isa() != Isa::Portable
        && 2 * spec.group_inputs() <= token.lanes()
        && Algorithm::Grouped.supports(spec)
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

fn read(table: &str) -> BTreeMap<Key, Vec<Choice>> {
    let mut lines: BTreeMap<Key, Vec<Choice>> = BTreeMap::new();
    for (key, choice) in table.lines().filter_map(parse) {
        lines.entry(key).or_default().push(choice);
    }
    for choices in lines.values_mut() {
        choices.sort_by_key(|choice| choice.from);
    }
    lines
}

/// `avx512 512->512 7x7 4 winograd4`, of batches of 4 and more; None for a comment or what no algorithm is named in.
fn parse(line: &str) -> Option<(Key, Choice)> {
    let mut words = line.split_whitespace();
    let isa = words.next()?.parse().ok()?;
    let (in_channels, out_channels) = words.next()?.split_once("->")?;
    let (height, width) = words.next()?.split_once('x')?;
    let from = words.next()?.parse().ok()?;
    let name = words.next()?;
    let key = Key {
        isa,
        in_channels: in_channels.parse().ok()?,
        out_channels: out_channels.parse().ok()?,
        height: height.parse().ok()?,
        width: width.parse().ok()?,
    };
    let algorithm = Algorithm::ALL.into_iter().find(|a| a.name() == name)?;
    Some((key, Choice { from, algorithm }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let read = LINES.values().flatten();
        assert_eq!(
            read.count(),
            lines.count(),
            "a line that cannot be read, or an empty one"
        );
        for (key, choices) in LINES.iter() {
            assert_eq!(choices[0].from, 1, "{key}: every batch has an algorithm");
            let ascending = choices
                .windows(2)
                .all(|c| c[0].from < c[1].from && c[0].algorithm != c[1].algorithm);
            assert!(ascending, "{key}: each batch has one algorithm");
        }
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
            gap: 0,
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
        let algorithm = |token, spec: &ConvSpec, input: &Layout| algorithms(token, spec, input).0;
        assert_ne!(algorithm(token, &spec(1, 1), &whole), Algorithm::Direct);
        assert_eq!(algorithm(token, &spec(2, 1), &whole), Algorithm::Direct);
        assert_eq!(algorithm(token, &spec(1, 2), &whole), Algorithm::Direct);
        for token in Token::available() {
            let narrow = algorithm(token, &spec(2, 16), &layout(64, token.lanes()));
            let expected = match (token.isa(), token.element()) {
                (Isa::Avx2 | Isa::Avx512, Element::F32) => Algorithm::Grouped,
                _ => Algorithm::Direct,
            };
            assert_eq!(narrow, expected);
        }
        assert_eq!(
            algorithm(token, &spec(1, 1), &layout(64, 64)),
            Algorithm::Direct
        );
    }

    #[test]
    fn batches_take_the_last_line_that_begins_with_them_or_before() {
        let table =
            "avx512 8->8 7x7 4 winograd4\navx512 8->8 7x7 1 direct\n# avx512 8->8 9x9 1 direct";
        let choices: Vec<Vec<Choice>> = read(table).into_values().collect();
        let choice = |from, algorithm| Choice { from, algorithm };
        let expected = [
            choice(1, Algorithm::Direct),
            choice(4, Algorithm::Winograd4),
        ];
        assert_eq!(choices, [expected]);
    }
}

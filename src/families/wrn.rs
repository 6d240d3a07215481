//! Wide ResNets on CIFAR-10: Zagoruyko & Komodakis 2016, table 1.
//!
//! `wrn<depth>_<width>`: depth is 6n + 4, which counts every convolution, the three projections included, and not the
//! classifier.

use super::preact::{Block, Numbers};
use super::registry::Architecture;
use crate::ir::{DepthRule, Graph, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    wide("wrn16_4", 16, |s, k| graph(16, 4, s, k)),
    wide("wrn28_10", 28, |s, k| graph(28, 10, s, k)),
    wide("wrn40_4", 40, |s, k| graph(40, 4, s, k)),
];

const fn wide(
    name: &'static str,
    depth: usize,
    build: fn(Shape, usize) -> Result<Graph, String>,
) -> Architecture {
    Architecture {
        depth_rule: DepthRule::Convolutions,
        ..Architecture::cifar(name, "wrn", 2016, depth, build)
    }
}

fn graph(depth: usize, width: usize, input: Shape, classes: usize) -> Result<Graph, String> {
    let channels = [16 * width, 32 * width, 64 * width];
    Numbers::new(Block::Basic, (depth - 4) / 6, channels).graph(input, classes)
}

//! The direct convolution's units, and its weights in their order.
//!
//! A unit is the vectors of output channels that one tile sums; its weights lie as the tile reads them, with zeros for
//! the channels beyond the last and between groups.

use super::ConvSpec;
use super::tile::Walk;
use crate::kernels::buffer::Buffer;
use crate::kernels::isa::Token;
use crate::kernels::layout::Layout;

/// One or two vectors of output channels that read the same input blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    /// In blocks of the instruction set's own element.
    pub(super) block: usize,
    pub(super) vectors: usize,
    pub(super) input_block: usize,
    pub(super) input_blocks: usize,
    /// Where its weights begin.
    pub(super) weights: usize,
}

impl Unit {
    /// Steps of its sums.
    pub(super) fn steps(&self, walk: &Walk) -> usize {
        self.input_blocks * walk.kernel_rows * walk.run
    }
}

/// Units and their weights as `[unit][input block][kernel row][kernel column][input lane][vector][lane]`.
pub(super) fn pack(
    token: Token,
    spec: &ConvSpec,
    input: &Layout,
    weights: &[f32],
) -> (Vec<Unit>, Buffer) {
    let (lanes, element) = (token.lanes(), token.element());
    let mut units = units(spec, input, lanes * element.packed(), element.packed());
    let taps = spec.kernel.0 * spec.kernel.1;
    let mut total = 0;
    for unit in &mut units {
        unit.weights = total;
        total += unit.input_blocks * taps * input.lanes * unit.vectors * lanes;
    }
    let mut packed = Buffer::zeroed(total);
    let (group_inputs, group_outputs) = (spec.group_inputs(), spec.out_channels / spec.groups);
    let weight = |to: usize, from: usize, tap: usize| {
        let group = to / group_outputs;
        if to < spec.out_channels && from / group_inputs == group && from < spec.in_channels {
            weights[(to * group_inputs + from - group * group_inputs) * taps + tap]
        } else {
            0.0
        }
    };
    for unit in &units {
        let mut at = unit.weights;
        let first = unit.block * lanes * element.packed();
        for block in unit.input_block..unit.input_block + unit.input_blocks {
            for tap in 0..taps {
                for lane in 0..input.lanes {
                    let from = block * input.per_block() + lane * element.packed();
                    for to in first..first + unit.vectors * lanes {
                        packed[at] = element.word(weight(to, from, tap), weight(to, from + 1, tap));
                        at += 1;
                    }
                }
            }
        }
    }
    (units, packed)
}

/// Pairs of neighbouring vectors of output channels that read the same input blocks; the others alone. A block of
/// `vectors` vectors, `block` channels, stays whole.
fn units(spec: &ConvSpec, input: &Layout, block: usize, vectors: usize) -> Vec<Unit> {
    let group_outputs = spec.out_channels / spec.groups;
    let reads = |at: usize| {
        let last = ((at + 1) * block).min(spec.out_channels) - 1;
        let (first_group, last_group) = (at * block / group_outputs, last / group_outputs);
        let from = first_group * spec.group_inputs() / input.per_block();
        let to = ((last_group + 1) * spec.group_inputs()).div_ceil(input.per_block());
        (from, to - from)
    };
    let blocks = spec.out_channels.div_ceil(block);
    let mut units = Vec::new();
    let mut at = 0;
    while at < blocks {
        let (input_block, input_blocks) = reads(at);
        let pair = vectors == 1 && at + 1 < blocks && reads(at + 1) == (input_block, input_blocks);
        let taken = 1 + usize::from(pair);
        units.push(Unit {
            block: at,
            vectors: taken * vectors,
            input_block,
            input_blocks,
            weights: 0,
        });
        at += taken;
    }
    units
}

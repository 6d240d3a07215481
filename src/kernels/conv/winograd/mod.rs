//! 3x3 convolutions of stride 1 by Winograd's minimal filtering: a tile of M x M outputs takes (M + 2)^2 instead of
//! 9 M^2 multiplications for each pair of channels (Lavin and Gray 2016).
//!
//! A chunk of tiles is transformed for all input channels; then, for each output unit, every point of the transform is a
//! matrix product of that chunk (by the direct convolution's microkernel) and the unit's outputs are transformed back,
//! with the epilogue, while the products are in the second-level cache. Where the layer is too small to give every
//! thread chunks of its own, threads share one chunk and split the units.

mod stages;
mod transforms;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::{ConvCall, ConvParts};
use crate::kernels::buffer::Buffer;
use crate::kernels::disjoint::{Disjoint, TASKS, Threads, blocks, claim};
use crate::kernels::epilogue::{Bound, Epilogue};
use crate::kernels::isa::Token;
use crate::kernels::layout::{Layout, Plane};
use stages::{InputTransform, OutputTransform, Products};
use transforms::{Four, Six, Transform};

/// Values of transformed input that a thread works on at a time: a part of the second-level cache.
const CHUNK: usize = 128 << 10;

/// Values of weights up to which threads work on chunks of their own.
const OWN_WEIGHTS: usize = 256 << 10;

/// Values of transformed input that threads share at a time.
const SHARED_CHUNK: usize = 1 << 20;

pub(super) type Winograd4 = Winograd<Four, 4, 6>;
pub(super) type Winograd6 = Winograd<Six, 6, 8>;

#[derive(Debug)]
pub(super) struct Winograd<F, const M: usize, const T: usize> {
    token: Token,
    input: Layout,
    output: Layout,
    padding: (usize, usize),
    /// Tiles of a column and of a row of the output.
    tiles: (usize, usize),
    widest: usize,
    units: Vec<Unit>,
    /// `[unit][point][input block][input lane][output block][lane]`.
    weights: Buffer,
    epilogue: Epilogue,
    transform: PhantomData<F>,
}

/// One or two output blocks.
#[derive(Clone, Copy, Debug)]
struct Unit {
    block: usize,
    blocks: usize,
    weights: usize,
}

/// Consecutive tiles of the batch and the place of their transformed inputs, `[point][input block][tile][lane]`.
struct Chunk<'a> {
    tiles: Range<usize>,
    inputs: &'a Disjoint<'a>,
}

thread_local! {
    /// Transformed inputs, and products.
    static SCRATCH: RefCell<[Buffer; 2]> = RefCell::default();
}

/// `len` values of this thread's own, with what was there before.
fn scratch<R>(which: usize, len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    // taken out meanwhile: the body may run other layers' tasks on this thread
    let mut buffer = SCRATCH.with(|s| std::mem::take(&mut s.borrow_mut()[which]));
    if buffer.len() < len {
        // points lie pages apart: on small pages every access would be a miss of the translation cache
        buffer = Buffer::zeroed(len.max(Buffer::HUGE));
    }
    let result = body(&mut buffer[..len]);
    SCRATCH.with(|s| s.borrow_mut()[which] = buffer);
    result
}

impl<F: Transform<M, T> + Sync, const M: usize, const T: usize> Winograd<F, M, T> {
    const POINTS: usize = T * T;

    /// `parts` has been checked, and is a 3x3 convolution of stride 1 in one group.
    pub(super) fn new(parts: ConvParts<'_>) -> Self {
        let ConvParts {
            token,
            spec,
            input,
            output,
            epilogue,
            ..
        } = parts;
        let pairs = (0..output.blocks()).step_by(2);
        let per_block = Self::POINTS * input.blocks() * input.lanes * output.lanes;
        let units = pairs.map(|block| Unit {
            block,
            blocks: 2.min(output.blocks() - block),
            weights: block * per_block,
        });
        let units: Vec<Unit> = units.collect();
        Self {
            weights: pack::<F, M, T>(&units, &input, &output, parts.weights),
            token,
            input,
            output,
            padding: spec.padding,
            tiles: (output.height.div_ceil(M), output.width.div_ceil(M)),
            widest: token.run(super::direct::Widest),
            units,
            epilogue,
            transform: PhantomData,
        }
    }

    pub(super) fn weights(&self) -> &Buffer {
        &self.weights
    }

    /// Values of one tile's transformed inputs.
    fn tile_inputs(&self) -> usize {
        Self::POINTS * self.input.blocks() * self.input.lanes
    }

    pub(super) fn run(&self, threads: &dyn Threads, call: ConvCall<'_>, output: &mut [f32]) {
        let ConvCall {
            batch,
            input,
            added,
        } = call;
        let output = &mut output[..self.output.extent(batch)];
        let operations = self.epilogue.bind(Plane::Image, batch, added);
        if self.output.border > 0 {
            blocks(threads, &self.output, batch, output, |_, _, block| {
                self.output.zero_border(block, 0)
            });
        }
        let output = &Disjoint::new(output);
        let tiles = batch * self.tiles.0 * self.tiles.1;
        let whole =
            |values: usize| (values / self.tile_inputs() / self.widest).max(1) * self.widest;
        let own = whole(CHUNK);
        // each chunk passes over all weights: many small ones only where those stay in the cache
        let alone =
            self.weights.len() <= OWN_WEIGHTS && tiles.div_ceil(own) >= TASKS * threads.count();
        let step = if alone {
            own
        } else {
            whole(SHARED_CHUNK).min(tiles)
        };
        let ranges: Vec<Range<usize>> = (0..tiles)
            .step_by(step)
            .map(|from| from..(from + step).min(tiles))
            .collect();
        if alone {
            claim(threads, ranges.len(), |i| {
                self.alone(ranges[i].clone(), input, &operations, output);
            });
        } else {
            for tiles in ranges {
                self.together(threads, tiles, input, &operations, output);
            }
        }
    }

    /// One thread computes all outputs of some tiles.
    fn alone(
        &self,
        tiles: Range<usize>,
        input: &[f32],
        operations: &[Bound<'_>],
        output: &Disjoint<'_>,
    ) {
        scratch(0, tiles.len() * self.tile_inputs(), |inputs| {
            let inputs = Disjoint::new(inputs);
            let chunk = Chunk {
                tiles,
                inputs: &inputs,
            };
            for block in 0..self.input.blocks() {
                self.transform(&chunk, block, 0..chunk.tiles.len(), input);
            }
            let all = 0..chunk.tiles.len();
            for unit in &self.units {
                self.multiply(&chunk, *unit, all.clone(), operations, output);
            }
        });
    }

    /// All threads compute the outputs of some tiles: first the transformed inputs, by block, then the units.
    fn together(
        &self,
        threads: &dyn Threads,
        tiles: Range<usize>,
        input: &[f32],
        operations: &[Bound<'_>],
        output: &Disjoint<'_>,
    ) {
        scratch(0, tiles.len() * self.tile_inputs(), |inputs| {
            let inputs = Disjoint::new(inputs);
            let chunk = Chunk {
                tiles,
                inputs: &inputs,
            };
            let (blocks, count) = (self.input.blocks(), chunk.tiles.len());
            let part = count.div_ceil((TASKS * threads.count()).div_ceil(blocks));
            claim(threads, blocks * count.div_ceil(part), |task| {
                let from = task / blocks * part;
                self.transform(&chunk, task % blocks, from..(from + part).min(count), input);
            });
            // parts of the chunk only as far as the units do not go round
            let wanted = (TASKS * threads.count()).div_ceil(self.units.len());
            let part = chunk
                .tiles
                .len()
                .div_ceil(wanted)
                .next_multiple_of(self.widest);
            let part = part.min((CHUNK / (2 * Self::POINTS * self.output.lanes)).max(self.widest));
            let parts = chunk.tiles.len().div_ceil(part);
            claim(threads, self.units.len() * parts, |task| {
                let from = task % parts * part;
                let range = from..(from + part).min(count);
                self.multiply(&chunk, self.units[task / parts], range, operations, output);
            });
        });
    }

    /// Transforms one input block of a part of a chunk.
    fn transform(&self, chunk: &Chunk<'_>, block: usize, part: Range<usize>, input: &[f32]) {
        self.token.vectorize(InputTransform {
            conv: self,
            chunk,
            block,
            part,
            input,
        });
    }

    /// The outputs of one unit for a part of a chunk.
    fn multiply(
        &self,
        chunk: &Chunk<'_>,
        unit: Unit,
        part: Range<usize>,
        operations: &[Bound<'_>],
        output: &Disjoint<'_>,
    ) {
        scratch(
            1,
            Self::POINTS * part.len() * unit.blocks * self.output.lanes,
            |products| {
                self.token.run(Products {
                    conv: self,
                    chunk,
                    unit,
                    part: part.clone(),
                    products,
                });
                self.token.vectorize(OutputTransform {
                    conv: self,
                    first: chunk.tiles.start + part.start,
                    unit,
                    products,
                    operations,
                    output,
                });
            },
        );
    }

    /// Image, and row and column of the first output pixel, of a tile.
    fn at(&self, tile: usize) -> (usize, usize, usize) {
        let per_image = self.tiles.0 * self.tiles.1;
        let rest = tile % per_image;
        (
            tile / per_image,
            rest / self.tiles.1 * M,
            rest % self.tiles.1 * M,
        )
    }
}

/// Transforms the weights in f64: for each pair of channels `G w G^T`.
fn pack<F: Transform<M, T>, const M: usize, const T: usize>(
    units: &[Unit],
    input: &Layout,
    output: &Layout,
    weights: &[f32],
) -> Buffer {
    let lanes = output.lanes;
    let padded_inputs = input.blocks() * lanes;
    let mut packed = Buffer::zeroed(T * T * padded_inputs * output.blocks() * lanes);
    for unit in units {
        let width = unit.blocks * lanes;
        for lane in 0..width.min(output.channels - unit.block * lanes) {
            let to = unit.block * lanes + lane;
            for from in 0..input.channels {
                let kernel = &weights[(to * input.channels + from) * 9..][..9];
                let at = |r: usize, c: usize| f64::from(kernel[r * 3 + c]);
                let mut half = [[0.0; 3]; T];
                for (half, g) in half.iter_mut().zip(&F::WEIGHTS) {
                    for (c, value) in half.iter_mut().enumerate() {
                        *value = g[0] * at(0, c) + g[1] * at(1, c) + g[2] * at(2, c);
                    }
                }
                for (r, half) in half.iter().enumerate() {
                    for (c, g) in F::WEIGHTS.iter().enumerate() {
                        let value = half[0] * g[0] + half[1] * g[1] + half[2] * g[2];
                        packed
                            [unit.weights + ((r * T + c) * padded_inputs + from) * width + lane] =
                            value as f32;
                    }
                }
            }
        }
    }
    packed
}

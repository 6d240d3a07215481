//! 3x3 convolutions of stride 1 by Winograd's minimal filtering: a tile of M x M outputs takes (M + 2)^2 instead of
//! 9 M^2 multiplications for each pair of channels (Lavin and Gray 2016).
//!
//! A chunk of tiles is transformed for all input channels; then, for each output unit, every point of the transform is a
//! matrix product of that chunk (by the direct convolution's microkernel) and the unit's outputs are transformed back,
//! with the epilogue, while the products are in the second-level cache. Where the layer is too small to give every
//! thread chunks of its own, threads share one chunk and split the units.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::tile::{self, AHEAD, Job, TileShape, Walk};
use super::transforms::{Four, Six, Transform};
use super::{ConvCall, ConvParts, Misfit};
use crate::kernels::buffer::Buffer;
use crate::kernels::disjoint::{Disjoint, Threads, chunks, claim};
use crate::kernels::epilogue::{Bound, Epilogue, Position, Tile, apply};
use crate::kernels::isa::Token;
use crate::kernels::layout::{Element, Layout, Plane};
use crate::kernels::simd::{Kernel, Simd};

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
    pub(super) fn new(parts: ConvParts<'_>) -> Result<Self, Misfit> {
        let ConvParts {
            token,
            spec,
            input,
            output,
            epilogue,
            ..
        } = parts;
        if (input.lanes, token.element()) != (token.lanes(), Element::F32) {
            return Err(Misfit(format!(
                "{input:?} is not in blocks of {} f32",
                token.lanes()
            )));
        }
        let pairs = (0..output.blocks()).step_by(2);
        let per_block = Self::POINTS * input.blocks() * input.lanes * output.lanes;
        let units = pairs.map(|block| Unit {
            block,
            blocks: 2.min(output.blocks() - block),
            weights: block * per_block,
        });
        let units: Vec<Unit> = units.collect();
        Ok(Self {
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
        })
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
        assert!(
            input.len() >= batch * self.input.image(),
            "the input is too short"
        );
        let output = &mut output[..batch * self.output.image()];
        let operations = self.epilogue.bind(Plane::Image, batch, added);
        if self.output.border > 0 {
            chunks(threads, output, self.output.block(), |_, block| {
                self.output.zero_border(block, 0)
            });
        }
        let output = &Disjoint::new(output);
        let tiles = batch * self.tiles.0 * self.tiles.1;
        let whole =
            |values: usize| (values / self.tile_inputs() / self.widest).max(1) * self.widest;
        let own = whole(CHUNK);
        // each chunk passes over all weights: many small ones only where those stay in the cache
        let alone = self.weights.len() <= OWN_WEIGHTS && tiles.div_ceil(own) >= 4 * threads.count();
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
            let part = count.div_ceil((4 * threads.count()).div_ceil(blocks));
            claim(threads, blocks * count.div_ceil(part), |task| {
                let from = task / blocks * part;
                self.transform(&chunk, task % blocks, from..(from + part).min(count), input);
            });
            // parts of the chunk only as far as the units do not go round
            let wanted = (4 * threads.count()).div_ceil(self.units.len());
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

struct InputTransform<'a, F, const M: usize, const T: usize> {
    conv: &'a Winograd<F, M, T>,
    chunk: &'a Chunk<'a>,
    block: usize,
    part: Range<usize>,
    input: &'a [f32],
}

impl<F: Transform<M, T> + Sync, const M: usize, const T: usize> Kernel
    for InputTransform<'_, F, M, T>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let layout = &self.conv.input;
        let tiles = &self.chunk.tiles;
        let point_step = layout.blocks() * tiles.len() * S::LANES;
        for i in self.part {
            let (image, y, x) = self.conv.at(tiles.start + i);
            // the window's first pixel, in padded rows and columns
            let (top, left) = (
                y + layout.border - self.conv.padding.0,
                x + layout.border - self.conv.padding.1,
            );
            let rows = T.min(layout.height + 2 * layout.border - top);
            let columns = T.min(layout.width + 2 * layout.border - left);
            let from = image * layout.image()
                + self.block * layout.block()
                + top * layout.row()
                + left * S::LANES;
            // SAFETY: inside the image's padded block, whose rows and columns these are counts of; `Winograd::run`
            // checked that the input holds the batch.
            let window = |r: usize, c: usize| unsafe {
                simd.load(
                    self.input
                        .as_ptr()
                        .add(from + r * layout.row() + c * S::LANES),
                )
            };
            let mut half = [[simd.splat(0.0); T]; T];
            if rows == T && columns == T {
                for c in 0..T {
                    let mut column = [simd.splat(0.0); T];
                    for (r, vector) in column.iter_mut().enumerate() {
                        *vector = window(r, c);
                    }
                    for (row, vector) in half.iter_mut().zip(F::input(simd, column)) {
                        row[c] = vector;
                    }
                }
            } else {
                // what lies beyond the border reaches only outputs that are not stored
                for c in 0..columns.min(T) {
                    let mut column = [simd.splat(0.0); T];
                    for (r, vector) in column.iter_mut().enumerate().take(rows) {
                        *vector = window(r, c);
                    }
                    for (row, vector) in half.iter_mut().zip(F::input(simd, column)) {
                        row[c] = vector;
                    }
                }
            }
            let to = (self.block * tiles.len() + i) * S::LANES;
            let to = self.chunk.inputs.start().wrapping_add(to);
            for (r, row) in half.iter().enumerate() {
                for (c, &vector) in F::input(simd, *row).iter().enumerate() {
                    // SAFETY: `[point][block][tile][lane]` of the chunk's memory, whose length is the product; each
                    // block and part is transformed by one task.
                    unsafe { simd.store(to.add((r * T + c) * point_step), vector) };
                }
            }
        }
    }
}

struct Products<'a, F, const M: usize, const T: usize> {
    conv: &'a Winograd<F, M, T>,
    chunk: &'a Chunk<'a>,
    unit: Unit,
    part: Range<usize>,
    /// `[point][tile of the part][output block][lane]`.
    products: &'a mut [f32],
}

impl<F: Transform<M, T> + Sync, const M: usize, const T: usize> Kernel for Products<'_, F, M, T> {
    type Output = ();

    /// Plain loops; each tile of the product enters the instruction set by itself.
    fn run<S: Simd>(self, simd: S) {
        let (conv, unit) = (self.conv, &self.unit);
        let blocks = conv.input.blocks();
        let all = self.chunk.tiles.len();
        let walk = Walk {
            block: all * S::LANES,
            kernel_rows: 1,
            row: 0,
            run: S::LANES,
            pixel: S::LANES,
            tile_row: 0,
            out_block: S::LANES,
            out_pixel: unit.blocks * S::LANES,
            out_row: 0,
            wide: None,
        };
        let count = self.part.len();
        assert!(
            self.products.len() >= T * T * count * unit.blocks * S::LANES,
            "room for the products"
        );
        let groups = count.div_ceil(conv.widest);
        for point in 0..T * T {
            let inputs = self
                .chunk
                .inputs
                .start()
                .wrapping_add((point * blocks * all + self.part.start) * S::LANES);
            let weights = unit.weights + point * blocks * S::LANES * unit.blocks * S::LANES;
            for group in 0..groups {
                let (from, to) = (group * count / groups, (group + 1) * count / groups);
                let job = Job {
                    walk: &walk,
                    operations: &[],
                    blocks,
                    input: inputs.wrapping_add(from * S::LANES),
                    weights: conv.weights.as_ptr().wrapping_add(weights),
                    ahead: conv
                        .weights
                        .as_ptr()
                        .wrapping_add(weights + AHEAD * unit.blocks * S::LANES),
                    ahead_step: size_of::<f32>() * unit.blocks * S::LANES,
                    output: self
                        .products
                        .as_mut_ptr()
                        .wrapping_add((point * count + from) * walk.out_pixel),
                    at: Position {
                        image: 0,
                        block: 0,
                        row: 0,
                        pixel: 0,
                    },
                };
                let shape = TileShape {
                    rows: 1,
                    pixels: to - from,
                    vectors: unit.blocks,
                };
                // SAFETY: the chunk's inputs are `[point][block][tile][lane]` and written before this runs; the unit's
                // weights are `[point][block][lane][output block][lane]`; the products' length is asserted above and
                // theirs alone; the epilogue is empty.
                unsafe { tile::run(simd, shape, job) };
            }
        }
    }
}

struct OutputTransform<'a, F, const M: usize, const T: usize> {
    conv: &'a Winograd<F, M, T>,
    /// The first tile that the products are of.
    first: usize,
    unit: Unit,
    products: &'a [f32],
    operations: &'a [Bound<'a>],
    output: &'a Disjoint<'a>,
}

impl<F: Transform<M, T> + Sync, const M: usize, const T: usize> Kernel
    for OutputTransform<'_, F, M, T>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.products.len() / (T * T * self.unit.blocks * S::LANES);
        for i in 0..count {
            for b in 0..self.unit.blocks {
                let from = (i * self.unit.blocks + b) * S::LANES;
                let point_step = count * self.unit.blocks * S::LANES;
                let mut half = [[simd.splat(0.0); T]; M];
                for c in 0..T {
                    let mut column = [simd.splat(0.0); T];
                    for (r, vector) in column.iter_mut().enumerate() {
                        let at = from + (r * T + c) * point_step;
                        debug_assert!(at + S::LANES <= self.products.len());
                        // SAFETY: `[point][tile][output block][lane]`, which is how long the products are.
                        *vector = unsafe { simd.load(self.products.as_ptr().add(at)) };
                    }
                    let column = F::output(simd, column);
                    for (row, vector) in half.iter_mut().zip(column) {
                        row[c] = vector;
                    }
                }
                self.store(simd, self.first + i, self.unit.block + b, &half);
            }
        }
    }
}

impl<F: Transform<M, T> + Sync, const M: usize, const T: usize> OutputTransform<'_, F, M, T> {
    /// Finishes and stores the rows of one tile of one block, as far as they lie in the image.
    #[inline(always)]
    fn store<S: Simd>(&self, simd: S, tile: usize, block: usize, half: &[[S::Vector; T]; M]) {
        let layout = &self.conv.output;
        let (image, y, x) = self.conv.at(tile);
        let columns = M.min(layout.width - x);
        for (r, row) in half.iter().enumerate().take(layout.height - y) {
            let mut row_tile: Tile<S::Vector, 1, M, 1> = [[[simd.splat(0.0)]; M]];
            // not `map`, which need not be inlined
            for (pixel, vector) in row_tile[0].iter_mut().zip(F::output(simd, *row)) {
                *pixel = [vector];
            }
            let at = |pixel| Position {
                image,
                block,
                row: y + r,
                pixel,
            };
            let to = image * layout.image()
                + block * layout.block()
                + layout.row_start(y + r)
                + x * S::LANES;
            let to = self.output.start().wrapping_add(to);
            if columns == M {
                // SAFETY: all pixels of this row lie in the output, which the epilogue was checked and bound for.
                unsafe { apply(simd, self.operations, at(x), &mut row_tile) };
            }
            for (c, pixel) in row_tile[0].iter().enumerate().take(columns) {
                let mut one: Tile<S::Vector, 1, 1, 1> = [[*pixel]];
                if columns < M {
                    // SAFETY: this pixel lies in the output, which the epilogue was checked and bound for.
                    unsafe { apply(simd, self.operations, at(x + c), &mut one) };
                }
                // SAFETY: this pixel lies in the output, whose length `Winograd::run` checked; a tile of a unit is one
                // task's.
                unsafe { simd.store(to.add(c * S::LANES), one[0][0][0]) };
            }
        }
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

//! The three stages of a chunk of tiles as kernels: inputs to points, points to products, products to outputs.
//!
//! Both transforms are one-dimensional ones over the columns and then the rows of a tile; the products are the direct
//! convolution's microkernel with tiles for pixels.

use std::ops::Range;

use super::transforms::Transform;
use super::{Chunk, Unit, Winograd};
use crate::kernels::conv::tile::{self, AHEAD, Job, TileShape, Walk};
use crate::kernels::disjoint::{Disjoint, even};
use crate::kernels::epilogue::{Bound, Position, Tile, apply};
use crate::kernels::simd::{Kernel, Simd};

pub(super) struct InputTransform<'a, F, const M: usize, const T: usize> {
    pub(super) conv: &'a Winograd<F, M, T>,
    pub(super) chunk: &'a Chunk<'a>,
    pub(super) block: usize,
    pub(super) part: Range<usize>,
    pub(super) input: &'a [f32],
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
            // SAFETY: inside the image's padded block, whose rows and columns these are counts of; `Conv::run`
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

pub(super) struct Products<'a, F, const M: usize, const T: usize> {
    pub(super) conv: &'a Winograd<F, M, T>,
    pub(super) chunk: &'a Chunk<'a>,
    pub(super) unit: Unit,
    pub(super) part: Range<usize>,
    /// `[point][tile of the part][output block][lane]`.
    pub(super) products: &'a mut [f32],
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
                let Range {
                    start: from,
                    end: to,
                } = even(count, groups, group);
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
                unsafe { tile::run(simd, shape, &job) };
            }
        }
    }
}

pub(super) struct OutputTransform<'a, F, const M: usize, const T: usize> {
    pub(super) conv: &'a Winograd<F, M, T>,
    /// The first tile that the products are of.
    pub(super) first: usize,
    pub(super) unit: Unit,
    pub(super) products: &'a [f32],
    pub(super) operations: &'a [Bound<'a>],
    pub(super) output: &'a Disjoint<'a>,
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
                // SAFETY: this pixel lies in the output, whose length `Conv::run` checked; a tile of a unit is one
                // task's.
                unsafe { simd.store(to.add(c * S::LANES), one[0][0][0]) };
            }
        }
    }
}

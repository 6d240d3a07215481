//! The direct convolution's microkernel: one tile of output pixels and channel blocks, summed wholly in registers.
//!
//! The sum is a list of runs: for each input block and kernel row, `run` neighbouring values (kernel columns are
//! neighbours in memory, whatever the stride), each multiplied, for every pixel of the tile, with the vectors of the
//! tile's output blocks. Pixels are a constant step apart, so one body serves the stem (whose image keeps its three
//! channels innermost), 1x1, 3x3, 5x5, 7x7, oblong windows, strides and the linear layer.

use std::marker::PhantomData;

use crate::kernels::epilogue::{Bound, Position, Tile, apply};
use crate::kernels::simd::{Kernel, Simd};

/// Steps of a sum by which its own weights are fetched ahead: some 900 cycles, the third-level cache's latency with room.
/// The hardware's prefetcher stops at each 4 KiB.
pub(super) const AHEAD: usize = 64;

/// Input blocks by which inputs are fetched ahead. Blocks lie pages apart, so the hardware does not foresee them.
const NEXT: usize = 2;

/// Pixels of a row of a tile from which on a step's pixel is one of them, or near enough to be read by its window.
const WIDE: usize = 4;

/// Strides and lengths of the sums of one convolution, in words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Between input blocks.
    pub(super) block: usize,
    /// Kernel rows, and the step between their input rows.
    pub(super) kernel_rows: usize,
    pub(super) row: usize,
    /// Length of a run.
    pub(super) run: usize,
    /// Between input pixels of neighbouring output pixels, and of output pixels one below the other.
    pub(super) pixel: usize,
    pub(super) tile_row: usize,
    /// The same for the output.
    pub(super) out_block: usize,
    pub(super) out_pixel: usize,
    pub(super) out_row: usize,
    /// Where the output is f32 and the kernel's own element is not: how many vectors there are of it.
    pub(super) wide: Option<usize>,
}

/// One tile. It goes by reference: copied, its fresh words would be read in larger pieces than they were written, which waits
/// for every store before them, the last tile's included.
pub(super) struct Job<'a> {
    pub(super) walk: &'a Walk,
    pub(super) operations: &'a [Bound<'a>],
    /// Input blocks to sum over.
    pub(super) blocks: usize,
    /// First word under the window of the first pixel, in the first input block.
    pub(super) input: *const f32,
    /// `[block][kernel row][run][vector][lane]`.
    pub(super) weights: *const f32,
    /// What to fetch into the second-level cache meanwhile, and bytes of it a step.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
    /// First word of the first pixel in the first output block.
    pub(super) output: *mut f32,
    pub(super) at: Position,
}

/// Rows, pixels of a row and vectors of a pixel of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TileShape {
    pub(super) rows: usize,
    pub(super) pixels: usize,
    pub(super) vectors: usize,
}

/// Computes one tile.
///
/// # Safety
/// Every value that the job's walk reaches for this shape can be read or, in the output, written by this thread alone;
/// the epilogue fits as [`apply`] demands.
pub(super) unsafe fn run<S: Simd>(simd: S, shape: TileShape, job: &Job<'_>) {
    let step = job.walk.pixel;
    if step == S::LANES {
        vectors::<S, Blocks<1>>(simd, shape, job);
    } else if step == 2 * S::LANES {
        vectors::<S, Blocks<2>>(simd, shape, job);
    } else if step == 6 {
        vectors::<S, Values<6>>(simd, shape, job);
    } else {
        vectors::<S, Dynamic>(simd, shape, job);
    }
}

/// Distance between input pixels: a constant where that is worth a copy of the kernel.
trait Step {
    fn values(lanes: usize, dynamic: usize) -> usize;
}

/// So many whole vectors.
struct Blocks<const N: usize>;

/// So many values: 6 is stride 2 on three channels.
struct Values<const N: usize>;

struct Dynamic;

impl<const N: usize> Step for Blocks<N> {
    #[inline(always)]
    fn values(lanes: usize, _: usize) -> usize {
        N * lanes
    }
}

impl<const N: usize> Step for Values<N> {
    #[inline(always)]
    fn values(_: usize, _: usize) -> usize {
        N
    }
}

impl Step for Dynamic {
    #[inline(always)]
    fn values(_: usize, dynamic: usize) -> usize {
        dynamic
    }
}

fn vectors<S: Simd, St: Step>(simd: S, shape: TileShape, job: &Job<'_>) {
    match shape.vectors {
        1 if S::CELL == 1 => pixels::<S, St, 1>(simd, shape, job),
        2 => pixels::<S, St, 2>(simd, shape, job),
        _ => unreachable!("tiles have one or two vectors, and whole blocks"),
    }
}

fn pixels<S: Simd, St: Step, const B: usize>(simd: S, shape: TileShape, job: &Job<'_>) {
    macro_rules! shapes {
        ($($rows:literal x $($pixels:literal)+;)+) => {
            match (shape.rows, shape.pixels) {
                $($(($rows, $pixels) => micro::<S, St, $rows, $pixels, B>(simd, job),)+)+
                _ => unreachable!("no tile of {shape:?}"),
            }
        };
    }
    shapes!(
        1 x 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        2 x 1 2 3 4 5 6 7;
    );
}

fn micro<S: Simd, St: Step, const R: usize, const Q: usize, const B: usize>(
    simd: S,
    job: &Job<'_>,
) {
    // shapes that an instruction set never asks for are not compiled for it
    if const { R * Q <= S::PIXELS } {
        simd.vectorize(Micro::<St, R, Q, B>(job, PhantomData));
    } else {
        unreachable!("a tile of {R}x{Q} pixels has no registers");
    }
}

struct Micro<'a, St, const R: usize, const Q: usize, const B: usize>(&'a Job<'a>, PhantomData<St>);

impl<St: Step, const R: usize, const Q: usize, const B: usize> Kernel for Micro<'_, St, R, Q, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let job = self.0;
        let walk = job.walk;
        let step = St::values(S::LANES, walk.pixel);
        let mut tile: Tile<S::Vector, R, Q, B> = [[[simd.splat(0.0); B]; Q]; R];
        let mut weights = job.weights;
        let mut ahead = job.ahead;
        let mut block = job.input;
        for _ in 0..job.blocks {
            let mut row = block;
            for _ in 0..walk.kernel_rows {
                for i in 0..walk.run {
                    let mut vectors = [simd.splat(0.0); B];
                    for (b, vector) in vectors.iter_mut().enumerate() {
                        // SAFETY: `run`'s caller vouches for every weight of the walk.
                        *vector = unsafe { simd.load(weights.add(b * S::LANES)) };
                        simd.prefetch(ahead.wrapping_add(b * S::LANES));
                    }
                    ahead = ahead.wrapping_byte_add(job.ahead_step);
                    // the next inputs of a pixel a step: of a few pixels, what lies beyond is nobody's
                    if Q >= WIDE || i < Q {
                        simd.prefetch_near(row.wrapping_add(walk.block * NEXT + i * step));
                    }
                    for (r, row_tile) in tile.iter_mut().enumerate() {
                        for (q, pixel) in row_tile.iter_mut().enumerate() {
                            // SAFETY: `run`'s caller vouches for every input of the walk.
                            let x =
                                simd.splat(unsafe { *row.add(i + r * walk.tile_row + q * step) });
                            for (sum, &vector) in pixel.iter_mut().zip(&vectors) {
                                *sum = simd.dot(x, vector, *sum);
                            }
                        }
                    }
                    weights = weights.wrapping_add(B * S::LANES);
                }
                row = row.wrapping_add(walk.row);
            }
            block = block.wrapping_add(walk.block);
        }
        // SAFETY: `run`'s caller vouches for the epilogue.
        unsafe { apply(simd, job.operations, job.at, &mut tile) };
        for (r, row) in tile.iter().enumerate() {
            for (q, pixel) in row.iter().enumerate() {
                let to = job
                    .output
                    .wrapping_add(r * walk.out_row + q * walk.out_pixel);
                // SAFETY: `run`'s caller vouches for every output of the tile.
                unsafe { store(simd, walk, job.at.block, to, pixel) };
            }
        }
    }
}

/// Stores one pixel's vectors, of blocks from `block` on.
///
/// # Safety
/// The pixel's blocks can be written at `to`.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(
    simd: S,
    walk: &Walk,
    block: usize,
    to: *mut f32,
    pixel: &[S::Vector],
) {
    if let Some(vectors) = walk.wide {
        for (b, &vector) in pixel.iter().enumerate() {
            if block * S::CELL + b < vectors {
                // SAFETY: the output has this vector, in an f32 block of its own.
                unsafe { simd.store(to.add(b * walk.out_block), vector) };
            }
        }
    } else {
        for (c, cell) in pixel.chunks_exact(S::CELL).enumerate() {
            // SAFETY: the caller's.
            unsafe { simd.store_cell(to.add(c * walk.out_block), [cell[0], cell[S::CELL - 1]]) };
        }
    }
}

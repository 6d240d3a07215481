//! Direct convolution on the matrix unit: the same sums as [`super::tile`], 16 pixels by 16 channels an instruction.
//!
//! The rows of a matrix are a strip of 16 output pixels. At stride 1 a strip may run on from one image row into the next:
//! in a padded layout the pixels of the plane are a constant step apart, and what falls on the columns of the border is
//! not stored. The last strip of a stretch begins early rather than end late, so that the unit is set up once a task.
//! Two strips share the weights of a unit; sums go through a small buffer to the epilogue.

use std::ops::Range;

use super::tile::{Walk, store};
use crate::kernels::amx::{SIDE, SUMS, Tiles};
use crate::kernels::epilogue::{Bound, Position, Tile, apply};
use crate::kernels::isa::{Amx, Token};
use crate::kernels::simd::{Kernel, Simd};

/// How a convolution uses the matrix unit.
#[derive(Debug)]
pub(super) struct Matrix {
    amx: Amx,
    /// Words of a run that one instruction sums.
    depth: usize,
}

/// Output pixels a constant step apart in the input: the plane's rows `pitch` pixels from one to the next, of which
/// `width` count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) row: usize,
    pub(super) pixel: usize,
    pub(super) len: usize,
    pub(super) pitch: usize,
    pub(super) width: usize,
}

/// Up to 16 neighbouring pixels of a stretch, by the first.
#[derive(Clone, Copy, Debug)]
struct Strip {
    row: usize,
    pixel: usize,
}

/// The strips of one task.
pub(super) struct Strips {
    tiles: Tiles,
    strips: Vec<Strip>,
    /// Pixels of each.
    rows: usize,
    pitch: usize,
    width: usize,
    depth: usize,
}

/// One unit's share of a task.
pub(super) struct UnitJob<'a> {
    pub(super) walk: &'a Walk,
    pub(super) operations: &'a [Bound<'a>],
    pub(super) blocks: usize,
    /// First word under the window of the plane's first pixel.
    pub(super) input: *const f32,
    /// `[block][kernel row][run][2][lane]`.
    pub(super) weights: *const f32,
    /// What the thread will probably want next, to be fetched meanwhile.
    pub(super) next: *const f32,
    /// First word of the plane's first pixel.
    pub(super) output: *mut f32,
    pub(super) image: usize,
    pub(super) block: usize,
}

#[repr(C, align(64))]
struct Sums([f32; SUMS]);

impl Matrix {
    /// None where the token has no matrix unit or a run cannot be cut evenly into what the unit takes.
    pub(super) fn new(token: Token, run: usize) -> Option<Self> {
        let Token::Amx(amx) = token else {
            return None;
        };
        let steps = run.div_ceil(SIDE);
        run.is_multiple_of(steps).then(|| Self {
            amx,
            depth: run / steps,
        })
    }

    /// The strips of equally long stretches; sets this thread's tiles up until they are dropped.
    pub(super) fn strips(&self, stretches: impl Iterator<Item = Stretch>) -> Option<Strips> {
        let mut stretches = stretches.peekable();
        let Stretch {
            len, pitch, width, ..
        } = *stretches.peek()?;
        let rows = len.min(SIDE);
        let mut strips = Vec::new();
        for stretch in stretches {
            for from in (0..len).step_by(SIDE) {
                let at = stretch.pixel + from.min(len - rows);
                strips.push(Strip {
                    row: stretch.row + at / pitch,
                    pixel: at % pitch,
                });
            }
        }
        Some(Strips {
            tiles: Tiles::new(self.amx, rows, self.depth),
            strips,
            rows,
            pitch,
            width,
            depth: self.depth,
        })
    }
}

impl Strips {
    /// Computes one unit of the task.
    ///
    /// # Safety
    /// Every value that the walk reaches from the stretches' pixels can be read, and every pixel of them that counts be
    /// written by this thread alone, in the unit's one block; the epilogue fits as [`apply`] demands.
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, job: &UnitJob<'_>) {
        let mut sums = Sums([0.0; SUMS]);
        let steps = job.blocks * job.walk.kernel_rows * job.walk.run / self.depth;
        let groups = self.strips.len().div_ceil(2);
        // cache lines of the next weights for each step, so that all groups together fetch all
        let lines = (self.depth * 2).div_ceil(groups);
        for (i, pair) in self.strips.chunks(2).enumerate() {
            let ahead = job.next.wrapping_add(i * steps * lines * SIDE);
            // SAFETY: the caller's.
            unsafe { self.sum(simd, job, pair, ahead, lines) };
            self.tiles.store(&mut sums.0);
            for (strip, sums) in pair.iter().zip(sums.0.chunks_exact(SUMS / 2)) {
                simd.vectorize(Finish {
                    job,
                    strips: self,
                    strip: *strip,
                    sums,
                });
            }
        }
    }

    /// Leaves the sums of one or two strips in the tiles.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn sum<S: Simd>(
        &self,
        simd: S,
        job: &UnitJob<'_>,
        pair: &[Strip],
        mut ahead: *const f32,
        lines: usize,
    ) {
        let walk = job.walk;
        let start = |strip: &Strip| {
            let at = strip.row * walk.tile_row + strip.pixel * walk.pixel;
            job.input.wrapping_add(at)
        };
        let stride = walk.pixel * size_of::<f32>();
        let first = start(&pair[0]);
        let second = pair.get(1).map(start);
        let mut weights = job.weights;
        self.tiles.clear();
        for block in 0..job.blocks {
            for row in 0..walk.kernel_rows {
                for step in (0..walk.run).step_by(self.depth) {
                    let at = block * walk.block + row * walk.row + step;
                    for _ in 0..lines {
                        simd.prefetch(ahead);
                        ahead = ahead.wrapping_add(SIDE);
                    }
                    let strip = first.wrapping_add(at);
                    // SAFETY: the caller's.
                    unsafe {
                        match second {
                            Some(second) => {
                                let strips = [strip, second.wrapping_add(at)];
                                self.tiles.add(strips, stride, weights);
                            }
                            None => self.tiles.add_one(strip, stride, weights),
                        }
                    }
                    weights = weights.wrapping_add(self.depth * 2 * SIDE);
                }
            }
        }
    }

    /// The pixels of a strip that count, as runs within a row: places in the strip, and row and first pixel.
    #[inline(always)]
    fn runs(&self, strip: Strip, mut body: impl FnMut(Range<usize>, usize, usize)) {
        let (mut row, mut pixel) = (strip.row, strip.pixel);
        let mut at = 0;
        while at < self.rows {
            if pixel < self.width {
                let len = (self.width - pixel).min(self.rows - at);
                body(at..at + len, row, pixel);
            }
            at = at.saturating_add(self.pitch - pixel);
            (row, pixel) = (row + 1, 0);
        }
    }
}

/// Epilogue and store of one strip.
struct Finish<'a> {
    job: &'a UnitJob<'a>,
    strips: &'a Strips,
    strip: Strip,
    /// `[row][2][lane]`.
    sums: &'a [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.strips.runs(
            self.strip,
            #[inline(always)]
            |places, row, pixel| {
                let mut at = places.start;
                while at + 4 <= places.end {
                    self.pixels::<S, 4>(simd, at, row, pixel + at - places.start);
                    at += 4;
                }
                while at < places.end {
                    self.pixels::<S, 1>(simd, at, row, pixel + at - places.start);
                    at += 1;
                }
            },
        );
    }
}

impl Finish<'_> {
    #[inline(always)]
    fn pixels<S: Simd, const Q: usize>(&self, simd: S, at: usize, row: usize, pixel: usize) {
        let (job, walk) = (self.job, self.job.walk);
        let mut tile: Tile<S::Vector, 1, Q, 2> = [[[simd.splat(0.0); 2]; Q]; 1];
        for (q, pixel) in tile[0].iter_mut().enumerate() {
            for (b, vector) in pixel.iter_mut().enumerate() {
                let from = &self.sums[((at + q) * 2 + b) * SIDE..][..SIDE];
                // SAFETY: sixteen values, which are the vectors of every CPU with a matrix unit.
                *vector = unsafe { simd.load(from.as_ptr()) };
            }
        }
        let position = Position {
            image: job.image,
            block: job.block,
            row,
            pixel,
        };
        // SAFETY: `Strips::run`'s caller vouches for the epilogue at every pixel that counts.
        unsafe { apply(simd, job.operations, position, &mut tile) };
        let to = job
            .output
            .wrapping_add(row * walk.out_row + pixel * walk.out_pixel);
        for (q, pixel) in tile[0].iter().enumerate() {
            // SAFETY: `Strips::run`'s caller vouches for every pixel that counts.
            unsafe {
                store(
                    simd,
                    walk,
                    job.block,
                    to.wrapping_add(q * walk.out_pixel),
                    pixel,
                )
            };
        }
    }
}

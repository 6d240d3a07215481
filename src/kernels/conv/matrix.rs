//! Direct convolution on the matrix unit: the same sums as [`super::tile`], 16 pixels by 16 channels an instruction.
//!
//! The rows of a matrix are a strip of 16 output pixels. At stride 1 a strip may run on from one image row into the next:
//! in a padded layout the pixels of the plane are a constant step apart, and what falls on the columns of the border is
//! not stored. The last strip of a stretch begins early rather than end late, so that the unit is set up once a task.
//! Two strips share the weights of a unit; sums go through a small buffer to the epilogue, which runs while the next ones
//! are summed.

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

/// Neighbouring pixels of one row that count.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Place in the sums of a pair of strips.
    at: usize,
    row: usize,
    pixel: usize,
    pixels: usize,
}

/// Pixels that an epilogue works on at a time.
const CHUNK: usize = 4;

/// Two strips, or one, and what of them is stored.
struct Pair {
    first: Strip,
    second: Option<Strip>,
    chunks: Range<usize>,
}

/// The strips of one task.
pub(super) struct Strips {
    tiles: Tiles,
    pairs: Vec<Pair>,
    /// Of all pairs.
    chunks: Vec<Chunk>,
    depth: usize,
}

/// One unit's share of a task.
#[derive(Clone, Copy)]
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
    ///
    /// # Safety
    /// No other `Strips` lives on this thread until these are dropped.
    pub(super) unsafe fn strips(&self, stretches: impl Iterator<Item = Stretch>) -> Option<Strips> {
        let mut stretches = stretches.peekable();
        let first = *stretches.peek()?;
        let rows = first.len.min(SIDE);
        let mut strips = Vec::new();
        for stretch in stretches {
            for from in (0..stretch.len).step_by(SIDE) {
                let at = stretch.pixel + from.min(stretch.len - rows);
                strips.push(Strip {
                    row: stretch.row + at / stretch.pitch,
                    pixel: at % stretch.pitch,
                });
            }
        }
        let mut chunks = Vec::with_capacity(strips.len() * SIDE.div_ceil(CHUNK));
        let pair = |pair: &[Strip]| {
            let from = chunks.len();
            for (i, strip) in pair.iter().enumerate() {
                split(*strip, i * SIDE..i * SIDE + rows, &first, &mut chunks);
            }
            Pair {
                first: pair[0],
                second: pair.get(1).copied(),
                chunks: from..chunks.len(),
            }
        };
        Some(Strips {
            // SAFETY: the caller's.
            tiles: unsafe { Tiles::new(self.amx, rows, self.depth) },
            pairs: strips.chunks(2).map(pair).collect(),
            chunks,
            depth: self.depth,
        })
    }
}

/// What of a strip counts, whose sums are at `places`.
fn split(strip: Strip, places: Range<usize>, stretch: &Stretch, chunks: &mut Vec<Chunk>) {
    let (mut row, mut pixel, mut at) = (strip.row, strip.pixel, places.start);
    while at < places.end {
        let left = stretch.width.saturating_sub(pixel).min(places.end - at);
        for from in (0..left).step_by(CHUNK) {
            chunks.push(Chunk {
                at: at + from,
                row,
                pixel: pixel + from,
                pixels: CHUNK.min(left - from),
            });
        }
        at = at.saturating_add(stretch.pitch - pixel);
        (row, pixel) = (row + 1, 0);
    }
}

impl Strips {
    /// Computes some units of the task.
    ///
    /// # Safety
    /// `S` is the vectors of an [`Amx`] token. Every word that the walk reaches from the stretches' pixels can be read, and
    /// every weight of the walk; every pixel that counts can be written by this thread alone, in each unit's one block; the
    /// epilogue fits as [`apply`] demands.
    pub(super) unsafe fn run<'a, S: Simd>(&self, simd: S, jobs: impl Iterator<Item = UnitJob<'a>>) {
        simd.vectorize(Units { strips: self, jobs });
    }
}

/// Words of a stream of weights by which it is fetched ahead: twice what comes from memory within its latency.
const STREAMED: usize = 2 << 10;

/// The units of a task, one after another. While the matrix unit sums one pair of strips, the vector units finish the
/// pair before.
struct Units<'s, J> {
    strips: &'s Strips,
    jobs: J,
}

/// A pair whose sums are done and whose last `chunks` are not stored yet.
struct Pending<'s, 'a> {
    job: UnitJob<'a>,
    chunks: &'s [Chunk],
}

impl<'a, J: Iterator<Item = UnitJob<'a>>> Kernel for Units<'_, J> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Strips {
            tiles,
            pairs,
            chunks,
            depth,
        } = self.strips;
        let (mut one, mut other) = (Sums([0.0; SUMS]), Sums([0.0; SUMS]));
        let (mut done, mut sums) = (&mut one, &mut other);
        let mut pending: Option<Pending<'_, '_>> = None;
        for job in self.jobs {
            let steps = job.blocks * job.walk.kernel_rows * (job.walk.run / depth);
            // cache lines of the next weights for each step, so that all pairs together fetch all
            let lines = (2 * depth).div_ceil(pairs.len());
            let mut ahead = match pairs.len() {
                // nothing is used twice, so that the weights are a stream: a whole unit of it would not stay in the cache
                1 => job.weights.wrapping_add(STREAMED),
                _ => job.next,
            };
            for pair in pairs {
                let share = pending
                    .as_ref()
                    .map_or(0, |pending| pending.chunks.len().div_ceil(steps));
                tiles.clear();
                job.each_step(*depth, |at, weights| {
                    for _ in 0..lines {
                        simd.prefetch(ahead);
                        ahead = ahead.wrapping_add(SIDE);
                    }
                    // SAFETY: `Strips::run`'s caller vouches for every word of the walk.
                    unsafe { job.add(tiles, pair, at, weights) };
                    if let Some(pending) = &mut pending {
                        pending.finish(simd, done, share);
                    }
                });
                tiles.store(&mut sums.0);
                if let Some(mut pending) = pending.take() {
                    pending.finish(simd, done, usize::MAX);
                }
                pending = Some(Pending {
                    job,
                    chunks: &chunks[pair.chunks.clone()],
                });
                (done, sums) = (sums, done);
            }
        }
        if let Some(mut pending) = pending {
            pending.finish(simd, done, usize::MAX);
        }
    }
}

impl UnitJob<'_> {
    /// Calls `body` for each step of the sums with the place of its words under the window and its weights.
    #[inline(always)]
    fn each_step(&self, depth: usize, mut body: impl FnMut(usize, *const f32)) {
        let mut weights = self.weights;
        for block in 0..self.blocks {
            for row in 0..self.walk.kernel_rows {
                for step in (0..self.walk.run).step_by(depth) {
                    let at = block * self.walk.block + row * self.walk.row + step;
                    body(at, weights);
                    weights = weights.wrapping_add(depth * 2 * SIDE);
                }
            }
        }
    }

    fn position(&self, chunk: &Chunk, skip: usize) -> Position {
        Position {
            image: self.image,
            block: self.block,
            row: chunk.row,
            pixel: chunk.pixel + skip,
        }
    }

    /// One step of a pair of strips.
    ///
    /// # Safety
    /// Both strips' words at this place of the window can be read, and the weights.
    #[inline(always)]
    unsafe fn add(&self, tiles: &Tiles, pair: &Pair, at: usize, weights: *const f32) {
        let walk = self.walk;
        let start = |strip: Strip| {
            let pixel = strip.row * walk.tile_row + strip.pixel * walk.pixel;
            self.input.wrapping_add(pixel + at)
        };
        let stride = walk.pixel * size_of::<f32>();
        // SAFETY: the caller's.
        unsafe {
            match pair.second {
                Some(second) => tiles.add([start(pair.first), start(second)], stride, weights),
                None => tiles.add_one(start(pair.first), stride, weights),
            }
        }
    }
}

impl Pending<'_, '_> {
    /// Epilogue and store of the next `count` chunks.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, sums: &Sums, count: usize) {
        let (now, rest) = self.chunks.split_at(count.min(self.chunks.len()));
        self.chunks = rest;
        for chunk in now {
            if chunk.pixels == CHUNK {
                self.pixels::<S, CHUNK>(simd, sums, *chunk, 0);
            } else {
                for i in 0..chunk.pixels {
                    self.pixels::<S, 1>(simd, sums, *chunk, i);
                }
            }
        }
    }

    /// `Q` pixels of a chunk from `skip` on.
    #[inline(always)]
    fn pixels<S: Simd, const Q: usize>(&self, simd: S, sums: &Sums, chunk: Chunk, skip: usize) {
        let (job, walk) = (&self.job, self.job.walk);
        let (at, pixel) = (chunk.at + skip, chunk.pixel + skip);
        let mut tile: Tile<S::Vector, 1, Q, 2> = [[[simd.splat(0.0); 2]; Q]; 1];
        let sums = &sums.0[at * 2 * SIDE..][..Q * 2 * SIDE];
        for (q, vectors) in tile[0].iter_mut().enumerate() {
            for (b, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: sixteen values, which are the vectors of every CPU with a matrix unit, of the `Q` times two.
                *vector = unsafe { simd.load(sums.as_ptr().add((q * 2 + b) * SIDE)) };
            }
        }
        let position = job.position(&chunk, skip);
        // SAFETY: `Strips::run`'s caller vouches for the epilogue at every pixel that counts.
        unsafe { apply(simd, job.operations, position, &mut tile) };
        let to = chunk.row * walk.out_row + pixel * walk.out_pixel;
        for (q, vectors) in tile[0].iter().enumerate() {
            let to = job.output.wrapping_add(to + q * walk.out_pixel);
            // SAFETY: `Strips::run`'s caller vouches for every pixel that counts.
            unsafe { store(simd, walk, job.block, to, vectors) };
        }
    }
}

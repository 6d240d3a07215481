//! 3x3 convolutions whose groups are so narrow that several lie in one block, where the direct convolution would
//! multiply zeros.
//!
//! An output lane needs only the inputs of its own group. So each input vector is spread into one vector for each member
//! of the groups (in vector `j` a lane holds its group's channel `j`), once for all nine taps: permutations share a port
//! with multiplications on some CPUs. Strips of a few pixels run down a band of rows, so that the three rows of spread
//! vectors that an output row needs stay in the first-level cache and the sums of its pixels in registers.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{ConvCall, ConvParts, ConvSpec};
use crate::kernels::buffer::Buffer;
use crate::kernels::disjoint::{Disjoint, TASKS, Threads, claim, even};
use crate::kernels::epilogue::{Bound, Epilogue, Position, Tile, apply};
use crate::kernels::isa::Token;
use crate::kernels::layout::{Layout, Plane};
use crate::kernels::simd::{Kernel, Simd};

/// Rows and columns of the window.
const WINDOW: usize = 3;

/// Channels of the widest group; it divides every vector's width.
const MOST_MEMBERS: usize = 8;

/// Input pixels of the widest strip: 14 outputs of stride 1 read 16, 10 of stride 2 read 21.
const MOST_PIXELS: usize = 21;

#[derive(Debug)]
pub(super) struct Grouped {
    token: Token,
    input: Layout,
    output: Layout,
    stride: usize,
    /// Channels of a group.
    members: usize,
    /// First value of the first window in a block.
    origin: usize,
    /// `[block][window row][member][window column][lane]`.
    weights: Buffer,
    epilogue: Epilogue,
}

/// Whether a convolution is one of these.
pub(super) fn supports(spec: &ConvSpec) -> bool {
    spec.kernel == (WINDOW, WINDOW)
        && matches!(spec.stride, 1 | 2)
        && spec.groups > 1
        && spec.in_channels == spec.out_channels
        && MOST_MEMBERS.is_multiple_of(spec.group_inputs())
}

impl Grouped {
    /// `parts` has been checked, and `supports` its convolution.
    pub(super) fn new(parts: ConvParts<'_>) -> Self {
        let ConvParts {
            token,
            spec,
            input,
            output,
            epilogue,
            ..
        } = parts;
        let (above, left) = (input.border - spec.padding.0, input.border - spec.padding.1);
        Self {
            token,
            stride: spec.stride,
            members: spec.group_inputs(),
            origin: above * input.row() + left * input.lanes,
            weights: pack(&spec, &output, parts.weights),
            input,
            output,
            epilogue,
        }
    }

    pub(super) fn weights(&self) -> &Buffer {
        &self.weights
    }

    pub(super) fn run(&self, threads: &dyn Threads, call: ConvCall<'_>, output: &mut [f32]) {
        let ConvCall {
            batch,
            input,
            added,
        } = call;
        let operations = self.epilogue.bind(Plane::Image, batch, added);
        let output = &Disjoint::new(output);
        let (planes, rows) = (batch * self.output.blocks(), self.output.height);
        let bands = (TASKS * threads.count()).div_ceil(planes).min(rows);
        claim(threads, planes * bands, |task| {
            let (plane, band) = (task / bands, task % bands);
            self.token.run(Band {
                conv: self,
                image: plane / self.output.blocks(),
                block: plane % self.output.blocks(),
                rows: even(rows, bands, band),
                input,
                operations: &operations,
                output,
            });
        });
    }
}

/// Some rows of one block of one image.
struct Band<'a> {
    conv: &'a Grouped,
    image: usize,
    block: usize,
    rows: Range<usize>,
    input: &'a [f32],
    operations: &'a [Bound<'a>],
    output: &'a Disjoint<'a>,
}

impl Kernel for Band<'_> {
    type Output = ();

    /// Plain loops; each strip enters the instruction set by itself.
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.block..self.block + 1;
        // SAFETY: the padded rows of this task's band, which no other task touches.
        unsafe {
            let output = &self.conv.output;
            output.zero_band(self.output, self.image, blocks, &self.rows);
        }
        let conv = self.conv;
        let width = conv.output.width;
        let widest = widest::<S>(conv.stride);
        let strips = width.div_ceil(widest);
        for strip in 0..strips {
            let span = even(width, strips, strip);
            let job = self.job(span.start);
            match conv.stride {
                1 => pixels::<S, 1>(simd, span.len(), job),
                2 => pixels::<S, 2>(simd, span.len(), job),
                _ => unreachable!("`supports` admits two strides"),
            }
        }
    }
}

/// Output pixels of the widest strip. Windows of stride 2 read more pixels: fewer outputs keep those in the cache.
const fn widest<S: Simd>(stride: usize) -> usize {
    let read = (MOST_PIXELS - WINDOW) / stride + 1;
    if read < S::PIXELS { read } else { S::PIXELS }
}

impl Band<'_> {
    /// The strip that begins at this pixel.
    fn job(&self, pixel: usize) -> Job<'_> {
        let conv = self.conv;
        let (from, to) = (&conv.input, &conv.output);
        let input = conv.origin
            + self.image * from.image()
            + self.block * from.block()
            + self.rows.start * conv.stride * from.row()
            + pixel * conv.stride * from.lanes;
        let output = self.image * to.image()
            + self.block * to.block()
            + to.row_start(self.rows.start)
            + pixel * to.lanes;
        let weights = self.block * WINDOW * conv.members * WINDOW * to.lanes;
        Job {
            members: conv.members,
            operations: self.operations,
            input: self.input.as_ptr().wrapping_add(input),
            input_row: from.row(),
            weights: conv.weights[weights..].as_ptr(),
            output: self.output.start().wrapping_add(output),
            output_row: to.row(),
            rows: self.rows.len(),
            at: Position {
                image: self.image,
                block: self.block,
                row: self.rows.start,
                pixel,
            },
        }
    }
}

/// One strip of a band.
struct Job<'a> {
    members: usize,
    operations: &'a [Bound<'a>],
    /// First value under the first pixel's window, and the step to the row below.
    input: *const f32,
    input_row: usize,
    /// `[window row][member][window column][lane]`.
    weights: *const f32,
    /// First value of the first pixel, and the step to the row below.
    output: *mut f32,
    output_row: usize,
    rows: usize,
    at: Position,
}

fn pixels<S: Simd, const STRIDE: usize>(simd: S, pixels: usize, job: Job<'_>) {
    macro_rules! widths {
        ($($pixels:literal)+) => {
            match pixels {
                $($pixels => strip::<S, STRIDE, $pixels>(simd, job),)+
                _ => unreachable!("no strip of {pixels} pixels"),
            }
        };
    }
    widths!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

fn strip<S: Simd, const STRIDE: usize, const Q: usize>(simd: S, job: Job<'_>) {
    // widths that an instruction set never asks for are not compiled for it
    if const { Q <= widest::<S>(STRIDE) } {
        simd.vectorize(Strip::<STRIDE, Q>(job));
    } else {
        unreachable!("a strip of {Q} pixels has no registers");
    }
}

struct Strip<'a, const STRIDE: usize, const Q: usize>(Job<'a>);

/// The spread vectors of [`WINDOW`] rows, `[row][member][pixel]` without gaps: input row `i` in place `i % WINDOW`.
type Spread<V> = MaybeUninit<[V; WINDOW * MOST_MEMBERS * MOST_PIXELS]>;

impl<const STRIDE: usize, const Q: usize> Strip<'_, STRIDE, Q> {
    /// Input pixels.
    const READ: usize = (Q - 1) * STRIDE + WINDOW;
}

impl<const STRIDE: usize, const Q: usize> Kernel for Strip<'_, STRIDE, Q> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert!(Self::READ <= MOST_PIXELS, "room for a row");
        let job = &self.0;
        let mut spread: Spread<S::Vector> = MaybeUninit::uninit();
        let spread = spread.as_mut_ptr().cast::<f32>();
        let spread_row = job.members * Self::READ * S::LANES;
        let place = |row: usize| spread.wrapping_add(row % WINDOW * spread_row);
        let mut lanes = [simd.members(1, 0); MOST_MEMBERS];
        for (member, lanes) in lanes.iter_mut().enumerate() {
            *lanes = simd.members(job.members, member % job.members);
        }
        let lanes = &lanes[..job.members];
        for row in 0..WINDOW {
            for (member, &lanes) in lanes.iter().enumerate() {
                // SAFETY: the rows under this band's windows stay inside the input's border, which `Conv::new` checked;
                // a row's place holds READ vectors for each of at most MOST_MEMBERS members.
                unsafe { self.spread(simd, row, (member, lanes), place(row)) };
            }
        }
        for y in 0..job.rows {
            let first = y * STRIDE;
            let mut tile: Tile<S::Vector, 1, Q, 1> = [[[simd.splat(0.0)]; Q]; 1];
            let mut weights = job.weights;
            for r in 0..WINDOW {
                let mut from = place(first + r).cast_const();
                for (member, &lanes) in lanes.iter().enumerate() {
                    // SAFETY: the row has been spread; the block's weights are WINDOW rows of `members` by WINDOW
                    // vectors.
                    unsafe { Self::multiply(simd, from, weights, &mut tile) };
                    from = from.wrapping_add(Self::READ * S::LANES);
                    weights = weights.wrapping_add(WINDOW * S::LANES);
                    // beside the multiplications, what the next row of outputs needs, where this one needs no more
                    if (1..=STRIDE).contains(&r) && y + 1 < job.rows {
                        let row = first + WINDOW + r - 1;
                        // SAFETY: as above.
                        unsafe { self.spread(simd, row, (member, lanes), place(row)) };
                    }
                }
            }
            let at = Position {
                row: job.at.row + y,
                ..job.at
            };
            // SAFETY: the strip's pixels of this row lie in the output, which the epilogue was checked and bound for.
            unsafe { apply(simd, job.operations, at, &mut tile) };
            let output = job.output.wrapping_add(y * job.output_row);
            for (q, pixel) in tile[0].iter().enumerate() {
                simd.prefetch_near(output.wrapping_add(job.output_row + q * S::LANES));
                // SAFETY: a pixel of this task's band, inside the output whose length `Conv::run` checked.
                unsafe { simd.store(output.add(q * S::LANES), pixel[0]) };
            }
        }
    }
}

impl<const STRIDE: usize, const Q: usize> Strip<'_, STRIDE, Q> {
    /// Spreads one member of the strip's pixels of an input row, counted from the band's first.
    ///
    /// # Safety
    /// READ pixels of that row can be read, and READ vectors for each member written at `to`.
    #[inline(always)]
    unsafe fn spread<S: Simd>(
        &self,
        simd: S,
        row: usize,
        (member, lanes): (usize, S::Lanes),
        to: *mut f32,
    ) {
        let job = &self.0;
        let from = job.input.wrapping_add(row * job.input_row);
        let to = to.wrapping_add(member * Self::READ * S::LANES);
        for p in 0..Self::READ {
            if member == 0 {
                // needed two rows of outputs from now
                simd.prefetch_near(from.wrapping_add(2 * STRIDE * job.input_row + p * S::LANES));
            }
            // SAFETY: the caller vouches for the pixels and the place.
            unsafe {
                let pixel = simd.load(from.add(p * S::LANES));
                simd.store(to.add(p * S::LANES), simd.pick(pixel, lanes));
            }
        }
    }

    /// Adds what one member of the groups gives through one window row.
    ///
    /// # Safety
    /// READ vectors can be read at `from` and WINDOW at `weights`.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        simd: S,
        from: *const f32,
        weights: *const f32,
        tile: &mut Tile<S::Vector, 1, Q, 1>,
    ) {
        // SAFETY: the caller vouches for every vector.
        let load = |from: *const f32, i: usize| unsafe { simd.load(from.add(i * S::LANES)) };
        let weights: [S::Vector; WINDOW] = [load(weights, 0), load(weights, 1), load(weights, 2)];
        for (q, pixel) in tile[0].iter_mut().enumerate() {
            for (c, &weight) in weights.iter().enumerate() {
                pixel[0] = simd.fma(load(from, q * STRIDE + c), weight, pixel[0]);
            }
        }
    }
}

/// `[block][window row][member][window column][lane]`; zeros in lanes beyond the last channel.
fn pack(spec: &ConvSpec, output: &Layout, weights: &[f32]) -> Buffer {
    let (lanes, members) = (output.lanes, spec.group_inputs());
    let mut packed = Buffer::zeroed(output.blocks() * WINDOW * members * WINDOW * lanes);
    for (i, &weight) in weights.iter().enumerate() {
        let (channel, member) = (
            i / (WINDOW * WINDOW) / members,
            i / (WINDOW * WINDOW) % members,
        );
        let (r, c) = (i / WINDOW % WINDOW, i % WINDOW);
        let (block, lane) = (channel / lanes, channel % lanes);
        packed[(((block * WINDOW + r) * members + member) * WINDOW + c) * lanes + lane] = weight;
    }
    packed
}

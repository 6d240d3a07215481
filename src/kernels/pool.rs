//! Max and average pooling over windows that may overlap, overhang or, pooling globally, cover everything.
//!
//! Padding is never read: windows are clipped to the image when the layer is made, and an average keeps the number of
//! values it divides by.

use super::conv::Misfit;
use super::disjoint::{Threads, blocks};
use super::isa::Token;
use super::layout::Layout;
use super::simd::{Kernel, Simd};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduce {
    Max,
    Average,
}

/// Rows or columns `from..to` of the input under one output pixel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub from: usize,
    pub to: usize,
    /// How many an average counts: `to - from`, and the padding where that counts.
    pub counted: usize,
}

/// The windows of every output row and column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSpec {
    pub reduce: Reduce,
    pub rows: Vec<Window>,
    pub columns: Vec<Window>,
}

impl Window {
    /// `count` windows of `kernel` values `stride` apart over `size` values with `padding` on both sides; `pad_counts`
    /// whether padding counts in an average (what overhangs the padding never does).
    pub fn sliding(
        size: usize,
        count: usize,
        (kernel, stride, padding): (usize, usize, usize),
        pad_counts: bool,
    ) -> Vec<Self> {
        let one = |i: usize| {
            let (start, end) = (i * stride, i * stride + kernel);
            let from = start.saturating_sub(padding).min(size);
            let to = end.saturating_sub(padding).min(size);
            let counted = if pad_counts {
                end.min(size + 2 * padding).saturating_sub(start)
            } else {
                to - from
            };
            Self { from, to, counted }
        };
        (0..count).map(one).collect()
    }

    /// `count` windows that cover `size` values, with PyTorch's borders.
    pub fn adaptive(size: usize, count: usize) -> Vec<Self> {
        let one = |i: usize| {
            let (from, to) = (i * size / count, ((i + 1) * size).div_ceil(count));
            Self {
                from,
                to,
                counted: to - from,
            }
        };
        (0..count).map(one).collect()
    }
}

/// A pooling layer ready to run.
#[derive(Debug)]
pub struct Pool {
    token: Token,
    spec: PoolSpec,
    input: Layout,
    output: Layout,
}

impl Pool {
    /// # Errors
    /// When a window is empty or leaves the input, or the layouts do not fit.
    pub fn new(
        token: Token,
        spec: PoolSpec,
        input: Layout,
        output: Layout,
    ) -> Result<Self, Misfit> {
        let lanes = token.lanes();
        let inside = |windows: &[Window], size: usize| {
            windows
                .iter()
                .all(|w| w.from < w.to && w.to <= size && w.counted > 0)
        };
        let fits = (input.lanes, input.element) == (lanes, token.element())
            && (output.lanes, output.element) == (lanes, token.element())
            && input.channels == output.channels
            && spec.rows.len() == output.height
            && spec.columns.len() == output.width
            && inside(&spec.rows, input.height)
            && inside(&spec.columns, input.width);
        if !fits {
            return Err(Misfit(format!(
                "pooling {input:?} by {spec:?} does not give {output:?}"
            )));
        }
        Ok(Self {
            token,
            spec,
            input,
            output,
        })
    }

    /// Writes the output of a whole batch, borders included.
    ///
    /// # Panics
    /// When a slice is shorter than its layout and the batch say.
    pub fn run(&self, threads: &dyn Threads, batch: usize, input: &[f32], output: &mut [f32]) {
        let input = &input[..self.input.extent(batch)];
        blocks(
            threads,
            &self.output,
            batch,
            output,
            |image, block, chunk| {
                self.output.zero_border(chunk, 0);
                let start = image * self.input.image() + block * self.input.block();
                self.token.vectorize(Block {
                    pool: self,
                    input: &input[start..start + self.input.block()],
                    output: chunk,
                });
            },
        );
    }
}

/// One block of one image.
struct Block<'a> {
    pool: &'a Pool,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let PoolSpec {
            reduce,
            rows,
            columns,
        } = &self.pool.spec;
        for (y, row) in rows.iter().enumerate() {
            for (x, column) in columns.iter().enumerate() {
                let cell = match reduce {
                    Reduce::Max => self.fold(simd, *row, *column, f32::NEG_INFINITY, |a, b| {
                        simd.max(a, b)
                    }),
                    Reduce::Average => {
                        let sum = self.fold(simd, *row, *column, 0.0, |a, b| simd.add(a, b));
                        let share = simd.splat(1.0 / (row.counted * column.counted) as f32);
                        [simd.mul(sum[0], share), simd.mul(sum[1], share)]
                    }
                };
                let at = self.pool.output.row_start(y) + x * S::LANES;
                debug_assert!(at + S::LANES <= self.output.len());
                // SAFETY: the pixel lies in the output block: one window a row and column, which `new` checked.
                unsafe { simd.store_cell(self.output.as_mut_ptr().add(at), cell) };
            }
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn fold<S: Simd>(
        &self,
        simd: S,
        rows: Window,
        columns: Window,
        start: f32,
        join: impl Fn(S::Vector, S::Vector) -> S::Vector,
    ) -> [S::Vector; 2] {
        let mut all = [simd.splat(start); 2];
        for y in rows.from..rows.to {
            let row = self.pool.input.row_start(y);
            for x in columns.from..columns.to {
                debug_assert!(row + (x + 1) * S::LANES <= self.input.len());
                // SAFETY: `new` checked that windows lie inside the input.
                let cell = unsafe { simd.load_cell(self.input.as_ptr().add(row + x * S::LANES)) };
                all = [join(all[0], cell[0]), join(all[1], cell[1])];
            }
        }
        all
    }
}

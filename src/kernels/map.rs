//! Element-wise layers: every output value is an input value put through an epilogue.
//!
//! With a stride it keeps every so-manieth pixel, and output channels beyond the input's start from zero, which
//! together is the parameter-free shortcut (He et al. 2015, option A).

use super::conv::Misfit;
use super::disjoint::{Threads, blocks};
use super::epilogue::{Bound, Epilogue, Position, Tile, apply};
use super::isa::Token;
use super::layout::{Layout, Plane};
use super::simd::{Kernel, Simd};

/// An element-wise layer ready to run.
#[derive(Debug)]
pub struct Map {
    token: Token,
    input: Layout,
    output: Layout,
    stride: usize,
    epilogue: Epilogue,
}

impl Map {
    /// # Errors
    /// When the output's size is not the input's at that stride, or the epilogue does not fit.
    pub fn new(
        token: Token,
        input: Layout,
        output: Layout,
        stride: usize,
        epilogue: Epilogue,
    ) -> Result<Self, Misfit> {
        let lanes = token.lanes();
        let fits = stride > 0
            && (input.lanes, input.element) == (lanes, token.element())
            && (output.lanes, output.element) == (lanes, token.element())
            && output.height == input.height.div_ceil(stride)
            && output.width == input.width.div_ceil(stride)
            && output.channels >= input.channels;
        if !fits {
            return Err(Misfit(format!(
                "{input:?} at stride {stride} does not give {output:?}"
            )));
        }
        if let Some(what) = epilogue.misfit(&output) {
            return Err(Misfit(what));
        }
        Ok(Self {
            token,
            input,
            output,
            stride,
            epilogue,
        })
    }

    /// Writes the output of a whole batch, borders included; `added` as in [`super::ConvCall`].
    ///
    /// # Panics
    /// When a slice is shorter than its layout and the batch say.
    pub fn run(
        &self,
        threads: &dyn Threads,
        batch: usize,
        input: &[f32],
        added: &[&[f32]],
        output: &mut [f32],
    ) {
        let (from, to) = (&self.input, &self.output);
        assert!(input.len() >= from.extent(batch), "the input is too short");
        let operations = self.epilogue.bind(Plane::Image, batch, added);
        blocks(threads, to, batch, output, |image, block, chunk| {
            to.zero_border(chunk, 0);
            let start = image * from.image() + block * from.block();
            self.token.vectorize(Block {
                map: self,
                input: (block < from.blocks()).then(|| &input[start..start + from.block()]),
                operations: &operations,
                output: chunk,
                image,
                block,
            });
        });
    }
}

/// One block of one image.
struct Block<'a> {
    map: &'a Map,
    /// None where the block lies beyond the input's channels.
    input: Option<&'a [f32]>,
    operations: &'a [Bound<'a>],
    output: &'a mut [f32],
    image: usize,
    block: usize,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if S::CELL == 1 {
            self.rows::<S, 1>(simd);
        } else {
            self.rows::<S, 2>(simd);
        }
    }
}

impl Block<'_> {
    /// All rows; `B` is [`Simd::CELL`].
    #[inline(always)]
    fn rows<S: Simd, const B: usize>(mut self, simd: S) {
        let (height, width) = (self.map.output.height, self.map.output.width);
        for row in 0..height {
            let mut pixel = 0;
            while pixel + 4 <= width {
                self.pixels::<S, 4, B>(simd, row, pixel);
                pixel += 4;
            }
            while pixel < width {
                self.pixels::<S, 1, B>(simd, row, pixel);
                pixel += 1;
            }
        }
    }

    #[inline(always)]
    fn pixels<S: Simd, const Q: usize, const B: usize>(
        &mut self,
        simd: S,
        row: usize,
        pixel: usize,
    ) {
        let (from, to, stride) = (&self.map.input, &self.map.output, self.map.stride);
        let mut tile: Tile<S::Vector, 1, Q, B> = [[[simd.splat(0.0); B]; Q]; 1];
        if let Some(input) = self.input {
            let start = from.row_start(row * stride) + pixel * stride * S::LANES;
            for (q, cell) in tile[0].iter_mut().enumerate() {
                let at = start + q * stride * S::LANES;
                debug_assert!(at + S::LANES <= input.len());
                // SAFETY: the pixel lies in the input, as the output's size is the input's divided by the stride; `new`
                // checked that and the lanes.
                let loaded = unsafe { simd.load_cell(input.as_ptr().add(at)) };
                cell.copy_from_slice(&loaded[..B]);
            }
        }
        let at = Position {
            image: self.image,
            block: self.block,
            row,
            pixel,
        };
        // SAFETY: the pixels lie in the output, for which `new` checked the epilogue.
        unsafe { apply(simd, self.operations, at, &mut tile) };
        let start = to.row_start(row) + pixel * S::LANES;
        for (q, cell) in tile[0].iter().enumerate() {
            let at = start + q * S::LANES;
            debug_assert!(at + S::LANES <= self.output.len());
            // SAFETY: the pixels lie in the output block.
            unsafe { simd.store_cell(self.output.as_mut_ptr().add(at), [cell[0], cell[B - 1]]) };
        }
    }
}

//! Pooling, in one of two ways: a thread or a block a window.

use super::{
    Element, Launch, Misfit, THREADS, Tensor, Work, check_address, count, name, refuse, signed,
};
use super::{POOL, POOL_BLOCK};

/// Threads of a warp.
const WARP: usize = 32;
/// Pixels of a window from which on a whole block pools it.
const SHARED_WINDOW: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reduce {
    Max,
    Average,
}

/// Pooling over windows; input and output have the same channels and may not overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) element: Element,
    pub(crate) reduce: Reduce,
    pub(crate) input: Tensor,
    pub(crate) output: Tensor,
    /// `[output height, 3]` i32: first row of the window, the row after its last, and how many an average counts.
    pub(crate) rows: u64,
    /// `[output width, 3]` i32, likewise.
    pub(crate) columns: u64,
    /// Pixels of the largest window; decides only how the work is shared.
    pub(crate) window: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolArguments {
    input: u64,
    output: u64,
    rows: u64,
    columns: u64,
    pixels: u32,
    chunks: u32,
    height: u32,
    width: u32,
    in_height: u32,
    in_width: u32,
    in_pitch: i32,
    out_pitch: i32,
    average: i32,
    unused: i32,
}

impl Work for Pool {
    type Arguments = PoolArguments;

    fn launch(&self) -> Result<Launch<PoolArguments>, Misfit> {
        let (input, output) = (&self.input, &self.output);
        input.check(self, self.element)?;
        output.check(self, self.element)?;
        check_address(self, self.rows, 4)?;
        check_address(self, self.columns, 4)?;
        if (input.images, input.channels) != (output.images, output.channels) {
            return refuse(self, "input and output differ in images or channels");
        }
        let lanes = self.element.lanes();
        let wide = input.is_wide(lanes) && output.is_wide(lanes);
        let chunks = output.channels / if wide { lanes } else { 1 };
        let (names, blocks) = if self.window >= SHARED_WINDOW {
            (&POOL_BLOCK, output.pixels() * chunks.div_ceil(WARP))
        } else {
            let items = count(self, output.pixels() * chunks)?;
            (&POOL, items.div_ceil(THREADS) as usize)
        };
        Ok(Launch {
            kernel: name(names, self.element, wide),
            blocks: count(self, blocks)?,
            arguments: PoolArguments {
                input: input.address,
                output: output.address,
                rows: self.rows,
                columns: self.columns,
                pixels: count(self, output.pixels())?,
                chunks: count(self, chunks)?,
                height: count(self, output.height)?,
                width: count(self, output.width)?,
                in_height: count(self, input.height)?,
                in_width: count(self, input.width)?,
                in_pitch: signed(self, input.pitch)?,
                out_pitch: signed(self, output.pitch)?,
                average: i32::from(self.reduce == Reduce::Average),
                unused: 0,
            },
        })
    }
}

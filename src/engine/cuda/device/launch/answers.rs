//! Answers out: logits and the best of them.

use super::{
    Element, Launch, Misfit, THREADS, Tensor, Work, check_address, count, name, refuse, signed,
};
use super::{TOP_K, WIDEN};

/// Answers of one row of [`TopK`].
pub(crate) const MAX_BEST: usize = 16;

/// A tensor to f32 `[pixels, channels]` without gaps: logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widen {
    pub(crate) element: Element,
    pub(crate) input: Tensor,
    pub(crate) output: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct WidenArguments {
    input: u64,
    output: u64,
    items: u32,
    chunks: u32,
    pitch: i32,
    unused: i32,
}

impl Work for Widen {
    type Arguments = WidenArguments;

    fn launch(&self) -> Result<Launch<WidenArguments>, Misfit> {
        let input = &self.input;
        input.check(self, self.element)?;
        check_address(self, self.output, 4)?;
        let lanes = self.element.lanes();
        let wide = input.is_wide(lanes) && self.output.is_multiple_of(16);
        let chunks = input.channels / if wide { lanes } else { 1 };
        let items = count(self, input.pixels() * chunks)?;
        Ok(Launch {
            kernel: name(&WIDEN, self.element, wide),
            blocks: items.div_ceil(THREADS),
            arguments: WidenArguments {
                input: input.address,
                output: self.output,
                items,
                chunks: count(self, chunks)?,
                pitch: signed(self, input.pitch)?,
                unused: 0,
            },
        })
    }
}

/// The `k` largest logits of each row, largest first, equal ones by class, and what makes probabilities of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopK {
    /// f32 `[rows, classes]`.
    pub(crate) logits: u64,
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// At most [`MAX_BEST`] and at most `classes`.
    pub(crate) k: usize,
    /// [`Best`] `[rows, k]`.
    pub(crate) best: u64,
    /// [`Summary`] `[rows]`.
    pub(crate) summaries: u64,
}

/// A class and its logit, as [`TopK`] writes it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Best {
    pub(crate) class: u32,
    pub(crate) logit: f32,
}

/// What [`TopK`] says of a row: a class has probability `exp(logit - max) / sum`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) sum: f64,
    pub(crate) max: f32,
    /// 1 where every logit is finite, else 0; then nothing else of the row means anything.
    pub(crate) finite: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopKArguments {
    logits: u64,
    best: u64,
    summaries: u64,
    classes: i32,
    k: i32,
}

impl Work for TopK {
    type Arguments = TopKArguments;

    fn launch(&self) -> Result<Launch<TopKArguments>, Misfit> {
        check_address(self, self.logits, 4)?;
        check_address(self, self.best, 4)?;
        check_address(self, self.summaries, 8)?;
        if self.rows == 0 || self.k == 0 || self.k > MAX_BEST.min(self.classes) {
            return refuse(
                self,
                format!("needs rows, and a k of 1 to {MAX_BEST} and to the classes"),
            );
        }
        Ok(Launch {
            kernel: TOP_K,
            blocks: count(self, self.rows)?,
            arguments: TopKArguments {
                logits: self.logits,
                best: self.best,
                summaries: self.summaries,
                classes: signed(self, self.classes)?,
                k: signed(self, self.k)?,
            },
        })
    }
}

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
    /// [`TopK::bytes`], to be copied at once: [`Summary`] `[rows]`, then [`Best`] `[rows, k]`.
    pub(crate) answers: u64,
}

/// A class and its logit, as [`TopK`] writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best {
    pub(crate) class: u32,
    pub(crate) logit: f32,
}

/// What [`TopK`] says of a row: a class has probability `exp(logit - max) / sum`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
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

impl TopK {
    /// Of the answers.
    pub(crate) const fn bytes(rows: usize, k: usize) -> usize {
        rows * (size_of::<Summary>() + k * size_of::<Best>())
    }

    /// What the kernel said of each row, from a copy of the answers.
    pub(crate) fn read<'a>(
        &self,
        answers: &'a [u8],
    ) -> impl Iterator<Item = (Summary, impl Iterator<Item = Best> + 'a)> + 'a {
        let (words, _) = answers.as_chunks::<8>();
        let (summaries, best) = words.split_at(words.len().min(2 * self.rows));
        let (summaries, _) = summaries.as_chunks::<2>();
        let summary = |&[sum, rest]: &[[u8; 8]; 2]| {
            let [max, finite] = halves(rest);
            Summary {
                sum: f64::from_ne_bytes(sum),
                max: f32::from_ne_bytes(max),
                finite: u32::from_ne_bytes(finite),
            }
        };
        let one = |&word: &[u8; 8]| {
            let [class, logit] = halves(word);
            Best {
                class: u32::from_ne_bytes(class),
                logit: f32::from_ne_bytes(logit),
            }
        };
        let best = best.chunks_exact(self.k.max(1));
        let best = best.map(move |row| row.iter().map(one));
        summaries.iter().map(summary).zip(best)
    }
}

fn halves([a, b, c, d, e, f, g, h]: [u8; 8]) -> [[u8; 4]; 2] {
    [[a, b, c, d], [e, f, g, h]]
}

impl Work for TopK {
    type Arguments = TopKArguments;

    fn launch(&self) -> Result<Launch<TopKArguments>, Misfit> {
        check_address(self, self.logits, 4)?;
        check_address(self, self.answers, 8)?;
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
                best: self.answers + (self.rows * size_of::<Summary>()) as u64,
                summaries: self.answers,
                classes: signed(self, self.classes)?,
                k: signed(self, self.k)?,
            },
        })
    }
}

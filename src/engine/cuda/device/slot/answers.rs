//! Answers from the card through pinned memory: logits, or the best alone.

use cudarc::driver::result;

use super::Slot;
use crate::engine::cuda::device::driver::Context;
use crate::engine::cuda::device::launch::TopK;
use crate::engine::{Best, EngineError};

impl Slot {
    /// Waits for the batch and takes its logits.
    pub(in super::super) fn take_logits(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        let from = self.memory()?.logits.address;
        let (values, _) = self.fetch(from, size_of_val(logits))?.as_chunks::<4>();
        for (logit, value) in logits.iter_mut().zip(values) {
            *logit = f32::from_ne_bytes(*value);
        }
        Ok(())
    }

    /// Has the `k` best of `rows` images found behind the batch, waits, and takes them alone.
    pub(in super::super) fn take_best(
        &mut self,
        rows: usize,
        k: usize,
    ) -> Result<Vec<Best>, EngineError> {
        let memory = self.memory()?;
        let work = TopK {
            logits: memory.logits.address,
            rows,
            classes: self.model.classes,
            k,
            answers: memory.best.address,
        };
        self.work(&work)?;
        let answers = self.fetch(work.answers, TopK::bytes(rows, k))?;
        let best = work.read(answers).map(|(summary, best)| Best {
            classes: best.map(|one| (one.class as usize, one.logit)).collect(),
            max: summary.max,
            sum: summary.sum,
            finite: summary.finite == 1,
        });
        Ok(best.collect())
    }

    /// Copies bytes from the card when all before is done.
    fn fetch(&mut self, from: u64, bytes: usize) -> Result<&[u8], EngineError> {
        let memory = self.memory.as_mut().ok_or_else(super::no_memory)?;
        let to = memory
            .to
            .as_mut_slice()
            .context(|| "waiting for pinned memory")?;
        let to = &mut to[..bytes];
        // SAFETY: the address is of as many bytes on the card, and the stream is waited for before they are read here.
        #[allow(unsafe_code)]
        let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) };
        copied.context(|| format!("copying {bytes} bytes of answers from the card"))?;
        self.stream
            .synchronize()
            .context(|| "waiting for the batch")?;
        Ok(to)
    }
}

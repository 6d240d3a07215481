//! Images to the card through pinned memory, where they are normalised and laid as the network reads them.

use cudarc::driver::result;

use super::Slot;
use crate::engine::cuda::device::driver::Context;
use crate::engine::cuda::device::launch::{Pixels, Planes};
use crate::engine::{Batch, EngineError, Image, Normalization};

/// What a batch is before it is laid out.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Feed<'a> {
    /// All of its images come as pixels.
    Pixels(&'a Batch<'a>),
    /// `[batch, c, h, w]`.
    Planes(&'a [f32]),
}

impl Feed<'_> {
    /// Bytes of `images` images of so many values.
    fn bytes(&self, images: usize, values: usize) -> usize {
        match self {
            Self::Pixels(_) => images * values,
            Self::Planes(_) => images * values * size_of::<f32>(),
        }
    }
}

impl Slot {
    /// Copies a batch into pinned memory.
    pub(in super::super) fn stage(&mut self, feed: Feed<'_>) -> Result<(), EngineError> {
        let values = self.model.input.elements();
        let to = self.memory_mut()?.from.as_mut_slice();
        let to = to.context(|| "waiting for pinned memory")?;
        match feed {
            Feed::Pixels(batch) => {
                for (image, to) in batch.images.iter().zip(to.chunks_exact_mut(values)) {
                    if let Image::Pixels(pixels) = image {
                        to.copy_from_slice(pixels);
                    }
                }
            }
            Feed::Planes(values) => {
                let (to, _) = to.as_chunks_mut::<4>();
                for (value, to) in values.iter().zip(to) {
                    *to = value.to_ne_bytes();
                }
            }
        }
        Ok(())
    }

    /// Sends the staged images to the card and has them laid where the network captured at `bucket` reads them. What
    /// else the bucket holds is computed and never read.
    pub(in super::super) fn lay(
        &mut self,
        feed: Feed<'_>,
        batch: usize,
        bucket: usize,
    ) -> Result<(), EngineError> {
        if let Feed::Pixels(pixels) = feed {
            self.tabulate(pixels.normalization)?;
        }
        let memory = self.memory()?;
        let bytes = feed.bytes(batch, self.model.input.elements());
        let staged = memory.from.as_slice();
        let staged = staged.context(|| "waiting for pinned memory")?;
        let input = memory.input.address;
        // SAFETY: the address is of memory as large as the pinned memory that is copied from, and that is not written
        // before the stream has been waited for.
        #[allow(unsafe_code)]
        let copied =
            unsafe { result::memcpy_htod_async(input, &staged[..bytes], self.stream.cu_stream()) };
        copied.context(|| format!("copying {bytes} bytes of images to the card"))?;
        let mut output = self.tensor(&self.model.image, bucket)?;
        output.images = batch;
        output.channels = self.model.input.channels;
        let element = self.model.math.element();
        match feed {
            Feed::Pixels(_) => self.work(&Pixels {
                element,
                pixels: input,
                table: memory.table.address,
                output,
            }),
            Feed::Planes(_) => self.work(&Planes {
                element,
                planes: input,
                output,
            }),
        }
    }

    /// Puts what pixels become on the card, if it is not there yet.
    fn tabulate(&mut self, normalization: &Normalization) -> Result<(), EngineError> {
        let memory = self.memory()?;
        if memory.table_of.as_ref() == Some(normalization) {
            return Ok(());
        }
        let (to, table) = (memory.table.address, normalization.table().as_flattened());
        // SAFETY: the address is of 3 x 256 values, and the stream is waited for while the table is borrowed.
        #[allow(unsafe_code)]
        let copied = unsafe { result::memcpy_htod_async(to, table, self.stream.cu_stream()) };
        copied.context(|| "copying the normalization to the card")?;
        self.synchronize()?;
        self.memory_mut()?.table_of = Some(normalization.clone());
        Ok(())
    }
}

//! Images in: pixels or planes to the first tensor.

use super::{
    Element, Launch, Misfit, THREADS, Tensor, Work, check_address, count, name, refuse, signed,
};
use super::{PIXELS, PLANES};

/// Blocks that normalise pixels, at most: about as many as fill a large card at once.
const PIXEL_BLOCKS: u32 = 1024;

/// u8 pixels `[images, height, width, 3]` through a table to a tensor; its channels up to the pitch become zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels {
    pub(crate) element: Element,
    pub(crate) pixels: u64,
    /// `[3, 256]` f32: what each level of each channel becomes.
    pub(crate) table: u64,
    /// Of 3 channels, with a pitch that is a multiple of 4, at a multiple of 16 bytes.
    pub(crate) output: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelsArguments {
    pixels: u64,
    table: u64,
    output: u64,
    items: u32,
    pitch: i32,
}

impl Work for Pixels {
    type Arguments = PixelsArguments;

    fn launch(&self) -> Result<Launch<PixelsArguments>, Misfit> {
        let output = &self.output;
        output.check(self, self.element)?;
        check_address(self, self.pixels, 1)?;
        check_address(self, self.table, 4)?;
        let fits = output.channels == 3 && output.pitch.is_multiple_of(4);
        if !(fits && output.address.is_multiple_of(16)) {
            return refuse(
                self,
                "the output needs 3 channels, a pitch of 4s and 16-byte alignment",
            );
        }
        let items = count(self, output.pixels())?;
        Ok(Launch {
            kernel: PIXELS[self.element as usize],
            blocks: items.div_ceil(THREADS).min(PIXEL_BLOCKS),
            arguments: PixelsArguments {
                pixels: self.pixels,
                table: self.table,
                output: output.address,
                items,
                pitch: signed(self, output.pitch)?,
            },
        })
    }
}

/// f32 planes `[images, channels, height, width]` to a tensor; its channels up to the pitch become zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    pub(crate) element: Element,
    pub(crate) planes: u64,
    pub(crate) output: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanesArguments {
    planes: u64,
    output: u64,
    items: u32,
    area: u32,
    channels: i32,
    pitch: i32,
}

impl Work for Planes {
    type Arguments = PlanesArguments;

    fn launch(&self) -> Result<Launch<PlanesArguments>, Misfit> {
        let output = &self.output;
        output.check(self, self.element)?;
        check_address(self, self.planes, 4)?;
        let items = count(self, output.pixels())?;
        let wide = output.pitch.is_multiple_of(4) && output.address.is_multiple_of(16);
        Ok(Launch {
            kernel: name(&PLANES, self.element, wide),
            blocks: items.div_ceil(THREADS),
            arguments: PlanesArguments {
                planes: self.planes,
                output: output.address,
                items,
                area: count(self, output.height * output.width)?,
                channels: signed(self, output.channels)?,
                pitch: signed(self, output.pitch)?,
            },
        })
    }
}

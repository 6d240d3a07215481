//! Element-wise layers: copies, shortcuts, and what follows a convolution that the library does not fuse.

use super::MAP;
use super::{
    Element, Launch, Misfit, THREADS, Tensor, Work, check_address, count, name, refuse, signed,
};

/// Operations of one [`Map`].
pub(crate) const MAX_OPERATIONS: usize = 6;

/// One step of a [`Map`]; addresses are of f32 `[output channels]` where nothing else is said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Operation {
    Bias(u64),
    /// Multiplies and adds with one rounding.
    Affine {
        scale: u64,
        shift: u64,
    },
    /// Adds a tensor of the output's shape and element.
    Add {
        address: u64,
        pitch: usize,
    },
    Scale(f32),
    Relu,
}

/// Every `stride`-th pixel of the input, zeros for channels beyond the input's, then the operations in order, in f32.
///
/// The input (at stride 1) and what is added may be the output itself, with the same address and pitch; other overlaps
/// may not be. Channels of the output's pitch beyond its own are left alone: it may be a slice of a wider tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map<'a> {
    pub(crate) element: Element,
    pub(crate) input: Tensor,
    pub(crate) output: Tensor,
    pub(crate) stride: usize,
    /// At most [`MAX_OPERATIONS`].
    pub(crate) operations: &'a [Operation],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct OperationArguments {
    first: u64,
    second: u64,
    kind: i32,
    pitch: i32,
    factor: f32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapArguments {
    input: u64,
    output: u64,
    items: u32,
    chunks: u32,
    height: u32,
    width: u32,
    in_height: u32,
    in_width: u32,
    stride: i32,
    in_channels: i32,
    in_pitch: i32,
    out_pitch: i32,
    count: i32,
    unused: i32,
    operations: [OperationArguments; MAX_OPERATIONS],
}

impl Map<'_> {
    fn check(&self) -> Result<(), Misfit> {
        let (input, output) = (&self.input, &self.output);
        input.check(self, self.element)?;
        output.check(self, self.element)?;
        let selected = |size: usize| size.checked_sub(1).map(|last| last / self.stride + 1);
        if self.stride == 0
            || selected(input.height) != Some(output.height)
            || selected(input.width) != Some(output.width)
            || input.images != output.images
            || input.channels > output.channels
        {
            return refuse(
                self,
                "input and output shapes do not belong together at this stride",
            );
        }
        if self.operations.len() > MAX_OPERATIONS {
            return refuse(self, format!("more than {MAX_OPERATIONS} operations"));
        }
        for operation in self.operations {
            match *operation {
                Operation::Bias(bias) => check_address(self, bias, 4)?,
                Operation::Affine { scale, shift } => {
                    check_address(self, scale, 4)?;
                    check_address(self, shift, 4)?;
                }
                Operation::Add { address, pitch } => Tensor {
                    address,
                    pitch,
                    ..*output
                }
                .check(self, self.element)?,
                Operation::Scale(_) | Operation::Relu => {}
            }
        }
        Ok(())
    }

    fn is_wide(&self) -> bool {
        let lanes = self.element.lanes();
        let wide = |operation: &Operation| match *operation {
            Operation::Bias(bias) => bias.is_multiple_of(16),
            Operation::Affine { scale, shift } => (scale | shift).is_multiple_of(16),
            Operation::Add { address, pitch } => {
                address.is_multiple_of(16) && pitch.is_multiple_of(lanes)
            }
            Operation::Scale(_) | Operation::Relu => true,
        };
        self.input.is_wide(lanes) && self.output.is_wide(lanes) && self.operations.iter().all(wide)
    }

    fn operation(&self, operation: Operation) -> Result<OperationArguments, Misfit> {
        let nothing = OperationArguments::default();
        Ok(match operation {
            Operation::Bias(first) => OperationArguments { first, ..nothing },
            Operation::Affine { scale, shift } => OperationArguments {
                first: scale,
                second: shift,
                kind: 1,
                ..nothing
            },
            Operation::Add { address, pitch } => OperationArguments {
                first: address,
                kind: 2,
                pitch: signed(self, pitch)?,
                ..nothing
            },
            Operation::Scale(factor) => OperationArguments {
                kind: 3,
                factor,
                ..nothing
            },
            Operation::Relu => OperationArguments { kind: 4, ..nothing },
        })
    }
}

impl Work for Map<'_> {
    type Arguments = MapArguments;

    fn launch(&self) -> Result<Launch<MapArguments>, Misfit> {
        self.check()?;
        let (input, output, wide) = (&self.input, &self.output, self.is_wide());
        let lanes = if wide { self.element.lanes() } else { 1 };
        let chunks = output.channels / lanes;
        let items = count(self, output.pixels() * chunks)?;
        let mut operations = [OperationArguments::default(); MAX_OPERATIONS];
        for (place, operation) in operations.iter_mut().zip(self.operations) {
            *place = self.operation(*operation)?;
        }
        Ok(Launch {
            kernel: name(&MAP, self.element, wide),
            blocks: items.div_ceil(THREADS),
            arguments: MapArguments {
                input: input.address,
                output: output.address,
                items,
                chunks: count(self, chunks)?,
                height: count(self, output.height)?,
                width: count(self, output.width)?,
                in_height: count(self, input.height)?,
                in_width: count(self, input.width)?,
                stride: signed(self, self.stride)?,
                in_channels: signed(self, input.channels)?,
                in_pitch: signed(self, input.pitch)?,
                out_pitch: signed(self, output.pitch)?,
                count: signed(self, self.operations.len())?,
                unused: 0,
                operations,
            },
        })
    }
}

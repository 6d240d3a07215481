//! Convolutions over blocked activations. A linear layer is the 1x1 convolution of an image of one pixel.

mod direct;
mod grid;
mod grouped;
#[cfg(target_arch = "x86_64")]
mod matrix;
mod tile;
mod units;
mod winograd;

use super::buffer::Buffer;
use super::disjoint::Threads;
use super::epilogue::Epilogue;
use super::isa::Token;
use super::layout::{Element, Layout};
use direct::Direct;
use grouped::Grouped;
use winograd::{Winograd4, Winograd6};

/// A convolution; pairs are `(vertical, horizontal)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConvSpec {
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: (usize, usize),
    pub groups: usize,
}

/// How a convolution is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// Sums over the window in registers.
    Direct,
    /// Winograd's F(4x4, 3x3): 4 times fewer multiplications.
    Winograd4,
    /// Winograd's F(6x6, 3x3): 5 times fewer.
    Winograd6,
    /// Groups of up to 8 channels, without the zeros between them.
    Grouped,
}

/// A convolution ready to run: packed weights, epilogue, layouts.
#[derive(Debug)]
pub struct Conv {
    input: Layout,
    output: Layout,
    imp: Implementation,
}

#[derive(Debug)]
enum Implementation {
    Direct(Direct),
    Winograd4(Winograd4),
    Winograd6(Winograd6),
    Grouped(Grouped),
}

/// Everything a convolution is made from.
#[derive(Debug)]
pub struct ConvParts<'a> {
    pub token: Token,
    pub algorithm: Algorithm,
    pub spec: ConvSpec,
    pub input: Layout,
    pub output: Layout,
    /// `[out_channels, in_channels / groups, kernel.0, kernel.1]`.
    pub weights: &'a [f32],
    pub epilogue: Epilogue,
}

/// The tensors of one call.
#[derive(Clone, Copy, Debug)]
pub struct ConvCall<'a> {
    pub batch: usize,
    pub input: &'a [f32],
    /// One for each [`super::Operation::Add`] of the epilogue, in order.
    pub added: &'a [&'a [f32]],
}

/// Sizes that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("a kernel cannot be made: {0}")]
pub struct Misfit(pub(super) String);

impl Algorithm {
    pub const ALL: [Self; 4] = [
        Self::Direct,
        Self::Winograd4,
        Self::Winograd6,
        Self::Grouped,
    ];

    /// Whether it can compute this convolution, of an input in blocks of the vector's width.
    pub fn supports(self, spec: &ConvSpec) -> bool {
        match self {
            Self::Direct => true,
            Self::Winograd4 | Self::Winograd6 => {
                spec.kernel == (3, 3) && spec.stride == 1 && spec.groups == 1
            }
            Self::Grouped => grouped::supports(spec),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Winograd4 => "winograd4",
            Self::Winograd6 => "winograd6",
            Self::Grouped => "grouped",
        }
    }
}

impl ConvSpec {
    /// Height and width of the output for an input of that size; zero where the window does not fit.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let one = |size: usize, kernel: usize, padding: usize| {
            (size + 2 * padding)
                .checked_sub(kernel)
                .map_or(0, |span| span / self.stride + 1)
        };
        (
            one(height, self.kernel.0, self.padding.0),
            one(width, self.kernel.1, self.padding.1),
        )
    }

    /// Input channels that each output channel reads.
    pub fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Multiply-accumulates for one output pixel of all channels.
    pub fn macs_per_pixel(&self) -> usize {
        self.out_channels * self.group_inputs() * self.kernel.0 * self.kernel.1
    }

    fn check(&self, parts: &ConvParts<'_>) -> Result<(), Misfit> {
        let (input, output) = (&parts.input, &parts.output);
        let misfit = |what: String| Err(Misfit(format!("{what}, in {self:?}")));
        if self.groups == 0
            || self.stride == 0
            || self.kernel.0 == 0
            || self.kernel.1 == 0
            || !self.in_channels.is_multiple_of(self.groups)
            || !self.out_channels.is_multiple_of(self.groups)
        {
            return misfit("groups must divide the channels, and no size may be zero".into());
        }
        let size = self.output_size(input.height, input.width);
        if input.channels != self.in_channels
            || output.channels != self.out_channels
            || size.0 == 0
            || size.1 == 0
            || size != (output.height, output.width)
        {
            return misfit(format!("{input:?} does not give {output:?}"));
        }
        if input.border < self.padding.0.max(self.padding.1) {
            return misfit(format!("{input:?} has too narrow a border"));
        }
        let element = parts.token.element();
        // a convolution without tensors to add can also end in f32
        let ends = output.element == element
            || output.element == Element::F32 && parts.epilogue.adds_nothing();
        if output.lanes != parts.token.lanes()
            || input.lanes == 0
            || input.element != element
            || !ends
        {
            return misfit(format!(
                "{input:?} and {output:?} are not in blocks of {} times {element:?}",
                parts.token.lanes()
            ));
        }
        let weights = self.out_channels * self.group_inputs() * self.kernel.0 * self.kernel.1;
        if parts.weights.len() != weights {
            return misfit(format!(
                "{} weights instead of {weights}",
                parts.weights.len()
            ));
        }
        match parts.epilogue.misfit(output) {
            Some(what) => misfit(what),
            None => Ok(()),
        }
    }
}

impl Conv {
    /// Checks that everything fits and packs the weights.
    ///
    /// # Errors
    /// What does not fit, or an algorithm that cannot compute this convolution.
    pub fn new(parts: ConvParts<'_>) -> Result<Self, Misfit> {
        parts.spec.check(&parts)?;
        if !parts.algorithm.supports(&parts.spec) {
            return Err(Misfit(format!(
                "{:?} cannot compute {:?}",
                parts.algorithm, parts.spec
            )));
        }
        let (lanes, element) = (parts.token.lanes(), parts.token.element());
        if parts.algorithm != Algorithm::Direct
            && (parts.input.lanes, element) != (lanes, Element::F32)
        {
            return Err(Misfit(format!(
                "{:?} is not in blocks of {lanes} f32",
                parts.input
            )));
        }
        let (input, output) = (parts.input, parts.output);
        let imp = match parts.algorithm {
            Algorithm::Direct => Implementation::Direct(Direct::new(parts)),
            Algorithm::Winograd4 => Implementation::Winograd4(Winograd4::new(parts)),
            Algorithm::Winograd6 => Implementation::Winograd6(Winograd6::new(parts)),
            Algorithm::Grouped => Implementation::Grouped(Grouped::new(parts)),
        };
        Ok(Self { input, output, imp })
    }

    /// Writes the output of a whole batch, borders included.
    ///
    /// # Panics
    /// When a slice is shorter than its layout and the batch say.
    pub fn run(&self, threads: &dyn Threads, call: ConvCall<'_>, output: &mut [f32]) {
        if call.batch == 0 {
            return;
        }
        // what the kernels read and write without checks rests on these two
        assert!(
            call.input.len() >= self.input.extent(call.batch),
            "the input is too short"
        );
        assert!(
            output.len() >= self.output.extent(call.batch),
            "the output is too short"
        );
        match &self.imp {
            Implementation::Direct(conv) => conv.run(threads, call, output),
            Implementation::Winograd4(conv) => conv.run(threads, call, output),
            Implementation::Winograd6(conv) => conv.run(threads, call, output),
            Implementation::Grouped(conv) => conv.run(threads, call, output),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        match &self.imp {
            Implementation::Direct(_) => Algorithm::Direct,
            Implementation::Winograd4(_) => Algorithm::Winograd4,
            Implementation::Winograd6(_) => Algorithm::Winograd6,
            Implementation::Grouped(_) => Algorithm::Grouped,
        }
    }

    /// Values that the packed weights take.
    pub fn packed_len(&self) -> usize {
        let weights: &Buffer = match &self.imp {
            Implementation::Direct(conv) => conv.weights(),
            Implementation::Winograd4(conv) => conv.weights(),
            Implementation::Winograd6(conv) => conv.weights(),
            Implementation::Grouped(conv) => conv.weights(),
        };
        weights.len()
    }
}

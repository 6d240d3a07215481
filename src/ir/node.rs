//! Operations a node can stand for. Engines match on [`Op`] exhaustively, so that a new one leads to each of them.

/// A pooling window, in pixels as `(vertical, horizontal)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pool2d {
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: (usize, usize),
    /// Count a last partial window (PyTorch's `ceil_mode`).
    pub ceil: bool,
}

impl Pool2d {
    /// A square window without padding that leaves out a last partial one.
    pub const fn square(kernel: usize, stride: usize) -> Self {
        Self {
            kernel: (kernel, kernel),
            stride,
            padding: (0, 0),
            ceil: false,
        }
    }

    /// With so many pixels of padding on each side.
    pub const fn padded(self, padding: usize) -> Self {
        Self {
            padding: (padding, padding),
            ..self
        }
    }

    pub const fn ceil(self) -> Self {
        Self { ceil: true, ..self }
    }
}

/// One layer. Pairs are `(vertical, horizontal)`.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// The preprocessed image; a graph has exactly one, its first node.
    Input,
    /// Weight `[out_channels, in_channels / groups, kernel.0, kernel.1]`, bias `[out_channels]` if `bias`.
    Conv2d {
        in_channels: usize,
        out_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        padding: (usize, usize),
        groups: usize,
        bias: bool,
    },
    /// Inference-time batch normalization: `(x - mean) / sqrt(var + eps) * weight + bias` per channel.
    BatchNorm {
        channels: usize,
        eps: f64,
    },
    Relu,
    /// Element-wise sum of two inputs of one shape.
    Add,
    /// Inputs joined along the channels, in order.
    Concat,
    MaxPool(Pool2d),
    AvgPool {
        window: Pool2d,
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
    /// Average pooling to a fixed output size, with PyTorch's window borders `floor(i*n/out) .. ceil((i+1)*n/out)`.
    AdaptiveAvgPool {
        output: (usize, usize),
    },
    /// Every `stride`-th pixel of every `stride`-th row (shortcut A of He et al. 2015, 4.2).
    Subsample {
        stride: usize,
    },
    /// `extra` channels of zeros after the existing ones (shortcut A).
    PadChannels {
        extra: usize,
    },
    /// Multiplication by a constant (residual scaling, stochastic depth's survival probability).
    Scale {
        factor: f64,
    },
    /// `[c, h, w]` to `[c*h*w, 1, 1]`.
    Flatten,
    /// Weight `[out_features, in_features]`, bias `[out_features]`; the input is flat.
    Linear {
        in_features: usize,
        out_features: usize,
    },
}

impl Op {
    /// Convolutions and linear layers: what a paper calls a weighted layer.
    pub fn is_weighted(&self) -> bool {
        matches!(self, Op::Conv2d { .. } | Op::Linear { .. })
    }
}

//! What numbers a layer is stored and computed in.

/// Storage and multiplication of activations and weights; sums, bias, residual and ReLU are f32 in every one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Math {
    /// f32 throughout, without tensor cores.
    F32,
    /// Stored as f32, multiplied with 10 bits of mantissa.
    Tf32,
    F16,
    Bf16,
}

impl Math {
    /// As it stands in names and errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

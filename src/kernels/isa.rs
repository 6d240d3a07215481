//! Instruction sets the kernels are written for, and tokens that prove the CPU has them.
//!
//! A token can only be made where detection succeeded, so holding one is the proof that its kernels may run; the idea
//! is memchr's.

use std::fmt;
use std::str::FromStr;

/// Instruction sets from the narrowest to the widest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Plain Rust that the compiler vectorises with what the target has by default.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512F; for bf16 with AVX512_BF16.
    Avx512,
    /// The matrix unit (AMX_BF16), for bf16 only, beside AVX512_BF16.
    Amx,
}

/// Proof that this CPU runs [`Isa::Portable`]; every CPU does.
#[derive(Clone, Copy, Debug)]
pub struct Portable(());

/// Proof that this CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Proof that this CPU has AVX-512F.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// Proof that this CPU has AVX-512F and AVX512_BF16; its kernels keep activations and weights in bf16.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(());

/// Proof that this CPU has AMX_BF16 and that the operating system lets this process use it; otherwise as
/// [`Avx512Bf16`].
#[derive(Clone, Copy, Debug)]
pub struct Amx(Avx512Bf16);

/// Any one of the tokens.
#[derive(Clone, Copy, Debug)]
pub enum Token {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

impl Portable {
    pub fn new() -> Option<Self> {
        Some(Self(()))
    }
}

impl Avx2 {
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            return Some(Self(()));
        }
        None
    }
}

impl Avx512 {
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            return Some(Self(()));
        }
        None
    }
}

impl Avx512Bf16 {
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Avx512::new().is_some() && std::arch::is_x86_feature_detected!("avx512bf16") {
            return Some(Self(()));
        }
        None
    }
}

impl Amx {
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if super::amx::allowed() {
            return Avx512Bf16::new().map(Self);
        }
        None
    }

    /// The vector instructions beside the matrix unit.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn vectors(self) -> Avx512Bf16 {
        self.0
    }
}

impl Isa {
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// The token for f32, where this CPU has the instruction set.
    pub fn token(self) -> Option<Token> {
        match self {
            Self::Portable => Portable::new().map(Token::Portable),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::new().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::new().map(Token::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => None,
            Self::Amx => None,
        }
    }

    /// The token for bf16, where this CPU has the instruction set.
    pub fn bf16_token(self) -> Option<Token> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512Bf16::new().map(Token::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Amx::new().map(Token::Amx),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

impl Token {
    /// The widest instruction set for f32 that this CPU has, but none wider than `max`.
    pub fn detect(max: Option<Isa>) -> Self {
        let fits = |isa: &Isa| max.is_none_or(|max| *isa <= max);
        let mut found = Isa::ALL.into_iter().filter(fits).filter_map(Isa::token);
        found.next_back().unwrap_or(Self::Portable(Portable(())))
    }

    /// The same for bf16; None where this CPU, or what `max` leaves of it, has no instructions for it.
    pub fn detect_bf16(max: Option<Isa>) -> Option<Self> {
        let fits = |isa: &Isa| max.is_none_or(|max| *isa <= max);
        let mut found = Isa::ALL
            .into_iter()
            .filter(fits)
            .filter_map(Isa::bf16_token);
        found.next_back()
    }

    /// A token for each instruction set of this CPU, narrowest first: those for f32, then those for bf16.
    pub fn available() -> impl Iterator<Item = Self> {
        let f32 = Isa::ALL.into_iter().filter_map(Isa::token);
        f32.chain(Isa::ALL.into_iter().filter_map(Isa::bf16_token))
    }

    pub fn isa(self) -> Isa {
        match self {
            Self::Portable(_) => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) | Self::Avx512Bf16(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => Isa::Amx,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == text);
        found.ok_or_else(|| {
            format!("{text:?} is not an instruction set; use amx, avx512, avx2 or portable")
        })
    }
}

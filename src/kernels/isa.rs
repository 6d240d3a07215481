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
    /// AVX-512F.
    Avx512,
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

/// Any one of the tokens.
#[derive(Clone, Copy, Debug)]
pub enum Token {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
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

impl Isa {
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The token, where this CPU has the instruction set.
    pub fn token(self) -> Option<Token> {
        match self {
            Self::Portable => Portable::new().map(Token::Portable),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::new().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::new().map(Token::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl Token {
    /// The widest instruction set this CPU has, but none wider than `max`.
    pub fn detect(max: Option<Isa>) -> Self {
        Self::available()
            .filter(|token| max.is_none_or(|max| token.isa() <= max))
            .last()
            .unwrap_or(Self::Portable(Portable(())))
    }

    /// A token for each instruction set of this CPU, narrowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Isa::ALL.into_iter().filter_map(Isa::token)
    }

    pub fn isa(self) -> Isa {
        match self {
            Self::Portable(_) => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Isa::Avx512,
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
            format!("{text:?} is not an instruction set; use avx512, avx2 or portable")
        })
    }
}

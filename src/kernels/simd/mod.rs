//! The vector operations kernels are written in, one implementation per token.
//!
//! A kernel is a value whose [`Kernel::run`] is generic over [`Simd`] and `#[inline(always)]`. [`Simd::vectorize`] runs
//! it inside the one `#[target_feature]` function of the instruction set, so that everything inlines into code that has
//! the feature (the shape of pulp's `WithSimd`).

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512, Avx512Bf16};
use super::isa::{Portable, Token};
use super::layout::Element;

/// f32 vectors of one instruction set, and what it keeps activations in.
pub(super) trait Simd: Copy {
    /// Values in a vector, and words of a block's pixel.
    const LANES: usize;
    /// Vectors that a block's pixel unpacks to: 1 for f32, 2 for bf16.
    const CELL: usize = 1;
    /// Most output pixels of a convolution tile of two blocks that stay in registers.
    const PIXELS: usize;

    type Vector: Copy;

    fn splat(self, value: f32) -> Self::Vector;

    /// # Safety
    /// `LANES` values can be read at `from`.
    unsafe fn load(self, from: *const f32) -> Self::Vector;

    /// # Safety
    /// `LANES` values can be written at `to`.
    unsafe fn store(self, to: *mut f32, value: Self::Vector);

    /// `a * b + c`.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The larger value; a NaN in `b` comes through.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// A block's pixel; the second vector counts where [`Self::CELL`] is 2.
    ///
    /// # Safety
    /// `LANES` words can be read at `from`.
    #[inline(always)]
    unsafe fn load_cell(self, from: *const f32) -> [Self::Vector; 2] {
        // SAFETY: the caller's.
        [unsafe { self.load(from) }, self.splat(0.0)]
    }

    /// # Safety
    /// `LANES` words can be written at `to`.
    #[inline(always)]
    unsafe fn store_cell(self, to: *mut f32, cell: [Self::Vector; 2]) {
        // SAFETY: the caller's.
        unsafe { self.store(to, cell[0]) }
    }

    /// The products of words, one of activations and one of weights in each lane, on top of `sum`.
    #[inline(always)]
    fn dot(self, words: Self::Vector, weights: Self::Vector, sum: Self::Vector) -> Self::Vector {
        self.fma(words, weights, sum)
    }

    /// The number of a lane for each lane.
    type Lanes: Copy;

    /// Lane `member` of each lane's group; a group is so many neighbours, a power of two.
    fn members(self, group: usize, member: usize) -> Self::Lanes;

    /// The values of the lanes named.
    fn pick(self, from: Self::Vector, lanes: Self::Lanes) -> Self::Vector;

    /// Asks for the cache line at `from`, which need not be readable, in the second-level cache.
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        let _ = from;
    }

    /// The same, in the first-level cache.
    #[inline(always)]
    fn prefetch_near(self, from: *const f32) {
        let _ = from;
    }

    /// Runs `kernel` in code compiled for this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;
}

/// Code that any instruction set can run.
pub(super) trait Kernel {
    type Output;

    /// Implementations are `#[inline(always)]`: without it the code is compiled without the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Token {
    /// Runs `kernel` with the operations of the instruction set that this token proves; what it does outside
    /// [`Simd::vectorize`] is compiled without the instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Portable(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(amx) => kernel.run(amx.vectors()),
        }
    }

    /// Runs `kernel` in code compiled for the instruction set.
    pub(super) fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        struct Inside<K>(K);

        impl<K: Kernel> Kernel for Inside<K> {
            type Output = K::Output;

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> K::Output {
                simd.vectorize(self.0)
            }
        }

        self.run(Inside(kernel))
    }

    /// Values in a vector, and words of a block's pixel.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable(_) => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_) | Self::Amx(_) => Avx512Bf16::LANES,
        }
    }

    /// What its kernels keep activations and weights in.
    pub fn element(self) -> Element {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_) | Self::Amx(_) => Element::Bf16,
            _ => Element::F32,
        }
    }
}

#[inline(always)]
fn members<const LANES: usize>(group: usize, member: usize) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    for (lane, number) in lanes.iter_mut().enumerate() {
        // not a division, which has no vector form
        *number = (lane & !(group - 1) | member) as i32;
    }
    lanes
}

//! The vector operations kernels are written in, one implementation per token.
//!
//! A kernel is a value whose [`Kernel::run`] is generic over [`Simd`] and `#[inline(always)]`. [`Simd::vectorize`] runs
//! it inside the one `#[target_feature]` function of the instruction set, so that everything inlines into code that has
//! the feature (the shape of pulp's `WithSimd`).

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

/// Eight values, a size that pairs of 128-bit registers hold well on SSE2 and NEON.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Eight([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(a: Eight, b: Eight, f: impl Fn(f32, f32) -> f32) -> Eight {
        let mut out = a;
        for i in 0..8 {
            out.0[i] = f(a.0[i], b.0[i]);
        }
        out
    }
}

impl Simd for Portable {
    const LANES: usize = 8;
    // 32 registers of 128 bits on aarch64, 16 on x86-64
    const PIXELS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 3 };

    type Vector = Eight;

    #[inline(always)]
    fn splat(self, value: f32) -> Eight {
        Eight([value; 8])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Eight {
        // SAFETY: the caller vouches for eight readable values; arrays of f32 need f32's alignment only.
        Eight(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Eight) {
        // SAFETY: the caller vouches for eight writable values; arrays of f32 need f32's alignment only.
        unsafe { to.cast::<[f32; 8]>().write(value.0) }
    }

    #[inline(always)]
    fn fma(self, a: Eight, b: Eight, c: Eight) -> Eight {
        // f32::mul_add is fused by definition, and so a library call where the target has no such instruction
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        let mut out = c;
        for i in 0..8 {
            out.0[i] = if fused {
                a.0[i].mul_add(b.0[i], c.0[i])
            } else {
                a.0[i] * b.0[i] + c.0[i]
            };
        }
        out
    }

    #[inline(always)]
    fn add(self, a: Eight, b: Eight) -> Eight {
        Self::zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Eight, b: Eight) -> Eight {
        Self::zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Eight, b: Eight) -> Eight {
        Self::zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, a: Eight, b: Eight) -> Eight {
        Self::zip(a, b, |a, b| if a > b { a } else { b })
    }

    type Lanes = [i32; 8];

    #[inline(always)]
    fn members(self, group: usize, member: usize) -> [i32; 8] {
        members(group, member)
    }

    #[inline(always)]
    fn pick(self, from: Eight, lanes: [i32; 8]) -> Eight {
        Eight(lanes.map(|lane| from.0[lane as usize % 8]))
    }

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn inner<K: Kernel>(simd: Portable, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        inner(self, kernel)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch,
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps,
        _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps,
        _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
        _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps,
        _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
        _mm512_sub_ps,
    };

    use super::{Avx2, Avx512, Avx512Bf16, Kernel, Simd, members};

    /// The arithmetic of one token in terms of its intrinsics.
    macro_rules! arithmetic {
        ($vector:ty, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $sub:ident, $mul:ident, $max:ident) => {
            type Vector = $vector;

            #[inline(always)]
            fn prefetch(self, from: *const f32) {
                // SAFETY: a prefetch reads nothing and faults nowhere.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
            }

            #[inline(always)]
            fn prefetch_near(self, from: *const f32) {
                // SAFETY: a prefetch reads nothing and faults nowhere.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
            }

            #[inline(always)]
            fn splat(self, value: f32) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> $vector {
                // SAFETY: the token proves the instruction set; the caller vouches for the memory.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, value: $vector) {
                // SAFETY: the token proves the instruction set; the caller vouches for the memory.
                unsafe { $store(to, value) }
            }

            #[inline(always)]
            fn fma(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $fma(a, b, c) }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the instruction set.
                unsafe { $max(a, b) }
            }
        };
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;
        // 16 registers: 12 accumulators, two weights, one broadcast
        const PIXELS: usize = 6;

        arithmetic!(
            __m256,
            _mm256_set1_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps,
            _mm256_sub_ps,
            _mm256_mul_ps,
            _mm256_max_ps
        );

        type Lanes = __m256i;

        #[inline(always)]
        fn members(self, group: usize, member: usize) -> __m256i {
            let lanes: [i32; 8] = members(group, member);
            // SAFETY: the token proves the instruction set; the array is a vector long.
            unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
        }

        #[inline(always)]
        fn pick(self, from: __m256, lanes: __m256i) -> __m256 {
            // SAFETY: the token proves the instruction set.
            unsafe { _mm256_permutevar8x32_ps(from, lanes) }
        }

        #[inline(always)]
        fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx2,fma")]
            fn inner<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
                kernel.run(simd)
            }
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { inner(self, kernel) }
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;
        // 32 registers: 28 accumulators, two weights, one broadcast
        const PIXELS: usize = 14;

        arithmetic!(
            __m512,
            _mm512_set1_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps,
            _mm512_sub_ps,
            _mm512_mul_ps,
            _mm512_max_ps
        );

        type Lanes = __m512i;

        #[inline(always)]
        fn members(self, group: usize, member: usize) -> __m512i {
            let lanes: [i32; 16] = members(group, member);
            // SAFETY: the token proves the instruction set; the array is a vector long.
            unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
        }

        #[inline(always)]
        fn pick(self, from: __m512, lanes: __m512i) -> __m512 {
            // SAFETY: the token proves the instruction set.
            unsafe { _mm512_permutexvar_ps(lanes, from) }
        }

        #[inline(always)]
        fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx512f")]
            fn inner<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
                kernel.run(simd)
            }
            // SAFETY: the token proves AVX-512F.
            unsafe { inner(self, kernel) }
        }
    }

    impl Simd for Avx512Bf16 {
        const LANES: usize = 16;
        const CELL: usize = 2;
        // 32 registers: 28 accumulators, two weights, one broadcast
        const PIXELS: usize = 14;

        arithmetic!(
            __m512,
            _mm512_set1_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps,
            _mm512_sub_ps,
            _mm512_mul_ps,
            _mm512_max_ps
        );

        type Lanes = __m512i;

        #[inline(always)]
        fn members(self, group: usize, member: usize) -> __m512i {
            let lanes: [i32; 16] = members(group, member);
            // SAFETY: the token proves the instruction set; the array is a vector long.
            unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
        }

        #[inline(always)]
        fn pick(self, from: __m512, lanes: __m512i) -> __m512 {
            // SAFETY: the token proves the instruction set.
            unsafe { _mm512_permutexvar_ps(lanes, from) }
        }

        #[inline(always)]
        unsafe fn load_cell(self, from: *const f32) -> [__m512; 2] {
            // SAFETY: the token proves the instruction set; the caller vouches for the memory.
            unsafe {
                let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.add(8).cast()));
                [
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)),
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store_cell(self, to: *mut f32, cell: [__m512; 2]) {
            // SAFETY: the token proves the instruction set; the caller vouches for the memory.
            unsafe {
                to.cast::<__m512bh>()
                    .write_unaligned(_mm512_cvtne2ps_pbh(cell[1], cell[0]))
            }
        }

        #[inline(always)]
        fn dot(self, words: __m512, weights: __m512, sum: __m512) -> __m512 {
            // SAFETY: the token proves the instruction set; any bits are values of either type.
            unsafe {
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512, __m512bh>(words),
                    std::mem::transmute::<__m512, __m512bh>(weights),
                )
            }
        }

        #[inline(always)]
        fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
            #[target_feature(enable = "avx512f,avx512bf16")]
            fn inner<K: Kernel>(simd: Avx512Bf16, kernel: K) -> K::Output {
                kernel.run(simd)
            }
            // SAFETY: the token proves AVX-512F and AVX512_BF16.
            unsafe { inner(self, kernel) }
        }
    }
}

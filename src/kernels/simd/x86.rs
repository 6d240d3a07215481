//! The vectors of x86-64's tokens, in intrinsics: 256 bits with AVX2, 512 with AVX-512, and with AVX512_BF16 sums of
//! pairs of bf16.
//!
//! Intrinsics are unsafe where the instruction set may be missing; a token proves that it is there.

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch,
    _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps,
    _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps,
    _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps,
    _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_ps,
};

use super::{Kernel, Simd, members};
use crate::kernels::isa::{Avx2, Avx512, Avx512Bf16};

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

/// What the tokens of 512-bit vectors share.
macro_rules! vectors_of_512_bits {
    () => {
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
    };
}

impl Simd for Avx512 {
    vectors_of_512_bits!();

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
    vectors_of_512_bits!();

    const CELL: usize = 2;

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

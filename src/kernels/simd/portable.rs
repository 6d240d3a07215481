//! The portable token's vectors: arrays, with loops that the compiler turns into what the target has by default.

use super::{Kernel, Simd, members};
use crate::kernels::isa::Portable;

/// Eight values, a size that pairs of 128-bit registers hold well on SSE2 and NEON.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::kernels) struct Eight([f32; 8]);

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

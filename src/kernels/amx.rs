//! The matrix unit of Intel CPUs (AMX), through the few instructions that Rust has no intrinsics for yet.
//!
//! Eight tiles hold up to 16 rows of 64 bytes each. `tdpbf16ps` adds to a tile of 16x16 sums the products of 16 rows of
//! 32 bf16 and 16 columns of 32: 8,192 multiply-accumulates in 16 cycles, 16 times what an f32 core's vectors do.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// Whether the CPU has AMX_BF16 and the system gives it to this process.
pub(super) fn allowed() -> bool {
    static ALLOWED: LazyLock<bool> = LazyLock::new(|| {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        #[allow(unused_unsafe, reason = "unsafe up to Rust 1.93")]
        // SAFETY: every x86-64 CPU has the instruction; leaf 0 says whether leaf 7 exists.
        let features = unsafe {
            if __cpuid_count(0, 0).eax < 7 {
                return false;
            }
            __cpuid_count(7, 0).edx
        };
        features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE && request()
    });
    *ALLOWED
}

/// Asks for the tiles' memory in every thread's saved state.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: changes no memory of ours; kernels that do not know the request refuse it.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Other systems are not known here.
#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

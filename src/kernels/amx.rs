//! The matrix unit of Intel CPUs (AMX), through the few instructions that Rust has no intrinsics for yet.
//!
//! Eight tiles hold up to 16 rows of 64 bytes each. `tdpbf16ps` adds to a tile of 16x16 sums the products of 16 rows of
//! 32 bf16 and 16 columns of 32: 8,192 multiply-accumulates in 16 cycles, 16 times what an f32 core's vectors do.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::LazyLock;

use super::isa::Amx;

/// Rows of a tile, and words of a row.
pub(super) const SIDE: usize = 16;

/// Sums of two strips of up to [`SIDE`] rows by two vectors, as [`Tiles::store`] writes them: `[strip][row][vector][lane]`.
pub(super) const SUMS: usize = 2 * SIDE * 2 * SIDE;

const ROW_BYTES: usize = 2 * SIDE * size_of::<f32>();

/// This thread's tiles, set up. The blocks of assembly below do not name them as overwritten: the compiler puts nothing in
/// tiles by itself. 0 to 3 are for sums (strip by vector), 4 and 5 for two strips of activations, 6 and 7 for the
/// weights of two vectors.
pub(super) struct Tiles {
    /// The set-up belongs to a thread.
    thread: PhantomData<*const ()>,
}

#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Strips of `rows` rows; sums of `depth` words a step.
    ///
    /// # Safety
    /// No other `Tiles` lives on this thread until this one is dropped.
    ///
    /// # Panics
    /// When either is zero or more than [`SIDE`].
    pub(super) unsafe fn new(_: Amx, rows: usize, depth: usize) -> Self {
        assert!((1..=SIDE).contains(&rows) && (1..=SIDE).contains(&depth));
        let mut to = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for tile in 0..8 {
            let words = if matches!(tile, 4 | 5) { depth } else { SIDE };
            to.row_bytes[tile] = (words * size_of::<f32>()) as u16;
            to.rows[tile] = if tile < 6 { rows } else { depth } as u8;
        }
        // SAFETY: the token proves the instructions; a configuration of palette 1 within its limits.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const to, options(nostack, preserves_flags)) };
        Self {
            thread: PhantomData,
        }
    }

    /// Sums of zero.
    #[inline(always)]
    pub(super) fn clear(&self) {
        // SAFETY: the tiles are set up.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, preserves_flags)
            );
        }
    }

    /// Adds the products of two strips' words, rows `stride` bytes apart, and the weights `[word][vector][lane]`.
    ///
    /// # Safety
    /// All rows of the set-up's length can be read.
    #[inline(always)]
    pub(super) unsafe fn add(&self, strips: [*const f32; 2], stride: usize, weights: *const f32) {
        // SAFETY: the tiles are set up; the caller vouches for the memory.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a} + {stride}]",
                "tileloadd tmm6, [{w} + {row}]",
                "tileloadd tmm7, [{w} + {row} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{b} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) strips[0],
                b = in(reg) strips[1],
                w = in(reg) weights,
                stride = in(reg) stride,
                row = in(reg) ROW_BYTES,
                options(nostack, preserves_flags, readonly)
            );
        }
    }

    /// The same for the first strip alone.
    ///
    /// # Safety
    /// As for [`Self::add`].
    #[inline(always)]
    pub(super) unsafe fn add_one(&self, strip: *const f32, stride: usize, weights: *const f32) {
        // SAFETY: the tiles are set up; the caller vouches for the memory.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a} + {stride}]",
                "tileloadd tmm6, [{w} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {row} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                a = in(reg) strip,
                w = in(reg) weights,
                stride = in(reg) stride,
                row = in(reg) ROW_BYTES,
                options(nostack, preserves_flags, readonly)
            );
        }
    }

    /// Writes the sums.
    #[inline(always)]
    pub(super) fn store(&self, to: &mut [f32; SUMS]) {
        // SAFETY: the tiles are set up with at most 16 rows of 64 bytes: four tiles, each row 128 bytes from the next, two
        // beside each other and two strips behind one another, are the array.
        unsafe {
            asm!(
                "tilestored [{to} + {row}], tmm0",
                "tilestored [{to} + {row} + 64], tmm1",
                "tilestored [{next} + {row}], tmm2",
                "tilestored [{next} + {row} + 64], tmm3",
                to = in(reg) to.as_mut_ptr(),
                next = in(reg) to.as_mut_ptr().wrapping_add(SUMS / 2),
                row = in(reg) ROW_BYTES,
                options(nostack, preserves_flags)
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instructions were there to set the tiles up; without tiles a switch of threads saves less.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

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
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

/// Other systems are not known here.
#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

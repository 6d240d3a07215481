//! f32 memory aligned to a cache line, so that no vector load of a packed layout crosses one; where it is large, on huge
//! pages, since weights are streamed and 4 KiB pages cost a translation every 64 lines.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A slice of f32 on a 64-byte boundary.
pub struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: a Buffer owns its memory as a Vec<f32> does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Values from which a buffer asks for huge pages.
    pub const HUGE: usize = HUGE_PAGE / size_of::<f32>();

    /// # Panics
    /// When `len` values are more than an address can count.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size, as len is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout);
        };
        advise(start, layout);
        // SAFETY: the memory just allocated; zero bytes are f32 zeros.
        unsafe { start.write_bytes(0, layout.size()) };
        Self {
            start: start.cast(),
            len,
        }
    }

    /// `values` followed by zeros up to `len`.
    pub fn padded(values: &[f32], len: usize) -> Self {
        let mut buffer = Self::zeroed(len.max(values.len()));
        buffer[..values.len()].copy_from_slice(values);
        buffer
    }

    fn layout(len: usize) -> Layout {
        let size = len
            .checked_mul(size_of::<f32>())
            .filter(|size| *size <= isize::MAX as usize / 2);
        let size = size.expect("a buffer within the address space");
        let align = if size >= HUGE_PAGE { HUGE_PAGE } else { LINE };
        // a power of two, and a size that rounding up cannot overflow
        Layout::from_size_align(size, align).expect("a layout")
    }
}

/// Asks for huge pages where they pay; a refusal changes nothing but speed.
fn advise(start: NonNull<u8>, layout: Layout) {
    #[cfg(all(target_os = "linux", not(miri)))]
    if layout.align() == HUGE_PAGE {
        // SAFETY: the range was just allocated, and the advice does not change what it holds.
        unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    let _ = (start, layout);
}

/// Gives memory that has been freed back to the system, where the allocator keeps it.
///
/// glibc does: once a large block has been freed, it takes blocks of up to 32 MiB from its arenas, and what is freed
/// there stays. A resnet50 (100 MiB of weights) loaded and unloaded in a process of 67 MiB left 356 MiB resident, with
/// this 39 MiB.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: it touches free memory alone, under the locks of the arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::padded(self, self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with the layout of this length.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` values allocated and initialised in `zeroed`, or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the borrow of self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} values)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_large_and_empty() {
        for len in [
            0,
            1,
            16,
            17,
            (HUGE_PAGE / 4) - 1,
            HUGE_PAGE / 4,
            HUGE_PAGE + 5,
        ] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|v| *v == 0.0));
            assert_eq!(
                buffer.as_ptr().align_offset(if len > 0 { LINE } else { 4 }),
                0
            );
            if let Some(last) = buffer.last_mut() {
                *last = 7.0;
            }
            assert_eq!(buffer.clone()[..], buffer[..]);
        }
        assert_eq!(Buffer::padded(&[1.0, 2.0], 4)[..], [1.0, 2.0, 0.0, 0.0]);
    }
}

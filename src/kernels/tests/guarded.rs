//! Memory that ends where a page without access begins.

use std::ops::{Deref, DerefMut};

pub(super) struct Guarded {
    map: *mut libc::c_void,
    mapped: usize,
    start: *mut f32,
    len: usize,
}

impl Guarded {
    /// `len` NaNs.
    pub(super) fn new(len: usize) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page =
            usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page size");
        let bytes = len * size_of::<f32>();
        let usable = bytes.next_multiple_of(page);
        let mapped = usable + page;
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a fresh anonymous map; its last page is then closed.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), mapped, access, kind, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED);
        // SAFETY: the last page of the map just made.
        let closed = unsafe { libc::mprotect(map.byte_add(usable), page, libc::PROT_NONE) };
        assert_eq!(closed, 0);
        // SAFETY: within the map.
        let start = unsafe { map.byte_add(usable - bytes) }.cast();
        let mut memory = Self {
            map,
            mapped,
            start,
            len,
        };
        memory.fill(f32::NAN);
        memory
    }
}

impl Deref for Guarded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` values up to the closed page, zeroed by the system and then filled.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the borrow of self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the map made in `new`, which nothing borrows any more.
        unsafe { libc::munmap(self.map, self.mapped) };
    }
}

//! Memory that this process and whatever runs the kernels address alike.

use std::ops::{Deref, DerefMut};

use crate::machine;

pub struct Memory<T: Copy> {
    start: *mut T,
    len: usize,
}

impl<T: Copy> Memory<T> {
    /// # Safety
    /// Any bits must make a `T`.
    pub unsafe fn unset(len: usize) -> Self {
        let start = machine::allocate(len * size_of::<T>()).cast();
        Self { start, len }
    }

    pub fn filled(len: usize, value: T) -> Self {
        // SAFETY: every value is written before any is read.
        let memory = unsafe { Self::unset(len) };
        for i in 0..len {
            // SAFETY: within the allocation, which is aligned to pages.
            unsafe { memory.start.add(i).write(value) };
        }
        memory
    }

    pub fn of(values: &[T]) -> Self {
        let mut memory = Self::filled(values.len(), values[0]);
        memory.copy_from_slice(values);
        memory
    }

    pub fn address(&self) -> u64 {
        self.start as u64
    }
}

impl<T: Copy> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: allocated and set; kernels write it only during `machine::run`, which the holder calls.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Copy> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed from the one holder.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Copy> Clone for Memory<T> {
    fn clone(&self) -> Self {
        Self::of(self)
    }
}

impl<T: Copy> Drop for Memory<T> {
    fn drop(&mut self) {
        machine::release(self.start.cast(), self.len * size_of::<T>());
    }
}

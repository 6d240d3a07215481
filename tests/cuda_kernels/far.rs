//! Offsets beyond 32 bits: five pixels, 2^30 elements from one to the next, in memory of which only their pages exist.

use std::ptr::null_mut;

use half::f16;

use crate::buffer::Buffer;
use crate::launch::{Element, Map, Operation, Pool, Reduce, Tensor, Widen};
use crate::library;

const PIXELS: usize = 5;
const PITCH: usize = 1 << 30;
const CHANNELS: usize = 8;
const BYTES: usize = PIXELS * PITCH * 2;

/// Pages that become memory when they are touched.
struct Sparse(*mut f16);

impl Sparse {
    fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, of no file.
        let start = unsafe { libc::mmap(null_mut(), BYTES, protection, flags, -1, 0) };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "10 GiB of address space are needed"
        );
        Self(start.cast())
    }

    /// Pixels from top to bottom.
    fn tensor(&self) -> Tensor {
        Tensor {
            address: self.0 as u64,
            images: 1,
            height: PIXELS,
            width: 1,
            channels: CHANNELS,
            pitch: PITCH,
        }
    }

    fn at(&self, pixel: usize, c: usize) -> *mut f16 {
        assert!(pixel < PIXELS && c < CHANNELS);
        // SAFETY: within the mapping.
        unsafe { self.0.add(pixel * PITCH + c) }
    }

    fn get(&self, pixel: usize, c: usize) -> f32 {
        // SAFETY: `at` is of this mapping, which holds zeros or halves.
        unsafe { *self.at(pixel, c) }.to_f32()
    }

    fn fill(&self) {
        for pixel in 0..PIXELS {
            for c in 0..CHANNELS {
                // SAFETY: as above; nobody else holds the mapping.
                unsafe { *self.at(pixel, c) = f16::from_f32(value(pixel, c)) };
            }
        }
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        let done = unsafe { libc::munmap(self.0.cast(), BYTES) };
        assert_eq!(done, 0);
    }
}

fn value(pixel: usize, c: usize) -> f32 {
    (pixel * CHANNELS + c) as f32 + 1.0
}

#[test]
fn offsets_do_not_wrap() {
    let memory = Sparse::new();
    memory.fill();
    let tensor = memory.tensor();

    let widened = Buffer::new(Element::F32, PIXELS * CHANNELS, 0);
    let work = Widen {
        element: Element::F16,
        input: tensor,
        output: widened.address(),
    };
    library::run(&work, false);

    let windows = [[0, PIXELS as i32, PIXELS as i32], [0, 1, 1]];
    for window in [1, 16] {
        let pooled = Buffer::new(Element::F16, CHANNELS, 0);
        let work = Pool {
            element: Element::F16,
            reduce: Reduce::Max,
            input: tensor,
            output: Tensor {
                address: pooled.address(),
                height: 1,
                pitch: CHANNELS,
                ..tensor
            },
            rows: windows[0].as_ptr() as u64,
            columns: windows[1].as_ptr() as u64,
            window,
        };
        library::run(&work, false);
        for c in 0..CHANNELS {
            assert_eq!(pooled.get(c), value(PIXELS - 1, c));
        }
    }

    // in place, and added to itself
    let work = Map {
        element: Element::F16,
        input: tensor,
        output: tensor,
        stride: 1,
        operations: &[Operation::Add {
            address: tensor.address,
            pitch: PITCH,
        }],
    };
    library::run(&work, false);
    for pixel in 0..PIXELS {
        for c in 0..CHANNELS {
            assert_eq!(widened.get(pixel * CHANNELS + c), value(pixel, c));
            assert_eq!(memory.get(pixel, c), 2.0 * value(pixel, c));
        }
    }
}

//! Offsets beyond 32 bits: five pixels, 2^30 elements from one to the next, in memory of which only their pages exist.

use half::f16;

use crate::buffer::Buffer;
use crate::launch::{Element, Map, Operation, Pool, Reduce, Tensor, Widen};
use crate::machine;
use crate::memory::Memory;

const PIXELS: usize = 5;
const PITCH: usize = 1 << 30;
const CHANNELS: usize = 8;

/// Pixels from top to bottom.
fn tensor(memory: &Memory<f16>) -> Tensor {
    Tensor {
        address: memory.address(),
        images: 1,
        height: PIXELS,
        width: 1,
        channels: CHANNELS,
        pitch: PITCH,
    }
}

fn value(pixel: usize, c: usize) -> f32 {
    (pixel * CHANNELS + c) as f32 + 1.0
}

#[test]
fn offsets_do_not_wrap() {
    // SAFETY: any bits make a half.
    let mut memory = unsafe { Memory::unset(PIXELS * PITCH) };
    for (pixel, channels) in memory.chunks_mut(PITCH).enumerate() {
        for (c, place) in channels[..CHANNELS].iter_mut().enumerate() {
            *place = f16::from_f32(value(pixel, c));
        }
    }
    let tensor = tensor(&memory);

    let widened = Buffer::new(Element::F32, PIXELS * CHANNELS, 0);
    let work = Widen {
        element: Element::F16,
        input: tensor,
        output: widened.address(),
    };
    machine::run(&work, false);

    let windows = Memory::of(&[[0, PIXELS as i32, PIXELS as i32], [0, 1, 1]]);
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
            rows: windows.address(),
            columns: windows.address() + 12,
            window,
        };
        machine::run(&work, false);
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
    machine::run(&work, false);
    for pixel in 0..PIXELS {
        for c in 0..CHANNELS {
            assert_eq!(widened.get(pixel * CHANNELS + c), value(pixel, c));
            assert_eq!(memory[pixel * PITCH + c].to_f32(), 2.0 * value(pixel, c));
        }
    }
}

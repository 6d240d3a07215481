//! Device memory of the tests: elements of one type, with a margin on both sides, filled with a pattern that is a NaN in
//! every type, so that what is read without having been written shows, and what is written beside the tensor too.

use half::{bf16, f16};

use crate::launch::{Element, Tensor};
use crate::memory::Memory;

/// Bytes before and behind.
const MARGIN: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Line([u8; 16]);

#[derive(Clone)]
pub struct Buffer {
    element: Element,
    lines: Memory<Line>,
    /// Elements before the first.
    start: usize,
}

impl Buffer {
    /// Room for `len` elements, the first of which lies `shift` elements behind a multiple of 16 bytes.
    pub fn new(element: Element, len: usize, shift: usize) -> Self {
        let bytes = 2 * MARGIN + (len + shift) * element.bytes();
        Self {
            element,
            lines: Memory::filled(bytes.div_ceil(16), Line([0xff; 16])),
            start: MARGIN / element.bytes() + shift,
        }
    }

    /// f32 values at a multiple of 16 bytes and `shift` elements.
    pub fn floats(values: &[f32], shift: usize) -> Self {
        let mut buffer = Self::new(Element::F32, values.len(), shift);
        for (i, &value) in values.iter().enumerate() {
            buffer.set(i, value);
        }
        buffer
    }

    pub fn address(&self) -> u64 {
        self.lines.address() + (self.start * self.element.bytes()) as u64
    }

    fn byte(&self, at: usize) -> u8 {
        self.lines[at / 16].0[at % 16]
    }

    /// Counted from the buffer's begin, margin included.
    fn bits(&self, at: usize) -> u32 {
        let size = self.element.bytes();
        let bytes = (0..size).rev().map(|i| self.byte(at * size + i));
        bytes.fold(0, |bits, byte| bits << 8 | u32::from(byte))
    }

    fn value(&self, bits: u32) -> f32 {
        match self.element {
            Element::F32 => f32::from_bits(bits),
            Element::F16 => f16::from_bits(bits as u16).to_f32(),
            Element::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        }
    }

    pub fn get(&self, at: usize) -> f32 {
        self.value(self.bits(self.start + at))
    }

    /// Rounds to the nearest element.
    pub fn set(&mut self, at: usize, value: f32) {
        let bits = match self.element {
            Element::F32 => value.to_bits(),
            Element::F16 => u32::from(f16::from_f32(value).to_bits()),
            Element::Bf16 => u32::from(bf16::from_f32(value).to_bits()),
        };
        self.set_bits(at, bits);
    }

    pub fn set_bits(&mut self, at: usize, bits: u32) {
        let size = self.element.bytes();
        for i in 0..size {
            let byte = (self.start + at) * size + i;
            self.lines[byte / 16].0[byte % 16] = (bits >> (8 * i)) as u8;
        }
    }

    /// Compares every element and the margins: equal bits, or both a NaN that was computed, or `near` (what is there,
    /// what was expected).
    pub fn assert_like(&self, expected: &Self, near: impl Fn(f32, f32) -> bool, what: &str) {
        let untouched = u32::MAX >> (32 - 8 * self.element.bytes());
        for at in 0..self.lines.len() * 16 / self.element.bytes() {
            let (found, wanted) = (self.bits(at), expected.bits(at));
            let touched = found != untouched && wanted != untouched;
            let (x, y) = (self.value(found), self.value(wanted));
            let like = found == wanted || touched && (x.is_nan() && y.is_nan() || near(x, y));
            let place = at as isize - self.start as isize;
            assert!(
                like,
                "{x} ({found:#x}), not {y} ({wanted:#x}), at {place} of {what}"
            );
        }
    }

    pub fn assert_equal(&self, expected: &Self, what: &str) {
        self.assert_like(expected, |_, _| false, what);
    }
}

/// A tensor with its memory, which lies `shift` elements behind a multiple of 16 bytes.
#[derive(Clone)]
pub struct Stored {
    pub buffer: Buffer,
    /// `[images, height, width, channels]`.
    pub shape: [usize; 4],
    pub pitch: usize,
}

impl Stored {
    pub fn new(element: Element, shape: [usize; 4], pitch: usize, shift: usize) -> Self {
        let len = shape[..3].iter().product::<usize>() * pitch;
        Self {
            buffer: Buffer::new(element, len, shift),
            shape,
            pitch,
        }
    }

    /// Filled from `random`; the gap behind each pixel's channels stays.
    pub fn filled(mut self, random: &mut Random) -> Self {
        for pixel in 0..self.pixels() {
            for c in 0..self.shape[3] {
                self.buffer.set(pixel * self.pitch + c, random.value());
            }
        }
        self
    }

    pub fn pixels(&self) -> usize {
        self.shape[..3].iter().product()
    }

    pub fn tensor(&self) -> Tensor {
        let [images, height, width, channels] = self.shape;
        Tensor {
            address: self.buffer.address(),
            images,
            height,
            width,
            channels,
            pitch: self.pitch,
        }
    }

    pub fn at(&self, [n, y, x, c]: [usize; 4]) -> usize {
        ((n * self.shape[1] + y) * self.shape[2] + x) * self.pitch + c
    }
}

/// Numbers from a seed (SplitMix64).
pub struct Random {
    state: u64,
    /// Whether infinities, NaNs and numbers that a half cannot hold come too.
    pub special: bool,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            special: false,
        }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Of -4 to 4, mostly.
    pub fn value(&mut self) -> f32 {
        const SPECIAL: [f32; 8] = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -0.0,
            65519.0,
            -65520.0,
            3e-7,
            1e-39,
        ];
        if self.special && self.below(8) == 0 {
            return SPECIAL[self.below(SPECIAL.len())];
        }
        (self.next() >> 40) as f32 / (1 << 21) as f32 - 4.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

//! `pixels` and `planes`: images in.

use proptest::prelude::*;

use crate::buffer::{Buffer, Random, Stored};
use crate::launch::{Element, Pixels, Planes, Work};
use crate::memory::Memory;
use crate::{ELEMENTS, any_element, machine};

fn check_pixels(element: Element, [n, h, w]: [usize; 3], pitch: usize, shift: usize, seed: u64) {
    for descending in [false, true] {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..n * h * w * 3).map(|_| random.next() as u8).collect();
        let table = random.values(3 * 256);
        let output = Stored::new(element, [n, h, w, 3], pitch, 0);
        let mut expected = output.buffer.clone();
        for pixel in 0..n * h * w {
            for c in 0..pitch {
                let level = |c: usize| usize::from(bytes[pixel * 3 + c]);
                let value = if c < 3 {
                    table[c * 256 + level(c)]
                } else {
                    0.0
                };
                expected.set(pixel * pitch + c, value);
            }
        }
        // images may begin at any byte
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(&bytes);
        let shifted = Memory::of(&shifted);
        let table = Buffer::floats(&table, shift % 4);
        let work = Pixels {
            element,
            pixels: shifted.address() + shift as u64,
            table: table.address(),
            output: output.tensor(),
        };
        machine::run(&work, descending);
        output.buffer.assert_equal(&expected, &format!("{work:?}"));
    }
}

fn check_planes(element: Element, shape: [usize; 4], gap: usize, shift: usize, seed: u64) -> bool {
    let [n, h, w, channels] = shape;
    let pitch = channels + gap;
    let mut wide = false;
    for descending in [false, true] {
        let values = Random::new(seed).values(n * channels * h * w);
        let output = Stored::new(element, shape, pitch, shift);
        let mut expected = output.buffer.clone();
        for image in 0..n {
            for at in 0..h * w {
                for c in 0..pitch {
                    let from = (image * channels + c) * h * w + at;
                    let value = if c < channels { values[from] } else { 0.0 };
                    expected.set((image * h * w + at) * pitch + c, value);
                }
            }
        }
        let planes = Buffer::floats(&values, shift % 3);
        let work = Planes {
            element,
            planes: planes.address(),
            output: output.tensor(),
        };
        wide = !machine::run(&work, descending).ends_with("_scalar");
        output.buffer.assert_equal(&expected, &format!("{work:?}"));
    }
    wide
}

#[test]
fn images_as_the_engine_has_them() {
    for element in ELEMENTS {
        for pitch in [4, 8] {
            check_pixels(element, [2, 32, 32], pitch, 0, 1);
            check_pixels(element, [1, 1, 1], pitch, 1, 2);
            assert!(check_planes(element, [2, 17, 16, 3], pitch - 3, 0, 3));
        }
        assert!(!check_planes(element, [1, 5, 4, 3], 0, 0, 4));
    }
}

/// More pixels than one round of the largest grid normalises.
#[test]
fn blocks_go_on_to_further_pixels() {
    check_pixels(Element::F16, [1, 1100, 256], 4, 0, 5);
}

#[test]
fn other_layouts_are_refused() {
    let refused = |pitch, channels, shift| {
        let output = Stored::new(Element::F16, [1, 2, 2, channels], pitch, shift);
        let work = Pixels {
            element: Element::F16,
            pixels: 1,
            table: 4,
            output: output.tensor(),
        };
        work.launch().is_err()
    };
    assert!(!refused(4, 3, 0));
    assert!(refused(3, 3, 0) && refused(6, 3, 0) && refused(4, 4, 0) && refused(4, 3, 4));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn any_pixels(
        element in any_element(),
        shape in (1usize..4, 1usize..12, 1usize..12),
        pitch in 1usize..4,
        shift in 0usize..9,
        seed in any::<u64>(),
    ) {
        check_pixels(element, [shape.0, shape.1, shape.2], 4 * pitch, shift, seed);
    }

    #[test]
    fn any_planes(
        element in any_element(),
        shape in (1usize..4, 1usize..9, 1usize..9, 1usize..9),
        gap in 0usize..6,
        shift in prop_oneof![Just(0usize), 0usize..9],
        seed in any::<u64>(),
    ) {
        let (n, h, w, channels) = shape;
        check_planes(element, [n, h, w, channels], gap, shift, seed);
    }
}

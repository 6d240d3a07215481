//! `pool` and `pool_block`: maxima and averages over clipped windows; both kernels get every case.

use proptest::prelude::*;
use resnetd::kernels::Window;

use crate::buffer::{Random, Stored};
use crate::launch::{Element, Pool, Reduce, Work};
use crate::memory::Memory;
use crate::{ELEMENTS, any_element, machine};

#[derive(Clone, Debug)]
struct Case {
    element: Element,
    reduce: Reduce,
    /// `[images, height, width, channels]`.
    input: [usize; 4],
    rows: Vec<Window>,
    columns: Vec<Window>,
    /// Of input and output.
    gaps: [usize; 2],
    shifts: [usize; 2],
    special: bool,
    seed: u64,
}

fn triples(windows: &[Window]) -> Memory<[i32; 3]> {
    let triple = |w: &Window| [w.from, w.to, w.counted].map(|value| value as i32);
    Memory::of(&windows.iter().map(triple).collect::<Vec<_>>())
}

impl Case {
    /// The pooled value, and how large an average's rounding may be.
    fn naive(&self, input: &Stored, [n, y, x, c]: [usize; 4]) -> (f64, f64) {
        let (rows, columns) = (self.rows[y], self.columns[x]);
        let places =
            (rows.from..rows.to).flat_map(|y| (columns.from..columns.to).map(move |x| (y, x)));
        let values = places.map(|(y, x)| f64::from(input.buffer.get(input.at([n, y, x, c]))));
        match self.reduce {
            Reduce::Max => {
                let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
                (values.fold(f64::NEG_INFINITY, larger), 0.0)
            }
            Reduce::Average => {
                let counted = (rows.counted * columns.counted) as f64;
                let (sum, size) = values.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                (sum / counted, 1e-6 * size / counted)
            }
        }
    }

    /// Runs the case with both kernels, in both orders; returns whether they were those of 16-byte accesses.
    fn check(&self) -> bool {
        let mut random = Random::new(self.seed);
        random.special = self.special;
        let [images, _, _, channels] = self.input;
        let pitches = self.gaps.map(|gap| channels + gap);
        let input = Stored::new(self.element, self.input, pitches[0], self.shifts[0]);
        let input = input.filled(&mut random);
        let shape = [images, self.rows.len(), self.columns.len(), channels];
        let blank = Stored::new(self.element, shape, pitches[1], self.shifts[1]);
        let mut expected = blank.buffer.clone();
        let mut slack: f64 = 0.0;
        for pixel in 0..blank.pixels() {
            let (row, x) = (pixel / shape[2], pixel % shape[2]);
            for c in 0..channels {
                let at = [row / shape[1], row % shape[1], x, c];
                let (value, rounding) = self.naive(&input, at);
                expected.set(blank.at(at), value as f32);
                slack = slack.max(rounding);
            }
        }
        // an average that is rounded twice may fall on the neighbour
        let step = match (self.reduce, self.element) {
            (Reduce::Max, _) => 0.0,
            (_, Element::F32) => 1e-6,
            (_, Element::F16) => 1e-3,
            (_, Element::Bf16) => 8e-3,
        };
        let near = |x: f32, y: f32| {
            let (x, y) = (f64::from(x), f64::from(y));
            (x - y).abs()
                <= if slack > 0.0 {
                    slack + step * y.abs() + 6e-8
                } else {
                    0.0
                }
        };
        let (rows, columns) = (triples(&self.rows), triples(&self.columns));
        let mut wide = false;
        for (window, stem) in [(1, "pool_"), (16, "pool_block_")] {
            for descending in [false, true] {
                let output = blank.clone();
                let work = Pool {
                    element: self.element,
                    reduce: self.reduce,
                    input: input.tensor(),
                    output: output.tensor(),
                    rows: rows.address(),
                    columns: columns.address(),
                    window,
                };
                let kernel = machine::run(&work, descending);
                assert!(kernel.starts_with(stem));
                wide = !kernel.ends_with("_scalar");
                output
                    .buffer
                    .assert_like(&expected, near, &format!("{kernel}, {self:?}"));
            }
        }
        wide
    }
}

fn both(element: Element, input: [usize; 4], windows: (Vec<Window>, Vec<Window>)) -> [Case; 2] {
    let case = |reduce| Case {
        element,
        reduce,
        input,
        rows: windows.0.clone(),
        columns: windows.1.clone(),
        gaps: [0; 2],
        shifts: [0; 2],
        special: false,
        seed: 7,
    };
    [case(Reduce::Max), case(Reduce::Average)]
}

#[test]
fn layers_as_the_engine_has_them() {
    for element in ELEMENTS {
        let sliding = |size, count, how| Window::sliding(size, count, how, true);
        let layers = [
            // the stem's 3x3, at stride 2 with padding
            (
                [2, 12, 10, 64],
                (sliding(12, 6, (3, 2, 1)), sliding(10, 5, (3, 2, 1))),
            ),
            // ceil mode: the last window overhangs
            (
                [1, 8, 8, 16],
                (sliding(8, 4, (3, 2, 0)), sliding(8, 4, (3, 2, 0))),
            ),
            // globally, of more groups of channels than a warp has lanes
            (
                [2, 7, 7, 520],
                (Window::adaptive(7, 1), Window::adaptive(7, 1)),
            ),
            // fewer pixels than a block has warps, unequal windows
            (
                [1, 5, 7, 8],
                (Window::adaptive(5, 3), Window::adaptive(7, 4)),
            ),
        ];
        for (input, windows) in layers {
            for case in both(element, input, windows) {
                assert!(case.check(), "{case:?}");
                let odd = Case {
                    shifts: [0, 1],
                    ..case
                };
                assert!(!odd.check(), "{odd:?}");
            }
        }
    }
}

#[test]
fn a_large_window_is_shared_by_a_block() {
    let input = Stored::new(Element::F16, [1, 7, 7, 2048], 2048, 0);
    let output = Stored::new(Element::F16, [1, 1, 1, 2048], 2048, 0);
    let pool = |window| {
        let work = Pool {
            element: Element::F16,
            reduce: Reduce::Average,
            input: input.tensor(),
            output: output.tensor(),
            rows: 4,
            columns: 4,
            window,
        };
        let launch = work.launch().expect("work that fits");
        (launch.kernel, launch.blocks)
    };
    assert_eq!(pool(49), ("pool_block_f16", 8));
    assert_eq!(pool(9), ("pool_f16", 1));
}

#[test]
fn a_maximum_keeps_infinities_and_nans() {
    for element in ELEMENTS {
        for lane in 0..9 {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let windows = vec![Window {
                    from: 0,
                    to: 3,
                    counted: 3,
                }];
                let [case, _] = both(element, [1, 3, 3, 1], (windows.clone(), windows));
                let mut input = Stored::new(element, case.input, 1, 0);
                (0..9).for_each(|i| input.buffer.set(i, f32::NEG_INFINITY));
                input.buffer.set(lane, value);
                let (found, _) = case.naive(&input, [0; 4]);
                assert!(
                    found.is_nan() == value.is_nan()
                        && (value.is_nan() || found == f64::from(value))
                );
                let output = Stored::new(element, [1, 1, 1, 1], 1, 0);
                let windows = triples(&case.rows);
                for window in [9, 16] {
                    let work = Pool {
                        element,
                        reduce: Reduce::Max,
                        input: input.tensor(),
                        output: output.tensor(),
                        rows: windows.address(),
                        columns: windows.address(),
                        window,
                    };
                    machine::run(&work, lane % 2 == 0);
                    let found = output.buffer.get(0);
                    assert!(
                        found == value || found.is_nan() && value.is_nan(),
                        "{found} for {value}"
                    );
                }
            }
        }
    }
}

/// Windows over `size` values as a sliding or an adaptive pool has them.
fn windows(size: usize) -> impl Strategy<Value = Vec<Window>> {
    let sliding = (1usize..6, 1usize..4, 0usize..3, any::<(bool, bool)>()).prop_map(
        move |(kernel, stride, padding, (ceil, pad_counts))| {
            let kernel = kernel.min(size);
            let padding = padding.min(kernel / 2);
            let over = size + 2 * padding - kernel + if ceil { stride - 1 } else { 0 };
            // no window begins in the padding behind
            let count = (over / stride + 1).min((size + padding - 1) / stride + 1);
            Window::sliding(size, count, (kernel, stride, padding), pad_counts)
        },
    );
    let adaptive = (1usize..6).prop_map(move |count| Window::adaptive(size, count));
    prop_oneof![3 => sliding, 1 => adaptive]
}

fn any_case() -> impl Strategy<Value = Case> {
    let shape = (1usize..3, 1usize..10, 1usize..10);
    let channels = prop_oneof![(1usize..5).prop_map(|n| 8 * n), 1usize..40];
    let uneven = || prop_oneof![2 => Just(0usize), 2 => Just(8), 1 => 0usize..9];
    (shape, channels).prop_flat_map(move |((n, h, w), channels)| {
        let pool = (any_element(), any::<bool>(), windows(h), windows(w));
        let places = ([uneven(), uneven()], [uneven(), uneven()]);
        let drawn = (pool, places, any::<(bool, u64)>());
        drawn.prop_map(
            move |((element, max, rows, columns), (gaps, shifts), (special, seed))| Case {
                element,
                reduce: if max { Reduce::Max } else { Reduce::Average },
                input: [n, h, w, channels],
                rows,
                columns,
                gaps,
                shifts,
                // rounding of infinite sums has no measure
                special: special && max,
                seed,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

    #[test]
    fn any_pool(case in any_case()) {
        case.check();
    }
}

//! `map`: selection of pixels, zero channels, operations in any order, in place.

use proptest::prelude::*;

use crate::buffer::{Buffer, Random, Stored};
use crate::launch::{Element, MAX_OPERATIONS, Map, Operation, Work};
use crate::{ELEMENTS, any_element, machine};

#[derive(Clone, Copy, Debug)]
enum Step {
    Bias,
    Affine,
    Add,
    /// Adds what the output held before.
    AddOutput,
    Scale(f32),
    Relu,
}

#[derive(Clone, Debug)]
struct Case {
    element: Element,
    /// `[images, height, width, channels]` of the input.
    input: [usize; 4],
    /// Of the output.
    channels: usize,
    stride: usize,
    /// Of input, output and what is added: pitch beyond the channels, and elements beyond 16-byte alignment.
    gaps: [usize; 3],
    shifts: [usize; 3],
    /// Of biases, scales and shifts.
    list_shift: usize,
    steps: Vec<Step>,
    /// Whether the input is the output; then its channels are the output's and the stride 1.
    in_place: bool,
    special: bool,
    seed: u64,
}

/// What the steps of a case read.
struct Sources {
    scale: Vec<f32>,
    shift: Vec<f32>,
    added: Stored,
    /// The output before.
    before: Stored,
}

impl Case {
    fn naive(&self, input: &Stored, sources: &Sources) -> Buffer {
        let mut expected = sources.before.buffer.clone();
        let [images, height, width, _] = sources.before.shape;
        for n in 0..images {
            for y in 0..height {
                for x in 0..width {
                    for c in 0..self.channels {
                        let from = input.at([n, y * self.stride, x * self.stride, c]);
                        let inside = c < input.shape[3];
                        let mut value = if inside { input.buffer.get(from) } else { 0.0 };
                        for step in &self.steps {
                            value = sources.step(*step, value, [n, y, x, c]);
                        }
                        expected.set(sources.before.at([n, y, x, c]), value);
                    }
                }
            }
        }
        expected
    }

    /// Runs the case in both orders; returns the kernel's name.
    fn check(&self) -> &'static str {
        let mut kernel = "";
        for descending in [false, true] {
            kernel = self.check_order(descending);
        }
        kernel
    }

    fn check_order(&self, descending: bool) -> &'static str {
        let mut random = Random::new(self.seed);
        random.special = self.special;
        let [images, height, width, channels] = self.input;
        let size = |size: usize| (size - 1) / self.stride + 1;
        let shape = [images, size(height), size(width), self.channels];
        let stored = |shape: [usize; 4], i: usize| {
            Stored::new(self.element, shape, shape[3] + self.gaps[i], self.shifts[i])
        };
        let mut output = stored(shape, 1);
        if self.in_place || self.steps.iter().any(|s| matches!(s, Step::AddOutput)) {
            output = output.filled(&mut random);
        }
        let mut input = stored([images, height, width, channels], 0).filled(&mut random);
        if self.in_place {
            input = output.clone();
        }
        let sources = Sources {
            scale: random.values(self.channels),
            shift: random.values(self.channels),
            added: stored(shape, 2).filled(&mut random),
            before: output.clone(),
        };
        let expected = self.naive(&input, &sources);

        let scale = Buffer::floats(&sources.scale, self.list_shift);
        let shift = Buffer::floats(&sources.shift, self.list_shift);
        let operation = |step: &Step| match *step {
            Step::Bias => Operation::Bias(shift.address()),
            Step::Affine => Operation::Affine {
                scale: scale.address(),
                shift: shift.address(),
            },
            Step::Add => Operation::Add {
                address: sources.added.buffer.address(),
                pitch: sources.added.pitch,
            },
            Step::AddOutput => Operation::Add {
                address: output.buffer.address(),
                pitch: output.pitch,
            },
            Step::Scale(factor) => Operation::Scale(factor),
            Step::Relu => Operation::Relu,
        };
        let operations: Vec<_> = self.steps.iter().map(operation).collect();
        let work = Map {
            element: self.element,
            input: if self.in_place {
                output.tensor()
            } else {
                input.tensor()
            },
            output: output.tensor(),
            stride: self.stride,
            operations: &operations,
        };
        let kernel = machine::run(&work, descending);
        output.buffer.assert_equal(&expected, &format!("{self:?}"));
        kernel
    }
}

impl Sources {
    fn step(&self, step: Step, value: f32, at: [usize; 4]) -> f32 {
        let c = at[3];
        match step {
            Step::Bias => value + self.shift[c],
            Step::Affine => value.mul_add(self.scale[c], self.shift[c]),
            Step::Add => value + self.added.buffer.get(self.added.at(at)),
            Step::AddOutput => value + self.before.buffer.get(self.before.at(at)),
            Step::Scale(factor) => value * factor,
            Step::Relu if value < 0.0 => 0.0,
            Step::Relu => value,
        }
    }
}

fn plain(element: Element, input: [usize; 4]) -> Case {
    Case {
        element,
        input,
        channels: input[3],
        stride: 1,
        gaps: [0; 3],
        shifts: [0; 3],
        list_shift: 0,
        steps: Vec::new(),
        in_place: false,
        special: false,
        seed: 1,
    }
}

#[test]
fn layers_as_the_engine_has_them() {
    for element in ELEMENTS {
        let wide = |case: Case| {
            let kernel = case.check();
            assert!(!kernel.ends_with("_scalar"), "{kernel} for {case:?}");
        };
        // an epilogue after a bare convolution, in place, of more than one block
        wide(Case {
            steps: vec![Step::Bias, Step::Add, Step::Relu],
            in_place: true,
            ..plain(element, [2, 7, 7, 64])
        });
        // the shortcut is overwritten by the sum
        wide(Case {
            steps: vec![Step::Affine, Step::AddOutput, Step::Relu],
            ..plain(element, [1, 5, 5, 32])
        });
        // shortcut A: every other pixel, twice the channels
        wide(Case {
            channels: 32,
            stride: 2,
            ..plain(element, [3, 9, 8, 16])
        });
        // one input of a concatenation: 24 channels at the 16th of 64
        wide(Case {
            gaps: [0, 40, 0],
            shifts: [0, 16, 0],
            ..plain(element, [2, 4, 4, 24])
        });
        // scaled branches of Inception-ResNet
        wide(Case {
            steps: vec![Step::Bias, Step::Scale(0.17), Step::Add, Step::Relu],
            ..plain(element, [1, 3, 3, 40])
        });
    }
}

#[test]
fn what_is_not_aligned_goes_by_single_elements() {
    for element in ELEMENTS {
        let aligned = Case {
            steps: vec![Step::Affine, Step::Add],
            ..plain(element, [1, 3, 5, 16])
        };
        let mut cases = vec![aligned.clone(); 8];
        for i in 0..3 {
            cases[i].gaps[i] = 3;
            cases[3 + i].shifts[i] = 2;
        }
        cases[6].list_shift = 1;
        cases[7].channels = 18;
        for case in cases {
            let kernel = case.check();
            assert!(kernel.ends_with("_scalar"), "{kernel} for {case:?}");
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let memory = Stored::new(Element::F32, [1, 4, 4, 8], 8, 0);
    let map = |change: fn(&mut Map<'_>)| {
        let tensor = memory.tensor();
        let mut map = Map {
            element: Element::F32,
            input: tensor,
            output: tensor,
            stride: 1,
            operations: &[],
        };
        change(&mut map);
        map.launch().map(|_| ())
    };
    assert_eq!(map(|_| ()), Ok(()));
    let wrong: [fn(&mut Map<'_>); 9] = [
        |map| map.stride = 0,
        |map| map.stride = 2,
        |map| map.output.images = 2,
        |map| map.output.pitch = 7,
        |map| map.output.channels = 7,
        |map| map.input.address = 0,
        |map| map.input.address += 2,
        |map| map.operations = &[Operation::Relu; MAX_OPERATIONS + 1],
        |map| map.operations = &[Operation::Bias(0)],
    ];
    for (i, change) in wrong.into_iter().enumerate() {
        let error = map(change).expect_err(&format!("change {i}")).to_string();
        assert!(
            error.contains("Map {") && error.contains("cannot be launched"),
            "{error}"
        );
    }
    // 2^31 chunks of a tensor that nobody has
    let error = map(|map| {
        map.input.images = 1 << 27;
        map.output.images = 1 << 27;
    });
    assert!(error.expect_err("too many").to_string().contains("2^31"));
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Bias),
        Just(Step::Affine),
        Just(Step::Add),
        Just(Step::AddOutput),
        (-2.0f32..2.0).prop_map(Step::Scale),
        Just(Step::Relu),
    ];
    prop::collection::vec(step, 0..=MAX_OPERATIONS)
}

/// Mostly such that 16-byte accesses are possible.
fn uneven() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0usize), 2 => Just(8), 1 => 0usize..9]
}

prop_compose! {
    fn any_case()(
        element in any_element(),
        (images, height, width) in (1usize..3, 1usize..7, 1usize..7),
        (channels, more) in (prop_oneof![(1usize..5).prop_map(|n| 8 * n), 1usize..40], uneven()),
        stride in 1usize..4,
        gaps in prop::array::uniform3(uneven()),
        shifts in prop::array::uniform3(uneven()),
        list_shift in prop_oneof![4 => Just(0usize), 1 => 1usize..4],
        steps in steps(),
        (in_place, special, seed) in any::<(bool, bool, u64)>(),
    ) -> Case {
        let (more, stride) = if in_place { (0, 1) } else { (more, stride) };
        Case {
            element,
            input: [images, height, width, channels],
            channels: channels + more,
            stride, gaps, shifts, list_shift, steps, in_place, special, seed,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_map(case in any_case()) {
        case.check();
    }
}

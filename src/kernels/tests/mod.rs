//! Every kernel on every instruction set of this machine, against the reference.
//!
//! [`KERNELS`] is the table: a kernel that is listed runs on each token over its cases. Inputs and outputs end where a
//! page without access begins, so that an overrun faults. Outputs start as NaN and are compared whole, borders and spare
//! lanes included.

mod cases;
mod guarded;
mod random;

use super::*;
use cases::ConvCase;
use guarded::Guarded;

/// Runs one kernel's cases on one instruction set; returns how many they were.
type Run = fn(Token) -> usize;

const KERNELS: &[(&str, Run)] = &[
    ("conv direct", |token| {
        cases::convs(token, Algorithm::Direct)
    }),
    ("conv winograd4", |token| {
        cases::convs(token, Algorithm::Winograd4)
    }),
    ("conv winograd6", |token| {
        cases::convs(token, Algorithm::Winograd6)
    }),
    ("conv grouped", |token| {
        cases::convs(token, Algorithm::Grouped)
    }),
    ("map", cases::maps),
    ("pool", cases::pools),
    ("planes", cases::planes),
    ("concat", cases::concats),
    ("flatten", cases::flattens),
];

#[test]
fn every_kernel_on_every_instruction_set() {
    for (name, run) in KERNELS {
        for token in Token::available() {
            let count = run(token);
            let (isa, element) = (token.isa(), token.element());
            println!("{name} x {isa} {element:?} x {count} cases");
            // only the direct convolution has bf16
            let f32_only = name.contains("winograd") || name.contains("grouped");
            let none = f32_only && element != Element::F32;
            assert!(
                if none { count == 0 } else { count > 5 },
                "{name} on {isa} {element:?} ran {count} cases"
            );
        }
    }
}

#[test]
fn every_algorithm_is_in_the_table() {
    for algorithm in Algorithm::ALL {
        let name = format!("conv {}", algorithm.name());
        assert!(KERNELS.iter().any(|(kernel, _)| *kernel == name), "{name}");
    }
}

/// RESNETD_EXPECT_ISA and, for bf16, RESNETD_EXPECT_BF16_ISA name what a CI machine must have, so that a path that went
/// untested is noticed.
#[test]
fn this_machine_has_what_it_is_expected_to() {
    let widest = [
        ("RESNETD_EXPECT_ISA", Some(Token::detect(None))),
        ("RESNETD_EXPECT_BF16_ISA", Token::detect_bf16(None)),
    ];
    for (variable, token) in widest {
        println!("{variable}: {token:?} is the widest here");
        if let Ok(expected) = std::env::var(variable) {
            let expected: Isa = expected.parse().expect(variable);
            assert!(token.map(Token::isa) >= Some(expected), "{variable}");
        }
    }
}

#[test]
fn detection_respects_the_cap() {
    assert_eq!(Token::detect(Some(Isa::Portable)).isa(), Isa::Portable);
    for token in Token::available() {
        let capped = match token.element() {
            Element::F32 => Some(Token::detect(Some(token.isa()))),
            Element::Bf16 => Token::detect_bf16(Some(token.isa())),
        };
        assert_eq!(capped.map(Token::isa), Some(token.isa()));
        assert_eq!(token.isa().name().parse(), Ok(token.isa()));
    }
    assert!(Token::detect_bf16(Some(Isa::Avx2)).is_none());
    assert!(
        "sse2"
            .parse::<Isa>()
            .expect_err("no kernels for it")
            .contains("avx512")
    );
}

#[test]
fn threads_change_no_bit() {
    for token in Token::available() {
        for algorithm in Algorithm::ALL {
            let whole = ConvCase::new((3, 3), 1, 1, (40, 70), (30, 29));
            let grouped = ConvCase::new((3, 3), 1, 10, (40, 40), (30, 29));
            let case = [whole, grouped]
                .into_iter()
                .find(|case| case.suits(token, algorithm));
            // what is not for this token's element has none
            let Some(case) = case else {
                continue;
            };
            let case = ConvCase { batch: 3, ..case };
            let serial = case.run(token, algorithm, &Serial);
            let threaded = case.run(token, algorithm, &Three);
            let bits = |words: &[f32]| words.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&serial.1), bits(&threaded.1));
            // one algorithm's bits do not depend on the batch
            let (_, alone) = ConvCase { batch: 1, ..case }.run(token, algorithm, &Serial);
            assert_eq!(bits(&alone), bits(&serial.1[..alone.len()]));
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let token = Token::detect(None);
    let case = ConvCase::new((3, 3), 1, 1, (4, 4), (8, 8));
    let weights = vec![0.0; 4 * 4 * 9];
    let parts = || ConvParts {
        token,
        algorithm: Algorithm::Direct,
        spec: case.spec,
        input: case.input(token),
        output: case.output(token),
        weights: &weights,
        epilogue: Epilogue::default(),
    };
    assert!(Conv::new(parts()).is_ok());
    let wrong: [fn(&mut ConvParts<'_>); 6] = [
        |p| p.input.border = 0,
        |p| p.output.height = 9,
        |p| p.output.lanes = 3,
        |p| p.spec.groups = 3,
        |p| p.spec.stride = 0,
        |p| p.weights = &p.weights[1..],
    ];
    for change in wrong {
        let mut parts = parts();
        change(&mut parts);
        assert!(Conv::new(parts).is_err());
    }
    let short = Operation::Bias(Buffer::zeroed(3));
    let epilogue = Epilogue::new(vec![short]);
    assert!(
        Conv::new(ConvParts {
            epilogue,
            ..parts()
        })
        .is_err()
    );
}

#[test]
#[should_panic(expected = "the input is too short")]
fn a_short_input_panics_before_anything_is_read() {
    let token = Token::detect(None);
    let case = ConvCase::new((1, 1), 1, 1, (4, 4), (8, 8));
    let conv = Conv::new(ConvParts {
        token,
        algorithm: Algorithm::Direct,
        spec: case.spec,
        input: case.input(token),
        output: case.output(token),
        weights: &[0.0; 16],
        epilogue: Epilogue::default(),
    });
    let call = ConvCall {
        batch: 2,
        input: &vec![0.0; case.input(token).image()],
        added: &[],
    };
    let mut output = vec![0.0; 2 * case.output(token).image()];
    conv.expect("fits").run(&Serial, call, &mut output);
}

/// Three fresh threads a call.
struct Three;

impl Threads for Three {
    fn broadcast(&self, job: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(job);
            }
        });
    }

    fn count(&self) -> usize {
        3
    }
}

/// `n` values in `[-1, 1)`.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The same, as what the token's kernels keep values in holds them.
fn held(token: Token, seed: u64, n: usize) -> Vec<f32> {
    let element = token.element();
    let held = |value| element.get(&[element.word(value, 0.0)], 0);
    values(seed, n).into_iter().map(held).collect()
}

/// Every value of some words.
fn unpacked(element: Element, words: &[f32]) -> impl Iterator<Item = f32> {
    (0..words.len() * element.packed()).map(move |i| element.get(words, i))
}

/// Compares whole tensors; `scale` is the size of the values whose rounding counts.
fn assert_close(
    element: Element,
    found: &[f32],
    expected: &[f32],
    tolerance: f32,
    what: &dyn std::fmt::Debug,
) {
    assert_eq!(found.len(), expected.len(), "{what:?}");
    let scale = unpacked(element, expected).fold(1.0f32, |m, v| m.max(v.abs()));
    // sums that differ by rounding may be stored as neighbours
    let neighbour = match element {
        Element::F32 => 0.0,
        Element::Bf16 => 1.0 / 128.0,
    };
    let pairs = unpacked(element, found).zip(unpacked(element, expected));
    for (i, (a, b)) in pairs.enumerate() {
        // written so that a NaN fails
        assert!(
            (a - b).abs() <= tolerance * scale + neighbour * b.abs(),
            "value {i}: {a}, expected {b}, in {what:?}"
        );
    }
}

/// Planes in a layout, in guarded memory; what is not the tensor's own is NaN.
fn laid_out(layout: &Layout, batch: usize, planes: &[f32]) -> Guarded {
    let own = Layout { gap: 0, ..*layout };
    let mut together = Guarded::new(batch * own.image());
    from_planes(&Serial, &own, batch, planes, &mut together);
    if layout.gap == 0 {
        return together;
    }
    let mut apart = Guarded::new(layout.extent(batch));
    let images = apart.chunks_mut(layout.image());
    for (to, from) in images.zip(together.chunks_exact(own.image())) {
        to[..from.len()].copy_from_slice(from);
    }
    apart
}

/// The tensor's own words of what a kernel has written; it has written no others.
fn own(layout: &Layout, memory: &[f32]) -> Vec<f32> {
    let size = Layout { gap: 0, ..*layout }.image();
    let images = memory.chunks(layout.image());
    let own = images.flat_map(|image| {
        let (own, gap) = image.split_at(size);
        assert!(gap.iter().all(|word| word.is_nan()), "words of others");
        own.iter().copied()
    });
    own.collect()
}

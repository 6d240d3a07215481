//! `widen` and `top_k`: answers out.

use proptest::prelude::*;

use crate::buffer::{Buffer, Random, Stored};
use crate::launch::{Element, MAX_BEST, TopK, Widen, Work};
use crate::memory::Memory;
use crate::{ELEMENTS, any_element, machine};

fn check_widen(input: &Stored, element: Element, shift: usize) -> bool {
    let mut wide = false;
    for descending in [false, true] {
        let channels = input.shape[3];
        let output = Buffer::new(Element::F32, input.pixels() * channels, shift);
        let mut expected = output.clone();
        for row in 0..input.pixels() {
            for c in 0..channels {
                expected.set(row * channels + c, input.buffer.get(row * input.pitch + c));
            }
        }
        let work = Widen {
            element,
            input: input.tensor(),
            output: output.address(),
        };
        wide = !machine::run(&work, descending).ends_with("_scalar");
        output.assert_equal(&expected, &format!("{work:?}"));
    }
    wide
}

/// Also what shows that the shim's conversions are right.
#[test]
fn every_half_is_widened_exactly() {
    for element in [Element::F16, Element::Bf16] {
        let mut input = Stored::new(element, [64, 1, 1, 1024], 1024, 0);
        (0..1 << 16).for_each(|i| input.buffer.set_bits(i, i as u32));
        assert!(check_widen(&input, element, 0));
    }
}

#[test]
fn logits_as_the_engine_has_them() {
    for element in ELEMENTS {
        for (classes, pitch, wide) in [(1000, 1000, true), (10, 16, false), (1001, 1008, false)] {
            let input = Stored::new(element, [3, 1, 1, classes], pitch, 0);
            let input = input.filled(&mut Random::new(9));
            assert_eq!(check_widen(&input, element, 0), wide);
        }
    }
}

/// Runs `top_k` over rows of logits and compares it with a sort.
fn check_top(logits: &[f32], classes: usize, k: usize) {
    let rows = logits.len() / classes;
    for descending in [false, true] {
        let memory = Buffer::floats(logits, 1);
        let bytes = TopK::bytes(rows, k);
        let answers = Memory::filled(bytes + 8, 0xa5u8);
        let work = TopK {
            logits: memory.address(),
            rows,
            classes,
            k,
            answers: answers.address(),
        };
        machine::run(&work, descending);
        let (answers, behind) = answers.split_at(bytes);
        assert_eq!(behind, [0xa5; 8]);
        let said: Vec<_> = work.read(answers).collect();
        assert_eq!(said.len(), rows);
        for (logits, (summary, best)) in logits.chunks(classes).zip(said) {
            let best: Vec<_> = best.map(|one| (one.class as usize, one.logit)).collect();
            assert_eq!(best.len(), k);
            assert!(summary.finite <= 1);
            let finite = summary.finite == 1;
            check_row(logits, &best, (finite, summary.max, summary.sum));
        }
    }
}

fn check_row(logits: &[f32], best: &[(usize, f32)], (is_finite, largest, said): (bool, f32, f64)) {
    let finite = logits.iter().all(|logit| logit.is_finite());
    assert_eq!(is_finite, finite);
    if !finite {
        return;
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // a stable sort: equal logits stay in the order of their classes
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("finite"));
    let expected = order[..best.len()].iter();
    let expected: Vec<_> = expected.map(|&class| (class, logits[class])).collect();
    assert_eq!(best, expected);
    let max = logits[order[0]];
    assert_eq!(largest, max);
    let weight = |logit: &f32| (f64::from(*logit) - f64::from(max)).exp();
    let sum: f64 = logits.iter().map(weight).sum();
    assert!((said - sum).abs() <= 1e-6 * sum, "{said}, not {sum}");
}

#[test]
fn the_best_of_any_number_of_classes() {
    let mut random = Random::new(11);
    for classes in [1, 2, 10, 31, 32, 33, 100, 255, 256, 257, 1000, 21_841] {
        for k in [1, 5, MAX_BEST] {
            let logits = random.values(2 * classes);
            check_top(&logits, classes, k.min(classes));
        }
    }
}

#[test]
fn equal_logits_come_by_class() {
    check_top(&[0.5; 1000], 1000, 16);
    check_top(&[0.0, -0.0, 0.0, -0.0], 4, 4);
    check_top(&[f32::MIN, f32::MAX, f32::MIN, f32::MAX], 4, 4);
    // all of one thread's, of one warp's, and across warps
    for step in [256, 1, 32, 37] {
        let mut logits = vec![-1.0; 4352];
        (0..17).for_each(|i| logits[(3 + i * step) % 4352] = 2.0);
        check_top(&logits, 4352, 16);
    }
}

#[test]
fn a_logit_that_is_not_finite_is_told() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 31, 256, 999] {
            let mut logits = vec![0.25; 2000];
            logits[1000 + at] = value;
            check_top(&logits, 1000, 5);
        }
        check_top(&vec![value; 300], 300, 16);
    }
}

#[test]
fn more_answers_than_there_are_classes_are_refused() {
    let top = |classes, k| TopK {
        logits: 4,
        rows: 1,
        classes,
        k,
        answers: 8,
    };
    assert!(top(5, 5).launch().is_ok());
    assert!(top(5, 6).launch().is_err() && top(5, 0).launch().is_err());
    assert!(top(99, MAX_BEST + 1).launch().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(30) })]

    #[test]
    fn any_top(
        (rows, classes) in (1usize..3, 1usize..700),
        k in 1usize..=MAX_BEST,
        // logits of so many different values: ties
        levels in prop_oneof![1u64..8, Just(1 << 24)],
        range in prop_oneof![Just(1.0f32), Just(30.0), Just(1000.0)],
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut logit = || (random.next() % levels) as f32 / levels as f32 * range - range / 2.0;
        let logits: Vec<f32> = (0..rows * classes).map(|_| logit()).collect();
        check_top(&logits, classes, k.min(classes));
    }

    #[test]
    fn any_widening(
        element in any_element(),
        (rows, channels) in (1usize..5, prop_oneof![(1usize..9).prop_map(|n| 8 * n), 1usize..70]),
        (gap, shift, to) in (prop_oneof![Just(0usize), Just(8), 0usize..9], 0usize..3, 0usize..3),
        seed in any::<u64>(),
    ) {
        let input = Stored::new(element, [rows, 1, 1, channels], channels + gap, 4 * shift);
        let input = input.filled(&mut Random::new(seed));
        check_widen(&input, element, 2 * to);
    }
}

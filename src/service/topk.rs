//! Logits to the most probable classes.

use super::{Code, Error, Prediction};

/// The `top_k` most probable classes, most probable first, equal ones by lower class; all of them where there are fewer.
///
/// The softmax subtracts the largest logit and sums in `f64`, so that no logits overflow it or make it divide by zero.
///
/// # Errors
/// `Internal` when a logit is not finite: a weight file or an engine is broken, and any order would be made up.
pub(super) fn predictions(
    logits: &[f32],
    labels: &[String],
    top_k: usize,
) -> Result<Vec<Prediction>, Error> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::new(
            Code::Internal,
            "the model's output is not finite; its weights may be damaged",
        ));
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| (f64::from(logit) - f64::from(max)).exp();
    let sum: f64 = logits.iter().map(|&logit| weight(logit)).sum();

    // by logit, not by probability: far below the largest, different logits round to the same probability
    let mut classes: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| {
        let by_logit = b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal);
        by_logit.then(a.0.cmp(&b.0))
    };
    if (1..classes.len()).contains(&top_k) {
        classes.select_nth_unstable_by(top_k - 1, order);
    }
    classes.truncate(top_k);
    classes.sort_unstable_by(order);
    let prediction = |(class, logit): (usize, f32)| Prediction {
        class,
        label: labels.get(class).cloned().unwrap_or_default(),
        probability: (weight(logit) / sum) as f32,
    };
    Ok(classes.into_iter().map(prediction).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    fn top(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
        let list = predictions(logits, &labels(logits.len()), k).unwrap();
        assert!(list.iter().all(|p| p.label == format!("c{}", p.class)));
        list.iter().map(|p| (p.class, p.probability)).collect()
    }

    #[test]
    fn probabilities_of_known_logits() {
        // softmax of ln 1, ln 2, ln 5
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let list = top(&logits, 2);
        assert_eq!(list.iter().map(|p| p.0).collect::<Vec<_>>(), [2, 1]);
        assert!(
            (list[0].1 - 0.625).abs() < 1e-6 && (list[1].1 - 0.25).abs() < 1e-6,
            "{list:?}"
        );
    }

    #[test]
    fn ties_go_to_the_lower_class() {
        let list = top(&[1.0, 3.0, 0.0, 3.0, -0.0, 3.0], 5);
        assert_eq!(
            list.iter().map(|p| p.0).collect::<Vec<_>>(),
            [1, 3, 5, 0, 2]
        );
    }

    #[test]
    fn extreme_logits_do_not_overflow() {
        let low = top(&[-3e38, -3e38, -3.1e38], 3);
        assert_eq!(low.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((low[0].1 - 0.5).abs() < 1e-6 && low[2].1 == 0.0, "{low:?}");
        let high = top(&[3e38, -3e38, 2.9e38], 3);
        assert_eq!(high[0], (0, 1.0));
        // both round to probability 0, and still come in the order of their logits
        assert_eq!((high[1].0, high[2].0), (2, 1));
    }

    #[test]
    fn fewer_classes_than_asked() {
        assert_eq!(top(&[1.0, 2.0], 5).len(), 2);
        assert_eq!(top(&[1.0, 2.0], 2).len(), 2);
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = predictions(&[0.0, bad, 1.0], &labels(3), 2).unwrap_err();
            assert_eq!(error.code, Code::Internal);
        }
    }

    proptest! {
        #[test]
        fn equals_sorting_everything(
            logits in prop::collection::vec((-40i8..40).prop_map(|v| f32::from(v) / 4.0), 1..60),
            k in 1usize..70,
        ) {
            let list = top(&logits, k);
            let mut all: Vec<usize> = (0..logits.len()).collect();
            all.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            all.truncate(k);
            prop_assert_eq!(list.iter().map(|p| p.0).collect::<Vec<_>>(), all);
            let sum: f32 = top(&logits, logits.len()).iter().map(|p| p.1).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{}", sum);
        }
    }
}

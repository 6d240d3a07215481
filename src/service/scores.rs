//! Logits to probabilities and the most probable classes.

use std::cmp::Ordering;

use super::{Code, Error};

/// A class and how probable it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub class: usize,
    pub label: String,
    pub probability: f32,
}

/// Finite logits of one image, `[classes]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    logits: Vec<f32>,
}

impl Scores {
    /// # Errors
    /// `Internal` when a logit is not finite: a weight file or an engine is broken, and any order would be made up.
    pub fn new(logits: Vec<f32>) -> Result<Self, Error> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(Error::new(
                Code::Internal,
                "the model's output is not finite; its weights may be damaged",
            ));
        }
        Ok(Self { logits })
    }

    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Softmax, `[classes]`.
    ///
    /// It subtracts the largest logit and sums in `f64`, so that no logits overflow it or make it divide by zero.
    pub fn probabilities(&self) -> Vec<f32> {
        let max = self
            .logits
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let weight = |&logit: &f32| (f64::from(logit) - f64::from(max)).exp();
        let weights: Vec<f64> = self.logits.iter().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| (weight / sum) as f32).collect()
    }

    /// The `k` most probable classes, most probable first, equal ones by lower class; all of them where there are fewer.
    pub fn top(&self, k: usize) -> Vec<usize> {
        // by logit, not by probability: far below the largest, different logits round to the same probability
        let mut classes: Vec<(usize, f32)> = self.logits.iter().copied().enumerate().collect();
        let order = |a: &(usize, f32), b: &(usize, f32)| {
            let by_logit = b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal);
            by_logit.then(a.0.cmp(&b.0))
        };
        if (1..classes.len()).contains(&k) {
            classes.select_nth_unstable_by(k - 1, order);
        }
        classes.truncate(k);
        classes.sort_unstable_by(order);
        classes.into_iter().map(|(class, _)| class).collect()
    }

    /// [`Scores::top`] with labels and probabilities.
    pub fn predictions(&self, labels: &[String], k: usize) -> Vec<Prediction> {
        let probabilities = self.probabilities();
        let prediction = |class: usize| Prediction {
            class,
            label: labels.get(class).cloned().unwrap_or_default(),
            probability: probabilities.get(class).copied().unwrap_or_default(),
        };
        self.top(k).into_iter().map(prediction).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    fn top(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
        let scores = Scores::new(logits.to_vec()).unwrap();
        let list = scores.predictions(&labels(logits.len()), k);
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
            let error = Scores::new(vec![0.0, bad, 1.0]).unwrap_err();
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

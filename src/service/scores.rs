//! Answers of engines to probabilities and the most probable classes.

use super::{Code, Error};
use crate::engine::{Answer, Best};

/// A class and how probable it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub class: usize,
    pub label: String,
    pub probability: f32,
}

/// What the model says of one image, finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores(Answer);

impl Scores {
    /// # Errors
    /// `Internal` when a logit is not finite: a weight file or an engine is broken, and any order would be made up.
    pub fn new(answer: Answer) -> Result<Self, Error> {
        let finite = match &answer {
            Answer::Logits(logits) => logits.iter().all(|logit| logit.is_finite()),
            Answer::Best(best) => best.finite,
        };
        if !finite {
            return Err(Error::new(
                Code::Internal,
                "the model's output is not finite; its weights may be damaged",
            ));
        }
        Ok(Self(answer))
    }

    /// `[classes]`.
    ///
    /// # Errors
    /// `Internal` when the request did not ask for them, and the best alone came.
    pub fn logits(&self) -> Result<&[f32], Error> {
        match &self.0 {
            Answer::Logits(logits) => Ok(logits),
            Answer::Best(_) => Err(Error::new(
                Code::Internal,
                "the engine was asked for the best classes and now for all logits",
            )),
        }
    }

    /// Softmax, `[classes]`.
    ///
    /// # Errors
    /// As [`Scores::logits`].
    pub fn probabilities(&self) -> Result<Vec<f32>, Error> {
        let logits = self.logits()?;
        let best = Best::of(logits, 1);
        Ok(logits
            .iter()
            .map(|&logit| best.probability(logit))
            .collect())
    }

    /// The `k` most probable classes, most probable first, equal ones by lower class; all of them where there are fewer,
    /// and no more than the request asked for.
    pub fn top(&self, k: usize) -> Vec<usize> {
        let best = self.best(k).classes.into_iter();
        best.map(|(class, _)| class).collect()
    }

    /// [`Scores::top`] with labels and probabilities.
    pub fn predictions(&self, labels: &[String], k: usize) -> Vec<Prediction> {
        let best = self.best(k);
        let prediction = |&(class, logit): &(usize, f32)| Prediction {
            class,
            label: labels.get(class).cloned().unwrap_or_default(),
            probability: best.probability(logit),
        };
        best.classes.iter().map(prediction).collect()
    }

    fn best(&self, k: usize) -> Best {
        match &self.0 {
            Answer::Logits(logits) => Best::of(logits, k),
            Answer::Best(best) => {
                let mut best = best.clone();
                best.classes.truncate(k);
                best
            }
        }
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
        top_of(Answer::Logits(logits.to_vec()), logits.len(), k)
    }

    fn top_of(answer: Answer, classes: usize, k: usize) -> Vec<(usize, f32)> {
        let scores = Scores::new(answer).unwrap();
        let list = scores.predictions(&labels(classes), k);
        assert!(list.iter().all(|p| p.label == format!("c{}", p.class)));
        let top: Vec<usize> = list.iter().map(|p| p.class).collect();
        assert_eq!(scores.top(k), top);
        list.iter().map(|p| (p.class, p.probability)).collect()
    }

    /// What a card makes of logits: found one by one, and the sum of exponentials in `f32`.
    fn card(logits: &[f32], k: usize) -> Answer {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut left: Vec<usize> = (0..logits.len()).collect();
        let best = |_| {
            // the last of equals is what comes of this, so from behind
            let better = |&&a: &&usize, &&b: &&usize| logits[a].total_cmp(&logits[b]);
            let class = *left.iter().rev().max_by(better)?;
            left.retain(|&other| other != class);
            Some((class, logits[class]))
        };
        Answer::Best(Best {
            classes: (0..k).map_while(best).collect(),
            max,
            sum: logits
                .iter()
                .map(|logit| f64::from((logit - max).exp()))
                .sum(),
            finite: logits.iter().all(|logit| logit.is_finite()),
        })
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
            let logits = vec![0.0, bad, 1.0];
            let from_best = Scores::new(card(&logits, 2)).unwrap_err();
            let error = Scores::new(Answer::Logits(logits)).unwrap_err();
            assert_eq!(error.code, Code::Internal);
            assert_eq!(
                (from_best.code, &from_best.message),
                (error.code, &error.message)
            );
        }
    }

    #[test]
    fn the_best_are_not_taken_for_all() {
        let logits = [0.5, 2.0, -1.0];
        let scores = Scores::new(card(&logits, 2)).unwrap();
        assert_eq!(scores.logits().unwrap_err().code, Code::Internal);
        assert_eq!(scores.probabilities().unwrap_err().code, Code::Internal);
        assert_eq!(scores.top(3), [1, 0]);
        let scores = Scores::new(Answer::Logits(logits.to_vec())).unwrap();
        assert_eq!(scores.logits().unwrap(), logits);
        let sum: f32 = scores.probabilities().unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
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

        #[test]
        fn both_forms_say_the_same(
            logits in prop::collection::vec(
                prop_oneof![(-8i8..8).prop_map(f32::from), -90f32..90.0],
                1..60,
            ),
            k in 1usize..70,
            more in 0usize..4,
        ) {
            let from_logits = top(&logits, k);
            // a batch brings as many as any of its images wants
            let from_best = top_of(card(&logits, k + more), logits.len(), k);
            prop_assert_eq!(from_best.len(), k.min(logits.len()));
            for (one, other) in from_logits.iter().zip(&from_best) {
                prop_assert_eq!(one.0, other.0);
                prop_assert!((one.1 - other.1).abs() < 1e-6, "{:?}, {:?}", one, other);
            }
        }
    }
}

//! What is wanted of an image, and what comes back: its logits, or the best of them.
//!
//! Most callers want a handful of classes. A device that finds these itself sends a hundred bytes an image in place of
//! all logits, and spares the host the search.

use std::cmp::Ordering;

/// What is wanted of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of its logits.
    Logits,
    /// So many of its most probable classes, which its logits serve for as well.
    Best(usize),
}

/// What an engine says of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// `[classes]`.
    Logits(Vec<f32>),
    Best(Best),
}

/// The largest logits of an image and what makes probabilities of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Classes and their logits, largest first, equal ones by lower class.
    pub classes: Vec<(usize, f32)>,
    /// Largest logit.
    pub max: f32,
    /// Of `exp(logit - max)` over all classes.
    pub sum: f64,
    /// Whether every logit is; where not, nothing else here means anything.
    pub finite: bool,
}

impl Wanted {
    /// What serves for both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Best(one), Self::Best(other)) => Self::Best(one.max(other)),
            _ => Self::Logits,
        }
    }
}

impl Best {
    /// The `k` best of an image's logits, or all where there are fewer.
    pub fn of(logits: &[f32], k: usize) -> Self {
        // by logit, not by probability: far below the largest, different logits round to the same probability
        let mut classes: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
        let order = |a: &(usize, f32), b: &(usize, f32)| {
            let by_logit = b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal);
            by_logit.then(a.0.cmp(&b.0))
        };
        if (1..classes.len()).contains(&k) {
            classes.select_nth_unstable_by(k - 1, order);
        }
        classes.truncate(k);
        classes.sort_unstable_by(order);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self {
            classes,
            max,
            sum: logits.iter().map(|&logit| weight(logit, max)).sum(),
            finite: logits.iter().all(|logit| logit.is_finite()),
        }
    }

    /// Of a class with this logit: softmax.
    pub fn probability(&self, logit: f32) -> f32 {
        (weight(logit, self.max) / self.sum) as f32
    }
}

/// In `f64`, and with the largest logit subtracted, so that no logits overflow a sum of these or make it zero.
fn weight(logit: f32, max: f32) -> f64 {
    (f64::from(logit) - f64::from(max)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_serve_for_everything_and_more_of_the_best_for_fewer() {
        let (few, many) = (Wanted::Best(2), Wanted::Best(7));
        assert_eq!(few.and(many), many);
        assert_eq!(many.and(few), many);
        assert_eq!(Wanted::Logits.and(few), Wanted::Logits);
        assert_eq!(few.and(Wanted::Logits), Wanted::Logits);
    }
}

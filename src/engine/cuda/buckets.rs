//! Which batch sizes are captured: a batch is padded up to one of them, so that few graphs serve every size.
//!
//! The candidates are dense where padding would cost most; of these, only those are kept whose batch is worth having:
//! where a larger one takes no longer, it takes the smaller one's batches as well.

/// A size is kept if it saves so much of the time of the next larger one that is kept.
const WORTHWHILE: f64 = 0.03;

/// Batch sizes to try up to `max_batch`: powers of two, from 16 on the sizes halfway between them, and `max_batch`.
pub(super) fn candidates(max_batch: usize) -> Vec<usize> {
    let powers = (0..usize::BITS).map(|bit| 1usize << bit);
    let sizes = powers.flat_map(|size| match size < 16 {
        true => [size, size],
        false => [size, size + size / 2],
    });
    let mut sizes: Vec<usize> = sizes.take_while(|&size| size < max_batch).collect();
    sizes.push(max_batch.max(1));
    sizes.dedup();
    sizes
}

/// Those of the measured sizes, ascending with the seconds that a batch of each takes, that are kept.
pub(super) fn choose(measured: &[(usize, f64)]) -> Vec<usize> {
    let mut kept = Vec::new();
    let mut next = f64::INFINITY;
    for &(size, seconds) in measured.iter().rev() {
        if seconds <= next * (1.0 - WORTHWHILE) {
            kept.push(size);
            next = seconds;
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_dense_and_end_with_the_largest_batch() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(6), [1, 2, 4, 6]);
        assert_eq!(candidates(32), [1, 2, 4, 8, 16, 24, 32]);
        assert_eq!(candidates(100), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100]);
        for max in 1..300 {
            let sizes = candidates(max);
            assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
            // no batch is padded to more than twice its size
            for batch in 1..=max {
                let size = sizes.iter().find(|&&size| size >= batch);
                assert!(size.is_some_and(|&size| size < 2 * batch));
            }
        }
    }

    #[test]
    fn a_size_that_saves_nothing_goes() {
        let measured = [(1, 1.0), (2, 1.01), (4, 1.6), (8, 1.58), (16, 3.0)];
        // two cost no more than one, and eight no more than four
        assert_eq!(choose(&measured), [2, 8, 16]);
        assert_eq!(choose(&[(1, 1.0), (2, 2.0)]), [1, 2]);
        // the largest stays whatever it costs
        assert_eq!(choose(&[(1, 5.0), (2, 1.0)]), [2]);
        assert_eq!(choose(&[]), [0; 0]);
    }
}

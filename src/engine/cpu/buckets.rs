//! A convolution that may be computed differently for small and for large batches: a packing for each range of batch
//! sizes, of which nearly all layers have one.
//!
//! In a small batch weights are waited for, so that the smallest packing is the fastest; a large one reuses them, so
//! that the fewest multiplications are. Every packing stays in memory.

use super::choose::Choice;
use crate::kernels::{Algorithm, Conv, Misfit};

#[derive(Debug)]
pub(super) struct Buckets {
    /// For the batches below those of `larger`.
    smallest: Conv,
    /// With the smallest batch each is for, ascending.
    larger: Vec<(usize, Conv)>,
}

impl Buckets {
    /// Prepares `first` and, from some batch on, others.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn new(
        (first, rest): (Algorithm, &[Choice]),
        make: impl Fn(Algorithm) -> Result<Conv, Misfit>,
    ) -> Result<Self, Misfit> {
        let larger = rest
            .iter()
            .map(|choice| Ok((choice.from, make(choice.algorithm)?)));
        Ok(Self {
            smallest: make(first)?,
            larger: larger.collect::<Result<_, Misfit>>()?,
        })
    }

    /// What computes a batch of that size.
    pub(super) fn of(&self, batch: usize) -> &Conv {
        let fitting = self.larger.iter().rev().find(|(from, _)| *from <= batch);
        fitting.map_or(&self.smallest, |(_, conv)| conv)
    }

    /// The smallest batches that take another packing than those below them.
    pub(super) fn starts(&self) -> impl Iterator<Item = usize> {
        self.larger.iter().map(|(from, _)| *from)
    }

    /// Values of all packed weights.
    pub(super) fn packed_len(&self) -> usize {
        let larger = self.larger.iter().map(|(_, conv)| conv.packed_len());
        self.smallest.packed_len() + larger.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ConvParts, ConvSpec, Epilogue, Layout, Token};

    #[test]
    fn a_batch_takes_the_packing_that_begins_with_it_or_before() {
        let token = Token::detect(None);
        let layout = Layout {
            channels: 8,
            height: 4,
            width: 4,
            element: token.element(),
            lanes: token.lanes(),
            border: 1,
            gap: 0,
        };
        let make = |algorithm| {
            Conv::new(ConvParts {
                token,
                algorithm,
                spec: ConvSpec {
                    in_channels: 8,
                    out_channels: 8,
                    kernel: (3, 3),
                    stride: 1,
                    padding: (1, 1),
                    groups: 1,
                },
                input: layout,
                output: layout,
                weights: &[0.0; 8 * 8 * 9],
                epilogue: Epilogue::default(),
            })
        };
        let choice = |from, algorithm| Choice { from, algorithm };
        let rest = [
            choice(2, Algorithm::Winograd4),
            choice(8, Algorithm::Winograd6),
        ];
        let buckets = Buckets::new((Algorithm::Direct, &rest), make).expect("packings that fit");
        let taken = [1, 2, 7, 8, 9].map(|batch| buckets.of(batch).algorithm());
        use Algorithm::{Direct, Winograd4, Winograd6};
        assert_eq!(taken, [Direct, Winograd4, Winograd4, Winograd6, Winograd6]);
        assert_eq!(buckets.starts().collect::<Vec<_>>(), [2, 8]);
        let lens = [1, 2, 8].map(|batch| buckets.of(batch).packed_len());
        assert_eq!(buckets.packed_len(), lens.iter().sum::<usize>());
    }
}

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

    /// Values of all packed weights.
    pub(super) fn packed_len(&self) -> usize {
        let larger = self.larger.iter().map(|(_, conv)| conv.packed_len());
        self.smallest.packed_len() + larger.sum::<usize>()
    }
}

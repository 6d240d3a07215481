//! Pseudo-random weights and inputs that any language can reproduce, so that goldens and benchmarks need ship none.
//!
//! Each value is a function of the seed, the parameter's name and the element's index: splitmix64 (Steele et al. 2014)
//! started at the FNV-1a hash of the name. Values are computed in f64 and rounded once to f32.

use std::collections::BTreeMap;

use super::{WeightSource, WeightsError};
use crate::ir::{Graph, Shape};

/// The generated weights of one graph.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    norm_weight: [f64; 2],
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Generator {
    /// Weights for `graph`; batch-norm scales lie in `norm_weight`, `[lo, hi]`.
    pub fn new(graph: &Graph, seed: u64, norm_weight: [f64; 2]) -> Self {
        let parameters = graph.parameters().into_iter();
        Self {
            seed,
            norm_weight,
            shapes: parameters.map(|p| (p.name, p.shape)).collect(),
        }
    }

    /// `n` images of `shape` in `[-2, 2)`, `[n, c, h, w]`; the same for every graph of one seed.
    pub fn input(seed: u64, n: usize, shape: Shape) -> Vec<f32> {
        uniform("input", seed, n * shape.elements())
            .map(|u| (4.0 * u - 2.0) as f32)
            .collect()
    }
}

impl WeightSource for Generator {
    fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let shape = self
            .shapes
            .get(name)
            .ok_or_else(|| WeightsError::UnknownTensor(name.to_owned()))?;
        let range = self.range(name, shape);
        let values = uniform(name, self.seed, shape.iter().product());
        Ok(values.map(|u| range.at(u) as f32).collect())
    }
}

impl Generator {
    fn range(&self, name: &str, shape: &[usize]) -> Range {
        if let [_, fan_in @ ..] = shape
            && !fan_in.is_empty()
        {
            // He-uniform
            let fan_in = fan_in.iter().product::<usize>();
            return Range::Centred((6.0 / fan_in as f64).sqrt());
        }
        match name.rsplit('.').next() {
            Some("running_var") => Range::Between(0.8, 0.4),
            Some("weight") => {
                let [low, high] = self.norm_weight;
                Range::Between(low, high - low)
            }
            _ => Range::Centred(0.1),
        }
    }
}

#[derive(Clone, Copy)]
enum Range {
    /// `[-bound, bound)`
    Centred(f64),
    /// `[low, low + width)`
    Between(f64, f64),
}

impl Range {
    /// The definition's order of operations, for the last bit depends on it.
    fn at(self, u: f64) -> f64 {
        match self {
            Self::Centred(bound) => (2.0 * u - 1.0) * bound,
            Self::Between(low, width) => low + width * u,
        }
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// `n` values in `[0, 1)` with 24 random bits each.
fn uniform(name: &str, seed: u64, n: usize) -> impl Iterator<Item = f64> {
    let key = fnv1a64(name.as_bytes()) ^ seed;
    (1..=n as u64).map(move |i| {
        let bits = mix(key.wrapping_add(i.wrapping_mul(GOLDEN)));
        (bits >> 40) as f64 / f64::from(1 << 24)
    })
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// The output function of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

//! ResNets on CIFAR-10 trained with stochastic depth: Huang et al. 2016, "Deep Networks with Stochastic Depth".
//!
//! Training drops residual branches at random; of L blocks, the l-th survives with probability 1 - l / L * (1 - 0.5)
//! (equation 4), by which its branch is scaled at inference (equation 5). All else is the ResNet of the same depth with
//! shortcut A. Weights trained with branches scaled up by 1 / probability instead need that ResNet's graph (`unscaled`).

use super::cifar_resnet::{Numbers, Shortcut};
use super::registry::Architecture;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        unscaled: Some(|s, k| Numbers::new(110, Shortcut::A).graph(s, k)),
        ..Architecture::cifar("stochdepth_resnet110", "stochdepth", 2016, 110, |s, k| {
            numbers(110).graph(s, k)
        })
    },
    Architecture {
        unscaled: Some(|s, k| Numbers::new(1202, Shortcut::A).graph(s, k)),
        ..Architecture::cifar("stochdepth_resnet1202", "stochdepth", 2016, 1202, |s, k| {
            numbers(1202).graph(s, k)
        })
    },
];

const fn numbers(depth: usize) -> Numbers {
    Numbers {
        last_survival: 0.5,
        ..Numbers::new(depth, Shortcut::A)
    }
}

//! VGG: Simonyan & Zisserman 2015, table 1, configurations A, B, D and E; names are torchvision's.
//!
//! Depth, the number in the name, counts the convolutions and the three linear layers. `_bn` puts batch norm, which the
//! paper does not have, after every convolution.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::imagenet("vgg11", "vgg", 2014, 11, |s, k| A.graph(s, k)),
    Architecture::imagenet("vgg13", "vgg", 2014, 13, |s, k| B.graph(s, k)),
    Architecture::imagenet("vgg16", "vgg", 2014, 16, |s, k| D.graph(s, k)),
    Architecture::imagenet("vgg19", "vgg", 2014, 19, |s, k| E.graph(s, k)),
    Architecture::imagenet("vgg11_bn", "vgg_bn", 2014, 11, |s, k| {
        A.normalized().graph(s, k)
    }),
    Architecture::imagenet("vgg13_bn", "vgg_bn", 2014, 13, |s, k| {
        B.normalized().graph(s, k)
    }),
    Architecture::imagenet("vgg16_bn", "vgg_bn", 2014, 16, |s, k| {
        D.normalized().graph(s, k)
    }),
    Architecture::imagenet("vgg19_bn", "vgg_bn", 2014, 19, |s, k| {
        E.normalized().graph(s, k)
    }),
];

const A: Numbers = Numbers::new([1, 1, 2, 2, 2]);
const B: Numbers = Numbers::new([2, 2, 2, 2, 2]);
const D: Numbers = Numbers::new([2, 2, 3, 3, 3]);
const E: Numbers = Numbers::new([2, 2, 4, 4, 4]);

/// Output channels of each stage's convolutions.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

#[derive(Clone, Copy)]
struct Numbers {
    /// Convolutions of each stage, which a pool ends.
    convolutions: [usize; 5],
    batch_norm: bool,
}

impl Numbers {
    const fn new(convolutions: [usize; 5]) -> Self {
        Self {
            convolutions,
            batch_norm: false,
        }
    }

    const fn normalized(self) -> Self {
        Self {
            batch_norm: true,
            ..self
        }
    }

    fn graph(self, input: Shape, classes: usize) -> Result<Graph, String> {
        let (mut b, mut x) = Builder::new(input);
        // torchvision names a layer by its place in the list of all, activations and pools included
        let mut position = 0;
        for (convolutions, channels) in self.convolutions.into_iter().zip(CHANNELS) {
            for _ in 0..convolutions {
                let conv = Conv::square(channels, 3).biased();
                x = b.conv2d(&format!("features.{position}"), x, conv);
                if self.batch_norm {
                    position += 1;
                    x = b.batch_norm(&format!("features.{position}"), x);
                }
                x = b.relu(x);
                position += 2;
            }
            x = b.max_pool(x, Pool2d::square(2, 2));
            position += 1;
        }
        let x = b.adaptive_avg_pool(x, 7);
        let mut x = b.flatten(x);
        for name in ["classifier.0", "classifier.3"] {
            x = b.linear(name, x, 4096);
            x = b.relu(x);
        }
        b.linear("classifier.6", x, classes);
        b.finish()
    }
}

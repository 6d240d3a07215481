//! AlexNet: Krizhevsky et al. 2012, in the variant for one device that torchvision has (Krizhevsky 2014, "One weird
//! trick for parallelizing convolutional neural networks").
//!
//! Depth is 8, as the paper counts: five convolutions and three linear layers.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::imagenet("alexnet", "alexnet", 2012, 8, graph)];

/// Position in torchvision's list of layers, convolution, whether a pool follows.
const CONVOLUTIONS: [(usize, Conv, bool); 5] = [
    (0, Conv::square(64, 11).strided(4).padded(2), true),
    (3, Conv::square(192, 5), true),
    (6, Conv::square(384, 3), false),
    (8, Conv::square(256, 3), false),
    (10, Conv::square(256, 3), true),
];

fn graph(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, mut x) = Builder::new(input);
    for (position, conv, pooled) in CONVOLUTIONS {
        x = b.conv2d(&format!("features.{position}"), x, conv.biased());
        x = b.relu(x);
        if pooled {
            x = b.max_pool(x, Pool2d::square(3, 2));
        }
    }
    let x = b.adaptive_avg_pool(x, 6);
    let mut x = b.flatten(x);
    for name in ["classifier.1", "classifier.4"] {
        x = b.linear(name, x, 4096);
        x = b.relu(x);
    }
    b.linear("classifier.6", x, classes);
    b.finish()
}

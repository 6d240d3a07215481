//! Network in Network: Lin et al. 2013; four mlpconv layers for ImageNet, three for CIFAR-10.
//!
//! An mlpconv layer is a convolution and two 1x1 convolutions, each followed by ReLU; the last one has a channel for
//! each class, whose mean is the logit. Depth counts the convolutions, 12 and 9; the paper states no number.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::imagenet("nin", "nin", 2013, 12, imagenet),
    Architecture::cifar("nin_cifar", "nin", 2013, 9, cifar),
];

/// Pools of both networks overlap and count a last partial window.
const POOL: Pool2d = Pool2d::square(3, 2).ceil();

fn imagenet(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let stem = Conv::square(96, 11).strided(4).padded(0);
    let x = mlpconv(&mut b, 0, x, stem, [96, 96]);
    let x = b.max_pool(x, POOL);
    let x = mlpconv(&mut b, 7, x, Conv::square(256, 5), [256, 256]);
    let x = b.max_pool(x, POOL);
    let x = mlpconv(&mut b, 14, x, Conv::square(384, 3), [384, 384]);
    let x = b.max_pool(x, POOL);
    // a dropout before it takes a number too
    let x = mlpconv(&mut b, 22, x, Conv::square(1024, 3), [1024, classes]);
    logits(b, x)
}

fn cifar(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let x = mlpconv(&mut b, 0, x, Conv::square(192, 5), [160, 96]);
    let x = b.max_pool(x, POOL);
    // the pools of this network are followed by a dropout, which takes a number too
    let x = mlpconv(&mut b, 8, x, Conv::square(192, 5), [192, 192]);
    let x = b.avg_pool(x, POOL, true);
    let x = mlpconv(&mut b, 16, x, Conv::square(192, 3), [192, classes]);
    logits(b, x)
}

/// Layers are named by their position in the list of all, activations included; `position` is the first one's.
fn mlpconv(
    b: &mut Builder,
    position: usize,
    x: NodeId,
    conv: Conv,
    channels: [usize; 2],
) -> NodeId {
    let [first, second] = channels.map(|channels| Conv::square(channels, 1));
    let mut x = x;
    for (i, conv) in [conv, first, second].into_iter().enumerate() {
        x = b.conv2d(&format!("features.{}", position + 2 * i), x, conv.biased());
        x = b.relu(x);
    }
    x
}

fn logits(mut b: Builder, x: NodeId) -> Result<Graph, String> {
    let x = b.global_avg_pool(x);
    b.flatten(x);
    b.finish()
}

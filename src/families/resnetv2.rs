//! Pre-activation ResNets on ImageNet: He et al. 2016, "Identity Mappings in Deep Residual Networks".
//!
//! Names are timm's (`resnetv2_*`), whose classifier is a 1x1 convolution. Depth counts the weighted layers on the
//! longest path: projections are not counted.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::imagenet("resnetv2_50", "resnetv2", 2016, 50, |s, k| {
        graph([3, 4, 6, 3], s, k)
    }),
    Architecture::imagenet("resnetv2_101", "resnetv2", 2016, 101, |s, k| {
        graph([3, 4, 23, 3], s, k)
    }),
    Architecture::imagenet("resnetv2_152", "resnetv2", 2016, 152, |s, k| {
        graph([3, 8, 36, 3], s, k)
    }),
];

fn graph(stages: [usize; 4], input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let x = b.conv("stem.conv", x, 64, 7, 2);
    let mut x = b.max_pool(x, Pool2d::square(3, 2).padded(1));
    for (stage, &blocks) in stages.iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("stages.{stage}.blocks.{block}");
            x = bottleneck(&mut b, &name, x, 256 << stage, stride);
        }
    }
    let x = b.batch_norm("norm", x);
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    b.conv2d("head.fc", x, Conv::square(classes, 1).biased());
    b.finish()
}

/// Normalize and activate before each convolution; a projection reads the activated input.
fn bottleneck(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    out_channels: usize,
    stride: usize,
) -> NodeId {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let width = out_channels / 4;
    let a = b.batch_norm(&part("norm1"), x);
    let a = b.relu(a);
    let shortcut = if stride != 1 || b.channels(x) != out_channels {
        b.conv(&part("downsample.conv"), a, out_channels, 1, stride)
    } else {
        x
    };
    let y = b.conv(&part("conv1"), a, width, 1, 1);
    let y = b.batch_norm(&part("norm2"), y);
    let y = b.relu(y);
    let y = b.conv(&part("conv2"), y, width, 3, stride);
    let y = b.batch_norm(&part("norm3"), y);
    let y = b.relu(y);
    let y = b.conv(&part("conv3"), y, out_channels, 1, 1);
    b.add(y, shortcut)
}

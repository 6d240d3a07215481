//! ResNeXt on CIFAR-10: Xie et al. 2017, section 5.3.
//!
//! `resnext29_<cardinality>x<width>d`: three stages of three bottlenecks, depth 9n + 2; projections are not counted.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::cifar("resnext29_8x64d", "cifar_resnext", 2016, 29, |s, k| {
        graph(8, s, k)
    }),
    Architecture::cifar("resnext29_16x64d", "cifar_resnext", 2016, 29, |s, k| {
        graph(16, s, k)
    }),
];

fn graph(cardinality: usize, input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let x = b.conv("conv1", x, 64, 3, 1);
    let x = b.batch_norm("bn1", x);
    let mut x = b.relu(x);
    for stage in 0..3 {
        for block in 0..3 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            let width = (cardinality * 64) << stage;
            x = bottleneck(&mut b, &name, x, (width, 256 << stage), stride, cardinality);
        }
    }
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, classes);
    b.finish()
}

fn bottleneck(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    (width, out_channels): (usize, usize),
    stride: usize,
    groups: usize,
) -> NodeId {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let y = b.conv(&part("conv1"), x, width, 1, 1);
    let y = b.batch_norm(&part("bn1"), y);
    let y = b.relu(y);
    let grouped = Conv::square(width, 3).strided(stride).grouped(groups);
    let y = b.conv2d(&part("conv2"), y, grouped);
    let y = b.batch_norm(&part("bn2"), y);
    let y = b.relu(y);
    let y = b.conv(&part("conv3"), y, out_channels, 1, 1);
    let y = b.batch_norm(&part("bn3"), y);
    let shortcut = if stride != 1 || b.channels(x) != out_channels {
        let s = b.conv(&part("downsample.0"), x, out_channels, 1, stride);
        b.batch_norm(&part("downsample.1"), s)
    } else {
        x
    };
    let sum = b.add(y, shortcut);
    b.relu(sum)
}

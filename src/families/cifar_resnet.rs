//! Plain nets and ResNets on CIFAR-10: He et al. 2015, section 4.2.
//!
//! Depth is 6n + 2: a stem, three stages of n basic blocks with 16, 32 and 64 channels, a classifier. Shortcut A
//! (strided identity, zeros for the new channels) has no parameters; names ending in `_b` use shortcut B, a 1x1
//! convolution with batch norm, which the depth does not count.

use super::registry::Architecture;
use crate::ir::{Builder, Graph, NodeId, Op, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::cifar("plain20", "cifar_plain", 20, |s, k| {
        graph(20, Shortcut::None, s, k)
    }),
    Architecture::cifar("plain32", "cifar_plain", 32, |s, k| {
        graph(32, Shortcut::None, s, k)
    }),
    Architecture::cifar("plain44", "cifar_plain", 44, |s, k| {
        graph(44, Shortcut::None, s, k)
    }),
    Architecture::cifar("plain56", "cifar_plain", 56, |s, k| {
        graph(56, Shortcut::None, s, k)
    }),
    Architecture::cifar("resnet20", "cifar_resnet", 20, |s, k| {
        graph(20, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet32", "cifar_resnet", 32, |s, k| {
        graph(32, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet44", "cifar_resnet", 44, |s, k| {
        graph(44, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet56", "cifar_resnet", 56, |s, k| {
        graph(56, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet110", "cifar_resnet", 110, |s, k| {
        graph(110, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet1202", "cifar_resnet", 1202, |s, k| {
        graph(1202, Shortcut::A, s, k)
    }),
    Architecture::cifar("resnet20_b", "cifar_resnet", 20, |s, k| {
        graph(20, Shortcut::B, s, k)
    }),
    Architecture::cifar("resnet32_b", "cifar_resnet", 32, |s, k| {
        graph(32, Shortcut::B, s, k)
    }),
    Architecture::cifar("resnet44_b", "cifar_resnet", 44, |s, k| {
        graph(44, Shortcut::B, s, k)
    }),
    Architecture::cifar("resnet56_b", "cifar_resnet", 56, |s, k| {
        graph(56, Shortcut::B, s, k)
    }),
    Architecture::cifar("resnet110_b", "cifar_resnet", 110, |s, k| {
        graph(110, Shortcut::B, s, k)
    }),
    Architecture::cifar("resnet1202_b", "cifar_resnet", 1202, |s, k| {
        graph(1202, Shortcut::B, s, k)
    }),
];

#[derive(Clone, Copy)]
enum Shortcut {
    None,
    A,
    B,
}

fn graph(depth: usize, shortcut: Shortcut, input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let x = b.conv("conv1", x, 16, 3, 1);
    let x = b.batch_norm("bn1", x);
    let mut x = b.relu(x);
    for stage in 0..3 {
        for block in 0..(depth - 2) / 6 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            x = basic(&mut b, &name, x, 16 << stage, stride, shortcut);
        }
    }
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, classes);
    b.finish()
}

fn basic(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    planes: usize,
    stride: usize,
    shortcut: Shortcut,
) -> NodeId {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let y = b.conv(&part("conv1"), x, planes, 3, stride);
    let y = b.batch_norm(&part("bn1"), y);
    let y = b.relu(y);
    let y = b.conv(&part("conv2"), y, planes, 3, 1);
    let y = b.batch_norm(&part("bn2"), y);
    let resized = stride != 1 || b.channels(x) != planes;
    let s = match shortcut {
        Shortcut::None => return b.relu(y),
        Shortcut::A if resized => {
            let extra = planes - b.channels(x);
            let s = b.layer("", Op::Subsample { stride }, &[x]);
            b.layer("", Op::PadChannels { extra }, &[s])
        }
        Shortcut::B if resized => {
            let s = b.conv(&part("downsample.0"), x, planes, 1, stride);
            b.batch_norm(&part("downsample.1"), s)
        }
        Shortcut::A | Shortcut::B => x,
    };
    let sum = b.add(y, s);
    b.relu(sum)
}

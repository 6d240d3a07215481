//! Plain nets and ResNets on CIFAR-10: He et al. 2015, section 4.2.
//!
//! Depth is 6n + 2: a stem, three stages of n basic blocks with 16, 32 and 64 channels, a classifier. Shortcut A
//! (strided identity, zeros for the new channels) has no parameters; names ending in `_b` use shortcut B, a 1x1
//! convolution with batch norm, which the depth does not count.

use super::registry::Architecture;
use crate::ir::{Builder, Graph, NodeId, Op, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::cifar("plain20", "cifar_plain", 2015, 20, |s, k| {
        Numbers::new(20, Shortcut::None).graph(s, k)
    }),
    Architecture::cifar("plain32", "cifar_plain", 2015, 32, |s, k| {
        Numbers::new(32, Shortcut::None).graph(s, k)
    }),
    Architecture::cifar("plain44", "cifar_plain", 2015, 44, |s, k| {
        Numbers::new(44, Shortcut::None).graph(s, k)
    }),
    Architecture::cifar("plain56", "cifar_plain", 2015, 56, |s, k| {
        Numbers::new(56, Shortcut::None).graph(s, k)
    }),
    Architecture::cifar("resnet20", "cifar_resnet", 2015, 20, |s, k| {
        Numbers::new(20, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet32", "cifar_resnet", 2015, 32, |s, k| {
        Numbers::new(32, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet44", "cifar_resnet", 2015, 44, |s, k| {
        Numbers::new(44, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet56", "cifar_resnet", 2015, 56, |s, k| {
        Numbers::new(56, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet110", "cifar_resnet", 2015, 110, |s, k| {
        Numbers::new(110, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet1202", "cifar_resnet", 2015, 1202, |s, k| {
        Numbers::new(1202, Shortcut::A).graph(s, k)
    }),
    Architecture::cifar("resnet20_b", "cifar_resnet", 2015, 20, |s, k| {
        Numbers::new(20, Shortcut::B).graph(s, k)
    }),
    Architecture::cifar("resnet32_b", "cifar_resnet", 2015, 32, |s, k| {
        Numbers::new(32, Shortcut::B).graph(s, k)
    }),
    Architecture::cifar("resnet44_b", "cifar_resnet", 2015, 44, |s, k| {
        Numbers::new(44, Shortcut::B).graph(s, k)
    }),
    Architecture::cifar("resnet56_b", "cifar_resnet", 2015, 56, |s, k| {
        Numbers::new(56, Shortcut::B).graph(s, k)
    }),
    Architecture::cifar("resnet110_b", "cifar_resnet", 2015, 110, |s, k| {
        Numbers::new(110, Shortcut::B).graph(s, k)
    }),
    Architecture::cifar("resnet1202_b", "cifar_resnet", 2015, 1202, |s, k| {
        Numbers::new(1202, Shortcut::B).graph(s, k)
    }),
];

#[derive(Clone, Copy)]
pub(super) enum Shortcut {
    None,
    A,
    B,
}

pub(super) struct Numbers {
    pub(super) depth: usize,
    pub(super) shortcut: Shortcut,
    /// What the last residual branch is scaled by; those before it by values falling evenly from 1.
    pub(super) last_survival: f64,
}

impl Numbers {
    pub(super) const fn new(depth: usize, shortcut: Shortcut) -> Self {
        Self {
            depth,
            shortcut,
            last_survival: 1.0,
        }
    }

    pub(super) fn graph(&self, input: Shape, classes: usize) -> Result<Graph, String> {
        let (mut b, x) = Builder::new(input);
        let x = b.conv("conv1", x, 16, 3, 1);
        let x = b.batch_norm("bn1", x);
        let mut x = b.relu(x);
        let blocks = (self.depth - 2) / 6;
        for index in 0..3 * blocks {
            let (stage, block) = (index / blocks, index % blocks);
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let planes = 16 << stage;
            let branch = branch(&mut b, &name, x, planes, stride);
            let branch = self.scaled(&mut b, branch, (index + 1) as f64 / (3 * blocks) as f64);
            let sum = match self.shortcut(&mut b, &name, x, planes, stride) {
                Some(shortcut) => b.add(branch, shortcut),
                None => branch,
            };
            x = b.relu(sum);
        }
        let x = b.global_avg_pool(x);
        let x = b.flatten(x);
        b.linear("fc", x, classes);
        b.finish()
    }

    /// The branch of the block that ends this part of all blocks.
    fn scaled(&self, b: &mut Builder, branch: NodeId, part: f64) -> NodeId {
        let survival = 1.0 - part * (1.0 - self.last_survival);
        if survival == 1.0 {
            return branch;
        }
        b.scale(branch, survival)
    }

    fn shortcut(
        &self,
        b: &mut Builder,
        name: &str,
        x: NodeId,
        planes: usize,
        stride: usize,
    ) -> Option<NodeId> {
        let resized = stride != 1 || b.channels(x) != planes;
        let shortcut = match self.shortcut {
            Shortcut::None => return None,
            Shortcut::A if resized => {
                let extra = planes - b.channels(x);
                let s = b.layer("", Op::Subsample { stride }, &[x]);
                b.layer("", Op::PadChannels { extra }, &[s])
            }
            Shortcut::B if resized => {
                let s = b.conv(&format!("{name}.downsample.0"), x, planes, 1, stride);
                b.batch_norm(&format!("{name}.downsample.1"), s)
            }
            Shortcut::A | Shortcut::B => x,
        };
        Some(shortcut)
    }
}

fn branch(b: &mut Builder, name: &str, x: NodeId, planes: usize, stride: usize) -> NodeId {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let y = b.conv(&part("conv1"), x, planes, 3, stride);
    let y = b.batch_norm(&part("bn1"), y);
    let y = b.relu(y);
    let y = b.conv(&part("conv2"), y, planes, 3, 1);
    b.batch_norm(&part("bn2"), y)
}

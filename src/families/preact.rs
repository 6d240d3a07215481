//! Pre-activation ResNets on CIFAR-10: He et al. 2016, "Identity Mappings in Deep Residual Networks", appendix.
//!
//! Depth is 6n + 2 with basic blocks (110) and 9n + 2 with bottlenecks (164, 1001); projections, which read the
//! activated input, are not counted. Wide ResNets (`wrn`) are the same network with more channels.

use super::registry::Architecture;
use crate::ir::{Builder, Graph, NodeId, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::cifar("preact_resnet110", "preact_resnet", 2016, 110, |s, k| {
        Numbers::new(Block::Basic, 18, [16, 32, 64]).graph(s, k)
    }),
    Architecture::cifar("preact_resnet164", "preact_resnet", 2016, 164, |s, k| {
        Numbers::new(Block::Bottleneck, 18, [64, 128, 256]).graph(s, k)
    }),
    Architecture::cifar("preact_resnet1001", "preact_resnet", 2016, 1001, |s, k| {
        Numbers::new(Block::Bottleneck, 111, [64, 128, 256]).graph(s, k)
    }),
];

#[derive(Clone, Copy)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1 to a quarter of the width, 3x3, 1x1 back.
    Bottleneck,
}

pub(super) struct Numbers {
    block: Block,
    /// Blocks in each of the three stages.
    blocks: usize,
    /// Output channels of each stage.
    channels: [usize; 3],
}

impl Numbers {
    pub(super) const fn new(block: Block, blocks: usize, channels: [usize; 3]) -> Self {
        Self {
            block,
            blocks,
            channels,
        }
    }

    pub(super) fn graph(&self, input: Shape, classes: usize) -> Result<Graph, String> {
        let (mut b, x) = Builder::new(input);
        let mut x = b.conv("conv1", x, 16, 3, 1);
        for (stage, &channels) in self.channels.iter().enumerate() {
            for block in 0..self.blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                x = self.block(&mut b, &name, x, channels, stride);
            }
        }
        let x = b.batch_norm("bn", x);
        let x = b.relu(x);
        let x = b.global_avg_pool(x);
        let x = b.flatten(x);
        b.linear("fc", x, classes);
        b.finish()
    }

    fn block(
        &self,
        b: &mut Builder,
        name: &str,
        x: NodeId,
        channels: usize,
        stride: usize,
    ) -> NodeId {
        let part = |leaf: &str| format!("{name}.{leaf}");
        let a = b.batch_norm(&part("bn1"), x);
        let a = b.relu(a);
        let shortcut = if stride != 1 || b.channels(x) != channels {
            b.conv(&part("downsample.0"), a, channels, 1, stride)
        } else {
            x
        };
        let y = match self.block {
            Block::Basic => {
                let y = b.conv(&part("conv1"), a, channels, 3, stride);
                let y = b.batch_norm(&part("bn2"), y);
                let y = b.relu(y);
                b.conv(&part("conv2"), y, channels, 3, 1)
            }
            Block::Bottleneck => {
                let y = b.conv(&part("conv1"), a, channels / 4, 1, 1);
                let y = b.batch_norm(&part("bn2"), y);
                let y = b.relu(y);
                let y = b.conv(&part("conv2"), y, channels / 4, 3, stride);
                let y = b.batch_norm(&part("bn3"), y);
                let y = b.relu(y);
                b.conv(&part("conv3"), y, channels, 1, 1)
            }
        };
        b.add(y, shortcut)
    }
}

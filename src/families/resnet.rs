//! ResNet, ResNeXt and Wide ResNet on ImageNet, and the plain nets they are compared with.
//!
//! He et al. 2015 (table 1; the stride sits on the 3x3 convolution, as in torchvision), Xie et al. 2017 (table 1),
//! Zagoruyko & Komodakis 2016. Names are torchvision's. Depth counts the weighted layers on the longest path:
//! projections are not counted.

use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::imagenet("plain18", "plain", 2015, 18, |s, k| PLAIN18.graph(s, k)),
    Architecture::imagenet("plain34", "plain", 2015, 34, |s, k| PLAIN34.graph(s, k)),
    Architecture::imagenet("resnet18", "resnet", 2015, 18, |s, k| RESNET18.graph(s, k)),
    Architecture::imagenet("resnet34", "resnet", 2015, 34, |s, k| RESNET34.graph(s, k)),
    Architecture::imagenet("resnet50", "resnet", 2015, 50, |s, k| RESNET50.graph(s, k)),
    Architecture::imagenet("resnet101", "resnet", 2015, 101, |s, k| {
        RESNET101.graph(s, k)
    }),
    Architecture::imagenet("resnet152", "resnet", 2015, 152, |s, k| {
        RESNET152.graph(s, k)
    }),
    Architecture::imagenet("resnext50_32x4d", "resnext", 2016, 50, |s, k| {
        RESNET50.grouped(32, 4).graph(s, k)
    }),
    Architecture::imagenet("resnext101_32x8d", "resnext", 2016, 101, |s, k| {
        RESNET101.grouped(32, 8).graph(s, k)
    }),
    Architecture::imagenet("resnext101_64x4d", "resnext", 2016, 101, |s, k| {
        RESNET101.grouped(64, 4).graph(s, k)
    }),
    Architecture::imagenet("wide_resnet50_2", "wide_resnet", 2016, 50, |s, k| {
        RESNET50.grouped(1, 128).graph(s, k)
    }),
    Architecture::imagenet("wide_resnet101_2", "wide_resnet", 2016, 101, |s, k| {
        RESNET101.grouped(1, 128).graph(s, k)
    }),
];

const RESNET18: Numbers = Numbers {
    block: Block::Basic,
    blocks: [2, 2, 2, 2],
    groups: 1,
    group_width: 64,
    shortcuts: true,
};
const RESNET34: Numbers = Numbers {
    blocks: [3, 4, 6, 3],
    ..RESNET18
};
const RESNET50: Numbers = Numbers {
    block: Block::Bottleneck,
    ..RESNET34
};
const RESNET101: Numbers = Numbers {
    blocks: [3, 4, 23, 3],
    ..RESNET50
};
const RESNET152: Numbers = Numbers {
    blocks: [3, 8, 36, 3],
    ..RESNET50
};
const PLAIN18: Numbers = Numbers {
    shortcuts: false,
    ..RESNET18
};
const PLAIN34: Numbers = Numbers {
    shortcuts: false,
    ..RESNET34
};

#[derive(Clone, Copy, PartialEq)]
enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 in `groups`, 1x1 to four times the stage's width.
    Bottleneck,
}

#[derive(Clone, Copy)]
struct Numbers {
    block: Block,
    /// Blocks in each of the four stages.
    blocks: [usize; 4],
    /// Cardinality of the bottleneck's 3x3 convolution.
    groups: usize,
    /// Channels of one group in the first stage; doubles with each stage.
    group_width: usize,
    shortcuts: bool,
}

impl Numbers {
    const fn grouped(self, groups: usize, group_width: usize) -> Self {
        Self {
            groups,
            group_width,
            ..self
        }
    }

    fn graph(&self, input: Shape, classes: usize) -> Result<Graph, String> {
        let (mut b, x) = Builder::new(input);
        let x = b.conv("conv1", x, 64, 7, 2);
        let x = b.batch_norm("bn1", x);
        let x = b.relu(x);
        let mut x = b.max_pool(x, Pool2d::square(3, 2).padded(1));
        for (stage, &blocks) in self.blocks.iter().enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                x = self.block(&mut b, &name, x, 64 << stage, stride);
            }
        }
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
        planes: usize,
        stride: usize,
    ) -> NodeId {
        let part = |leaf: &str| format!("{name}.{leaf}");
        let out_channels = match self.block {
            Block::Basic => planes,
            Block::Bottleneck => planes * 4,
        };
        let y = match self.block {
            Block::Basic => {
                let y = b.conv(&part("conv1"), x, planes, 3, stride);
                let y = b.batch_norm(&part("bn1"), y);
                let y = b.relu(y);
                let y = b.conv(&part("conv2"), y, planes, 3, 1);
                b.batch_norm(&part("bn2"), y)
            }
            Block::Bottleneck => {
                let width = planes * self.group_width / 64 * self.groups;
                let y = b.conv(&part("conv1"), x, width, 1, 1);
                let y = b.batch_norm(&part("bn1"), y);
                let y = b.relu(y);
                let grouped = Conv::square(width, 3).strided(stride).grouped(self.groups);
                let y = b.conv2d(&part("conv2"), y, grouped);
                let y = b.batch_norm(&part("bn2"), y);
                let y = b.relu(y);
                let y = b.conv(&part("conv3"), y, out_channels, 1, 1);
                b.batch_norm(&part("bn3"), y)
            }
        };
        if !self.shortcuts {
            return b.relu(y);
        }
        let shortcut = if stride != 1 || b.channels(x) != out_channels {
            let s = b.conv(&part("downsample.0"), x, out_channels, 1, stride);
            b.batch_norm(&part("downsample.1"), s)
        } else {
            x
        };
        let sum = b.add(y, shortcut);
        b.relu(sum)
    }
}

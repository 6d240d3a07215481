//! Inception-ResNet-v2: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
//! Learning"; names and sizes are timm's, which are those of the authors' code rather than of the paper's figures.
//!
//! Each residual branch is scaled before it is added (section 3.3). Depth is 176, the weighted layers on the longest
//! path; the paper states no number.

use super::inception::{REDUCTION_POOL, SAME_POOL, branch, point, reduction, unit};
use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    input_size: 299,
    ..Architecture::imagenet("inception_resnet_v2", "inception_resnet", 2016, 176, graph)
}];

/// A block: parallel branches, joined, widened to the block's input by a 1x1 convolution, scaled and added to it.
struct Block {
    branches: &'static [&'static [(&'static str, Conv)]],
    scale: f64,
}

/// On a grid of 35 x 35.
const BLOCK35: Block = Block {
    branches: &[
        &[("branch0", point(32))],
        &[("branch1.0", point(32)), ("branch1.1", Conv::square(32, 3))],
        &[
            ("branch2.0", point(32)),
            ("branch2.1", Conv::square(48, 3)),
            ("branch2.2", Conv::square(64, 3)),
        ],
    ],
    scale: 0.17,
};
const BLOCK17: Block = Block {
    branches: &[
        &[("branch0", point(192))],
        &[
            ("branch1.0", point(128)),
            ("branch1.1", Conv::new(160, (1, 7))),
            ("branch1.2", Conv::new(192, (7, 1))),
        ],
    ],
    scale: 0.1,
};
const BLOCK8: Block = Block {
    branches: &[
        &[("branch0", point(192))],
        &[
            ("branch1.0", point(192)),
            ("branch1.1", Conv::new(224, (1, 3))),
            ("branch1.2", Conv::new(256, (3, 1))),
        ],
    ],
    scale: 0.2,
};

fn graph(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let x = stem(&mut b, x);
    let x = mixed_5b(&mut b, x);
    let x = BLOCK35.repeated(&mut b, "repeat", x, 10);
    let x = mixed_6a(&mut b, x);
    let x = BLOCK17.repeated(&mut b, "repeat_1", x, 20);
    let x = mixed_7a(&mut b, x);
    let x = BLOCK8.repeated(&mut b, "repeat_2", x, 9);
    // the last block is neither scaled nor activated
    let residual = BLOCK8.residual(&mut b, "block8", x);
    let x = b.add(x, residual);
    let x = unit(&mut b, "conv2d_7b", x, point(1536));
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("classif", x, classes);
    b.finish()
}

fn stem(b: &mut Builder, x: NodeId) -> NodeId {
    let x = unit(b, "conv2d_1a", x, reduction(32));
    let x = unit(b, "conv2d_2a", x, Conv::square(32, 3).padded(0));
    let x = unit(b, "conv2d_2b", x, Conv::square(64, 3));
    let x = b.max_pool(x, REDUCTION_POOL);
    let x = unit(b, "conv2d_3b", x, point(80));
    let x = unit(b, "conv2d_4a", x, Conv::square(192, 3).padded(0));
    b.max_pool(x, REDUCTION_POOL)
}

fn mixed_5b(b: &mut Builder, x: NodeId) -> NodeId {
    let name = "mixed_5b";
    let wide = [("branch1.0", point(48)), ("branch1.1", Conv::square(64, 5))];
    let double = [
        ("branch2.0", point(64)),
        ("branch2.1", Conv::square(96, 3)),
        ("branch2.2", Conv::square(96, 3)),
    ];
    let pooled = b.avg_pool(x, SAME_POOL, false);
    let branches = [
        branch(b, name, x, &[("branch0", point(96))]),
        branch(b, name, x, &wide),
        branch(b, name, x, &double),
        branch(b, name, pooled, &[("branch3.1", point(64))]),
    ];
    b.concat(&branches)
}

fn mixed_6a(b: &mut Builder, x: NodeId) -> NodeId {
    let name = "mixed_6a";
    let double = [
        ("branch1.0", point(256)),
        ("branch1.1", Conv::square(256, 3)),
        ("branch1.2", reduction(384)),
    ];
    let branches = [
        branch(b, name, x, &[("branch0", reduction(384))]),
        branch(b, name, x, &double),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

fn mixed_7a(b: &mut Builder, x: NodeId) -> NodeId {
    let name = "mixed_7a";
    let double = [
        ("branch2.0", point(256)),
        ("branch2.1", Conv::square(288, 3)),
        ("branch2.2", reduction(320)),
    ];
    let first = [("branch0.0", point(256)), ("branch0.1", reduction(384))];
    let second = [("branch1.0", point(256)), ("branch1.1", reduction(288))];
    let branches = [
        branch(b, name, x, &first),
        branch(b, name, x, &second),
        branch(b, name, x, &double),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

impl Block {
    fn repeated(&self, b: &mut Builder, name: &str, x: NodeId, times: usize) -> NodeId {
        (0..times).fold(x, |x, i| {
            let residual = self.residual(b, &format!("{name}.{i}"), x);
            let residual = b.scale(residual, self.scale);
            let x = b.add(x, residual);
            b.relu(x)
        })
    }

    fn residual(&self, b: &mut Builder, name: &str, x: NodeId) -> NodeId {
        let branches: Vec<NodeId> = self
            .branches
            .iter()
            .map(|units| branch(b, name, x, units))
            .collect();
        let joined = b.concat(&branches);
        let widen = point(b.channels(x)).biased();
        b.conv2d(&format!("{name}.conv2d"), joined, widen)
    }
}

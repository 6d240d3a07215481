//! GoogLeNet: Szegedy et al. 2014, "Going Deeper with Convolutions", table 1, as torchvision has it: with batch norm,
//! without local response normalization, and with 3x3 kernels where the paper says 5x5.
//!
//! Depth is 22, as the paper counts: the weighted layers on the longest path. The two auxiliary classifiers are for
//! training only.

use super::inception::{SAME_POOL, branch, point, unit};
use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Pool2d, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::imagenet(
    "googlenet",
    "googlenet",
    2014,
    22,
    graph,
)];

/// A row of table 1.
struct Module {
    name: &'static str,
    /// #1x1.
    point: usize,
    /// #3x3 reduce, #3x3.
    middle: [usize; 2],
    /// #5x5 reduce, #5x5.
    wide: [usize; 2],
    /// Pool proj.
    pool: usize,
}

const fn module(
    name: &'static str,
    point: usize,
    middle: [usize; 2],
    wide: [usize; 2],
    pool: usize,
) -> Module {
    Module {
        name,
        point,
        middle,
        wide,
        pool,
    }
}

const STAGE3: [Module; 2] = [
    module("inception3a", 64, [96, 128], [16, 32], 32),
    module("inception3b", 128, [128, 192], [32, 96], 64),
];
const STAGE4: [Module; 5] = [
    module("inception4a", 192, [96, 208], [16, 48], 64),
    module("inception4b", 160, [112, 224], [24, 64], 64),
    module("inception4c", 128, [128, 256], [24, 64], 64),
    module("inception4d", 112, [144, 288], [32, 64], 64),
    module("inception4e", 256, [160, 320], [32, 128], 128),
];
const STAGE5: [Module; 2] = [
    module("inception5a", 256, [160, 320], [32, 128], 128),
    module("inception5b", 384, [192, 384], [48, 128], 128),
];

fn graph(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    b.training_only(&["aux1.", "aux2."]);
    let halve = Pool2d::square(3, 2).ceil();
    let x = unit(&mut b, "conv1", x, Conv::square(64, 7).strided(2));
    let x = b.max_pool(x, halve);
    let x = unit(&mut b, "conv2", x, point(64));
    let x = unit(&mut b, "conv3", x, Conv::square(192, 3));
    let x = b.max_pool(x, halve);
    let x = STAGE3.iter().fold(x, |x, module| module.add(&mut b, x));
    let x = b.max_pool(x, halve);
    let x = STAGE4.iter().fold(x, |x, module| module.add(&mut b, x));
    let x = b.max_pool(x, Pool2d::square(2, 2).ceil());
    let x = STAGE5.iter().fold(x, |x, module| module.add(&mut b, x));
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, classes);
    b.finish()
}

impl Module {
    fn add(&self, b: &mut Builder, x: NodeId) -> NodeId {
        let three = |channels| Conv::square(channels, 3);
        let [middle_in, middle_out] = self.middle;
        let [wide_in, wide_out] = self.wide;
        let middle = [
            ("branch2.0", point(middle_in)),
            ("branch2.1", three(middle_out)),
        ];
        let wide = [
            ("branch3.0", point(wide_in)),
            ("branch3.1", three(wide_out)),
        ];
        let pooled = b.max_pool(x, SAME_POOL);
        let branches = [
            branch(b, self.name, x, &[("branch1", point(self.point))]),
            branch(b, self.name, x, &middle),
            branch(b, self.name, x, &wide),
            branch(b, self.name, pooled, &[("branch4.1", point(self.pool))]),
        ];
        b.concat(&branches)
    }
}

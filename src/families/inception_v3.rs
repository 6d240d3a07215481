//! Inception-v3: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", as torchvision has
//! it; timm's names are the same.
//!
//! Depth is 48, the weighted layers on the longest path of this network. The paper says 42 of the one in its table 1,
//! whose stem differs, and not how it counts. The auxiliary classifier is for training only.

use super::inception::{REDUCTION_POOL, SAME_POOL, branch, point, reduction, unit};
use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    input_size: 299,
    ..Architecture::imagenet("inception_v3", "inception", 2015, 48, graph)
}];

fn graph(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    b.training_only(&["AuxLogits."]);
    let x = stem(&mut b, x);
    let x = grid35(&mut b, "Mixed_5b", x, 32);
    let x = grid35(&mut b, "Mixed_5c", x, 64);
    let x = grid35(&mut b, "Mixed_5d", x, 64);
    let x = to_grid17(&mut b, "Mixed_6a", x);
    let x = grid17(&mut b, "Mixed_6b", x, 128);
    let x = grid17(&mut b, "Mixed_6c", x, 160);
    let x = grid17(&mut b, "Mixed_6d", x, 160);
    let x = grid17(&mut b, "Mixed_6e", x, 192);
    let x = to_grid8(&mut b, "Mixed_7a", x);
    let x = grid8(&mut b, "Mixed_7b", x);
    let x = grid8(&mut b, "Mixed_7c", x);
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, classes);
    b.finish()
}

fn stem(b: &mut Builder, x: NodeId) -> NodeId {
    let x = unit(b, "Conv2d_1a_3x3", x, reduction(32));
    let x = unit(b, "Conv2d_2a_3x3", x, Conv::square(32, 3).padded(0));
    let x = unit(b, "Conv2d_2b_3x3", x, Conv::square(64, 3));
    let x = b.max_pool(x, REDUCTION_POOL);
    let x = unit(b, "Conv2d_3b_1x1", x, point(80));
    let x = unit(b, "Conv2d_4a_3x3", x, Conv::square(192, 3).padded(0));
    b.max_pool(x, REDUCTION_POOL)
}

/// Figure 5.
fn grid35(b: &mut Builder, name: &str, x: NodeId, pool: usize) -> NodeId {
    let wide = [
        ("branch5x5_1", point(48)),
        ("branch5x5_2", Conv::square(64, 5)),
    ];
    let double = [
        ("branch3x3dbl_1", point(64)),
        ("branch3x3dbl_2", Conv::square(96, 3)),
        ("branch3x3dbl_3", Conv::square(96, 3)),
    ];
    let pooled = b.avg_pool(x, SAME_POOL, true);
    let branches = [
        branch(b, name, x, &[("branch1x1", point(64))]),
        branch(b, name, x, &wide),
        branch(b, name, x, &double),
        branch(b, name, pooled, &[("branch_pool", point(pool))]),
    ];
    b.concat(&branches)
}

/// Figure 10.
fn to_grid17(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let double = [
        ("branch3x3dbl_1", point(64)),
        ("branch3x3dbl_2", Conv::square(96, 3)),
        ("branch3x3dbl_3", reduction(96)),
    ];
    let branches = [
        branch(b, name, x, &[("branch3x3", reduction(384))]),
        branch(b, name, x, &double),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

/// Figure 6 with n = 7; `width` channels between the factors.
fn grid17(b: &mut Builder, name: &str, x: NodeId, width: usize) -> NodeId {
    let single = [
        ("branch7x7_1", point(width)),
        ("branch7x7_2", Conv::new(width, (1, 7))),
        ("branch7x7_3", Conv::new(192, (7, 1))),
    ];
    let double = [
        ("branch7x7dbl_1", point(width)),
        ("branch7x7dbl_2", Conv::new(width, (7, 1))),
        ("branch7x7dbl_3", Conv::new(width, (1, 7))),
        ("branch7x7dbl_4", Conv::new(width, (7, 1))),
        ("branch7x7dbl_5", Conv::new(192, (1, 7))),
    ];
    let pooled = b.avg_pool(x, SAME_POOL, true);
    let branches = [
        branch(b, name, x, &[("branch1x1", point(192))]),
        branch(b, name, x, &single),
        branch(b, name, x, &double),
        branch(b, name, pooled, &[("branch_pool", point(192))]),
    ];
    b.concat(&branches)
}

/// Figure 10 with a factored 7x7 convolution before the second branch's reduction.
fn to_grid8(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let small = [("branch3x3_1", point(192)), ("branch3x3_2", reduction(320))];
    let large = [
        ("branch7x7x3_1", point(192)),
        ("branch7x7x3_2", Conv::new(192, (1, 7))),
        ("branch7x7x3_3", Conv::new(192, (7, 1))),
        ("branch7x7x3_4", reduction(192)),
    ];
    let branches = [
        branch(b, name, x, &small),
        branch(b, name, x, &large),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

/// Figure 7.
fn grid8(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let double = [
        ("branch3x3dbl_1", point(448)),
        ("branch3x3dbl_2", Conv::square(384, 3)),
    ];
    let (across, down) = (Conv::new(384, (1, 3)), Conv::new(384, (3, 1)));
    let one = branch(b, name, x, &[("branch1x1", point(320))]);
    let single = branch(b, name, x, &[("branch3x3_1", point(384))]);
    let double = branch(b, name, x, &double);
    let pooled = b.avg_pool(x, SAME_POOL, true);
    let branches = [
        one,
        branch(b, name, single, &[("branch3x3_2a", across)]),
        branch(b, name, single, &[("branch3x3_2b", down)]),
        branch(b, name, double, &[("branch3x3dbl_3a", across)]),
        branch(b, name, double, &[("branch3x3dbl_3b", down)]),
        branch(b, name, pooled, &[("branch_pool", point(192))]),
    ];
    b.concat(&branches)
}

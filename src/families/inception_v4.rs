//! Inception-v4: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
//! Learning", figures 3 to 9; names are timm's.
//!
//! Depth is 76, the weighted layers on the longest path; the paper states no number.

use super::inception::{REDUCTION_POOL, SAME_POOL, branch, point, reduction, unit};
use super::registry::Architecture;
use crate::ir::{Builder, Conv, Graph, NodeId, Shape};

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    input_size: 299,
    ..Architecture::imagenet("inception_v4", "inception", 2016, 76, graph)
}];

/// Adds a module of that name.
type Module = fn(&mut Builder, &str, NodeId) -> NodeId;

/// The modules after the stem, and how often each follows itself (figure 9).
const MODULES: [(Module, usize); 5] = [
    (inception_a, 4),
    (reduction_a, 1),
    (inception_b, 7),
    (reduction_b, 1),
    (inception_c, 3),
];

fn graph(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut b, x) = Builder::new(input);
    let mut x = stem(&mut b, x);
    let modules = MODULES
        .into_iter()
        .flat_map(|(module, times)| std::iter::repeat_n(module, times));
    // the stem takes the first six places of timm's list
    for (module, position) in modules.zip(6..) {
        x = module(&mut b, &format!("features.{position}"), x);
    }
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("last_linear", x, classes);
    b.finish()
}

/// Figure 3.
fn stem(b: &mut Builder, x: NodeId) -> NodeId {
    let valid = |channels| Conv::square(channels, 3).padded(0);
    let x = unit(b, "features.0", x, reduction(32));
    let x = unit(b, "features.1", x, valid(32));
    let x = unit(b, "features.2", x, Conv::square(64, 3));
    let pool = b.max_pool(x, REDUCTION_POOL);
    let conv = unit(b, "features.3.conv", x, reduction(96));
    let x = b.concat(&[pool, conv]);
    let small = [("branch0.0", point(64)), ("branch0.1", valid(96))];
    let large = [
        ("branch1.0", point(64)),
        ("branch1.1", Conv::new(64, (1, 7))),
        ("branch1.2", Conv::new(64, (7, 1))),
        ("branch1.3", valid(96)),
    ];
    let small = branch(b, "features.4", x, &small);
    let large = branch(b, "features.4", x, &large);
    let x = b.concat(&[small, large]);
    let conv = unit(b, "features.5.conv", x, reduction(192));
    let pool = b.max_pool(x, REDUCTION_POOL);
    b.concat(&[conv, pool])
}

/// Figure 4.
fn inception_a(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let single = [("branch1.0", point(64)), ("branch1.1", Conv::square(96, 3))];
    let double = [
        ("branch2.0", point(64)),
        ("branch2.1", Conv::square(96, 3)),
        ("branch2.2", Conv::square(96, 3)),
    ];
    let pooled = b.avg_pool(x, SAME_POOL, false);
    let branches = [
        branch(b, name, x, &[("branch0", point(96))]),
        branch(b, name, x, &single),
        branch(b, name, x, &double),
        branch(b, name, pooled, &[("branch3.1", point(96))]),
    ];
    b.concat(&branches)
}

/// Figure 7.
fn reduction_a(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let double = [
        ("branch1.0", point(192)),
        ("branch1.1", Conv::square(224, 3)),
        ("branch1.2", reduction(256)),
    ];
    let branches = [
        branch(b, name, x, &[("branch0", reduction(384))]),
        branch(b, name, x, &double),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

/// Figure 5.
fn inception_b(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let single = [
        ("branch1.0", point(192)),
        ("branch1.1", Conv::new(224, (1, 7))),
        ("branch1.2", Conv::new(256, (7, 1))),
    ];
    let double = [
        ("branch2.0", point(192)),
        ("branch2.1", Conv::new(192, (7, 1))),
        ("branch2.2", Conv::new(224, (1, 7))),
        ("branch2.3", Conv::new(224, (7, 1))),
        ("branch2.4", Conv::new(256, (1, 7))),
    ];
    let pooled = b.avg_pool(x, SAME_POOL, false);
    let branches = [
        branch(b, name, x, &[("branch0", point(384))]),
        branch(b, name, x, &single),
        branch(b, name, x, &double),
        branch(b, name, pooled, &[("branch3.1", point(128))]),
    ];
    b.concat(&branches)
}

/// Figure 8.
fn reduction_b(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let small = [("branch0.0", point(192)), ("branch0.1", reduction(192))];
    let large = [
        ("branch1.0", point(256)),
        ("branch1.1", Conv::new(256, (1, 7))),
        ("branch1.2", Conv::new(320, (7, 1))),
        ("branch1.3", reduction(320)),
    ];
    let branches = [
        branch(b, name, x, &small),
        branch(b, name, x, &large),
        b.max_pool(x, REDUCTION_POOL),
    ];
    b.concat(&branches)
}

/// Figure 6.
fn inception_c(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let double = [
        ("branch2_0", point(384)),
        ("branch2_1", Conv::new(448, (3, 1))),
        ("branch2_2", Conv::new(512, (1, 3))),
    ];
    let (across, down) = (Conv::new(256, (1, 3)), Conv::new(256, (3, 1)));
    let one = branch(b, name, x, &[("branch0", point(256))]);
    let single = branch(b, name, x, &[("branch1_0", point(384))]);
    let double = branch(b, name, x, &double);
    let pooled = b.avg_pool(x, SAME_POOL, false);
    let branches = [
        one,
        branch(b, name, single, &[("branch1_1a", across)]),
        branch(b, name, single, &[("branch1_1b", down)]),
        branch(b, name, double, &[("branch2_3a", across)]),
        branch(b, name, double, &[("branch2_3b", down)]),
        branch(b, name, pooled, &[("branch3.1", point(256))]),
    ];
    b.concat(&branches)
}

//! What GoogLeNet and the Inceptions are made of: units of convolution, batch norm and ReLU, in branches side by side.

use crate::ir::{Builder, Conv, NodeId, Pool2d};

/// The pool of a module that keeps the grid.
pub(super) const SAME_POOL: Pool2d = Pool2d::square(3, 1).padded(1);

/// The pool that reduces the grid beside [`reduction`].
pub(super) const REDUCTION_POOL: Pool2d = Pool2d::square(3, 2);

/// A 1x1 convolution.
pub(super) const fn point(out_channels: usize) -> Conv {
    Conv::square(out_channels, 1)
}

/// A 3x3 convolution at stride 2 without padding, which reduces the grid.
pub(super) const fn reduction(out_channels: usize) -> Conv {
    Conv::square(out_channels, 3).strided(2).padded(0)
}

/// Units one after the other, named `<module>.<leaf>`.
pub(super) fn branch(b: &mut Builder, module: &str, x: NodeId, units: &[(&str, Conv)]) -> NodeId {
    units.iter().fold(x, |x, &(leaf, conv)| {
        unit(b, &format!("{module}.{leaf}"), x, conv)
    })
}

/// Convolution, batch norm with epsilon 1e-3, ReLU: `<name>.conv`, `<name>.bn`.
pub(super) fn unit(b: &mut Builder, name: &str, x: NodeId, conv: Conv) -> NodeId {
    let x = b.conv2d(&format!("{name}.conv"), x, conv);
    let x = b.batch_norm_eps(&format!("{name}.bn"), x, 1e-3);
    b.relu(x)
}

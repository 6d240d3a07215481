//! Figures derived from a graph: parameters, multiply-accumulates, depth.

use super::{Graph, Op, ParameterKind};

/// How a family's paper counts its depth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DepthRule {
    /// Weighted layers (convolutions and the classifier) on the longest path from image to logits. A projection
    /// shortcut is shorter than the branch beside it and so is never counted: He et al. 2015, 2016; Xie et al. 2017.
    LongestPath,
    /// All convolutions, projections included, without the classifier: Zagoruyko & Komodakis 2016, 6n + 4.
    Convolutions,
}

/// Size and cost of a network for one image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Learned values; running statistics are not counted, as in torchvision's figures.
    pub parameters: u64,
    /// Multiply-accumulates of convolutions and linear layers.
    pub macs: u64,
}

impl Graph {
    pub fn counts(&self) -> Counts {
        let parameters = self
            .parameters()
            .iter()
            .filter(|p| {
                !matches!(
                    p.kind,
                    ParameterKind::RunningMean | ParameterKind::RunningVar
                )
            })
            .map(|p| p.shape.iter().product::<usize>() as u64)
            .sum();
        let macs = self
            .nodes()
            .iter()
            .map(|node| match node.op {
                Op::Conv2d {
                    in_channels,
                    kernel,
                    groups,
                    ..
                } => (node.shape.elements() * in_channels / groups * kernel.0 * kernel.1) as u64,
                Op::Linear {
                    in_features,
                    out_features,
                } => (in_features * out_features) as u64,
                _ => 0,
            })
            .sum();
        Counts { parameters, macs }
    }

    /// Depth by the given rule.
    pub fn depth(&self, rule: DepthRule) -> usize {
        match rule {
            DepthRule::Convolutions => self
                .nodes()
                .iter()
                .filter(|n| matches!(n.op, Op::Conv2d { .. }))
                .count(),
            DepthRule::LongestPath => {
                let mut depths: Vec<usize> = Vec::with_capacity(self.nodes().len());
                for node in self.nodes() {
                    let before = node
                        .inputs
                        .iter()
                        .map(|i| depths[i.index()])
                        .max()
                        .unwrap_or(0);
                    depths.push(before + usize::from(node.op.is_weighted()));
                }
                depths.last().copied().unwrap_or(0)
            }
        }
    }
}

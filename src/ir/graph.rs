//! The finished graph and the list of parameters it needs.

use super::{Op, Shape};

/// Index of a node in its graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One layer of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    /// Producers of this node's inputs; always earlier in the graph.
    pub inputs: Vec<NodeId>,
    /// Prefix of the parameter names (`layer1.0.conv1`); empty where the operation has none.
    pub name: String,
    /// Shape of the output for one image.
    pub shape: Shape,
}

/// What a parameter is for; the generator of test weights and the folding of batch norm need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParameterKind {
    Weight,
    Bias,
    NormWeight,
    NormBias,
    RunningMean,
    RunningVar,
}

/// Name and shape of one tensor that a weight file must hold, as in the reference's state dict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: ParameterKind,
}

/// A network for one input size. Invariants, kept by [`super::Builder`]: node 0 is the only `Input`, inputs precede
/// their users, shapes agree, and the last node yields the logits `[classes, 1, 1]`.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) training_only: Vec<&'static str>,
}

impl Graph {
    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Shape of one input image.
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.nodes[self.nodes.len() - 1].shape.elements()
    }

    /// Name prefixes of tensors that published files carry for training only; loading skips them.
    pub fn training_only(&self) -> &[&'static str] {
        &self.training_only
    }

    /// Every parameter in graph order.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.nodes.iter().flat_map(Node::parameters).collect()
    }
}

impl Node {
    /// The parameters of this layer; empty for operations without any.
    pub fn parameters(&self) -> Vec<Parameter> {
        use ParameterKind::{Bias, NormBias, NormWeight, RunningMean, RunningVar, Weight};
        let named = |leaf: &str, shape: &[usize], kind| Parameter {
            name: format!("{}.{leaf}", self.name),
            shape: shape.to_vec(),
            kind,
        };
        match self.op {
            Op::Conv2d {
                in_channels,
                out_channels,
                kernel,
                groups,
                bias,
                ..
            } => {
                let shape = [out_channels, in_channels / groups, kernel.0, kernel.1];
                let mut list = vec![named("weight", &shape, Weight)];
                if bias {
                    list.push(named("bias", &[out_channels], Bias));
                }
                list
            }
            Op::BatchNorm { channels, .. } => vec![
                named("weight", &[channels], NormWeight),
                named("bias", &[channels], NormBias),
                named("running_mean", &[channels], RunningMean),
                named("running_var", &[channels], RunningVar),
            ],
            Op::Linear {
                in_features,
                out_features,
            } => vec![
                named("weight", &[out_features, in_features], Weight),
                named("bias", &[out_features], Bias),
            ],
            Op::Input
            | Op::Relu
            | Op::Add
            | Op::Concat
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::AdaptiveAvgPool { .. }
            | Op::Subsample { .. }
            | Op::PadChannels { .. }
            | Op::Scale { .. }
            | Op::Flatten => Vec::new(),
        }
    }
}

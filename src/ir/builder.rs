//! Builds a graph layer by layer, inferring shapes and refusing what does not fit.

use super::graph::{Graph, Node, NodeId};
use super::shape::windows;
use super::{Op, Pool2d, Shape};

/// The numbers of a convolution, beside its input's channels. Pairs are `(vertical, horizontal)`.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub out_channels: usize,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: (usize, usize),
    pub groups: usize,
    pub bias: bool,
}

impl Conv {
    /// Without bias, in one group, at stride 1, padded to keep the size if the kernel is odd.
    pub const fn new(out_channels: usize, kernel: (usize, usize)) -> Self {
        Self {
            out_channels,
            kernel,
            stride: 1,
            padding: (kernel.0 / 2, kernel.1 / 2),
            groups: 1,
            bias: false,
        }
    }

    /// [`Conv::new`] with as many rows as columns.
    pub const fn square(out_channels: usize, kernel: usize) -> Self {
        Self::new(out_channels, (kernel, kernel))
    }

    pub const fn strided(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With so many pixels of padding on each side.
    pub const fn padded(self, padding: usize) -> Self {
        Self {
            padding: (padding, padding),
            ..self
        }
    }

    pub const fn grouped(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    pub const fn biased(self) -> Self {
        Self { bias: true, ..self }
    }
}

/// Builds one graph. A layer that does not fit its input is a mistake in a family file or an input smaller than the
/// family can take; the builder remembers the first one, goes on with a unit shape, and [`Builder::finish`] reports it.
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    training_only: Vec<&'static str>,
    error: Option<String>,
}

impl Builder {
    /// Starts a graph that takes images of `input`; returns the builder and the input's node.
    pub fn new(input: Shape) -> (Self, NodeId) {
        let node = Node {
            op: Op::Input,
            inputs: Vec::new(),
            name: String::new(),
            shape: input,
        };
        let builder = Self {
            nodes: vec![node],
            training_only: Vec::new(),
            error: None,
        };
        (builder, NodeId(0))
    }

    /// Declares name prefixes of training-only tensors in published files (auxiliary heads).
    pub fn training_only(&mut self, prefixes: &[&'static str]) {
        self.training_only.extend_from_slice(prefixes);
    }

    pub fn channels(&self, x: NodeId) -> usize {
        self.shape(x).channels
    }

    pub fn shape(&self, x: NodeId) -> Shape {
        self.nodes[x.index()].shape
    }

    /// Square convolution without bias, padded to keep the size at stride 1.
    pub fn conv(
        &mut self,
        name: &str,
        x: NodeId,
        out_channels: usize,
        kernel: usize,
        stride: usize,
    ) -> NodeId {
        self.conv2d(name, x, Conv::square(out_channels, kernel).strided(stride))
    }

    /// Any convolution.
    pub fn conv2d(&mut self, name: &str, x: NodeId, conv: Conv) -> NodeId {
        let op = Op::Conv2d {
            in_channels: self.channels(x),
            out_channels: conv.out_channels,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            groups: conv.groups,
            bias: conv.bias,
        };
        self.layer(name, op, &[x])
    }

    /// Batch normalization with PyTorch's default epsilon of 1e-5.
    pub fn batch_norm(&mut self, name: &str, x: NodeId) -> NodeId {
        self.batch_norm_eps(name, x, 1e-5)
    }

    pub fn batch_norm_eps(&mut self, name: &str, x: NodeId, eps: f64) -> NodeId {
        let channels = self.channels(x);
        self.layer(name, Op::BatchNorm { channels, eps }, &[x])
    }

    pub fn relu(&mut self, x: NodeId) -> NodeId {
        self.layer("", Op::Relu, &[x])
    }

    pub fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.layer("", Op::Add, &[a, b])
    }

    /// Joins inputs along the channels, in order.
    pub fn concat(&mut self, inputs: &[NodeId]) -> NodeId {
        self.layer("", Op::Concat, inputs)
    }

    pub fn scale(&mut self, x: NodeId, factor: f64) -> NodeId {
        self.layer("", Op::Scale { factor }, &[x])
    }

    pub fn max_pool(&mut self, x: NodeId, window: Pool2d) -> NodeId {
        self.layer("", Op::MaxPool(window), &[x])
    }

    /// Average pooling; `count_include_pad` is whether padding counts in the divisor.
    pub fn avg_pool(&mut self, x: NodeId, window: Pool2d, count_include_pad: bool) -> NodeId {
        let op = Op::AvgPool {
            window,
            count_include_pad,
        };
        self.layer("", op, &[x])
    }

    /// Average pooling of any image to `side` by `side` pixels.
    pub fn adaptive_avg_pool(&mut self, x: NodeId, side: usize) -> NodeId {
        let output = (side, side);
        self.layer("", Op::AdaptiveAvgPool { output }, &[x])
    }

    /// Mean over all pixels: `[c, h, w]` to `[c, 1, 1]`.
    pub fn global_avg_pool(&mut self, x: NodeId) -> NodeId {
        self.adaptive_avg_pool(x, 1)
    }

    pub fn flatten(&mut self, x: NodeId) -> NodeId {
        self.layer("", Op::Flatten, &[x])
    }

    /// Linear layer with bias on a flat input.
    pub fn linear(&mut self, name: &str, x: NodeId, out_features: usize) -> NodeId {
        let in_features = self.shape(x).elements();
        self.layer(
            name,
            Op::Linear {
                in_features,
                out_features,
            },
            &[x],
        )
    }

    /// Any operation; `name` is the prefix of its parameters' names.
    pub fn layer(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        let shapes: Vec<Shape> = inputs.iter().map(|&i| self.shape(i)).collect();
        let shape = output_shape(&op, &shapes).unwrap_or_else(|reason| {
            self.error.get_or_insert_with(|| {
                let input = shapes.iter().map(Shape::to_string).collect::<Vec<_>>();
                format!("layer {name:?} {op:?} on {}: {reason}", input.join(" and "))
            });
            Shape::new(1, 1, 1)
        });
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            name: name.to_owned(),
            shape,
        });
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// Ends the graph; its last layer yields the logits.
    ///
    /// # Errors
    /// The first layer that did not fit its input, in words.
    pub fn finish(self) -> Result<Graph, String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(Graph {
            nodes: self.nodes,
            training_only: self.training_only,
        })
    }
}

/// Shape that `op` yields for inputs of the given shapes, or why it cannot.
fn output_shape(op: &Op, inputs: &[Shape]) -> Result<Shape, String> {
    let wanted = match op {
        Op::Input => return Err("a graph has one input, made by the builder".into()),
        Op::Add => 2,
        Op::Concat => inputs.len().max(1),
        _ => 1,
    };
    if inputs.len() != wanted {
        return Err(format!("takes {wanted} inputs"));
    }
    let x = inputs[0];
    let pooled = |p: &Pool2d| {
        let height = windows(x.height, p.kernel.0, p.stride, p.padding.0, p.ceil);
        let width = windows(x.width, p.kernel.1, p.stride, p.padding.1, p.ceil);
        spatial(x.channels, height, width)
    };
    match op {
        Op::Input => unreachable!("returned above"),
        &Op::Conv2d {
            in_channels,
            out_channels,
            kernel,
            stride,
            padding,
            groups,
            ..
        } => {
            if in_channels != x.channels || in_channels % groups != 0 || out_channels % groups != 0
            {
                return Err(format!(
                    "{in_channels} channels in {groups} groups do not fit"
                ));
            }
            let height = windows(x.height, kernel.0, stride, padding.0, false);
            let width = windows(x.width, kernel.1, stride, padding.1, false);
            spatial(out_channels, height, width)
        }
        Op::BatchNorm { channels, .. } if *channels != x.channels => {
            Err(format!("normalizes {channels} channels"))
        }
        Op::BatchNorm { .. } | Op::Relu | Op::Scale { .. } => Ok(x),
        Op::Add if inputs[0] != inputs[1] => Err("the two shapes differ".into()),
        Op::Add => Ok(x),
        Op::Concat => {
            if inputs
                .iter()
                .any(|s| (s.height, s.width) != (x.height, x.width))
            {
                return Err("heights and widths differ".into());
            }
            Ok(Shape::new(
                inputs.iter().map(|s| s.channels).sum(),
                x.height,
                x.width,
            ))
        }
        Op::MaxPool(window) => pooled(window),
        Op::AvgPool { window, .. } => pooled(window),
        Op::AdaptiveAvgPool { output } => spatial(x.channels, output.0, output.1),
        Op::Subsample { stride } => spatial(
            x.channels,
            x.height.div_ceil(*stride),
            x.width.div_ceil(*stride),
        ),
        Op::PadChannels { extra } => Ok(Shape::new(x.channels + extra, x.height, x.width)),
        Op::Flatten => Ok(Shape::new(x.elements(), 1, 1)),
        Op::Linear {
            in_features,
            out_features,
        } => {
            if x != Shape::new(*in_features, 1, 1) {
                return Err(format!("takes {in_features} flat values"));
            }
            Ok(Shape::new(*out_features, 1, 1))
        }
    }
}

fn spatial(channels: usize, height: usize, width: usize) -> Result<Shape, String> {
    if height == 0 || width == 0 {
        return Err("the image is smaller than the window".into());
    }
    Ok(Shape::new(channels, height, width))
}

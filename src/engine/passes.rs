//! Lowers a graph to layers: batch norm is folded into the convolution before it, and element-wise operations whose
//! input nobody else reads become the epilogue of the layer that computes that input. Every fused engine begins here.

use crate::engine::{EngineError, take};
use crate::ir::{Graph, Node, NodeId, Op, Pool2d, Shape};
use crate::kernels::{ConvSpec, PoolSpec, Reduce, Window};
use crate::weights::Parameters;

/// One layer; it yields the value of the same index.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) op: LayerOp,
    /// Layers whose values it reads, beside those that its epilogue adds.
    pub(super) inputs: Vec<usize>,
    pub(super) epilogue: Vec<Fused>,
    pub(super) shape: Shape,
    /// For profiles: the name of the parameters, or of the operation.
    pub(super) name: String,
    /// Whether a value it yields has more than one reader, so that nothing more can be fused.
    closed: bool,
}

#[derive(Debug)]
pub(super) enum LayerOp {
    /// The input image, laid out.
    Image,
    /// Convolution or, on an image of one pixel, linear layer; `[out, in / groups, rows, columns]`.
    Conv {
        spec: ConvSpec,
        weights: Vec<f32>,
    },
    Pool(PoolSpec),
    /// Every `stride`-th pixel, with zeros for channels beyond the input's.
    Map {
        stride: usize,
    },
    Concat,
    Flatten,
}

/// One operation of an epilogue.
#[derive(Debug, PartialEq)]
pub(super) enum Fused {
    Bias(Vec<f32>),
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    /// The value of an earlier layer.
    Add(usize),
    Scale(f32),
    Relu,
}

/// Lowers a graph and takes its parameters. A strided pointwise convolution whose output has up to `gathered` pixels has
/// its input gathered first.
///
/// # Errors
/// When a parameter is missing.
pub(super) fn lower(
    graph: &Graph,
    parameters: &mut Parameters,
    gathered: usize,
) -> Result<Vec<Layer>, EngineError> {
    let mut uses = vec![0usize; graph.nodes().len()];
    for node in graph.nodes() {
        for input in &node.inputs {
            uses[input.index()] += 1;
        }
    }
    let mut lowering = Lowering {
        graph,
        parameters,
        gathered,
        uses,
        places: Vec::with_capacity(graph.nodes().len()),
        layers: Vec::new(),
    };
    for node in graph.nodes() {
        let place = lowering.node(node)?;
        lowering.places.push(place);
        if lowering.uses[lowering.places.len() - 1] > 1 {
            lowering.layers[place].closed = true;
        }
    }
    Ok(lowering.layers)
}

struct Lowering<'a> {
    graph: &'a Graph,
    parameters: &'a mut Parameters,
    gathered: usize,
    /// Readers of each node.
    uses: Vec<usize>,
    /// Layer that yields each node's value.
    places: Vec<usize>,
    layers: Vec<Layer>,
}

impl Lowering<'_> {
    /// Lowers one node; returns the layer that yields its value.
    fn node(&mut self, node: &Node) -> Result<usize, EngineError> {
        match &node.op {
            Op::Input => Ok(self.push(node, "input", LayerOp::Image)),
            &Op::Conv2d {
                in_channels,
                out_channels,
                kernel,
                stride,
                padding,
                groups,
                bias,
            } => {
                let spec = ConvSpec {
                    in_channels,
                    out_channels,
                    kernel,
                    stride,
                    padding,
                    groups,
                };
                self.conv(node, spec, bias)
            }
            &Op::Linear {
                in_features,
                out_features,
            } => {
                let spec = ConvSpec {
                    in_channels: in_features,
                    out_channels: out_features,
                    kernel: (1, 1),
                    stride: 1,
                    padding: (0, 0),
                    groups: 1,
                };
                self.conv(node, spec, true)
            }
            Op::BatchNorm { eps, .. } => {
                let (scale, shift) = self.norm(node, *eps)?;
                let layer = self.element_wise(node, "norm");
                self.layers[layer].normalize(scale, shift);
                Ok(layer)
            }
            Op::Relu => Ok(self.fuse(node, "relu", Fused::Relu)),
            Op::Scale { factor } => {
                let layer = self.element_wise(node, "scale");
                self.layers[layer].scale(*factor);
                Ok(layer)
            }
            Op::Add => Ok(self.add(node)),
            Op::Concat => Ok(self.push(node, "concat", LayerOp::Concat)),
            Op::MaxPool(window) => Ok(self.pool(node, "max pool", Reduce::Max, window, false)),
            Op::AvgPool {
                window,
                count_include_pad,
            } => Ok(self.pool(
                node,
                "average pool",
                Reduce::Average,
                window,
                *count_include_pad,
            )),
            Op::AdaptiveAvgPool { output } => {
                let from = self.input_shape(node);
                let spec = PoolSpec {
                    reduce: Reduce::Average,
                    rows: Window::adaptive(from.height, output.0),
                    columns: Window::adaptive(from.width, output.1),
                };
                Ok(self.push(node, "average pool", LayerOp::Pool(spec)))
            }
            Op::Subsample { stride } => {
                Ok(self.push(node, "subsample", LayerOp::Map { stride: *stride }))
            }
            Op::PadChannels { .. } => Ok(self.pad_channels(node)),
            Op::Flatten if self.input_shape(node) == node.shape => Ok(self.place(node.inputs[0])),
            Op::Flatten => Ok(self.push(node, "flatten", LayerOp::Flatten)),
        }
    }

    fn place(&self, node: NodeId) -> usize {
        self.places[node.index()]
    }

    fn input_shape(&self, node: &Node) -> Shape {
        self.graph.node(node.inputs[0]).shape
    }

    /// A new layer for `node`.
    fn push(&mut self, node: &Node, name: &str, op: LayerOp) -> usize {
        self.layers.push(Layer {
            op,
            inputs: node.inputs.iter().map(|&id| self.place(id)).collect(),
            epilogue: Vec::new(),
            shape: node.shape,
            name: if node.name.is_empty() {
                name.into()
            } else {
                node.name.clone()
            },
            closed: false,
        });
        self.layers.len() - 1
    }

    /// The pixels that a pointwise convolution of a small image reads at its stride, side by side: there a tile would
    /// otherwise end with each short row.
    fn gather(&mut self, node: &Node, spec: &ConvSpec) -> Option<usize> {
        let (shape, stride) = (node.shape, spec.stride);
        if spec.kernel != (1, 1)
            || spec.padding != (0, 0)
            || stride == 1
            || shape.height * shape.width > self.gathered
        {
            return None;
        }
        let layer = self.push(node, "", LayerOp::Map { stride });
        self.layers[layer].shape.channels = spec.in_channels;
        Some(layer)
    }

    fn conv(&mut self, node: &Node, spec: ConvSpec, bias: bool) -> Result<usize, EngineError> {
        let weights = take(self.parameters, node, "weight")?;
        let gathered = self.gather(node, &spec);
        let stride = if gathered.is_some() { 1 } else { spec.stride };
        let spec = ConvSpec { stride, ..spec };
        let layer = self.push(node, "", LayerOp::Conv { spec, weights });
        if let Some(pixels) = gathered {
            self.layers[layer].inputs = vec![pixels];
        }
        if bias {
            let bias = take(self.parameters, node, "bias")?;
            self.layers[layer].epilogue.push(Fused::Bias(bias));
        }
        Ok(layer)
    }

    /// Batch norm as one multiplication and addition a channel.
    fn norm(&mut self, node: &Node, eps: f64) -> Result<(Vec<f64>, Vec<f64>), EngineError> {
        let mut list = |leaf| take(self.parameters, node, leaf);
        let (weight, bias) = (list("weight")?, list("bias")?);
        let (mean, var) = (list("running_mean")?, list("running_var")?);
        let scale: Vec<f64> = weight
            .iter()
            .zip(&var)
            .map(|(&w, &v)| f64::from(w) / (f64::from(v) + eps).sqrt())
            .collect();
        let shift = bias
            .iter()
            .zip(&mean)
            .zip(&scale)
            .map(|((&b, &m), s)| f64::from(b) - f64::from(m) * s);
        let shift = shift.collect();
        Ok((scale, shift))
    }

    /// The layer whose epilogue can go on with `node`: the one that yields its input, or else a new one.
    fn element_wise(&mut self, node: &Node, name: &str) -> usize {
        let layer = self.place(node.inputs[0]);
        if self.layers[layer].is_open() {
            layer
        } else {
            self.push(node, name, LayerOp::Map { stride: 1 })
        }
    }

    fn fuse(&mut self, node: &Node, name: &str, operation: Fused) -> usize {
        let layer = self.element_wise(node, name);
        self.layers[layer].epilogue.push(operation);
        layer
    }

    /// The later of the two summands' layers can add the earlier one's value.
    fn add(&mut self, node: &Node) -> usize {
        let (a, b) = (self.place(node.inputs[0]), self.place(node.inputs[1]));
        let (early, late) = (a.min(b), a.max(b));
        if early != late && self.layers[late].is_open() {
            self.layers[late].epilogue.push(Fused::Add(early));
            return late;
        }
        let layer = self.push(node, "add", LayerOp::Map { stride: 1 });
        self.layers[layer].inputs.truncate(1);
        self.layers[layer].epilogue.push(Fused::Add(b));
        layer
    }

    fn pool(
        &mut self,
        node: &Node,
        name: &str,
        reduce: Reduce,
        pool: &Pool2d,
        pad_counts: bool,
    ) -> usize {
        let from = self.input_shape(node);
        let sliding = |size, count, kernel, padding| {
            Window::sliding(size, count, (kernel, pool.stride, padding), pad_counts)
        };
        let spec = PoolSpec {
            reduce,
            rows: sliding(
                from.height,
                node.shape.height,
                pool.kernel.0,
                pool.padding.0,
            ),
            columns: sliding(from.width, node.shape.width, pool.kernel.1, pool.padding.1),
        };
        self.push(node, name, LayerOp::Pool(spec))
    }

    /// Widens the layer before where that only selects pixels, else makes a new one.
    fn pad_channels(&mut self, node: &Node) -> usize {
        let place = self.place(node.inputs[0]);
        let layer = &mut self.layers[place];
        if layer.is_open() && layer.epilogue.is_empty() && matches!(layer.op, LayerOp::Map { .. }) {
            layer.shape = node.shape;
            return place;
        }
        self.push(node, "pad channels", LayerOp::Map { stride: 1 })
    }
}

impl Layer {
    fn is_open(&self) -> bool {
        !self.closed && matches!(self.op, LayerOp::Conv { .. } | LayerOp::Map { .. })
    }

    /// Multiplies by `scale` and adds `shift`, in the weights where nothing but a bias comes between.
    fn normalize(&mut self, scale: Vec<f64>, shift: Vec<f64>) {
        let round = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        let foldable = self.is_foldable();
        let weights = match &mut self.op {
            LayerOp::Conv { weights, .. } if foldable => weights,
            _ => {
                return self.epilogue.push(Fused::Affine {
                    scale: round(scale),
                    shift: round(shift),
                });
            }
        };
        let per_channel = weights.len() / scale.len().max(1);
        for (row, &s) in weights.chunks_exact_mut(per_channel.max(1)).zip(&scale) {
            row.iter_mut().for_each(|w| *w = (f64::from(*w) * s) as f32);
        }
        let bias = match self.epilogue.pop() {
            Some(Fused::Bias(bias)) => {
                let values = bias.iter().zip(&scale).zip(&shift);
                values.map(|((&b, s), t)| f64::from(b) * s + t).collect()
            }
            _ => shift,
        };
        self.epilogue.push(Fused::Bias(round(bias)));
    }

    fn scale(&mut self, factor: f64) {
        if self.is_foldable() {
            let channels = self.shape.channels;
            self.normalize(vec![factor; channels], vec![0.0; channels]);
        } else {
            self.epilogue.push(Fused::Scale(factor as f32));
        }
    }

    /// Whether a factor can go into its weights and bias.
    fn is_foldable(&self) -> bool {
        matches!(self.op, LayerOp::Conv { .. })
            && matches!(self.epilogue.as_slice(), [] | [Fused::Bias(_)])
    }

    /// Every layer whose value it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = usize> {
        let added = self
            .epilogue
            .iter()
            .filter_map(|operation| match operation {
                Fused::Add(value) => Some(*value),
                _ => None,
            });
        self.inputs.iter().copied().chain(added)
    }
}

#[cfg(test)]
mod tests;

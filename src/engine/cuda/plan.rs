//! What the GPU runs for one network: steps over tensors in one arena, the same for every batch size.
//!
//! Tensors are NHWC: the channels of a pixel lie side by side, as tensor cores want them (cuDNN developer guide, "Tensor
//! Core operations"). A value that is concatenated is written at its channels of the whole, whose pixels lie further
//! apart. What an epilogue holds beyond bias, sum and ReLU, in this order, becomes a step of its own in place.

use crate::engine::EngineError;
use crate::engine::buffers::{self, Buffers, Part};
use crate::engine::passes::{self, Fused, Layer, LayerOp};
use crate::ir::{Graph, Shape};
use crate::kernels::{ConvSpec, PoolSpec};
use crate::weights::Parameters;

/// Channels that begin a 16-byte word, whatever the precision.
const ALIGNED: usize = 8;

/// Values of one image to which buffers are rounded up, so that each begins at a multiple of 256 bytes.
const BUFFER: usize = 128;

#[derive(Debug)]
pub(super) struct Plan {
    /// Where the image is laid, channels beyond its own being zero.
    pub(super) image: Tensor,
    pub(super) steps: Vec<Step>,
    pub(super) logits: Logits,
    /// Values of one image that the arena holds.
    pub(super) arena: usize,
}

/// Values of a batch in the arena, `[n, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) shape: Shape,
    /// Values from one pixel to the next; more than the channels inside a concatenation.
    pub(super) pitch: usize,
    /// Values of one image before its buffer.
    buffer: usize,
    /// Channels before its own.
    channel: usize,
}

#[derive(Debug)]
pub(super) struct Step {
    /// For profiles and errors on a card: the name of the parameters, or of the operation.
    #[cfg_attr(not(feature = "cudnn"), allow(dead_code))]
    pub(super) name: String,
    pub(super) input: Tensor,
    pub(super) output: Tensor,
    pub(super) op: StepOp,
}

#[derive(Debug)]
pub(super) enum StepOp {
    /// `relu?(conv(input) + bias (+ residual))`.
    Conv(Conv),
    Pool(PoolSpec),
    /// Every `stride`-th pixel, with zeros for channels beyond the input's, and then these operations in order.
    Map {
        stride: usize,
        operations: Vec<Operation>,
    },
}

#[derive(Debug)]
pub(super) struct Conv {
    pub(super) kernel: (usize, usize),
    pub(super) stride: usize,
    pub(super) padding: (usize, usize),
    pub(super) groups: usize,
    /// `[out, rows, columns, in / groups]`.
    pub(super) weights: Vec<f32>,
    /// `[out]`.
    pub(super) bias: Vec<f32>,
    /// Of the output's shape.
    pub(super) residual: Option<Tensor>,
    pub(super) relu: bool,
}

/// One element-wise operation; lists are by channel.
#[derive(Debug, PartialEq)]
pub(super) enum Operation {
    Bias(Vec<f32>),
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    /// A value of the output's shape.
    Add(Tensor),
    Scale(f32),
    Relu,
}

/// Where the logits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logits {
    /// The last step is a matrix product: it writes them in f32, and not its output.
    Product,
    /// A value in the arena.
    Value(Tensor),
}

impl Tensor {
    /// Values of the arena before the tensor's first, in a batch of that size.
    pub(super) fn offset(&self, batch: usize) -> usize {
        batch * self.buffer + self.channel
    }
}

impl Conv {
    /// Whether it is a product of pixels and weights: `[n * h * w, in] x [out, in]`.
    pub(super) fn is_product(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == (0, 0) && self.groups == 1
    }
}

impl Plan {
    /// `image_channels`: those that the image is padded to, if its readers can do with more.
    ///
    /// # Errors
    /// When a parameter is missing, or for what no family has: a flattened image read by other than linear layers.
    pub(super) fn new(
        graph: &Graph,
        mut parameters: Parameters,
        image_channels: usize,
    ) -> Result<Self, EngineError> {
        let layers = passes::lower(graph, &mut parameters, 0)?;
        check_flattened(&layers)?;
        let (tensors, arena) = place(&layers, image_channels);
        let mut plan = Self {
            image: tensors[0],
            steps: Vec::with_capacity(layers.len()),
            logits: Logits::Value(tensors[layers.len() - 1]),
            arena,
        };
        for (index, layer) in layers.into_iter().enumerate() {
            plan.layer(layer, tensors[index], &tensors)?;
        }
        if let Some(Step {
            op: StepOp::Conv(conv),
            output,
            ..
        }) = plan.steps.last()
            && conv.is_product()
            && conv.residual.is_none()
            && (output.shape.height, output.shape.width) == (1, 1)
        {
            plan.logits = Logits::Product;
        }
        match plan.logits {
            Logits::Value(value) if value.shape.height * value.shape.width > 1 => {
                let text = format!("the logits are an image of {}", value.shape);
                Err(EngineError::Unavailable(text))
            }
            _ => Ok(plan),
        }
    }

    /// Adds a layer's steps.
    fn layer(
        &mut self,
        layer: Layer,
        output: Tensor,
        tensors: &[Tensor],
    ) -> Result<(), EngineError> {
        let Layer {
            op,
            inputs,
            epilogue,
            name,
            ..
        } = layer;
        let inputs: Vec<Tensor> = inputs.into_iter().map(|i| tensors[i]).collect();
        let first = inputs.first().copied().unwrap_or(output);
        let operations = epilogue.into_iter().map(|fused| operation(fused, tensors));
        let op = match op {
            LayerOp::Image | LayerOp::Flatten => return Ok(()),
            LayerOp::Concat => {
                let mut channel = 0;
                for input in inputs {
                    let part = Tensor {
                        shape: input.shape,
                        channel: output.channel + channel,
                        ..output
                    };
                    channel += input.shape.channels;
                    if input != part {
                        self.push(
                            &name,
                            input,
                            part,
                            StepOp::Map {
                                stride: 1,
                                operations: Vec::new(),
                            },
                        );
                    }
                }
                return Ok(());
            }
            LayerOp::Pool(spec) => StepOp::Pool(spec),
            LayerOp::Map { stride } => StepOp::Map {
                stride,
                operations: operations.collect(),
            },
            LayerOp::Conv { spec, weights } => {
                return self.conv(
                    &name,
                    (first, output),
                    &spec,
                    &weights,
                    operations.collect(),
                );
            }
        };
        self.push(&name, first, output, op);
        Ok(())
    }
}

impl Plan {
    fn push(&mut self, name: &str, input: Tensor, output: Tensor, op: StepOp) {
        self.steps.push(Step {
            name: name.to_owned(),
            input,
            output,
            op,
        });
    }

    /// A convolution or linear layer, and a step for what its epilogue cannot hold.
    fn conv(
        &mut self,
        name: &str,
        (mut input, output): (Tensor, Tensor),
        spec: &ConvSpec,
        weights: &[f32],
        epilogue: Vec<Operation>,
    ) -> Result<(), EngineError> {
        let weights = laid_out(name, &mut input, spec, weights)?;
        let mut epilogue = epilogue.into_iter().peekable();
        let bias = match epilogue.next_if(|next| matches!(next, Operation::Bias(_))) {
            Some(Operation::Bias(bias)) => bias,
            _ => vec![0.0; spec.out_channels],
        };
        let residual = match epilogue.next_if(|next| matches!(next, Operation::Add(_))) {
            Some(Operation::Add(value)) => Some(value),
            _ => None,
        };
        let relu = epilogue.next_if_eq(&Operation::Relu).is_some();
        let conv = Conv {
            kernel: spec.kernel,
            stride: spec.stride,
            padding: spec.padding,
            groups: spec.groups,
            weights,
            bias,
            residual,
            relu,
        };
        self.push(name, input, output, StepOp::Conv(conv));
        let operations: Vec<Operation> = epilogue.collect();
        if !operations.is_empty() {
            let map = StepOp::Map {
                stride: 1,
                operations,
            };
            self.push(name, output, output, map);
        }
        Ok(())
    }
}

/// A flattened image lies as its pixels do, in another order than the graph's: linear layers alone know.
fn check_flattened(layers: &[Layer]) -> Result<(), EngineError> {
    let flat = |index: usize| matches!(layers[index].op, LayerOp::Flatten);
    let mut readers = layers.iter().filter(|layer| {
        let added = layer.reads().skip(layer.inputs.len());
        let linear = matches!(layer.op, LayerOp::Conv { .. });
        added.into_iter().any(flat) || !linear && layer.inputs.iter().any(|&input| flat(input))
    });
    let wrong = readers.next().or(layers
        .last()
        .filter(|layer| matches!(layer.op, LayerOp::Flatten)));
    match wrong {
        Some(layer) => {
            let name = &layer.name;
            let text = format!("layer {name}: a flattened image can only be read by linear layers");
            Err(EngineError::Unavailable(text))
        }
        None => Ok(()),
    }
}

fn operation(fused: Fused, tensors: &[Tensor]) -> Operation {
    match fused {
        Fused::Bias(bias) => Operation::Bias(bias),
        Fused::Affine { scale, shift } => Operation::Affine { scale, shift },
        Fused::Add(value) => Operation::Add(tensors[value]),
        Fused::Scale(factor) => Operation::Scale(factor),
        Fused::Relu => Operation::Relu,
    }
}

/// Weights in the order of what they are multiplied with; a flattened image becomes one pixel.
fn laid_out(
    name: &str,
    input: &mut Tensor,
    spec: &ConvSpec,
    weights: &[f32],
) -> Result<Vec<f32>, EngineError> {
    let shape = input.shape;
    if spec.in_channels <= shape.channels {
        let group = spec.in_channels / spec.groups;
        // more where the image has channels of zeros
        let laid = shape.channels / spec.groups;
        return Ok(channels_last(weights, group, spec.kernel, laid));
    }
    // a linear layer reads a flattened image as a window of the image's size would
    if shape.elements() != spec.in_channels || input.pitch != shape.channels {
        let found = format!("{} channels of a value of {shape}", spec.in_channels);
        return Err(EngineError::Device(format!("layer {name} reads {found}")));
    }
    input.shape = Shape::new(spec.in_channels, 1, 1);
    input.pitch = spec.in_channels;
    let window = (shape.height, shape.width);
    Ok(channels_last(
        weights,
        shape.channels,
        window,
        shape.channels,
    ))
}

/// Weights `[out, channels, rows, columns]` as `[out, rows, columns, laid]`, with zeros for channels beyond.
fn channels_last(
    weights: &[f32],
    channels: usize,
    (rows, columns): (usize, usize),
    laid: usize,
) -> Vec<f32> {
    let window = rows * columns;
    let filters = weights.chunks_exact(channels * window);
    let mut to = vec![0.0; filters.len() * window * laid];
    for (from, to) in filters.zip(to.chunks_exact_mut(window * laid)) {
        for (channel, plane) in from.chunks_exact(window).enumerate() {
            for (pixel, &weight) in plane.iter().enumerate() {
                to[pixel * laid + channel] = weight;
            }
        }
    }
    to
}

/// Gives each layer's value its tensor; returns what the arena holds of one image.
fn place(layers: &[Layer], image_channels: usize) -> (Vec<Tensor>, usize) {
    let mut shapes: Vec<Shape> = layers.iter().map(|layer| layer.shape).collect();
    let image = shapes[0].channels;
    if layers.iter().all(|layer| ignores_padding(layer, 0)) {
        shapes[0].channels = image.max(image_channels);
    }
    let aligned = |channels: usize| channels.is_multiple_of(ALIGNED);
    let mut parts = buffers::concatenated(layers, |whole, channel| {
        aligned(channel) && aligned(shapes[whole].channels)
    });
    for (index, layer) in layers.iter().enumerate() {
        // channels last, a flattened image is the image, and its reader's weights are in that order
        if let (LayerOp::Flatten, &[whole]) = (&layer.op, layer.inputs.as_slice()) {
            shapes[index] = shapes[whole];
            parts[index] = Some(Part { whole, channel: 0 });
        }
    }
    let sizes: Vec<usize> = shapes.iter().map(Shape::elements).collect();
    let buffers = Buffers::assign(layers, &parts, &sizes);
    let mut arena = 0;
    let starts = buffers.sizes.iter().map(|size| {
        let start = arena;
        arena += size.next_multiple_of(BUFFER);
        start
    });
    let starts: Vec<usize> = starts.collect();
    let tensor = |index: usize| {
        let part = parts[index].unwrap_or(Part {
            whole: index,
            channel: 0,
        });
        Tensor {
            shape: shapes[index],
            pitch: shapes[part.whole].channels,
            buffer: starts[buffers.of[index]],
            channel: part.channel,
        }
    };
    let tensors = (0..layers.len()).map(tensor).collect();
    (tensors, arena)
}

/// Whether a layer does without the value, or can read it with channels of zeros behind its own.
fn ignores_padding(layer: &Layer, value: usize) -> bool {
    !layer.reads().any(|read| read == value)
        || matches!(&layer.op, LayerOp::Conv { spec, .. } if spec.groups == 1)
            && !layer.epilogue.contains(&Fused::Add(value))
}

#[cfg(test)]
mod tests;

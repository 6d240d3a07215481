//! The candle engine: the graph interpreted one node at a time, in f32.
//!
//! It is the reference every other engine is held to, and what runs on a GPU unless the fused engine is asked for.
//! Nothing is folded or fused; an activation is freed after its last use.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module};

use super::{Engine, EngineError, EngineInfo};
use crate::ir::{Graph, Node, Op, Pool2d};
use crate::weights::Parameters;

/// A graph with its parameters on one candle device.
pub struct CandleEngine {
    graph: Arc<Graph>,
    /// One per node.
    layers: Vec<Layer>,
    /// For each node, the nodes whose output is not needed after it.
    last_uses: Vec<Vec<usize>>,
    device: Device,
    info: EngineInfo,
}

/// What a node needs besides its inputs.
enum Layer {
    Plain,
    Conv2d(Conv2d),
    Linear(Linear),
    /// Batch norm as one multiplication and addition, `[1, c, 1, 1]` each.
    Norm {
        scale: Tensor,
        shift: Tensor,
    },
}

impl std::fmt::Debug for CandleEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleEngine")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl CandleEngine {
    /// Moves `parameters` to `device`.
    ///
    /// # Errors
    /// When a parameter is missing or the device refuses the memory.
    pub fn new(
        graph: &Arc<Graph>,
        parameters: Parameters,
        device: Device,
        info: EngineInfo,
    ) -> Result<Self, EngineError> {
        let mut parameters = parameters;
        let layers = graph
            .nodes()
            .iter()
            .map(|node| layer(node, &mut parameters, &device))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            layers,
            last_uses: last_uses(graph),
            graph: Arc::clone(graph),
            device,
            info,
        })
    }

    fn run(&self, batch: usize, input: &[f32]) -> Result<Vec<f32>, EngineError> {
        let shape = self.graph.input();
        let dims = (batch, shape.channels, shape.height, shape.width);
        let mut input = Some(Tensor::from_slice(input, dims, &self.device)?);
        let nodes = self.graph.nodes();
        let mut values: Vec<Option<Tensor>> = vec![None; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let output = match node.op {
                Op::Input => input.take(),
                _ => {
                    let inputs = node
                        .inputs
                        .iter()
                        .map(|id| values[id.index()].as_ref())
                        .collect::<Option<Vec<_>>>();
                    match inputs {
                        Some(inputs) => Some(forward(node, &self.layers[index], &inputs)?),
                        None => None,
                    }
                }
            };
            if output.is_none() {
                return Err(EngineError::Device(format!(
                    "node {index} ran before its input"
                )));
            }
            values[index] = output;
            for &dead in &self.last_uses[index] {
                values[dead] = None;
            }
        }
        let logits = values.pop().flatten();
        let logits = logits.ok_or_else(|| EngineError::Device("the graph is empty".into()))?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}

impl Engine for CandleEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        super::check_lengths(&self.graph, batch, input, logits)?;
        match self.run(batch, input) {
            Ok(values) => logits.copy_from_slice(&values),
            // after an error for good a GPU does not even wait any more
            Err(EngineError::Device(reason)) if self.device.synchronize().is_err() => {
                return Err(EngineError::Lost(reason));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        EngineError::Device(error.to_string())
    }
}

/// For each node, those of its inputs that no later node reads.
fn last_uses(graph: &Graph) -> Vec<Vec<usize>> {
    let nodes = graph.nodes();
    let mut user = vec![None; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            user[input.index()] = Some(index);
        }
    }
    let mut freed = vec![Vec::new(); nodes.len()];
    for (producer, last) in user.into_iter().enumerate() {
        if let Some(last) = last {
            freed[last].push(producer);
        }
    }
    freed
}

/// Takes a node's parameters and moves them to the device.
fn layer(node: &Node, parameters: &mut Parameters, device: &Device) -> Result<Layer, EngineError> {
    let mut take = |leaf| super::take(parameters, node, leaf);
    match node.op {
        Op::Conv2d {
            in_channels,
            out_channels,
            kernel,
            stride,
            padding,
            groups,
            bias,
        } => {
            let dims = (out_channels, in_channels / groups, kernel.0, kernel.1);
            let weight = Tensor::from_vec(take("weight")?, dims, device)?;
            let bias = match bias {
                true => Some(Tensor::from_vec(take("bias")?, out_channels, device)?),
                false => None,
            };
            let config = Conv2dConfig {
                // candle takes one padding for both axes; another is applied before the convolution
                padding: if padding.0 == padding.1 { padding.0 } else { 0 },
                stride,
                groups,
                ..Conv2dConfig::default()
            };
            Ok(Layer::Conv2d(Conv2d::new(weight, bias, config)))
        }
        Op::Linear {
            in_features,
            out_features,
        } => {
            let weight = Tensor::from_vec(take("weight")?, (out_features, in_features), device)?;
            let bias = Tensor::from_vec(take("bias")?, out_features, device)?;
            Ok(Layer::Linear(Linear::new(weight, Some(bias))))
        }
        Op::BatchNorm { channels, eps } => {
            let (weight, bias) = (take("weight")?, take("bias")?);
            let (mean, var) = (take("running_mean")?, take("running_var")?);
            let mut scale = Vec::with_capacity(channels);
            let mut shift = Vec::with_capacity(channels);
            for (((&w, &b), &m), &v) in weight.iter().zip(&bias).zip(&mean).zip(&var) {
                let s = f64::from(w) / (f64::from(v) + eps).sqrt();
                scale.push(s as f32);
                shift.push((f64::from(b) - f64::from(m) * s) as f32);
            }
            Ok(Layer::Norm {
                scale: Tensor::from_vec(scale, (1, channels, 1, 1), device)?,
                shift: Tensor::from_vec(shift, (1, channels, 1, 1), device)?,
            })
        }
        _ => Ok(Layer::Plain),
    }
}

/// Output of one node; every tensor is `[n, c, h, w]`.
fn forward(node: &Node, layer: &Layer, inputs: &[&Tensor]) -> Result<Tensor, EngineError> {
    let x = inputs[0];
    let y = match (&node.op, layer) {
        (&Op::Conv2d { padding, .. }, Layer::Conv2d(conv)) if padding.0 != padding.1 => {
            conv.forward(&pad(x, padding, (0, 0), 0.0)?)?
        }
        (Op::Conv2d { .. }, Layer::Conv2d(conv)) => conv.forward(x)?,
        (Op::Linear { .. }, Layer::Linear(linear)) => {
            let y = linear.forward(&x.flatten_from(1)?)?;
            y.unsqueeze(D::Minus1)?.unsqueeze(D::Minus1)?
        }
        // candle-nn's BatchNorm does the same in five passes over the activations
        (Op::BatchNorm { .. }, Layer::Norm { scale, shift }) => {
            x.broadcast_mul(scale)?.broadcast_add(shift)?
        }
        (Op::Relu, _) => x.relu()?,
        (Op::Add, _) => (x + inputs[1])?,
        (Op::Concat, _) => Tensor::cat(inputs, 1)?,
        (Op::MaxPool(window), _) => {
            let x = pad(x, window.padding, overhang(window, x)?, f32::NEG_INFINITY)?;
            x.max_pool2d_with_stride(window.kernel, (window.stride, window.stride))?
        }
        (
            Op::AvgPool {
                window,
                count_include_pad,
            },
            _,
        ) => avg_pool(x, window, *count_include_pad)?,
        (Op::AdaptiveAvgPool { output: (1, 1) }, _) => x.mean_keepdim((2, 3))?,
        (Op::AdaptiveAvgPool { output }, _) => adaptive_avg_pool(x, *output)?,
        (Op::Subsample { stride }, _) => subsample(x, *stride)?,
        (Op::PadChannels { extra }, _) => x.pad_with_zeros(1, 0, *extra)?,
        (Op::Scale { factor }, _) => (x * *factor)?,
        (Op::Flatten, _) => {
            let n = x.dim(0)?;
            x.reshape((n, (), 1, 1))?
        }
        (Op::Input | Op::Conv2d { .. } | Op::BatchNorm { .. } | Op::Linear { .. }, _) => {
            return Err(EngineError::Device(format!(
                "node {:?} has no parameters",
                node.name
            )));
        }
    };
    Ok(y)
}

/// Pads height and width by `both` on both sides and `after` more below and right.
fn pad(
    x: &Tensor,
    both: (usize, usize),
    after: (usize, usize),
    value: f32,
) -> Result<Tensor, candle_core::Error> {
    let mut x = x.clone();
    for (dim, before, after) in [(2, both.0, both.0 + after.0), (3, both.1, both.1 + after.1)] {
        if before == 0 && after == 0 {
            continue;
        }
        let border = |width: usize| {
            let mut dims = x.dims().to_vec();
            dims[dim] = width;
            Tensor::full(value, dims, x.device())
        };
        x = Tensor::cat(&[&border(before)?, &x, &border(after)?], dim)?;
    }
    Ok(x)
}

/// How far a ceil-mode pool's last windows reach past the padded input, below and right.
fn overhang(window: &Pool2d, x: &Tensor) -> Result<(usize, usize), candle_core::Error> {
    let (_, _, height, width) = x.dims4()?;
    let one = |size, kernel, padding| {
        let windows = crate::ir::windows(size, kernel, window.stride, padding, window.ceil);
        ((windows - 1) * window.stride + kernel).saturating_sub(size + 2 * padding)
    };
    Ok((
        one(height, window.kernel.0, window.padding.0),
        one(width, window.kernel.1, window.padding.1),
    ))
}

/// Average over the part of each window that counts: the input, and with `count_include_pad` its padding, but never a
/// ceil-mode overhang.
fn avg_pool(
    x: &Tensor,
    window: &Pool2d,
    count_include_pad: bool,
) -> Result<Tensor, candle_core::Error> {
    let over = overhang(window, x)?;
    let mean = |t: &Tensor| t.avg_pool2d_with_stride(window.kernel, (window.stride, window.stride));
    let sums = mean(&pad(x, window.padding, over, 0.0)?)?;
    let (_, _, height, width) = x.dims4()?;
    let counted = Tensor::ones((1, 1, height, width), DType::F32, x.device())?;
    let counted = if count_include_pad {
        pad(
            &pad(&counted, window.padding, (0, 0), 1.0)?,
            (0, 0),
            over,
            0.0,
        )?
    } else {
        pad(&counted, window.padding, over, 0.0)?
    };
    sums.broadcast_div(&mean(&counted)?)
}

fn adaptive_avg_pool(x: &Tensor, output: (usize, usize)) -> Result<Tensor, candle_core::Error> {
    let (_, _, height, width) = x.dims4()?;
    let borders = |i: usize, size: usize, parts: usize| {
        let start = i * size / parts;
        (start, ((i + 1) * size).div_ceil(parts) - start)
    };
    let mut rows = Vec::with_capacity(output.0);
    for i in 0..output.0 {
        let (top, tall) = borders(i, height, output.0);
        let row = x.narrow(2, top, tall)?;
        let mut cells = Vec::with_capacity(output.1);
        for j in 0..output.1 {
            let (left, wide) = borders(j, width, output.1);
            cells.push(row.narrow(3, left, wide)?.mean_keepdim((2, 3))?);
        }
        rows.push(Tensor::cat(&cells, 3)?);
    }
    Tensor::cat(&rows, 2)
}

fn subsample(x: &Tensor, stride: usize) -> Result<Tensor, candle_core::Error> {
    let every = |size: usize| {
        let indices: Vec<u32> = (0..size as u32).step_by(stride).collect();
        Tensor::new(indices, x.device())
    };
    let (_, _, height, width) = x.dims4()?;
    x.index_select(&every(height)?, 2)?
        .index_select(&every(width)?, 3)
}

#[cfg(test)]
mod tests;

//! One network on one card: its layers with their constants there, shared by all slots that run it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaStream;

use super::algorithm::ALIGNMENT;
use super::constants::{Constant, Constants, Packing};
use super::cudnn::ConvShape;
use super::kernels::{self, Kernels};
use super::launch::{Element, Reduce};
use crate::engine::cuda::plan::{self, Logits, Plan, Step, StepOp, Tensor};
use crate::engine::cuda::records::Records;
use crate::engine::{EngineError, Precision};
use crate::ir::{Graph, Shape};
use crate::kernels as cpu;
use crate::weights::Parameters;

#[derive(Debug)]
pub(super) struct Model {
    pub(super) math: Precision,
    pub(super) input: Shape,
    pub(super) classes: usize,
    /// Where the image is laid.
    pub(super) image: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) logits: Logits,
    /// Values of one image that the arena holds.
    pub(super) arena: usize,
    pub(super) constants: Constants,
    pub(super) kernels: Kernels,
    records: Mutex<Records>,
    /// Batch sizes that all slots capture, by the largest.
    buckets: Mutex<BTreeMap<usize, Vec<usize>>>,
}

/// One step of the plan.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) input: Tensor,
    pub(super) output: Tensor,
    pub(super) op: LayerOp,
}

#[derive(Debug)]
pub(super) enum LayerOp {
    Conv(Conv),
    Pool {
        reduce: Reduce,
        rows: Constant,
        columns: Constant,
        /// Pixels of the largest window.
        window: usize,
    },
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
    pub(super) weights: Constant,
    /// `[out]`, as activations are stored and in f32.
    pub(super) bias: Constant,
    pub(super) wide_bias: Constant,
    pub(super) residual: Option<Tensor>,
    pub(super) relu: bool,
    pub(super) is_product: bool,
    /// Multiply-accumulates of one image.
    pub(super) macs: u64,
    pub(super) weight_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Bias(Constant),
    Affine { scale: Constant, shift: Constant },
    Add(Tensor),
    Scale(f32),
    Relu,
}

impl Precision {
    /// How activations and weights are stored.
    pub(super) fn element(self) -> Element {
        match self {
            Self::F32 | Self::Tf32 => Element::F32,
            Self::F16 => Element::F16,
            Self::Bf16 => Element::Bf16,
        }
    }

    /// Channels that the image is padded to: as many as 16 bytes hold, the least that tensor cores read at once.
    fn image_channels(self) -> usize {
        16 / self.element().bytes()
    }
}

impl Model {
    /// Moves a network to the card of `stream`.
    ///
    /// # Errors
    /// When a parameter is missing or does not fit the arithmetic, or the card has no room.
    pub(super) fn new(
        graph: &Graph,
        parameters: Parameters,
        math: Precision,
        stream: &Arc<CudaStream>,
        records: Records,
    ) -> Result<Self, EngineError> {
        let plan = Plan::new(graph, parameters, math.image_channels())?;
        let mut packing = Packing::default();
        let layers = plan
            .steps
            .into_iter()
            .map(|step| layer(step, math, &mut packing));
        let layers = layers.collect::<Result<_, _>>()?;
        let kernels = Kernels::load(stream.context());
        Ok(Self {
            math,
            input: graph.input(),
            classes: graph.classes(),
            image: plan.image,
            layers,
            logits: plan.logits,
            arena: plan.arena,
            kernels: kernels.map_err(|error| EngineError::Unavailable(error.to_string()))?,
            constants: packing.upload(stream)?,
            records: Mutex::new(records),
            buckets: Mutex::default(),
        })
    }

    /// Whether images can come as pixels: the kernel that lays them writes whole words.
    pub(super) fn lays_pixels(&self) -> bool {
        self.input.channels == 3 && self.image.pitch.is_multiple_of(4)
    }

    pub(super) fn buckets(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<usize>>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer {
    /// What cuDNN is asked to compute for a batch.
    pub(super) fn conv_shape(&self, conv: &Conv, batch: usize) -> ConvShape {
        let dims = |tensor: &Tensor| {
            let Shape {
                channels,
                height,
                width,
            } = tensor.shape;
            [channels, height, width]
        };
        ConvShape {
            batch,
            input: dims(&self.input),
            output: dims(&self.output),
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            groups: conv.groups,
            input_pitch: self.input.pitch,
            output_pitch: self.output.pitch,
            residual_pitch: conv.residual.map(|residual| residual.pitch),
            relu: conv.relu,
            alignment: ALIGNMENT,
        }
    }
}

fn layer(step: Step, math: Precision, packing: &mut Packing) -> Result<Layer, EngineError> {
    let Step {
        name,
        input,
        output,
        op,
    } = step;
    let op = match op {
        StepOp::Conv(conv) => {
            let is_product = conv.is_product();
            let pixels = output.shape.height * output.shape.width;
            LayerOp::Conv(Conv {
                kernel: conv.kernel,
                stride: conv.stride,
                padding: conv.padding,
                groups: conv.groups,
                weights: packing.elements(&name, &conv.weights, math.element())?,
                bias: packing.elements(&name, &conv.bias, math.element())?,
                wide_bias: packing.floats(&conv.bias),
                residual: conv.residual,
                relu: conv.relu,
                is_product,
                macs: (conv.weights.len() * pixels) as u64,
                weight_bytes: conv.weights.len() * math.element().bytes(),
            })
        }
        StepOp::Pool(spec) => LayerOp::Pool {
            reduce: match spec.reduce {
                cpu::Reduce::Max => Reduce::Max,
                cpu::Reduce::Average => Reduce::Average,
            },
            window: largest(&spec.rows) * largest(&spec.columns),
            rows: packing.integers(&kernels::windows(&spec.rows)),
            columns: packing.integers(&kernels::windows(&spec.columns)),
        },
        StepOp::Map { stride, operations } => {
            let operations = operations.into_iter().map(|operation| match operation {
                plan::Operation::Bias(bias) => Operation::Bias(packing.floats(&bias)),
                plan::Operation::Affine { scale, shift } => Operation::Affine {
                    scale: packing.floats(&scale),
                    shift: packing.floats(&shift),
                },
                plan::Operation::Add(value) => Operation::Add(value),
                plan::Operation::Scale(factor) => Operation::Scale(factor),
                plan::Operation::Relu => Operation::Relu,
            });
            LayerOp::Map {
                stride,
                operations: operations.collect(),
            }
        }
    };
    Ok(Layer {
        name,
        input,
        output,
        op,
    })
}

/// Length of the largest of some windows.
fn largest(windows: &[cpu::Window]) -> usize {
    windows
        .iter()
        .map(|window| window.to - window.from)
        .max()
        .unwrap_or(0)
}

//! What computes one convolution or linear layer at one batch size: cuDNN with everything fused, cuDNN's bare
//! convolution with a kernel of ours behind it, or a matrix product of cuBLASLt.

use super::cudnn::{ConvBuffers, ConvPlan};
use super::launch::Operation;
use super::matmul::{MatmulBuffers, MatmulPlan, MatmulShape};
use super::memory::WORKSPACE;
use super::model::{Conv, Layer};
use super::slot::Slot;
use crate::engine::EngineError;
use crate::engine::Precision;
use crate::engine::cuda::plan::Tensor;

/// How many of each kind are measured.
const MEASURED: usize = 8;

/// Addresses of tensors begin with 16 bytes: buffers do, and parts of them only at such channels.
pub(super) const ALIGNMENT: usize = 16;

#[derive(Debug)]
pub(super) enum Algorithm {
    Fused(ConvPlan),
    Bare(ConvPlan),
    Product(MatmulPlan),
}

/// One layer to be computed: `to_logits`, in f32 and to the logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    pub(super) layer: &'a Layer,
    pub(super) conv: &'a Conv,
    pub(super) batch: usize,
    pub(super) to_logits: bool,
}

impl Algorithm {
    /// All that can compute a layer.
    ///
    /// # Errors
    /// When there is none: why.
    pub(super) fn candidates(slot: &Slot, task: Task<'_>) -> Result<Vec<Self>, EngineError> {
        let (
            math,
            Task {
                layer,
                conv,
                batch,
                to_logits,
            },
        ) = (slot.model.math, task);
        let mut found = Vec::new();
        let mut refusals = Vec::new();
        let mut add = |kind: Result<Vec<Self>, EngineError>| match kind {
            Ok(kind) => found.extend(kind),
            Err(error) => refusals.push(error.to_string()),
        };
        if conv.is_product {
            let products = MatmulPlan::candidates(&slot.lt, &task.product(), math, MEASURED);
            add(products.map(|plans| plans.into_iter().map(Self::Product).collect()));
        }
        if !to_logits {
            let shape = layer.conv_shape(conv, batch);
            let of = |fused, max| ConvPlan::candidates(&slot.cudnn, &shape, math, fused, max);
            add(of(true, MEASURED).map(|plans| plans.into_iter().map(Self::Fused).collect()));
            // seldom faster, but cuDNN fuses less than it convolves
            add(of(false, MEASURED / 4).map(|plans| plans.into_iter().map(Self::Bare).collect()));
        }
        found.retain(|algorithm| algorithm.workspace() <= WORKSPACE);
        match found.is_empty() {
            true => Err(EngineError::Unavailable(format!(
                "nothing computes the layer {} at batch {batch}: {}",
                layer.name,
                refusals.join("; ")
            ))),
            false => Ok(found),
        }
    }

    /// The one of this name.
    ///
    /// # Errors
    /// When it is no name of an algorithm, or the library does not take it.
    pub(super) fn from_name(slot: &Slot, task: Task<'_>, name: &str) -> Result<Self, EngineError> {
        let (kind, plan) = name.split_once(' ').unwrap_or((name, ""));
        let (math, shape) = (
            slot.model.math,
            task.layer.conv_shape(task.conv, task.batch),
        );
        let conv = |fused| ConvPlan::from_name(&slot.cudnn, &shape, math, fused, plan);
        let algorithm = match kind {
            "fused" if !task.to_logits => conv(true).map(Self::Fused)?,
            "bare" if !task.to_logits => conv(false).map(Self::Bare)?,
            "product" if task.conv.is_product => {
                let plan = MatmulPlan::from_name(&slot.lt, &task.product(), math, plan)?;
                Self::Product(plan)
            }
            _ => {
                let unknown = format!("{name:?} names no algorithm of this layer");
                return Err(EngineError::Device(unknown));
            }
        };
        match algorithm.workspace() {
            0..=WORKSPACE => Ok(algorithm),
            workspace => Err(EngineError::Device(format!(
                "{name:?} asks for {workspace} bytes of workspace, of {WORKSPACE} that there are"
            ))),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Fused(plan) | Self::Bare(plan) => format!("{} {}", self.kind(), plan.name()),
            Self::Product(plan) => format!("{} {}", self.kind(), plan.name()),
        }
    }

    /// For profiles.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Fused(_) => "fused",
            Self::Bare(_) => "bare",
            Self::Product(_) => "product",
        }
    }

    fn workspace(&self) -> usize {
        match self {
            Self::Fused(plan) | Self::Bare(plan) => plan.workspace(),
            Self::Product(plan) => plan.workspace(),
        }
    }

    /// Puts the layer on the slot's stream.
    pub(super) fn run(&self, slot: &Slot, task: Task<'_>) -> Result<(), EngineError> {
        let Task {
            layer,
            conv,
            batch,
            to_logits,
        } = task;
        let (memory, constants) = (slot.memory()?, &slot.model.constants);
        let x = memory.address(&layer.input, batch);
        let y = memory.address(&layer.output, batch);
        let w = constants.address(conv.weights);
        let residual = conv
            .residual
            .map(|residual| memory.address(&residual, batch));
        let workspace = memory.workspace();
        match self {
            Self::Fused(plan) | Self::Bare(plan) => {
                let bias = constants.address(conv.bias);
                let at = ConvBuffers {
                    x,
                    w,
                    bias,
                    residual,
                    y,
                    workspace,
                };
                // SAFETY: the addresses are of the slot's memory and the model's constants, both as large as the plan's
                // shape says, as both come from the layer; they live as long as the slot's graphs, and its stream alone
                // writes there.
                #[allow(unsafe_code)]
                unsafe { plan.run(&slot.cudnn, &at) }?;
            }
            Self::Product(plan) => {
                let (y, bias) = match to_logits {
                    true => (memory.logits.address, conv.wide_bias),
                    false => (y, conv.bias),
                };
                let bias = constants.address(bias);
                let at = MatmulBuffers {
                    x,
                    w,
                    bias,
                    residual,
                    y,
                    workspace,
                };
                // SAFETY: as above; the logits have room for the batch's.
                #[allow(unsafe_code)]
                unsafe { plan.run(&slot.lt, &at) }?;
            }
        }
        if let Self::Bare(_) = self {
            let mut operations = vec![Operation::Bias(constants.address(conv.wide_bias))];
            operations.extend(conv.residual.map(|residual| Operation::Add {
                address: memory.address(&residual, batch),
                pitch: residual.pitch,
            }));
            operations.extend(conv.relu.then_some(Operation::Relu));
            slot.map(layer.output, layer.output, batch, 1, &operations)?;
        }
        Ok(())
    }
}

impl Task<'_> {
    /// The layer in words, the same for all that are computed alike.
    pub(super) fn key(&self, math: Precision) -> String {
        let Self { layer, conv, .. } = self;
        let tensor = |t: &Tensor| format!("{}/{}", t.shape, t.pitch);
        let Conv {
            kernel,
            padding,
            stride,
            groups,
            relu,
            ..
        } = conv;
        let residual = conv
            .residual
            .map_or_else(|| "none".to_owned(), |r| r.pitch.to_string());
        format!(
            "{} {} to {} window {}x{} stride {stride} padding {}x{} groups {groups} residual {residual} relu {relu} \
             logits {}",
            math.name(),
            tensor(&layer.input),
            tensor(&layer.output),
            kernel.0,
            kernel.1,
            padding.0,
            padding.1,
            self.to_logits,
        )
    }

    /// The layer as a product of pixels and weights.
    fn product(&self) -> MatmulShape {
        let (input, output) = (&self.layer.input, &self.layer.output);
        MatmulShape {
            m: self.batch * output.shape.height * output.shape.width,
            n: output.shape.channels,
            k: input.shape.channels,
            x_pitch: input.pitch,
            y_pitch: match self.to_logits {
                true => output.shape.channels,
                false => output.pitch,
            },
            residual_pitch: self.conv.residual.map(|residual| residual.pitch),
            relu: self.conv.relu,
            f32_output: self.to_logits,
            alignment: ALIGNMENT,
        }
    }
}

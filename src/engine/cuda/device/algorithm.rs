//! What computes one convolution or linear layer at one batch size: cuDNN with everything fused, cuDNN's bare
//! convolution with a kernel of ours behind it, or a matrix product of cuBLASLt.

use super::cudnn::ConvPlan;
use super::launch::Operation;
use super::matmul::{MatmulPlan, MatmulShape};
use super::memory::Operands;
use super::model::{Conv, Layer};
use super::slot::Slot;
use crate::engine::cuda::plan::Tensor;
use crate::engine::{EngineError, Precision};

/// How many of each kind are measured: room for the engine that cuDNN names last, which alone writes parts of a
/// concatenation in place.
const MEASURED: usize = 12;

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
        let math = slot.model.math;
        let mut found = Vec::new();
        let mut refusals = Vec::new();
        if task.conv.is_product {
            match MatmulPlan::candidates(&slot.lt, &task.product(), math, MEASURED) {
                Ok(plans) => found.extend(plans.into_iter().map(Self::Product)),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        let shape = task.layer.conv_shape(task.conv, task.batch);
        let convs = |fused| ConvPlan::candidates(&slot.cudnn, &shape, math, fused, MEASURED);
        // only a product writes logits in f32
        if !task.to_logits || found.is_empty() {
            match convs(true) {
                Ok(plans) => found.extend(plans.into_iter().map(Self::Fused)),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        // cuDNN convolves more than it fuses
        if found.is_empty() {
            match convs(false) {
                Ok(plans) => found.extend(plans.into_iter().map(Self::Bare)),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        match found.is_empty() {
            true => Err(EngineError::Device(format!(
                "nothing computes the layer {} at batch {}: {}",
                task.layer.name,
                task.batch,
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
        let math = slot.model.math;
        let shape = task.layer.conv_shape(task.conv, task.batch);
        let conv = |fused| ConvPlan::from_name(&slot.cudnn, &shape, math, fused, plan);
        match kind {
            "fused" => conv(true).map(Self::Fused),
            "bare" => conv(false).map(Self::Bare),
            "product" if task.conv.is_product => {
                MatmulPlan::from_name(&slot.lt, &task.product(), math, plan).map(Self::Product)
            }
            _ => {
                let unknown = format!("{name:?} names no algorithm of this layer");
                Err(EngineError::Device(unknown))
            }
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

    /// Puts the layer on the slot's stream.
    pub(super) fn run(&self, slot: &Slot, task: Task<'_>) -> Result<(), EngineError> {
        let mut at = task.operands(slot)?;
        match self {
            Self::Product(plan) => {
                if task.to_logits {
                    at.y = slot.memory()?.logits.address;
                    at.bias = slot.model.constants.address(task.conv.wide_bias);
                }
                // SAFETY: the operands are of the slot's memory and the model's constants, both as large as the plan's
                // shape says, as both come from the layer, and the logits have room for the batch's; they live as long
                // as the slot's graphs, and its stream alone writes there.
                #[allow(unsafe_code)]
                return unsafe { plan.run(&slot.lt, &at) };
            }
            Self::Fused(plan) | Self::Bare(plan) => {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                unsafe { plan.run(&slot.cudnn, &at) }?;
            }
        }
        if let Self::Bare(_) = self {
            task.epilogue(slot)?;
        }
        match task.to_logits {
            true => slot.widen(&task.layer.output, task.batch),
            false => Ok(()),
        }
    }
}

impl Task<'_> {
    fn operands(&self, slot: &Slot) -> Result<Operands, EngineError> {
        let (memory, constants) = (slot.memory()?, &slot.model.constants);
        let address = |tensor: &Tensor| memory.address(tensor, self.batch);
        Ok(Operands {
            x: address(&self.layer.input),
            w: constants.address(self.conv.weights),
            bias: constants.address(self.conv.bias),
            residual: self.conv.residual.as_ref().map(address),
            y: address(&self.layer.output),
            workspace: memory.workspace(),
        })
    }

    /// What a bare convolution leaves to do, in place.
    fn epilogue(&self, slot: &Slot) -> Result<(), EngineError> {
        let (memory, conv) = (slot.memory()?, self.conv);
        let bias = slot.model.constants.address(conv.wide_bias);
        let mut operations = vec![Operation::Bias(bias)];
        operations.extend(conv.residual.map(|residual| Operation::Add {
            address: memory.address(&residual, self.batch),
            pitch: residual.pitch,
        }));
        operations.extend(conv.relu.then_some(Operation::Relu));
        let output = self.layer.output;
        slot.map(output, output, self.batch, 1, &operations)
    }

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

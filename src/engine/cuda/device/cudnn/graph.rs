//! The operation graph of one convolution: `relu?(conv(x, w) + residual? + bias)` in f32 between its stored ends.
//!
//! The order matters. Residual before bias, with the residual laid out as the output and the bias in the type of the
//! input, is what cuDNN's precompiled kernels know (CONV_ADD_BIAS_ACT, as in its legacy ConvolutionBiasActivation);
//! any other graph is left to kernels that it compiles while it runs.

use cudarc::cudnn::sys;
use sys::cudnnPointwiseMode_t as Mode;

use super::ConvShape;
use super::choice::Choice;
use super::descriptor::{Attribute, Descriptor, Handle, Kind, Knob, Link, Note};
use crate::engine::{EngineError, Precision};

/// Names of the tensors that have addresses; those between have numbers from `BETWEEN` on.
pub(super) const X: i64 = 1;
pub(super) const W: i64 = 2;
pub(super) const BIAS: i64 = 3;
pub(super) const RESIDUAL: i64 = 4;
pub(super) const Y: i64 = 5;
const BETWEEN: i64 = 10;

/// Weights and bias lie at multiples of 256 bytes.
const PARAMETER_ALIGNMENT: usize = 16;

const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;

/// More than there are kinds of knobs, and of notes; cuDNN says how many it filled in.
const KNOBS: usize = 64;
const NOTES: usize = 16;

/// A finalized operation graph. Fields are dropped in order: the graph before what it links to.
#[derive(Debug)]
pub(super) struct Graph {
    graph: Descriptor,
    _parts: Vec<Descriptor>,
}

/// What the heuristics propose, and the numerical notes of its engine.
pub(super) struct Proposal {
    pub(super) choice: Choice,
    pub(super) notes: Vec<Note>,
}

impl Graph {
    /// `fused` or the bare convolution.
    pub(super) fn new(
        handle: Handle,
        shape: &ConvShape,
        math: Precision,
        fused: bool,
    ) -> Result<Self, EngineError> {
        let mut parts = Parts::new(shape, math);
        let operations = if fused {
            parts.fused(shape)?
        } else {
            let y = parts.output(shape)?;
            vec![parts.convolution(shape, y)?]
        };
        let graph = Descriptor::build(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, |graph| {
            graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
            graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)
        })?;
        Ok(Self {
            graph,
            _parts: parts.kept,
        })
    }

    /// Engine configurations in the order in which `mode` expects them to be fast.
    pub(super) fn proposals(
        &self,
        mode: sys::cudnnBackendHeurMode_t,
    ) -> Result<Vec<Proposal>, EngineError> {
        let results = Attribute::CUDNN_ATTR_ENGINEHEUR_RESULTS;
        let heuristics = Descriptor::build(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, |of| {
            let graph = Attribute::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH;
            of.set(graph, &[self.graph.link()])?;
            of.set(Attribute::CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])
        })?;
        let count = heuristics.count(results)?;
        let kind = Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
        let configs = heuristics.children(results, kind, count)?;
        configs.iter().map(proposal).collect()
    }

    /// Every engine that takes the graph, with the knobs left to it.
    pub(super) fn engines(&self) -> Result<Vec<Proposal>, EngineError> {
        let count = Attribute::CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT;
        let count: i64 = self.graph.read_one(count)?;
        // an engine that does not know the graph fails here, as most do
        let engines = (0..count).filter_map(|index| Some((index, self.engine(index).ok()?)));
        let proposals = engines.map(|(engine, descriptor)| {
            let knobs = Vec::new();
            let choice = Choice { engine, knobs };
            let notes = notes(&descriptor)?;
            Ok(Proposal { choice, notes })
        });
        proposals.collect()
    }

    pub(super) fn engine(&self, index: i64) -> Result<Descriptor, EngineError> {
        Descriptor::build(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, |engine| {
            let graph = Attribute::CUDNN_ATTR_ENGINE_OPERATION_GRAPH;
            engine.set(graph, &[self.graph.link()])?;
            engine.set(Attribute::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[index])
        })
    }
}

fn proposal(config: &Descriptor) -> Result<Proposal, EngineError> {
    let (of, kind) = (
        Attribute::CUDNN_ATTR_ENGINECFG_ENGINE,
        Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR,
    );
    let engines = config.children(of, kind, 1)?;
    let engine = engines.first().ok_or_else(|| {
        EngineError::Device("cuDNN proposed a configuration of no engine".to_owned())
    })?;
    let (of, kind) = (
        Attribute::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
        Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR,
    );
    let knobs = config.children(of, kind, KNOBS)?;
    let knobs: Result<_, EngineError> = knobs
        .iter()
        .map(|knob| {
            let Knob(kind) = knob.read_one(Attribute::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE)?;
            let value = knob.read_one(Attribute::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE)?;
            Ok((kind, value))
        })
        .collect();
    Ok(Proposal {
        choice: Choice {
            engine: engine.read_one(Attribute::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?,
            knobs: knobs?,
        },
        notes: notes(engine)?,
    })
}

pub(super) fn notes(engine: &Descriptor) -> Result<Vec<Note>, EngineError> {
    engine.read(Attribute::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, NOTES)
}

/// Makes the descriptors below a graph and keeps them.
struct Parts {
    kept: Vec<Descriptor>,
    element: sys::cudnnDataType_t,
    alignment: usize,
    between: i64,
}

impl Parts {
    fn new(shape: &ConvShape, math: Precision) -> Self {
        Self {
            kept: Vec::new(),
            element: match math {
                Precision::F32 | Precision::Tf32 => FLOAT,
                Precision::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
                Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            },
            alignment: shape.alignment,
            between: BETWEEN,
        }
    }

    fn keep(&mut self, descriptor: Descriptor) -> Link {
        let link = descriptor.link();
        self.kept.push(descriptor);
        link
    }

    /// The convolution and what follows it, each reading what the one before leaves.
    fn fused(&mut self, shape: &ConvShape) -> Result<Vec<Link>, EngineError> {
        let channels = shape.output[0] as i64;
        let mut at = self.intermediate(shape)?;
        let mut operations = vec![self.convolution(shape, at)?];
        if let Some(pitch) = shape.residual_pitch {
            let residual = Layout::nhwc(shape.batch, shape.output, pitch);
            let residual = self.stored(RESIDUAL, residual, self.alignment)?;
            let sum = self.intermediate(shape)?;
            operations.push(self.pointwise(Mode::CUDNN_POINTWISE_ADD, at, Some(residual), sum)?);
            at = sum;
        }
        let bias = Layout {
            dims: [1, channels, 1, 1],
            strides: [channels, 1, channels, channels],
        };
        let bias = self.stored(BIAS, bias, PARAMETER_ALIGNMENT)?;
        let y = self.output(shape)?;
        let sum = if shape.relu {
            self.intermediate(shape)?
        } else {
            y
        };
        operations.push(self.pointwise(Mode::CUDNN_POINTWISE_ADD, at, Some(bias), sum)?);
        if shape.relu {
            operations.push(self.pointwise(Mode::CUDNN_POINTWISE_RELU_FWD, sum, None, y)?);
        }
        Ok(operations)
    }

    fn convolution(&mut self, shape: &ConvShape, y: Link) -> Result<Link, EngineError> {
        let [input, output] = [shape.input[0], shape.output[0]];
        let (height, width) = shape.kernel;
        let x = Layout::nhwc(shape.batch, shape.input, shape.input_pitch);
        let x = self.stored(X, x, self.alignment)?;
        let per_group = input / shape.groups.max(1);
        let w = Layout::nhwc(output, [per_group, height, width], per_group);
        let w = self.stored(W, w, PARAMETER_ALIGNMENT)?;
        let stride = [shape.stride as i64; 2];
        let padding = [shape.padding.0 as i64, shape.padding.1 as i64];
        let convolution = Descriptor::build(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, |of| {
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[FLOAT])?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[mode])?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2_i64])?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1_i64; 2])?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &stride)?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &padding)?;
            of.set(Attribute::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &padding)
        })?;
        let convolution = self.keep(convolution);
        let kind = Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
        let operation = Descriptor::build(kind, |of| {
            let description = Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC;
            of.set(description, &[convolution])?;
            of.set(Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[x])?;
            of.set(Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[w])?;
            of.set(Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[y])?;
            of.set(
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                &[1_f32],
            )?;
            of.set(
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                &[0_f32],
            )
        })?;
        Ok(self.keep(operation))
    }

    /// `y = mode(x)` or `y = mode(x, b)`, in f32.
    fn pointwise(
        &mut self,
        mode: Mode,
        x: Link,
        b: Option<Link>,
        y: Link,
    ) -> Result<Link, EngineError> {
        let pointwise = Descriptor::build(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR, |of| {
            of.set(Attribute::CUDNN_ATTR_POINTWISE_MODE, &[mode])?;
            of.set(Attribute::CUDNN_ATTR_POINTWISE_MATH_PREC, &[FLOAT])
        })?;
        let pointwise = self.keep(pointwise);
        let kind = Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
        let operation = Descriptor::build(kind, |of| {
            let description = Attribute::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR;
            of.set(description, &[pointwise])?;
            of.set(Attribute::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?;
            if let Some(b) = b {
                of.set(Attribute::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?;
            }
            of.set(Attribute::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])
        })?;
        Ok(self.keep(operation))
    }

    fn output(&mut self, shape: &ConvShape) -> Result<Link, EngineError> {
        let y = Layout::nhwc(shape.batch, shape.output, shape.output_pitch);
        self.stored(Y, y, self.alignment)
    }

    /// A tensor in memory.
    fn stored(&mut self, id: i64, layout: Layout, alignment: usize) -> Result<Link, EngineError> {
        let tensor = tensor(id, self.element, layout, alignment, false)?;
        Ok(self.keep(tensor))
    }

    /// A tensor of the output's extents that stays within the kernel, in f32.
    fn intermediate(&mut self, shape: &ConvShape) -> Result<Link, EngineError> {
        let layout = Layout::nhwc(shape.batch, shape.output, shape.output[0]);
        let tensor = tensor(self.between, FLOAT, layout, PARAMETER_ALIGNMENT, true)?;
        self.between += 1;
        Ok(self.keep(tensor))
    }
}

/// Extents and distances in elements, in the order n, c, h, w whatever lies next to what.
struct Layout {
    dims: [i64; 4],
    strides: [i64; 4],
}

impl Layout {
    /// Channels next to each other, `pitch` elements from one pixel to the next.
    fn nhwc(batch: usize, [c, h, w]: [usize; 3], pitch: usize) -> Self {
        let size = |n: usize| n as i64;
        Self {
            dims: [size(batch), size(c), size(h), size(w)],
            strides: [size(h * w * pitch), 1, size(w * pitch), size(pitch)],
        }
    }
}

fn tensor(
    id: i64,
    element: sys::cudnnDataType_t,
    layout: Layout,
    alignment: usize,
    is_virtual: bool,
) -> Result<Descriptor, EngineError> {
    Descriptor::build(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR, |of| {
        of.set(Attribute::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?;
        of.set(Attribute::CUDNN_ATTR_TENSOR_DATA_TYPE, &[element])?;
        of.set(
            Attribute::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT,
            &[alignment as i64],
        )?;
        of.set(Attribute::CUDNN_ATTR_TENSOR_DIMENSIONS, &layout.dims)?;
        of.set(Attribute::CUDNN_ATTR_TENSOR_STRIDES, &layout.strides)?;
        of.set(Attribute::CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[is_virtual])
    })
}

//! A convolution with bias, residual and ReLU as one call of cuDNN: the backend (graph) API, version 9.
//!
//! A plan is made once for a shape, owns all its descriptors, and is then only launched. Which engine computes it is
//! found by measuring the candidates; their names are stable texts, from which a plan is made again without asking the
//! heuristics. Tensors are NHWC, weights `[out, kernel height, kernel width, in / groups]`.
#![allow(unsafe_code)] // calls into libcudnn

mod choice;
mod descriptor;
mod graph;

use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::sys;
use cudarc::driver::CudaStream;
use sys::cudnnBackendHeurMode_t as Heuristics;
use sys::cudnnBackendNumericalNote_t as Numerical;

use self::choice::Choice;
use self::descriptor::{Address, Attribute, Descriptor, Handle, Kind, Knob, Note, check};
use self::graph::{Graph, Proposal};
use super::driver::{bind, turn};
use super::memory::{Operands, WORKSPACE};
use crate::engine::{EngineError, Precision};

/// The library on one stream. The thread that uses it must have the stream's context bound.
#[derive(Debug)]
pub(crate) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// Kept for as long as the handle launches on it.
    _stream: Arc<CudaStream>,
}

// SAFETY: a handle may change threads as long as one uses it at a time, and it is not Sync.
unsafe impl Send for Cudnn {}

impl Cudnn {
    /// # Errors
    /// When the driver or the libraries do not fit the card or each other.
    pub(crate) fn new(stream: Arc<CudaStream>) -> Result<Self, EngineError> {
        bind(stream.context())?;
        let _turn = turn();
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is where the library puts the new handle.
        let status = unsafe { sys::cudnnCreate(&raw mut handle) };
        check(status, || "cudnnCreate".to_owned())?;
        let cu_stream = stream.cu_stream();
        let cudnn = Self {
            handle,
            _stream: stream,
        };
        // SAFETY: handle and stream are alive, and the stream stays so for as long as the handle.
        let status = unsafe { sys::cudnnSetStream(handle, cu_stream.cast()) };
        check(status, || "cudnnSetStream".to_owned())?;
        Ok(cudnn)
    }

    /// As in 92801 for 9.28.1.
    pub(crate) fn version() -> usize {
        // SAFETY: takes nothing and touches nothing.
        unsafe { sys::cudnnGetVersion() }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let _turn = turn();
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cudnnDestroy(self.handle) };
    }
}

/// `y = relu?(conv(x, w) + residual? + bias)`; extents are `[c, h, w]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) input: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: usize,
    /// Above and below, left and right.
    pub(crate) padding: (usize, usize),
    pub(crate) groups: usize,
    /// Elements from one pixel to the next, at least the channels.
    pub(crate) input_pitch: usize,
    pub(crate) output_pitch: usize,
    /// `None` without a residual. Only where it is `output_pitch` are there precompiled kernels.
    pub(crate) residual_pitch: Option<usize>,
    pub(crate) relu: bool,
    /// Bytes, a power of two up to 16, that the addresses of x, y and residual are multiples of; at least an element.
    /// Those of weights, bias and workspace are multiples of 16.
    pub(crate) alignment: usize,
}

impl ConvShape {
    fn is_dense(&self) -> bool {
        self.input_pitch == self.input[0] && self.output_pitch == self.output[0]
    }
}

impl fmt::Display for ConvShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, columns) = self.kernel;
        write!(f, "convolution {rows}x{columns}/{}", self.stride)?;
        write!(f, " padded by {:?}, {} groups,", self.padding, self.groups)?;
        write!(f, " batch {}, {:?}", self.batch, self.input)?;
        write!(f, " at pitch {} to {:?}", self.input_pitch, self.output)?;
        write!(f, " at pitch {}", self.output_pitch)?;
        if let Some(pitch) = self.residual_pitch {
            write!(f, ", residual at pitch {pitch}")?;
        }
        f.write_str(if self.relu { ", relu" } else { "" })
    }
}

/// One convolution with one engine. Fields are dropped in order: what links before what is linked to.
#[derive(Debug)]
pub(crate) struct ConvPlan {
    plan: Descriptor,
    _config: Descriptor,
    _knobs: Vec<Descriptor>,
    _engine: Descriptor,
    _graph: Graph,
    choice: Choice,
    fused: bool,
    /// What it computes, for errors.
    what: String,
    residual: bool,
}

impl ConvPlan {
    /// Up to `max` plans, of as many engines as there are, roughly from the one that cuDNN expects to be fastest.
    ///
    /// `fused`, or the bare convolution without bias, residual and ReLU; none that asks for more than [`WORKSPACE`]. Where
    /// cuDNN has to compile a kernel, a plan takes half a second of a core.
    ///
    /// # Errors
    /// When there is none: cuDNN's reason of the last refusal.
    pub(crate) fn candidates(
        cudnn: &Cudnn,
        shape: &ConvShape,
        math: Precision,
        fused: bool,
        max: usize,
    ) -> Result<Vec<Self>, EngineError> {
        let graph = Graph::new(Handle(cudnn.handle), shape, math, fused);
        let graph = graph.map_err(|e| about(shape, math, &e))?;
        let mut refusal = None;
        let mut plans = Vec::new();
        for choice in choices(&graph, shape, math, &mut refusal) {
            if plans.len() == max {
                break;
            }
            match Self::build(Handle(cudnn.handle), shape, math, fused, choice) {
                Ok(plan) => plans.push(plan),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(refusal) if plans.is_empty() => Err(about(shape, math, &refusal)),
            None if plans.is_empty() => Err(EngineError::Device(format!(
                "cuDNN has no engine for {shape}, {}",
                math.name()
            ))),
            _ => Ok(plans),
        }
    }

    /// The plan that had this name, for the same shape, arithmetic, card, driver and cuDNN.
    ///
    /// # Errors
    /// When it is no name of a plan, or cuDNN does not take it.
    pub(crate) fn from_name(
        cudnn: &Cudnn,
        shape: &ConvShape,
        math: Precision,
        fused: bool,
        name: &str,
    ) -> Result<Self, EngineError> {
        let plan = Self::build(Handle(cudnn.handle), shape, math, fused, name.parse()?);
        plan.map_err(|e| EngineError::Device(format!("{name}: {}", about(shape, math, &e))))
    }

    fn build(
        handle: Handle,
        shape: &ConvShape,
        math: Precision,
        fused: bool,
        choice: Choice,
    ) -> Result<Self, EngineError> {
        let graph = Graph::new(handle, shape, math, fused)?;
        let engine = graph.engine(choice.engine)?;
        if !allowed(&graph::notes(&engine)?, math) {
            let what = "its engine rounds more than this arithmetic, or gives other bits each time";
            return Err(EngineError::Device(what.to_owned()));
        }
        let knobs = choice.knobs.iter().map(|&(knob, value)| {
            Descriptor::build(Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, |of| {
                of.set(Attribute::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, &[Knob(knob)])?;
                of.set(Attribute::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &[value])
            })
        });
        let knobs: Vec<Descriptor> = knobs.collect::<Result<_, _>>()?;
        let config = Descriptor::build(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, |of| {
            of.set(Attribute::CUDNN_ATTR_ENGINECFG_ENGINE, &[engine.link()])?;
            let links: Vec<_> = knobs.iter().map(Descriptor::link).collect();
            if links.is_empty() {
                return Ok(());
            }
            of.set(Attribute::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, &links)
        })?;
        let plan = Descriptor::build(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, |of| {
            of.set(Attribute::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?;
            let config = [config.link()];
            of.set(Attribute::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &config)
        })?;
        let workspace: i64 = plan.read_one(Attribute::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        if usize::try_from(workspace).is_ok_and(|bytes| bytes > WORKSPACE) {
            let what =
                format!("it asks for {workspace} bytes of workspace, of {WORKSPACE} there are");
            return Err(EngineError::Device(what));
        }
        Ok(Self {
            plan,
            _config: config,
            _knobs: knobs,
            _engine: engine,
            _graph: graph,
            fused,
            what: format!("{shape}, {}, {choice}", math.name()),
            choice,
            residual: fused && shape.residual_pitch.is_some(),
        })
    }

    /// Engine and knobs: enough for [`Self::from_name`].
    pub(crate) fn name(&self) -> String {
        self.choice.to_string()
    }

    /// Launches on the stream of `cudnn`. May be captured into a CUDA graph; run it once before, as the first run loads
    /// the kernel. The plan must outlive the graph.
    ///
    /// # Errors
    /// When the launch fails. What fails on the card later shows at the next synchronization.
    ///
    /// # Safety
    /// All addresses are of memory of this card, of the sizes and alignments that shape, arithmetic and
    /// [`WORKSPACE`] tell, alive until the stream has passed this call and in every replay of a graph that
    /// captured it; nothing else writes to them meanwhile, and y and the workspace overlap none of the others. The plan
    /// was made with this `cudnn`.
    pub(crate) unsafe fn run(&self, cudnn: &Cudnn, at: &Operands) -> Result<(), EngineError> {
        let ran = self.pack(at).and_then(|pack| {
            let (plan, pack) = (self.plan.raw(), pack.raw());
            // SAFETY: handle and descriptors are alive; the memory is as the caller promises.
            let status = unsafe { sys::cudnnBackendExecute(cudnn.handle, plan, pack) };
            check(status, || "cudnnBackendExecute".to_owned())
        });
        ran.map_err(|e| EngineError::Device(format!("{}: {e}", self.what)))
    }

    /// The tensors' addresses by name.
    fn pack(&self, at: &Operands) -> Result<Descriptor, EngineError> {
        let mut tensors = vec![(graph::X, at.x), (graph::W, at.w), (graph::Y, at.y)];
        if self.fused {
            tensors.push((graph::BIAS, at.bias));
        }
        if self.residual {
            let residual = at.residual.ok_or_else(|| {
                EngineError::Device("the residual's address is missing".to_owned())
            })?;
            tensors.push((graph::RESIDUAL, residual));
        }
        let (ids, addresses): (Vec<i64>, Vec<Address>) = tensors
            .into_iter()
            .map(|(id, at)| (id, Address(at)))
            .unzip();
        Descriptor::build(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, |of| {
            of.set(Attribute::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids)?;
            of.set(Attribute::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &addresses)?;
            let workspace = [Address(at.workspace)];
            of.set(Attribute::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &workspace)
        })
    }
}

/// What is worth measuring, the likely first; what could not be asked for is left in `refusal`.
fn choices(
    graph: &Graph,
    shape: &ConvShape,
    math: Precision,
    refusal: &mut Option<EngineError>,
) -> Vec<Choice> {
    let mut of = |proposals: Result<Vec<Proposal>, EngineError>| -> Vec<Choice> {
        let proposals = proposals.unwrap_or_else(|error| {
            *refusal = Some(error);
            Vec::new()
        });
        let fit = proposals.into_iter().filter(|of| allowed(&of.notes, math));
        fit.map(|of| of.choice).collect()
    };
    let mut choices = of(graph.proposals(Heuristics::CUDNN_HEUR_MODE_A));
    if math == Precision::F32 {
        // the heuristics speak for tensor cores: hardly a proposal is left
        choices.extend(of(graph.engines()));
    }
    // compiled kernels and slow ones; but where pixels are not dense the others copy them first
    if choices.is_empty() || !shape.is_dense() {
        choices.extend(of(graph.proposals(Heuristics::CUDNN_HEUR_MODE_FALLBACK)));
    }
    choice::spread(choices)
}

/// Whether an engine computes as `math` promises, and the same bits every time.
fn allowed(notes: &[Note], math: Precision) -> bool {
    let has = |note: Numerical| notes.iter().any(|has| has.0 == note as u32);
    let exact = !has(Numerical::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
        && !has(Numerical::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
        && !has(Numerical::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
    exact
        && match math {
            Precision::F32 => !has(Numerical::CUDNN_NUMERICAL_NOTE_TENSOR_CORE),
            Precision::Tf32 => true,
            // both transform the input, whose transforms would be rounded to 16 bits
            Precision::F16 | Precision::Bf16 => {
                !has(Numerical::CUDNN_NUMERICAL_NOTE_WINOGRAD)
                    && !has(Numerical::CUDNN_NUMERICAL_NOTE_FFT)
            }
        }
}

fn about(shape: &ConvShape, math: Precision, error: &EngineError) -> EngineError {
    EngineError::Device(format!("{shape}, {}: {error}", math.name()))
}

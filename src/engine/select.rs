//! Chooses engines and devices from the options and what the build and the machine have.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;

use super::{CandleEngine, Engine, EngineError, EngineInfo, FusedEngine};
use crate::ir::Graph;
use crate::kernels::{Isa, Token};
use crate::pool::Pool;
use crate::weights::Parameters;

/// `--device`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build has CUDA and one answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// GPUs by their indices: at least one, each once.
    Cuda(Vec<usize>),
    /// Every GPU there is.
    CudaAll,
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    F32,
    /// Kept in f32, multiplied with 10 bits of mantissa; on a GPU.
    Tf32,
    /// Activations and weights in f16, sums in f32; on a GPU.
    F16,
    /// Activations and weights in bf16, sums in f32; f32 where the CPU has no instructions for it.
    Bf16,
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// Fused on the CPU; candle on a GPU, where the fused engine has not been measured yet.
    #[default]
    Auto,
    Candle,
    Fused,
}

/// What the operator asked of engines.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    pub device: DeviceChoice,
    pub precision: Precision,
    pub engine: EngineChoice,
    /// Widest instruction set that the fused engine may use.
    pub max_isa: Option<Isa>,
    /// The threads of the fused engine; without them it runs on its caller's alone.
    pub pool: Option<Arc<Pool>>,
    /// Folder that keeps which algorithms are the fastest on a GPU.
    pub cuda_cache: Option<PathBuf>,
}

impl EngineOptions {
    /// Whether this build can do what is asked, so that a start can fail before models are read.
    ///
    /// # Errors
    /// What the build lacks.
    pub fn check(&self) -> Result<(), EngineError> {
        let cuda = matches!(self.device, DeviceChoice::Cuda(_) | DeviceChoice::CudaAll);
        let candle = match self.engine {
            EngineChoice::Auto => cuda,
            choice => choice == EngineChoice::Candle,
        };
        let lacks = match self.precision {
            _ if cuda && !candle_core::utils::cuda_is_available() => {
                "this build has no CUDA; use --device cpu, or build with --features cuda,cudnn"
            }
            _ if cuda && !candle && !cfg!(feature = "cudnn") => {
                "this build has no cuDNN; use --engine candle, or build with --features cuda,cudnn"
            }
            Precision::Tf32 | Precision::F16 | Precision::Bf16 if candle => {
                "the candle engine computes in f32; use --engine fused, or --precision f32"
            }
            Precision::Tf32 | Precision::F16 if !cuda => {
                "tf32 and f16 are a GPU's; use --device cuda, or --precision bf16 or f32"
            }
            _ => return Ok(()),
        };
        Err(EngineError::Unavailable(lacks.into()))
    }

    /// Whether one device is asked for: what measures one refuses more.
    ///
    /// # Errors
    /// When there are several, or there may be.
    pub fn check_one(&self) -> Result<(), EngineError> {
        match &self.device {
            DeviceChoice::CudaAll => Err(several()),
            DeviceChoice::Cuda(indices) if indices.len() > 1 => Err(several()),
            _ => Ok(()),
        }
    }

    /// The instructions of the fused engine.
    fn token(&self) -> Token {
        let widest = Token::detect(self.max_isa);
        if self.precision == Precision::F32 {
            return widest;
        }
        Token::detect_bf16(self.max_isa).unwrap_or_else(|| {
            let isa = widest.isa();
            tracing::warn!(
                "bf16 needs a CPU with AVX512_BF16 and --max-isa avx512 or wider; running in f32 on {isa}"
            );
            widest
        })
    }
}

/// Engines of one device that run side by side, so that one copies while another computes.
#[cfg(feature = "cudnn")]
const SLOTS: usize = 2;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Cpu,
    Cuda(usize),
}

/// Makes the engines for one graph: at least one for each device.
///
/// # Errors
/// When a device asked for is not there or refuses the model.
pub fn select(
    graph: &Arc<Graph>,
    parameters: Parameters,
    options: &EngineOptions,
) -> Result<Vec<Box<dyn Engine>>, EngineError> {
    options.check()?;
    let mut places = places(options)?;
    let last = places.pop().ok_or_else(none)?;
    let mut all = Vec::new();
    for place in places {
        all.append(&mut engines(graph, parameters.clone(), place, options)?);
    }
    all.append(&mut engines(graph, parameters, last, options)?);
    Ok(all)
}

/// Makes the engine for one graph, for work that is one device's.
///
/// # Errors
/// As [`select`]; and when several devices are named.
pub fn select_one(
    graph: &Arc<Graph>,
    parameters: Parameters,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, EngineError> {
    options.check_one()?;
    let engines = select(graph, parameters, options)?;
    engines.into_iter().next().ok_or_else(none)
}

fn none() -> EngineError {
    EngineError::Unavailable("no device is named; use --device cpu".into())
}

fn several() -> EngineError {
    EngineError::Unavailable("this runs on one device; name one, as in --device cuda:0".into())
}

/// The devices chosen, in the order of their naming.
fn places(options: &EngineOptions) -> Result<Vec<Place>, EngineError> {
    Ok(match &options.device {
        DeviceChoice::Cpu => vec![Place::Cpu],
        DeviceChoice::Cuda(indices) => indices.iter().copied().map(Place::Cuda).collect(),
        DeviceChoice::CudaAll => match device_count()? {
            0 => return Err(EngineError::Unavailable(
                "this machine has no GPU that CUDA sees; use --device cpu, or look at CUDA_VISIBLE_DEVICES".into(),
            )),
            count => (0..count).map(Place::Cuda).collect(),
        },
        // candle is what runs on a GPU unless the fused engine is asked for
        DeviceChoice::Auto
            if options.engine == EngineChoice::Fused || options.precision != Precision::F32 =>
        {
            vec![Place::Cpu]
        }
        DeviceChoice::Auto if !candle_core::utils::cuda_is_available() => vec![Place::Cpu],
        DeviceChoice::Auto => match cuda(0) {
            Ok(_) => vec![Place::Cuda(0)],
            Err(error) => {
                tracing::warn!(%error, "no GPU answers; running on the CPU");
                vec![Place::Cpu]
            }
        },
    })
}

/// Makes the engines for one graph on one device.
fn engines(
    graph: &Arc<Graph>,
    parameters: Parameters,
    place: Place,
    options: &EngineOptions,
) -> Result<Vec<Box<dyn Engine>>, EngineError> {
    let device = match (place, options.engine) {
        (Place::Cpu, EngineChoice::Auto | EngineChoice::Fused) => {
            let threads = options.pool.clone();
            let engine = FusedEngine::new(graph, parameters, options.token(), threads)?;
            return Ok(vec![Box::new(engine)]);
        }
        #[cfg(feature = "cudnn")]
        (Place::Cuda(index), EngineChoice::Fused) => {
            let target = super::cuda::Target {
                index,
                precision: options.precision,
                slots: SLOTS,
                records: options.cuda_cache.as_deref(),
            };
            let engines = super::cuda::CudaEngine::new(graph, parameters, &target)?;
            let engines = engines.into_iter();
            return Ok(engines.map(|e| Box::new(e) as Box<dyn Engine>).collect());
        }
        (Place::Cpu, EngineChoice::Candle) => Device::Cpu,
        (Place::Cuda(index), _) => cuda(index)?,
    };
    let info = EngineInfo {
        engine: "candle",
        precision: "f32",
        isa: isa(&device),
        device: match place {
            Place::Cuda(index) => format!("cuda:{index}"),
            Place::Cpu => "cpu".to_owned(),
        },
    };
    let engine = CandleEngine::new(graph, parameters, device, info)?;
    Ok(vec![Box::new(engine)])
}

fn cuda(index: usize) -> Result<Device, EngineError> {
    // a stream of its own: the default one is the calling thread's, and a model is loaded and run by different threads
    Device::new_cuda_with_stream(index)
        .map_err(|e| EngineError::Unavailable(format!("GPU cuda:{index} does not answer: {e}")))
}

/// The number of GPUs that CUDA sees.
#[cfg(feature = "cuda")]
fn device_count() -> Result<usize, EngineError> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    let count = CudaContext::device_count()
        .map_err(|e| EngineError::Unavailable(format!("CUDA cannot count its GPUs: {e}")))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(not(feature = "cuda"))]
fn device_count() -> Result<usize, EngineError> {
    Ok(0)
}

/// The widest instruction set that candle's matrix multiplication uses on this machine.
fn isa(device: &Device) -> &'static str {
    if device.is_cuda() {
        return "cuda";
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return "avx2";
    }
    "portable"
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda:all" => return Ok(Self::CudaAll),
            _ => {}
        }
        let mut indices = Vec::new();
        for name in text.split(',').map(str::trim) {
            let index = match name {
                "cuda" => Some(0),
                "auto" | "cpu" | "cuda:all" => {
                    return Err(format!(
                        "{name} stands alone; a list has GPUs by their indices, as in cuda:0,cuda:1"
                    ));
                }
                _ => name
                    .strip_prefix("cuda:")
                    .and_then(|index| index.parse().ok()),
            };
            let index = index.ok_or_else(|| {
                format!(
                    "{name:?} is not a device; use auto, cpu, cuda, cuda:N, a list as in cuda:0,cuda:1, or cuda:all"
                )
            })?;
            if indices.contains(&index) {
                return Err(format!("cuda:{index} is named twice; name each GPU once"));
            }
            indices.push(index);
        }
        Ok(Self::Cuda(indices))
    }
}

impl std::str::FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "candle" => Ok(Self::Candle),
            "fused" => Ok(Self::Fused),
            _ => Err(format!(
                "{text:?} is not an engine; use auto, candle or fused"
            )),
        }
    }
}

impl Precision {
    /// As it stands on the command line.
    #[cfg(feature = "cudnn")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!(
                "{text:?} is not a precision; use f32, bf16, or on a GPU tf32 or f16"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_one_by_one_or_all() {
        let parsed = |text: &str| text.parse::<DeviceChoice>();
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(vec![0])),
            ("cuda:3", DeviceChoice::Cuda(vec![3])),
            ("cuda:1,cuda:0", DeviceChoice::Cuda(vec![1, 0])),
            ("cuda, cuda:2", DeviceChoice::Cuda(vec![0, 2])),
            ("cuda:all", DeviceChoice::CudaAll),
        ] {
            assert_eq!(parsed(text), Ok(choice), "{text}");
        }
        for (text, reason) in [
            ("", "\"\" is not a device; use auto, cpu, cuda, cuda:N"),
            ("tpu", "\"tpu\" is not a device"),
            ("cuda:", "\"cuda:\" is not a device"),
            ("cuda:-1", "\"cuda:-1\" is not a device"),
            ("cuda:0,1", "\"1\" is not a device"),
            ("cuda:0,", "\"\" is not a device"),
            ("cuda:0,cuda", "cuda:0 is named twice"),
            ("cuda:2,cuda:1,cuda:2", "cuda:2 is named twice"),
            ("cpu,cuda:0", "cpu stands alone"),
            ("cuda:0,auto", "auto stands alone"),
            ("cuda:all,cuda:0", "cuda:all stands alone"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }
}

//! Chooses an engine and device from the options and what the build and the machine have.

use std::sync::Arc;

use candle_core::Device;

use super::{CandleEngine, Engine, EngineError, EngineInfo, FusedEngine};
use crate::ir::Graph;
use crate::kernels::{Isa, Token};
use crate::pool::Pool;
use crate::weights::Parameters;

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build has CUDA and one answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU by its index.
    Cuda(usize),
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    F32,
    /// Activations and weights in bf16, sums in f32; f32 where the CPU has no instructions for it.
    Bf16,
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// Fused on the CPU, candle on a GPU.
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
}

impl EngineOptions {
    /// Whether this build can do what is asked, so that a start can fail before models are read.
    ///
    /// # Errors
    /// What the build lacks.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.device {
            DeviceChoice::Cuda(_) if self.engine == EngineChoice::Fused => {
                Err(EngineError::Unavailable(
                    "the fused engine runs on the CPU only; use --device cpu, or --engine candle"
                        .into(),
                ))
            }
            DeviceChoice::Cuda(_) if !candle_core::utils::cuda_is_available() => {
                Err(EngineError::Unavailable(
                    "this build has no CUDA; use --device cpu, or build with --features cuda,cudnn"
                        .into(),
                ))
            }
            DeviceChoice::Cuda(_) if self.precision == Precision::Bf16 => {
                Err(EngineError::Unavailable(
                    "there is no bf16 on a GPU yet; use --precision f32, or --device cpu".into(),
                ))
            }
            DeviceChoice::Cpu | DeviceChoice::Auto
                if self.precision == Precision::Bf16 && self.engine == EngineChoice::Candle =>
            {
                Err(EngineError::Unavailable(
                    "the candle engine has no bf16; use --engine fused, or --precision f32".into(),
                ))
            }
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

/// Makes the engine for one graph.
///
/// # Errors
/// When the device asked for is not there or refuses the model.
pub fn select(
    graph: &Arc<Graph>,
    parameters: Parameters,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, EngineError> {
    options.check()?;
    let device = match options.device {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(index) => cuda(index)?,
        DeviceChoice::Auto if options.engine == EngineChoice::Fused => Device::Cpu,
        DeviceChoice::Auto if !candle_core::utils::cuda_is_available() => Device::Cpu,
        DeviceChoice::Auto => cuda(0).unwrap_or_else(|error| {
            tracing::warn!(%error, "no GPU answers; running on the CPU");
            Device::Cpu
        }),
    };
    if !device.is_cpu() && options.precision == Precision::Bf16 {
        tracing::warn!("there is no bf16 on a GPU yet; running in f32");
    }
    if device.is_cpu() && options.engine != EngineChoice::Candle {
        let threads = options.pool.clone();
        let engine = FusedEngine::new(graph, parameters, options.token(), threads)?;
        return Ok(Box::new(engine));
    }
    let info = EngineInfo {
        engine: "candle",
        precision: "f32",
        isa: isa(&device),
        device: match device.location() {
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            _ => "cpu".to_owned(),
        },
    };
    Ok(Box::new(CandleEngine::new(
        graph, parameters, device, info,
    )?))
}

fn cuda(index: usize) -> Result<Device, EngineError> {
    Device::new_cuda(index)
        .map_err(|e| EngineError::Unavailable(format!("GPU cuda:{index} does not answer: {e}")))
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
        let index = text.strip_prefix("cuda:").map(str::parse);
        match (text, index) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(format!(
                "{text:?} is not a device; use auto, cpu, cuda or cuda:N"
            )),
        }
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

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("{text:?} is not a precision; use f32 or bf16")),
        }
    }
}

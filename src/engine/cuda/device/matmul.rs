//! A linear layer, or a pointwise convolution of stride 1, as one call of cuBLASLt: `relu?(x w^T + residual? + bias)`.
//!
//! cuBLASLt thinks in columns. A row-major `[rows, columns]` is its matrix of `columns` rows with the pitch as leading
//! dimension, so what is computed is `y^T = w x^T`: w is given transposed, x as it lies, and the bias runs along the
//! rows of y^T, which is what the epilogue wants.
#![allow(unsafe_code)] // calls into libcublasLt

mod terms;

use std::fmt;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;
use sys::cublasLtMatmulDescAttributes_t as Attribute;

use self::terms::{Terms, failed};
use super::driver::{bind, turn};
use super::memory::{Operands, WORKSPACE};
use crate::engine::{EngineError, Precision};

/// The library on one stream. The thread that uses it must have the stream's context bound.
#[derive(Debug)]
pub(crate) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
}

// SAFETY: the handle is bound to no thread.
unsafe impl Send for CublasLt {}

impl CublasLt {
    /// # Errors
    /// When the driver or the libraries do not fit the card or each other.
    pub(crate) fn new(stream: Arc<CudaStream>) -> Result<Self, EngineError> {
        bind(stream.context())?;
        let _turn = turn();
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, stream })
    }

    /// As in 130100 for 13.1.0.
    pub(crate) fn version() -> usize {
        // SAFETY: takes nothing and touches nothing.
        unsafe { sys::cublasLtGetVersion() }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let _turn = turn();
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// `y[m, n] = relu?(x[m, k] w[n, k]^T + residual[m, n]? + bias[n])`, all row-major.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatmulShape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Elements from one row to the next. Those of w are `k`.
    pub(crate) x_pitch: usize,
    pub(crate) y_pitch: usize,
    /// `None` without a residual.
    pub(crate) residual_pitch: Option<usize>,
    pub(crate) relu: bool,
    /// y, and with it bias and residual, are f32 whatever x and w are.
    pub(crate) f32_output: bool,
    /// Bytes, a power of two up to 16, that the addresses of x, y and residual are multiples of; at least an element.
    /// Those of weights, bias and workspace are multiples of 16.
    pub(crate) alignment: usize,
}

impl fmt::Display for MatmulShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "product [{}, {}] at pitch {}",
            self.m, self.k, self.x_pitch
        )?;
        write!(f, " to [{}, {}] at pitch {}", self.m, self.n, self.y_pitch)?;
        if let Some(pitch) = self.residual_pitch {
            write!(f, ", residual at pitch {pitch}")?;
        }
        f.write_str(if self.f32_output { ", to f32" } else { "" })?;
        f.write_str(if self.relu { ", relu" } else { "" })
    }
}

/// One product with one algorithm.
#[derive(Debug)]
pub(crate) struct MatmulPlan {
    terms: Terms,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
    residual: bool,
    /// What it computes, for errors.
    what: String,
}

// SAFETY: its descriptors are plain memory of the library, bound to no thread, and it is not Sync.
unsafe impl Send for MatmulPlan {}

impl MatmulPlan {
    /// Up to `max` plans, from the one that cuBLASLt expects to be fastest.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn candidates(
        lt: &CublasLt,
        shape: &MatmulShape,
        math: Precision,
        max: usize,
    ) -> Result<Vec<Self>, EngineError> {
        let terms = Terms::new(shape, math).map_err(|e| about(shape, math, &e))?;
        let algorithms = terms.algorithms(lt, shape.alignment, max);
        let algorithms = algorithms.map_err(|e| about(shape, math, &e))?;
        let mut refusal = None;
        let mut plans = Vec::new();
        for algorithm in algorithms {
            match Self::new(lt, shape, math, algorithm) {
                Ok(plan) => plans.push(plan),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(refusal) if plans.is_empty() => Err(refusal),
            None if plans.is_empty() => Err(EngineError::Device(format!(
                "cuBLASLt has no algorithm for {shape}, {}",
                math.name()
            ))),
            _ => Ok(plans),
        }
    }

    /// The plan that had this name, for the same shape, arithmetic, card, driver and cuBLASLt.
    ///
    /// # Errors
    /// When it is no name of a plan, or cuBLASLt does not take it.
    pub(crate) fn from_name(
        lt: &CublasLt,
        shape: &MatmulShape,
        math: Precision,
        name: &str,
    ) -> Result<Self, EngineError> {
        let data = parse(name).ok_or_else(|| {
            EngineError::Device(format!(
                "{name:?} names no cuBLASLt algorithm; expected cublaslt/ and 128 hexadecimal digits"
            ))
        })?;
        Self::new(lt, shape, math, sys::cublasLtMatmulAlgo_t { data })
    }

    fn new(
        lt: &CublasLt,
        shape: &MatmulShape,
        math: Precision,
        algorithm: sys::cublasLtMatmulAlgo_t,
    ) -> Result<Self, EngineError> {
        let terms = Terms::new(shape, math).map_err(|e| about(shape, math, &e))?;
        let workspace = terms.check(lt, &algorithm);
        let workspace = workspace.map_err(|e| about(shape, math, &e))?;
        if workspace > WORKSPACE {
            let what =
                format!("it asks for {workspace} bytes of workspace, of {WORKSPACE} there are");
            return Err(about(shape, math, &EngineError::Device(what)));
        }
        Ok(Self {
            terms,
            algorithm,
            workspace,
            residual: shape.residual_pitch.is_some(),
            what: format!("{shape}, {}", math.name()),
        })
    }

    /// The algorithm's 64 bytes: enough for [`Self::from_name`].
    pub(crate) fn name(&self) -> String {
        name(&self.algorithm.data)
    }

    /// Launches on the stream of `lt`. May be captured into a CUDA graph; run it once before, as the first run loads
    /// the kernel.
    ///
    /// # Errors
    /// When the launch fails. What fails on the card later shows at the next synchronization.
    ///
    /// # Safety
    /// All addresses are of memory of this card, of the sizes and alignments that shape, arithmetic and
    /// [`WORKSPACE`] tell, alive until the stream has passed this call and in every replay of a graph that
    /// captured it; nothing else writes to them meanwhile, and y and the workspace overlap none of the others.
    pub(crate) unsafe fn run(&self, lt: &CublasLt, at: &Operands) -> Result<(), EngineError> {
        // without a residual the output stands in its place, and is not read
        let (beta, residual) = match (self.residual, at.residual) {
            (false, _) => (0_f32, at.y),
            (true, Some(residual)) => (1_f32, residual),
            (true, None) => {
                let what = &self.what;
                return Err(EngineError::Device(format!(
                    "{what}: the residual's address is missing"
                )));
            }
        };
        let bias = self
            .terms
            .operation
            .set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at.bias);
        bias.map_err(|e| EngineError::Device(format!("{}: {e}", self.what)))?;
        let terms = &self.terms;
        // SAFETY: handle, stream and descriptors are alive, the scales are f32 on the host as the operation says, and
        // the memory is as the caller promises.
        let ran = unsafe {
            result::matmul(
                lt.handle,
                terms.operation.0,
                (&raw const ALPHA).cast(),
                (&raw const beta).cast(),
                at.w as *const _,
                terms.w.0,
                at.x as *const _,
                terms.x.0,
                residual as *const _,
                terms.residual.0,
                at.y as *mut _,
                terms.y.0,
                &raw const self.algorithm,
                at.workspace as *mut _,
                self.workspace,
                lt.stream.cu_stream().cast(),
            )
        };
        ran.map_err(|e| {
            EngineError::Device(format!(
                "{}: cublasLtMatmul failed with {:?}",
                self.what, e.0
            ))
        })
    }
}

static ALPHA: f32 = 1.0;

fn name(data: &[u64; 8]) -> String {
    let digits: String = data.iter().map(|word| format!("{word:016x}")).collect();
    format!("cublaslt/{digits}")
}

fn parse(name: &str) -> Option<[u64; 8]> {
    let digits = name.strip_prefix("cublaslt/")?;
    if digits.len() != 128 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut data = [0; 8];
    for (i, word) in data.iter_mut().enumerate() {
        *word = u64::from_str_radix(digits.get(16 * i..16 * (i + 1))?, 16).ok()?;
    }
    Some(data)
}

fn about(shape: &MatmulShape, math: Precision, error: &EngineError) -> EngineError {
    EngineError::Device(format!("{shape}, {}: {error}", math.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let data = [1, 2, 3, 4, 5, 6, u64::MAX, 0x0123_4567_89ab_cdef];
        let text = name(&data);
        assert!(text.ends_with("0123456789abcdef"), "{text}");
        assert_eq!(parse(&text), Some(data));
        let short = text.get(..text.len() - 1).unwrap_or_default();
        for wrong in ["", "cublaslt/", short, &text.replace('f', "g")] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}

//! What cuBLASLt is asked to compute: the operation and its matrices, the search for algorithms, and their check.

use std::mem;

use cudarc::cublaslt::{result, sys};
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Wish;

use super::{CublasLt, MatmulShape};
use crate::engine::{EngineError, Precision};

/// Bytes that an algorithm may ask for, as NVIDIA recommends for Hopper.
const MAX_WORKSPACE: u64 = 32 << 20;

/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: sums that are split are kept in f32 and added in a fixed order.
const REDUCTION: u32 = 2;

/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// The operation and its four matrices.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) operation: Operation,
    pub(super) w: Layout,
    pub(super) x: Layout,
    /// As the output where there is none.
    pub(super) residual: Layout,
    pub(super) y: Layout,
}

impl Terms {
    pub(super) fn new(shape: &MatmulShape, math: Precision) -> Result<Self, EngineError> {
        let f32_type = sys::cudaDataType_t::CUDA_R_32F;
        let (input, compute) = match math {
            Precision::F32 => (f32_type, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (
                f32_type,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            ),
            Precision::F16 => (
                sys::cudaDataType_t::CUDA_R_16F,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            ),
            Precision::Bf16 => (
                sys::cudaDataType_t::CUDA_R_16BF,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            ),
        };
        let output = if shape.f32_output { f32_type } else { input };
        let residual = shape.residual_pitch.unwrap_or(shape.y_pitch);
        let operation = Operation::new(compute)?;
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = if shape.relu {
            sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS
        } else {
            sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS
        };
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        // not read before `run` puts the bias' address there: tells the search how that is aligned
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &16_u64)?;
        Ok(Self {
            operation,
            w: Layout::new(input, shape.k, shape.n, shape.k)?,
            x: Layout::new(input, shape.k, shape.m, shape.x_pitch)?,
            residual: Layout::new(output, shape.n, shape.m, residual)?,
            y: Layout::new(output, shape.n, shape.m, shape.y_pitch)?,
        })
    }

    /// What the heuristics propose.
    pub(super) fn algorithms(
        &self,
        lt: &CublasLt,
        alignment: usize,
        max: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, EngineError> {
        let preference = Preference::new()?;
        let alignment = u32::try_from(alignment).unwrap_or(1);
        preference.set(
            Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &MAX_WORKSPACE,
        )?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &REDUCTION)?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &16_u32)?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment)?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment)?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment)?;
        let mut results = vec![no_result(); max];
        let mut found = 0;
        // SAFETY: everything passed is alive, and `results` has room for `max` results.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                lt.handle,
                self.operation.0,
                self.w.0,
                self.x.0,
                self.residual.0,
                self.y.0,
                preference.0,
                i32::try_from(max).unwrap_or(i32::MAX),
                results.as_mut_ptr(),
                &raw mut found,
            )
        };
        status
            .result()
            .map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?;
        results.truncate(usize::try_from(found).unwrap_or(0));
        let good = results
            .iter()
            .filter(|result| result.state.result().is_ok());
        Ok(good.map(|result| result.algo).collect())
    }

    /// Whether the library takes the algorithm here, and the bytes of workspace it needs.
    pub(super) fn check(
        &self,
        lt: &CublasLt,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<usize, EngineError> {
        let mut result = no_result();
        // SAFETY: everything passed is alive, and the result is written to `result`.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                lt.handle,
                self.operation.0,
                self.w.0,
                self.x.0,
                self.residual.0,
                self.y.0,
                algorithm,
                &raw mut result,
            )
        };
        status.result().map_err(failed("cublasLtMatmulAlgoCheck"))?;
        Ok(result.workspaceSize)
    }
}

fn no_result() -> sys::cublasLtMatmulHeuristicResult_t {
    // SAFETY: integers, floats and a status, of which zero is one.
    unsafe { mem::zeroed() }
}

/// A matrix as cuBLASLt sees it: columns are contiguous.
#[derive(Debug)]
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(
        element: sys::cudaDataType_t,
        rows: usize,
        columns: usize,
        pitch: usize,
    ) -> Result<Self, EngineError> {
        let layout =
            result::create_matrix_layout(element, rows as u64, columns as u64, pitch as i64);
        layout
            .map(Self)
            .map_err(failed("cublasLtMatrixLayoutCreate"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

#[derive(Debug)]
pub(super) struct Operation(pub(super) sys::cublasLtMatmulDesc_t);

impl Operation {
    /// With f32 scales on the host.
    fn new(compute: sys::cublasComputeType_t) -> Result<Self, EngineError> {
        let operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F);
        operation
            .map(Self)
            .map_err(failed("cublasLtMatmulDescCreate"))
    }

    /// The library checks the size; the values are 32 bits wide, addresses 64.
    pub(super) fn set<T>(&self, name: Attribute, value: &T) -> Result<(), EngineError> {
        let from = std::ptr::from_ref(value).cast();
        // SAFETY: the operation is alive and `from` points to as many bytes as told, which are copied.
        let set =
            unsafe { result::set_matmul_desc_attribute(self.0, name, from, mem::size_of::<T>()) };
        set.map_err(|e| {
            EngineError::Device(format!(
                "cublasLtMatmulDescSetAttribute({name:?}) failed with {:?}",
                e.0
            ))
        })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What the search for algorithms is to heed.
#[derive(Debug)]
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, EngineError> {
        let preference = result::create_matmul_pref();
        preference
            .map(Self)
            .map_err(failed("cublasLtMatmulPreferenceCreate"))
    }

    /// The library checks the size; the values are 32 bits wide, the workspace's 64.
    fn set<T>(&self, name: Wish, value: &T) -> Result<(), EngineError> {
        let from = std::ptr::from_ref(value).cast();
        // SAFETY: the preference is alive and `from` points to as many bytes as told, which are copied.
        let set =
            unsafe { result::set_matmul_pref_attribute(self.0, name, from, mem::size_of::<T>()) };
        set.map_err(|e| {
            EngineError::Device(format!(
                "cublasLtMatmulPreferenceSetAttribute({name:?}) failed with {:?}",
                e.0
            ))
        })
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

pub(super) fn failed(call: &'static str) -> impl Fn(result::CublasError) -> EngineError {
    move |error| EngineError::Device(format!("{call} failed with {:?}", error.0))
}

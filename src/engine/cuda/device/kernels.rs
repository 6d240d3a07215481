//! The kernels of kernels.cu on one device: loaded once, launched on any stream of it.
//!
//! build.rs compiles them to machine code for compute capability 9.0 and to PTX for 8.0, which the driver compiles for
//! other cards when it loads them. A launch neither allocates nor waits, so that it can be captured into a graph.

// launching is a call into the driver that no compiler can check; launch/ makes the arguments
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

use super::launch::{Misfit, THREADS, Work, names};
use crate::kernels::Window;

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The loaded kernels.
#[derive(Debug)]
pub(crate) struct Kernels {
    functions: HashMap<&'static str, CudaFunction>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error(
        "the driver cannot load the kernels of this build: {0:?}; they need a card of compute capability 8.0 or later \
         and a driver as new as the CUDA toolkit of the build"
    )]
    Load(DriverError),
    #[error("this build's module has no kernel {kernel}: {error:?}")]
    Missing {
        kernel: &'static str,
        error: DriverError,
    },
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The error may be that of earlier work on the device, which the driver reports at the next call.
    #[error("launching {kernel} with {blocks} blocks for {work}: {error:?}")]
    Launch {
        kernel: &'static str,
        blocks: u32,
        work: String,
        error: DriverError,
    },
}

/// An argument struct, which the driver copies when the launch is made.
#[repr(transparent)]
struct ByValue<A>(A);

// SAFETY: A is the argument struct of a kernel in launch/, `repr(C)` and of plain numbers, laid out as kernels.cu
// declares it: tests/cuda_kernels compares the sizes and runs the kernels on such structs.
unsafe impl<A> DeviceRepr for ByValue<A> {}

impl Kernels {
    /// Loads the kernels into a context.
    ///
    /// # Errors
    /// When the driver refuses them.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Self, KernelError> {
        // a copy on the heap, for the driver wants the image aligned
        let image = Ptx::from_binary(IMAGE.to_vec());
        let module = context.load_module(image).map_err(KernelError::Load)?;
        let function = |kernel| match module.load_function(kernel) {
            Ok(function) => Ok((kernel, function)),
            Err(error) => Err(KernelError::Missing { kernel, error }),
        };
        let functions = names().map(function).collect::<Result<_, _>>()?;
        Ok(Self { functions })
    }

    /// Puts `work` on a stream of the device that the kernels were loaded on.
    ///
    /// The addresses in it must stay those of device memory as large as it says until the stream, or every graph that
    /// captured it, has run; of memory that has been given back the kernels would read and write what others put there.
    ///
    /// # Errors
    /// When the work is not what a kernel can do, or the driver refuses the launch.
    pub(crate) fn run<W: Work>(
        &self,
        stream: &Arc<CudaStream>,
        work: &W,
    ) -> Result<(), KernelError> {
        let launch = work.launch()?;
        let failed = |error| KernelError::Launch {
            kernel: launch.kernel,
            blocks: launch.blocks,
            work: format!("{work:?}"),
            error,
        };
        let Some(function) = self.functions.get(launch.kernel) else {
            let error = DriverError(cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_FOUND);
            return Err(failed(error));
        };
        let arguments = ByValue(launch.arguments);
        let grid = LaunchConfig {
            grid_dim: (launch.blocks, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut builder = stream.launch_builder(function);
        builder.arg(&arguments);
        // SAFETY: the kernel takes this one struct, which `Work` of the same kernel made and checked against the tensors'
        // shapes; that the addresses hold such tensors is the caller's, as said above.
        unsafe { builder.launch(grid) }.map_err(failed)?;
        Ok(())
    }
}

/// Windows of a pooling layer as [`super::launch::Pool`] reads them.
pub(crate) fn windows(windows: &[Window]) -> Vec<[i32; 3]> {
    // beyond i32 no tensor reaches: launches refuse such heights and widths
    let narrow = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    let triple = |w: &Window| [narrow(w.from), narrow(w.to), narrow(w.counted)];
    windows.iter().map(triple).collect()
}

//! What each kernel of kernels.cu is launched with: its instantiation, its grid and its one argument struct, worked out
//! from a description of the tensors and refused where they do not fit.
//!
//! Nothing here knows of a device: tests/cuda_kernels includes this file and runs the launches on the host.

mod answers;
mod images;
mod map;
mod pool;

use std::fmt::Debug;

pub(crate) use answers::{MAX_BEST, TopK, Widen};
pub(crate) use images::{Pixels, Planes};
pub(crate) use map::{MAX_OPERATIONS, Map, Operation};
pub(crate) use pool::{Pool, Reduce};

/// Threads of every block, as kernels.cu has it.
pub(crate) const THREADS: u32 = 256;

/// One launch: `blocks` blocks of [`THREADS`] threads, `arguments` by value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<A> {
    pub(crate) kernel: &'static str,
    pub(crate) blocks: u32,
    pub(crate) arguments: A,
}

/// Something that one kernel does.
pub(crate) trait Work: Debug {
    /// The kernel's argument struct.
    type Arguments: Copy;

    /// # Errors
    /// When the description contradicts itself or what the kernel can do.
    fn launch(&self) -> Result<Launch<Self::Arguments>, Misfit>;
}

/// A description that no kernel can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{work} cannot be launched: {reason}")]
pub(crate) struct Misfit {
    work: String,
    reason: String,
}

fn refuse<T>(work: &dyn Debug, reason: impl Into<String>) -> Result<T, Misfit> {
    Err(Misfit {
        work: format!("{work:?}"),
        reason: reason.into(),
    })
}

/// What tensors are stored as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Elements in 16 bytes.
    fn lanes(self) -> usize {
        16 / self.bytes()
    }
}

/// A tensor in device memory, `[images, height, width, channels]`, with `pitch` elements from pixel to pixel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tensor {
    /// Of its first element, in bytes.
    pub(crate) address: u64,
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) pitch: usize,
}

impl Tensor {
    fn pixels(&self) -> usize {
        self.images * self.height * self.width
    }

    /// Whether every group of `lanes` channels starts at a multiple of 16 bytes.
    fn is_wide(&self, lanes: usize) -> bool {
        self.address.is_multiple_of(16)
            && [self.channels, self.pitch]
                .iter()
                .all(|n| n.is_multiple_of(lanes))
    }

    fn check(&self, work: &dyn Debug, element: Element) -> Result<(), Misfit> {
        check_address(work, self.address, element.bytes())?;
        if self.channels == 0 || self.pitch < self.channels || self.pixels() == 0 {
            return refuse(
                work,
                "a tensor is empty, or its pitch less than its channels",
            );
        }
        Ok(())
    }
}

fn check_address(work: &dyn Debug, address: u64, bytes: usize) -> Result<(), Misfit> {
    if address == 0 || !address.is_multiple_of(bytes as u64) {
        return refuse(
            work,
            format!("address {address:#x} is not one of {bytes}-byte values"),
        );
    }
    Ok(())
}

/// As the 32-bit number of an argument struct; what is counted also has to divide as one.
fn count(work: &dyn Debug, value: usize) -> Result<u32, Misfit> {
    match i32::try_from(value) {
        Ok(value) => Ok(value.cast_unsigned()),
        Err(_) => refuse(
            work,
            format!("{value} is more than a launch can count (2^31 - 1)"),
        ),
    }
}

fn signed(work: &dyn Debug, value: usize) -> Result<i32, Misfit> {
    count(work, value).map(u32::cast_signed)
}

/// Names of one kernel: for f32, f16 and bf16, first with 16-byte accesses, then with single elements.
type Names = [[&'static str; 2]; 3];

macro_rules! names {
    ($stem:literal) => {
        [
            [concat!($stem, "_f32"), concat!($stem, "_f32_scalar")],
            [concat!($stem, "_f16"), concat!($stem, "_f16_scalar")],
            [concat!($stem, "_bf16"), concat!($stem, "_bf16_scalar")],
        ]
    };
}

const PLANES: Names = names!("planes");
const MAP: Names = names!("map");
const POOL: Names = names!("pool");
const POOL_BLOCK: Names = names!("pool_block");
const WIDEN: Names = names!("widen");
const PIXELS: [&str; 3] = ["pixels_f32", "pixels_f16", "pixels_bf16"];
const TOP_K: &str = "top_k";

/// Every kernel of kernels.cu.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let both = [PLANES, MAP, POOL, POOL_BLOCK, WIDEN];
    let both = both.into_iter().flatten().flatten();
    both.chain(PIXELS).chain([TOP_K])
}

fn name(names: &Names, element: Element, wide: bool) -> &'static str {
    names[element as usize][usize::from(!wide)]
}

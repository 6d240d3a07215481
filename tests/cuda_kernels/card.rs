//! The first card: managed memory, and launches through the engine's own `Kernels`, each of which is waited for.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use crate::launch::Work;
use crate::loaded::Kernels;

struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

/// The card, current on this thread.
fn card() -> &'static Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    let card = CARD.get_or_init(|| {
        let context = CudaContext::new(0).expect("a build with CUDA runs this test on a card");
        Card {
            stream: context.new_stream().expect("a stream"),
            kernels: Kernels::load(&context).unwrap_or_else(|e| panic!("{e}")),
            context,
        }
    });
    card.context.bind_to_thread().expect("a context");
    card
}

pub fn allocate(bytes: usize) -> *mut u8 {
    card();
    let everywhere = sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL;
    // SAFETY: a context is current.
    let start = unsafe { result::malloc_managed(bytes, everywhere) };
    start.expect("managed memory") as *mut u8
}

pub fn release(start: *mut u8, _bytes: usize) {
    card();
    // SAFETY: `allocate` made it, and every launch has been waited for.
    let released = unsafe { result::free_sync(start as sys::CUdeviceptr) };
    // a card that failed fails here too, while its test unwinds
    assert!(released.is_ok() || std::thread::panicking(), "{released:?}");
}

/// Does `work` on the card, whose order of threads is its own; returns the kernel's name.
pub fn run<W: Work>(work: &W, _descending: bool) -> &'static str {
    let card = card();
    let done = card.kernels.run(&card.stream, work);
    done.unwrap_or_else(|e| panic!("{e}"));
    let done = card.stream.synchronize();
    done.unwrap_or_else(|e| panic!("{e:?} after {work:?}"));
    work.launch().expect("work that fits").kernel
}

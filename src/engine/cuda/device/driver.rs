//! The driver: its errors in our words, and what must not happen beside a capture.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, DriverError};

use crate::engine::EngineError;

/// Says what was being done when a call of the driver failed.
pub(super) trait Context<T> {
    /// # Errors
    /// The same, as an engine's error.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, EngineError>;
}

impl<T> Context<T> for Result<T, DriverError> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, EngineError> {
        self.map_err(|error| EngineError::Device(format!("{}: {error:?}", what().into())))
    }
}

/// Held while a graph is captured, and by whatever waits for a whole device: handles that come or go, memory that is
/// given back. The driver lets no stream of a device capture meanwhile, whoever asks (CUDA programming guide, "Prohibited
/// and unhandled operations"), and the capture would be void.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a card's context that of this thread: not every call does so by itself.
pub(super) fn bind(context: &Arc<CudaContext>) -> Result<(), EngineError> {
    // an error that something could not return when it was dropped is told by the next call, whoever makes it
    let _ = context.check_err();
    context
        .bind_to_thread()
        .context(|| "binding the thread to the card")
}

/// How much memory there is, and what to do where it is too little.
pub(super) fn room(context: &Arc<CudaContext>) -> String {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    match context.mem_get_info() {
        Ok((free, total)) => format!(
            "of the card's {:.0} MiB {:.0} are free: lower --max-batch or serve fewer models on it",
            mib(total),
            mib(free)
        ),
        Err(error) => format!("the card does not say how much is free: {error:?}"),
    }
}

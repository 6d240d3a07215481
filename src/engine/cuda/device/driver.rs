//! Errors of the driver in our words.

use cudarc::driver::DriverError;

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

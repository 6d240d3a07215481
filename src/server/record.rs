//! What is kept of a request: its id, one line in the log, one observation in the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use super::Core;
use crate::service::{Code, Error, ServedModel};
use crate::telemetry::{Metrics, Protocol, RejectReason};

const MAX_ID: usize = 128;

/// The caller's id where it is fit for logs and headers (printable ASCII, at most 128), else a new one.
pub(super) fn request_id(given: Option<&str>) -> String {
    match given {
        Some(id)
            if (1..=MAX_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic() || b == b' ') =>
        {
            id.to_owned()
        }
        _ => Uuid::new_v4().to_string(),
    }
}

/// A request being answered. Dropped without an outcome it counts as cancelled: the caller has gone.
pub(super) struct Record {
    metrics: Arc<Metrics>,
    protocol: Protocol,
    started: Instant,
    known: Mutex<Known>,
}

/// What has become known of the request.
#[derive(Default)]
struct Known {
    model: Option<Arc<ServedModel>>,
    /// `ok` or an error code.
    outcome: Option<&'static str>,
}

impl Record {
    pub(super) fn new(core: &Core, protocol: Protocol) -> Self {
        Self {
            metrics: Arc::clone(&core.metrics),
            protocol,
            started: Instant::now(),
            known: Mutex::default(),
        }
    }

    /// Which model the request is for, as far as is known.
    pub(super) fn model(&self, model: Option<&Arc<ServedModel>>) {
        self.known().model = model.cloned();
    }

    /// Whether an outcome has been noted.
    pub(super) fn is_settled(&self) -> bool {
        self.known().outcome.is_some()
    }

    pub(super) fn outcome<T>(&self, result: &Result<T, Error>) {
        match result {
            Ok(_) => self.known().outcome = Some("ok"),
            Err(error) => self.failed(error),
        }
    }

    pub(super) fn failed(&self, error: &Error) {
        let mut known = self.known();
        known.outcome = Some(error.code.as_str());
        if error.code == Code::BodyTooLarge {
            let model = known.model.as_deref().map(|model| &*model.metrics);
            self.metrics.rejected(model, RejectReason::TooLarge, 1);
        }
        match error.code {
            Code::Internal => tracing::error!(%error, "request failed"),
            code => tracing::debug!(%error, code = code.as_str(), "request refused"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let known = self.known();
        let code = known.outcome.unwrap_or(Code::Cancelled.as_str());
        let model = known.model.as_deref();
        self.metrics.request(
            model.map(|model| &*model.metrics),
            self.protocol,
            code,
            seconds,
        );
        tracing::info!(
            code,
            model = model.map(|model| model.name.as_str()),
            seconds,
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fit_ids_are_kept_and_others_replaced() {
        let longest = "x".repeat(MAX_ID);
        for fit in ["a", "order 66/b", longest.as_str()] {
            assert_eq!(request_id(Some(fit)), fit);
        }
        let longer = "x".repeat(MAX_ID + 1);
        for unfit in ["", "tab\there", "line\nbreak", "é", longer.as_str()] {
            let made = request_id(Some(unfit));
            assert_ne!(made, unfit);
            assert!(Uuid::parse_str(&made).is_ok(), "{made}");
        }
        assert_ne!(request_id(None), request_id(None));
    }
}

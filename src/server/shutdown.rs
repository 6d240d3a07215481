//! Stopping: readiness turns, requests are still taken for a while, then those taken are finished.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Core, ServeError};

/// Tells a running server to stop; clones tell the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    drain: CancellationToken,
    now: CancellationToken,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections cut off with a classification in flight that was not done within the drain timeout.
    pub cut: usize,
}

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// A stop that SIGTERM and SIGINT tell to drain, and a second of either to end now.
    ///
    /// # Errors
    /// When the signals cannot be watched.
    pub fn on_signals() -> Result<Self, ServeError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        let stop = Self::new();
        let told = stop.clone();
        tokio::spawn(async move {
            for tell in [Self::drain, Self::now] {
                tokio::select! {
                    _ = terminate.recv() => tell(&told),
                    _ = interrupt.recv() => tell(&told),
                }
            }
        });
        Ok(stop)
    }

    /// Drain, then end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// End without waiting for anything.
    pub fn now(&self) {
        self.now.cancel();
        self.drain.cancel();
    }
}

/// Waits for `stop` and takes the server down step by step. `tasks` are the listeners and connections.
pub(super) async fn run(core: &Core, stop: Stop, tasks: TaskTracker) -> Ended {
    stop.drain.cancelled().await;
    core.classify.drain();
    core.draining.cancel();
    tracing::info!(delay = ?core.config.drain_delay, "draining: no longer ready, still serving");
    within(core.config.drain_delay, &stop, std::future::pending()).await;

    core.closing.cancel();
    tasks.close();
    tracing::info!(connections = tasks.len(), timeout = ?core.config.drain_timeout, "closing: finishing requests");
    within(core.config.drain_timeout, &stop, tasks.wait()).await;

    core.cut.cancel();
    tasks.wait().await;
    let cut = core.lost.load(Ordering::Relaxed);
    if cut > 0 {
        tracing::warn!(connections = cut, "cut off unfinished requests");
    }
    Ended { cut }
}

/// Waits for `done`, but no longer than `limit`, and not at all once told to end now.
async fn within(limit: Duration, stop: &Stop, done: impl Future<Output = ()>) {
    tokio::select! {
        () = done => {}
        () = sleep(limit) => {}
        () = stop.now.cancelled() => {}
    }
}

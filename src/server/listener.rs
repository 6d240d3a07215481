//! The accept loop, the same for both protocols.
//!
//! A connection is accepted only when one of `max_connections` slots is free: more wait in the system's backlog, so a
//! crowd costs no memory here and a short one is merely late.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::Core;
use super::connection::Acceptor;
use crate::telemetry::Protocol;

/// Pause after an accept failed for want of something that only time or others can give back (file descriptors,
/// memory); accepting at once again would spin.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Listener {
    pub(super) tcp: TcpListener,
    pub(super) protocol: Protocol,
    pub(super) router: axum::Router,
    pub(super) core: Arc<Core>,
    pub(super) tasks: TaskTracker,
}

impl Listener {
    /// Accepts until the server closes.
    pub(super) async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.core.config.max_connections));
        let acceptor = Arc::new(Acceptor::new(
            self.protocol,
            self.router.clone(),
            Arc::clone(&self.core),
        ));
        loop {
            let next = tokio::select! {
                biased;
                () = self.core.closing.cancelled() => return,
                next = self.next(&slots) => next,
            };
            match next {
                Ok((stream, slot)) => {
                    let acceptor = Arc::clone(&acceptor);
                    self.tasks.spawn(async move {
                        acceptor.serve(stream).await;
                        drop(slot);
                    });
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, protocol = ?self.protocol, "cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn next(&self, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, _) = self.tcp.accept().await?;
        Ok((stream, slot))
    }
}

/// Whether the error says that the connection at the head of the backlog had already gone.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

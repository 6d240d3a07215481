//! One image from bytes to predictions: decoded and preprocessed on the pool, queued from there, awaited here.
//!
//! The way in is a job that owns the image's ticket; the way back are oneshot channels. Dropping the waiting end at any
//! point withdraws the image: a job whose channel has closed is skipped, and the batcher drops a queued image whose
//! receiver is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Code, Error, Prediction, ServedModel, Timing, topk};
use crate::batching::{BatchError, Output, Ticket};
use crate::imaging;
use crate::pool::Pool;

/// What a job needs to bring one image into the queue.
pub(super) struct Job {
    pub(super) model: Arc<ServedModel>,
    pub(super) ticket: Ticket,
    pub(super) image: Bytes,
    pub(super) deadline: Instant,
    pub(super) config: imaging::Config,
}

/// An image on its way; dropping it withdraws the image.
pub(super) struct Pending(oneshot::Receiver<Result<Queued, Error>>);

/// What the job hands back once the image is queued.
struct Queued {
    decode: Duration,
    preprocess: Duration,
    output: oneshot::Receiver<Result<Output, BatchError>>,
}

impl Job {
    pub(super) fn start(self, pool: &Pool) -> Pending {
        let (answer, pending) = oneshot::channel();
        pool.spawn(move || self.run(answer));
        Pending(pending)
    }

    fn run(self, answer: oneshot::Sender<Result<Queued, Error>>) {
        if answer.is_closed() {
            return;
        }
        // a decoder that panics on some file must take neither the pool's thread nor the process with it
        let prepared = catch_unwind(AssertUnwindSafe(|| self.prepare(&answer)));
        let Self {
            ticket,
            deadline,
            model,
            ..
        } = self;
        let result = match prepared {
            Ok(Ok((input, decode, preprocess))) => Ok(Queued {
                decode,
                preprocess,
                output: ticket.submit(input, deadline),
            }),
            failed => {
                // room first: a caller that has its answer may come back at once
                drop(ticket);
                Err(match failed {
                    Ok(Err(error)) => error,
                    _ => {
                        tracing::error!(
                            model = model.name,
                            "decoding or preprocessing an image panicked"
                        );
                        Error::new(
                            Code::Internal,
                            "the image could not be prepared; the server's log says why",
                        )
                    }
                })
            }
        };
        // fails if the caller left, and then drops the queue's receiver, which withdraws the image there
        let _ = answer.send(result);
    }

    /// Decodes and preprocesses; looks between the two whether anyone still waits.
    fn prepare(
        &self,
        answer: &oneshot::Sender<Result<Queued, Error>>,
    ) -> Result<(Vec<f32>, Duration, Duration), Error> {
        let metrics = &self.model.metrics;
        let started = Instant::now();
        if started >= self.deadline {
            return Err(Error::deadline());
        }
        let image = imaging::decode(&self.image, &self.config)?;
        let decoded = Instant::now();
        let decode = decoded - started;
        metrics.stage_decode.observe(decode.as_secs_f64());
        if answer.is_closed() {
            return Err(Error::new(Code::Cancelled, "the caller left"));
        }
        if decoded >= self.deadline {
            return Err(Error::deadline());
        }
        let input = self.model.preprocessing.apply(&image)?;
        let preprocess = decoded.elapsed();
        metrics.stage_preprocess.observe(preprocess.as_secs_f64());
        Ok((input, decode, preprocess))
    }
}

impl Pending {
    /// Waits for the predictions, no longer than the deadline; `timing.total` is left to the caller.
    pub(super) async fn predictions(
        self,
        model: &ServedModel,
        top_k: usize,
        deadline: Instant,
    ) -> Result<(Vec<Prediction>, Timing), Error> {
        let answered = tokio::time::timeout_at(deadline.into(), self.output()).await;
        let (output, decode, preprocess) = answered.unwrap_or_else(|_| Err(Error::deadline()))?;
        let timing = Timing {
            decode,
            preprocess,
            queue: output.queued,
            inference: output.inference,
            total: Duration::ZERO,
        };
        Ok((
            topk::predictions(&output.logits, &model.labels, top_k)?,
            timing,
        ))
    }

    async fn output(self) -> Result<(Output, Duration, Duration), Error> {
        let lost = |_| Error::new(Code::Internal, "the image was lost on its way to the model");
        let queued = self.0.await.map_err(lost)??;
        let output = queued.output.await.unwrap_or(Err(BatchError::Closed))?;
        Ok((output, queued.decode, queued.preprocess))
    }
}

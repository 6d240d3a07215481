//! One image from bytes to scores: decoded and preprocessed on the pool, queued from there, awaited here. An image that
//! comes as a tensor is queued at once.
//!
//! The way in is a job that owns the image's ticket; the way back are oneshot channels. Dropping the waiting end at any
//! point withdraws the image: a job whose channel has closed is skipped, and the batcher drops a queued image whose
//! receiver is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Code, Error, Input, Scores, ServedModel, Timing};
use crate::batching::{BatchError, Output, Terms, Ticket};
use crate::engine::Image;
use crate::imaging;
use crate::pool::Pool;

/// What brings one image into the queue.
pub(super) struct Job {
    pub(super) model: Arc<ServedModel>,
    pub(super) ticket: Ticket,
    pub(super) terms: Terms,
}

/// An image on its way; dropping it withdraws the image.
pub(super) struct Pending {
    queued: oneshot::Receiver<Result<Queued, Error>>,
    deadline: Instant,
    /// The caller made the network's input.
    is_tensor: bool,
}

/// What the job hands back once the image is queued.
struct Queued {
    decode: Duration,
    preprocess: Duration,
    output: oneshot::Receiver<Result<Output, BatchError>>,
}

impl Job {
    pub(super) fn start(self, input: Input, pool: &Pool, config: imaging::Config) -> Pending {
        let (answer, queued) = oneshot::channel();
        let deadline = self.terms.deadline;
        let is_tensor = match input {
            Input::Encoded(image) => {
                pool.spawn(move || self.run(&image, &config, answer));
                false
            }
            Input::Tensor(values) => {
                // the receiver is here, so nobody has left yet
                let _ = answer.send(Ok(self.submit(
                    Image::Tensor(values),
                    Duration::ZERO,
                    Duration::ZERO,
                )));
                true
            }
        };
        Pending {
            queued,
            deadline,
            is_tensor,
        }
    }

    fn submit(self, image: Image, decode: Duration, preprocess: Duration) -> Queued {
        Queued {
            decode,
            preprocess,
            output: self.ticket.submit(image, self.terms),
        }
    }

    fn run(
        self,
        image: &Bytes,
        config: &imaging::Config,
        answer: oneshot::Sender<Result<Queued, Error>>,
    ) {
        if answer.is_closed() {
            return;
        }
        // a decoder that panics on some file must take neither the pool's thread nor the process with it
        let prepared = catch_unwind(AssertUnwindSafe(|| self.prepare(image, config, &answer)));
        let result = match prepared {
            Ok(Ok((pixels, decode, preprocess))) => {
                Ok(self.submit(Image::Pixels(pixels), decode, preprocess))
            }
            failed => {
                let Self { ticket, model, .. } = self;
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

    /// Decodes, resizes and crops; looks between the two whether anyone still waits.
    fn prepare(
        &self,
        image: &Bytes,
        config: &imaging::Config,
        answer: &oneshot::Sender<Result<Queued, Error>>,
    ) -> Result<(Vec<u8>, Duration, Duration), Error> {
        let metrics = &self.model.metrics;
        let started = Instant::now();
        if started >= self.terms.deadline {
            return Err(Error::deadline());
        }
        let image = imaging::decode(image, config)?;
        let decoded = Instant::now();
        let decode = decoded - started;
        metrics.stage_decode.observe(decode.as_secs_f64());
        if answer.is_closed() {
            return Err(Error::new(Code::Cancelled, "the caller left"));
        }
        if decoded >= self.terms.deadline {
            return Err(Error::deadline());
        }
        let cropped = self.model.preprocessing.resize_and_crop(&image)?;
        let preprocess = decoded.elapsed();
        metrics.stage_preprocess.observe(preprocess.as_secs_f64());
        Ok((cropped.pixels, decode, preprocess))
    }
}

impl Pending {
    /// Waits for the scores, no longer than the deadline; `timing.total` is left to the caller.
    pub(super) async fn scores(self) -> Result<(Scores, Timing), Error> {
        let (deadline, is_tensor) = (self.deadline, self.is_tensor);
        let answered = tokio::time::timeout_at(deadline.into(), self.output()).await;
        let (output, decode, preprocess) = answered.unwrap_or_else(|_| Err(Error::deadline()))?;
        let timing = Timing {
            decode,
            preprocess,
            queue: output.queued,
            inference: output.inference,
            total: Duration::ZERO,
        };
        let scores = Scores::new(output.answer);
        let scores = scores.map_err(|error| if is_tensor { overflown() } else { error });
        Ok((scores?, timing))
    }

    async fn output(self) -> Result<(Output, Duration, Duration), Error> {
        let lost = |_| Error::new(Code::Internal, "the image was lost on its way to the model");
        let queued = self.queued.await.map_err(lost)??;
        let output = queued.output.await.unwrap_or(Err(BatchError::Closed))?;
        Ok((output, queued.decode, queued.preprocess))
    }
}

/// Warmed-up weights give finite logits for any preprocessed image, so a tensor that does not is none.
fn overflown() -> Error {
    Error::new(
        Code::InvalidRequest,
        "the model's output for this tensor is not finite; normalise the image as the model's preprocessing says",
    )
}

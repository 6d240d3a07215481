//! Finds the fastest algorithm of every layer by measuring it on the card, once for all that are computed alike.

use super::algorithm::{Algorithm, Task};
use super::slot::Slot;
use crate::engine::EngineError;
use crate::engine::cuda::records::Record;

/// Algorithms by layer for one batch size; `None` for layers that have no choice.
///
/// # Errors
/// When a layer has none that runs.
pub(super) fn algorithms(slot: &Slot, batch: usize) -> Result<Vec<Option<Algorithm>>, EngineError> {
    let layers = 0..slot.model.layers.len();
    let chosen = layers.map(|index| {
        let task = slot.task(index, batch);
        task.map(|task| algorithm(slot, task)).transpose()
    });
    chosen.collect()
}

/// The algorithm of a name, once it has run.
fn recorded(slot: &Slot, task: Task<'_>, name: &str) -> Result<Algorithm, EngineError> {
    let algorithm = Algorithm::from_name(slot, task, name)?;
    slot.finish(|| algorithm.run(slot, task))?;
    Ok(algorithm)
}

fn algorithm(slot: &Slot, task: Task<'_>) -> Result<Algorithm, EngineError> {
    let (key, name) = (task.key(slot.model.math), &task.layer.name);
    let known = slot.model.records().find(&key, task.batch).cloned();
    if let Some(record) = known {
        match recorded(slot, task, &record.algorithm) {
            Ok(algorithm) => return Ok(algorithm),
            Err(error) => {
                survived(slot, &key, task, &record.algorithm, &error)?;
                tracing::warn!(layer = name, %error, "a recorded algorithm is measured anew");
            }
        }
    }
    let mut fastest: Option<(f64, Algorithm)> = None;
    let mut failure = None;
    for candidate in Algorithm::candidates(slot, task)? {
        let named = candidate.name();
        if slot.model.records().is_banned(&key, task.batch, &named) {
            continue;
        }
        let best = fastest.as_ref().map_or(f64::INFINITY, |(least, _)| *least);
        match slot.time(best, || candidate.run(slot, task)) {
            Ok(seconds) if seconds < best => fastest = Some((seconds, candidate)),
            Ok(_) => {}
            Err(error) => {
                survived(slot, &key, task, &named, &error)?;
                tracing::debug!(layer = name, %error, "an algorithm does not run");
                failure = Some(error);
            }
        }
    }
    let Some((seconds, algorithm)) = fastest else {
        let none = || EngineError::Device(format!("no algorithm runs the layer {name}"));
        return Err(failure.unwrap_or_else(none));
    };
    let record = Record {
        algorithm: algorithm.name(),
        microseconds: seconds * 1e6,
    };
    let (microseconds, chosen) = (record.microseconds, &record.algorithm);
    let batch = task.batch;
    tracing::debug!(layer = name, batch, microseconds, chosen, "measured");
    slot.model.records().insert(&key, batch, record);
    Ok(algorithm)
}

/// Whether the card goes on after an algorithm failed. One that took the card with it is never tried again, here or at the
/// next start.
fn survived(
    slot: &Slot,
    key: &str,
    task: Task<'_>,
    algorithm: &str,
    error: &EngineError,
) -> Result<(), EngineError> {
    if slot.synchronize().is_ok() {
        return Ok(());
    }
    slot.model.records().ban(key, task.batch, algorithm);
    let name = &task.layer.name;
    let what = format!("the layer {name} took the card with it by {algorithm}: {error}");
    Err(EngineError::Device(what))
}

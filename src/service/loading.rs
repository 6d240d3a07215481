//! From a loaded model to one that serves: its parts fit, each engine has run once for each size of batch, its queue has
//! a thread for each engine.

use std::sync::Arc;

use super::ServedModel;
use crate::batching::{self, BatchError, Batcher, Setup, Signature};
use crate::engine::EngineInfo;
use crate::ir::Shape;
use crate::repository::LoadedModel;
use crate::telemetry::{Metrics, ModelInfo, ModelLabels};

/// Why a loaded model cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the model has {classes} classes but {labels} labels; give one label per class")]
    Labels { classes: usize, labels: usize },
    #[error("preprocessing yields {crop}x{crop} RGB images, but the network takes {input}")]
    Input { crop: u32, input: Shape },
    #[error(
        "the model's engines must differ in nothing but their devices, and there must be one: found {0}"
    )]
    Engines(String),
    #[error("the warm-up failed on {device}: {error}")]
    WarmUp { device: String, error: BatchError },
    #[error("the warm-up gave values that are not finite; the weights may be damaged")]
    NotFinite,
    #[error("the model's threads could not be started: {0}")]
    Thread(std::io::Error),
}

/// Warms a model up, makes its series and starts its threads. Takes the time of some forward passes. `on_lost` is called
/// when the model has lost its last device.
///
/// # Errors
/// When its parts do not fit each other or a forward pass fails.
pub(super) fn prepare(
    mut loaded: LoadedModel,
    limits: batching::Config,
    metrics: &Metrics,
    on_lost: impl Fn() + Send + Sync + 'static,
) -> Result<ServedModel, LoadError> {
    let signature = Signature {
        image_len: loaded.graph.input().elements(),
        classes: loaded.graph.classes(),
        normalization: Arc::new(loaded.preprocessing.normalization()),
    };
    let info = check(&mut loaded, &signature, limits)?;
    let LoadedModel {
        name,
        version,
        architecture,
        graph,
        labels,
        preprocessing,
        provenance,
        engines,
    } = loaded;
    let input = graph.input();
    let counts = graph.counts();
    let series = ModelLabels {
        model: name.clone(),
        family: architecture.family.to_owned(),
        depth: architecture.depth.to_string(),
        version: version.clone(),
        device: info.device.clone(),
    };
    let handles = metrics.model(&series);
    let setup = Setup {
        model: &name,
        signature,
        config: limits,
        metrics: Arc::clone(&handles),
    };
    let batcher = Batcher::spawn(engines, setup, on_lost).map_err(LoadError::Thread)?;
    let model_info = ModelInfo {
        engine: info.engine.to_owned(),
        precision: info.precision.to_owned(),
        isa: info.isa.to_owned(),
        parameters: counts.parameters,
    };
    metrics.set_model_info(&series, &model_info);
    Ok(ServedModel {
        name,
        version,
        architecture: architecture.name,
        family: architecture.family,
        depth: architecture.depth,
        input,
        labels: labels.into(),
        preprocessing,
        provenance,
        engine: info,
        counts,
        limits,
        series,
        metrics: handles,
        batcher,
    })
}

/// Whether the parts fit each other and the engines yield numbers. Returns what the engines have in common.
fn check(
    loaded: &mut LoadedModel,
    signature: &Signature,
    limits: batching::Config,
) -> Result<EngineInfo, LoadError> {
    let (input, classes) = (loaded.graph.input(), signature.classes);
    let crop = loaded.preprocessing.crop;
    if (input.channels, input.height, input.width) != (3, crop as usize, crop as usize) {
        return Err(LoadError::Input { crop, input });
    }
    if loaded.labels.len() != classes {
        let labels = loaded.labels.len();
        return Err(LoadError::Labels { classes, labels });
    }
    let info = common(loaded)?;
    for engine in &mut loaded.engines {
        let engine = engine.as_mut();
        let logits = batching::warm_up(engine, signature, limits.max_batch);
        let logits = logits.map_err(|error| LoadError::WarmUp {
            device: engine.info().device.clone(),
            error,
        })?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(LoadError::NotFinite);
        }
    }
    Ok(info)
}

/// What the engines are, with all their devices.
fn common(loaded: &LoadedModel) -> Result<EngineInfo, LoadError> {
    let on_all = |info: &EngineInfo| EngineInfo {
        device: loaded.devices(),
        ..info.clone()
    };
    let infos: Vec<&EngineInfo> = loaded.engines.iter().map(|e| e.info()).collect();
    match infos.split_first() {
        Some((first, others)) if others.iter().all(|info| on_all(info) == on_all(first)) => {
            Ok(on_all(first))
        }
        _ => Err(LoadError::Engines(format!("{infos:?}"))),
    }
}

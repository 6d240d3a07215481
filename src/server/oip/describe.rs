//! What there is to know of the server and its models, as the protocol's messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::outputs::Kind;
use super::{INPUT, given};
use crate::server::Core;
use crate::server::pb::inference as pb;
use crate::service::{Error, ModelState, ModelStatus, Priority, ServedModel, VersionStatus};
use crate::telemetry::Span;

const SERVER: &str = "resnetd";
/// Exactly those that work.
const EXTENSIONS: [&str; 6] = [
    "classification",
    "binary_tensor_data",
    "statistics",
    "model_configuration",
    "model_repository",
    "schedule_policy",
];

pub(in crate::server) fn server() -> pb::ServerMetadataResponse {
    pb::ServerMetadataResponse {
        name: SERVER.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).into(),
    }
}

/// Whether a model answers. Empty names are as in requests.
pub(in crate::server) fn is_ready(core: &Core, name: &str, version: &str) -> bool {
    find(core, name, version).is_ok()
}

/// # Errors
/// `ModelNotFound`, or `Unavailable` while it cannot answer.
pub(in crate::server) fn metadata(
    core: &Core,
    name: &str,
    version: &str,
) -> Result<pb::ModelMetadataResponse, Error> {
    let model = find(core, name, version)?;
    let models = core.classify.models();
    let versions = models.iter().find(|other| other.name == model.name);
    let mut versions: Vec<String> = versions
        .into_iter()
        .flat_map(|model| model.ready().map(|ready| ready.version.clone()))
        .collect();
    versions.reverse();
    let tensor = |name: &str, shape: Vec<i64>| pb::model_metadata_response::TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: [vec![-1], shape].concat(),
    };
    let classes = vec![number(model.labels.len())];
    Ok(pb::ModelMetadataResponse {
        name: model.name.clone(),
        versions,
        platform: SERVER.to_owned(),
        inputs: vec![tensor(INPUT, dims(&model))],
        outputs: Kind::ALL
            .map(|kind| tensor(kind.name(), classes.clone()))
            .into(),
    })
}

/// # Errors
/// As [`metadata`].
pub(in crate::server) fn config(
    core: &Core,
    name: &str,
    version: &str,
) -> Result<pb::ModelConfig, Error> {
    let model = find(core, name, version)?;
    let classes = number(model.labels.len());
    let output = |kind: Kind| pb::ModelOutput {
        name: kind.name().to_owned(),
        data_type: pb::DataType::TypeFp32.into(),
        dims: vec![classes],
        label_filename: "labels.txt".to_owned(),
    };
    let delay = model.limits.max_queue_delay.as_micros();
    Ok(pb::ModelConfig {
        name: model.name.clone(),
        platform: SERVER.to_owned(),
        backend: SERVER.to_owned(),
        version_policy: Some(pb::ModelVersionPolicy {
            all: Some(pb::model_version_policy::All {}),
        }),
        max_batch_size: small(core.config.max_images_per_request),
        input: vec![pb::ModelInput {
            name: INPUT.to_owned(),
            data_type: pb::DataType::TypeFp32.into(),
            format: pb::model_input::Format::Nchw.into(),
            dims: dims(&model),
        }],
        output: Kind::ALL.map(output).into(),
        instance_group: vec![instance(&model)],
        dynamic_batching: Some(pb::ModelDynamicBatching {
            preferred_batch_size: vec![small(model.limits.max_batch)],
            max_queue_delay_microseconds: u64::try_from(delay).unwrap_or(u64::MAX),
            priority_levels: Priority::LEVELS.into(),
            default_priority_level: Priority::default().level().into(),
        }),
        parameters: parameters(&model),
    })
}

fn instance(model: &ServedModel) -> pb::ModelInstanceGroup {
    use pb::model_instance_group::Kind;
    let devices = model.engine.device.split(',');
    let gpus: Vec<i32> = devices
        .filter_map(|device| device.strip_prefix("cuda:")?.parse().ok())
        .collect();
    let kind = match gpus.is_empty() {
        true => Kind::Cpu,
        false => Kind::Gpu,
    };
    pb::ModelInstanceGroup {
        name: format!("{}_0", model.name),
        kind: kind.into(),
        count: 1,
        gpus,
    }
}

fn parameters(model: &ServedModel) -> BTreeMap<String, pb::ModelParameter> {
    let settings = &model.preprocessing;
    let parameters = [
        ("architecture", model.architecture.to_owned()),
        ("family", model.family.to_owned()),
        ("depth", model.depth.to_string()),
        ("parameters", model.counts.parameters.to_string()),
        ("engine", model.engine.engine.to_owned()),
        ("precision", model.engine.precision.to_owned()),
        ("isa", model.engine.isa.to_owned()),
        ("resize", settings.resize.to_string()),
        ("crop", settings.crop.to_string()),
        ("mean", format!("{:?}", settings.mean)),
        ("std", format!("{:?}", settings.std)),
    ];
    let parameter = |(name, string_value): (&str, String)| {
        (name.to_owned(), pb::ModelParameter { string_value })
    };
    parameters.map(parameter).into()
}

/// Statistics of one version of one model; of all versions, or of all models, where the names are empty.
///
/// # Errors
/// As [`metadata`], where a name is given.
pub(in crate::server) fn statistics(
    core: &Core,
    name: &str,
    version: &str,
) -> Result<pb::ModelStatisticsResponse, Error> {
    if !name.is_empty() {
        find(core, name, version)?;
    }
    let mut model_stats = Vec::new();
    for model in core.classify.models() {
        let mut ready: Vec<_> = model.ready().collect();
        ready.reverse();
        let asked = |model: &&&Arc<ServedModel>| {
            (name.is_empty() || model.name == name)
                && (version.is_empty() || model.version == version)
        };
        model_stats.extend(ready.iter().filter(asked).map(|model| counted(model)));
    }
    Ok(pb::ModelStatisticsResponse { model_stats })
}

fn counted(model: &ServedModel) -> pb::ModelStatistics {
    let now = model.metrics.statistics.snapshot();
    let last = now
        .last_inference
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let last = last.map_or(0, |since| since.as_millis());
    let output: Duration = now
        .batches
        .values()
        .map(|batches| batches.output.total)
        .sum();
    pb::ModelStatistics {
        name: model.name.clone(),
        version: model.version.clone(),
        last_inference: u64::try_from(last).unwrap_or(u64::MAX),
        inference_count: now.images,
        execution_count: now
            .batches
            .values()
            .map(|batches| batches.infer.count)
            .sum(),
        inference_stats: Some(pb::InferStatistics {
            success: duration(now.success),
            fail: duration(now.fail),
            queue: duration(now.queue),
            compute_input: duration(now.input),
            compute_infer: duration(now.infer),
            compute_output: duration(Span {
                count: now.success.count,
                total: output,
            }),
            cache_hit: duration(Span::default()),
            cache_miss: duration(Span::default()),
        }),
        batch_stats: now
            .batches
            .iter()
            .map(|(size, batches)| pb::InferBatchStatistics {
                batch_size: *size as u64,
                compute_input: duration(batches.input),
                compute_infer: duration(batches.infer),
                compute_output: duration(batches.output),
            })
            .collect(),
    }
}

fn duration(span: Span) -> Option<pb::StatisticDuration> {
    Some(pb::StatisticDuration {
        count: span.count,
        ns: u64::try_from(span.total.as_nanos()).unwrap_or(u64::MAX),
    })
}

/// Every version known; only those that answer where `ready` is set.
pub(in crate::server) fn index(core: &Core, ready: bool) -> pb::RepositoryIndexResponse {
    let models = core.classify.models();
    let rows = models.iter().flat_map(|model| {
        let row = |version| entry(model, version);
        model.versions.iter().map(row)
    });
    pb::RepositoryIndexResponse {
        models: rows.filter(|row| !ready || row.state == READY).collect(),
    }
}

const READY: &str = "READY";

fn entry(
    model: &ModelStatus,
    version: &VersionStatus,
) -> pb::repository_index_response::ModelIndex {
    let (state, reason) = match &version.state {
        ModelState::Ready(_) => (READY, version.reload_error.clone().unwrap_or_default()),
        ModelState::Loading => ("LOADING", String::new()),
        ModelState::Failed(reason) => ("UNAVAILABLE", reason.clone()),
        ModelState::Unloaded => ("UNAVAILABLE", "unloaded".to_owned()),
    };
    pb::repository_index_response::ModelIndex {
        name: model.name.clone(),
        version: version.version.clone().unwrap_or_default(),
        state: state.to_owned(),
        reason,
    }
}

/// What every call about one model begins with. The protocol has no default model: an empty name is an error.
fn find(core: &Core, name: &str, version: &str) -> Result<Arc<ServedModel>, Error> {
    if name.is_empty() {
        return Err(Error::invalid("the name of the model is empty"));
    }
    core.classify.find(Some(name), given(version))
}

fn dims(model: &ServedModel) -> Vec<i64> {
    [model.input.channels, model.input.height, model.input.width]
        .map(number)
        .into()
}

/// Sizes are far below the limits of the wire's types.
fn number(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn small(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

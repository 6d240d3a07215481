//! From a description to a model that runs: classes from the weights, the graph, the labels, the engine.

use std::path::Path;
use std::sync::Arc;

use super::folder::Provenance;
use super::{LoadedModel, Preset, RepositoryError, labels};
use crate::engine::{EngineOptions, select};
use crate::families::{self, Architecture, Build};
use crate::imaging::Preprocessing;
use crate::ir::{Graph, Shape};
use crate::weights::{self, Parameters, WeightSource};

/// A model as its source describes it.
pub(super) struct Description {
    pub(super) architecture: &'static Architecture,
    /// The architecture's own, or the one that the weights were trained for.
    pub(super) build: Build,
    pub(super) version: String,
    pub(super) weights: Box<dyn WeightSource>,
    /// One per class; `None` for the default names.
    pub(super) labels: Option<Vec<String>>,
    pub(super) preprocessing: Preprocessing,
    pub(super) provenance: Provenance,
    /// The published weights that these are.
    pub(super) preset: Option<&'static Preset>,
}

/// Version of a model that states none.
pub(super) const FIRST_VERSION: &str = "1";

/// A bare weight file. The model's name is the architecture's; it may be another where the file's name says which
/// published weights it holds.
pub(super) fn describe_file(name: &str, path: &Path) -> Result<Description, RepositoryError> {
    let known = Preset::of_file(path);
    let architecture = match (families::find(name), known) {
        (None, Some(preset)) => preset.architecture,
        _ => architecture(name)?,
    };
    let preset = known.filter(|preset| preset.is_for(architecture));
    Ok(Description {
        architecture,
        build: architecture.build,
        version: FIRST_VERSION.to_owned(),
        weights: weights::open(path)?,
        labels: None,
        preprocessing: preprocessing(architecture, preset),
        provenance: Provenance::default(),
        preset,
    })
}

pub(super) fn assemble(
    name: &str,
    description: Description,
    options: &EngineOptions,
) -> Result<LoadedModel, RepositoryError> {
    let Description {
        architecture,
        weights,
        preprocessing,
        mut provenance,
        ..
    } = description;
    preprocessing
        .validate()
        .map_err(|e| RepositoryError::Misfit(e.to_string()))?;
    let graph = Arc::new(graph(
        architecture,
        description.build,
        preprocessing.crop as usize,
        &*weights,
    )?);
    let parameters = Parameters::load(&graph, &*weights)?;
    drop(weights);
    let classes = graph.classes();
    // other classes are other weights, whatever their file is called
    if let Some(preset) = description
        .preset
        .filter(|_| classes == architecture.classes)
    {
        preset.complete(&mut provenance);
    }
    let labels = description
        .labels
        .unwrap_or_else(|| labels::default(classes, architecture.classes));
    if labels.len() != classes {
        return Err(RepositoryError::Misfit(format!(
            "there are {} labels for {classes} classes; expected one label a class",
            labels.len()
        )));
    }
    let engines = select(&graph, parameters, options)?;
    Ok(LoadedModel {
        name: name.to_owned(),
        version: description.version,
        architecture,
        graph,
        labels,
        preprocessing,
        provenance,
        engines,
    })
}

/// Settings of the published weights, or else the architecture's.
pub(super) fn preprocessing(architecture: &Architecture, preset: Option<&Preset>) -> Preprocessing {
    match preset {
        Some(preset) => preset.preprocessing.clone(),
        None => default_preprocessing(architecture),
    }
}

/// Evaluation settings of the data set the architecture was designed for, at its input size.
pub(super) fn default_preprocessing(architecture: &Architecture) -> Preprocessing {
    if architecture.input_size <= 32 {
        return Preprocessing::cifar10();
    }
    let crop = u32::try_from(architecture.input_size).unwrap_or(Preprocessing::MAX_SIZE);
    Preprocessing {
        resize: resize_for(crop, DEFAULT_CROP),
        crop,
        ..Preprocessing::imagenet()
    }
}

/// Share of the resized side that is kept, where nothing else is said: torchvision's 224 of 256, and timm's default.
pub(super) const DEFAULT_CROP: f64 = 0.875;

/// Side before the crop, as timm computes it.
pub(super) fn resize_for(crop: u32, share: f64) -> u32 {
    (f64::from(crop) / share).floor() as u32
}

/// Most classes a network may have: five times those of ImageNet-21k.
const MAX_CLASSES: usize = 100_000;

/// The architecture's graph for square images of `side` pixels, with as many classes as the weights' classifier has:
/// a network trained further on other classes needs no word about their number.
fn graph(
    architecture: &Architecture,
    build: Build,
    side: usize,
    weights: &dyn WeightSource,
) -> Result<Graph, RepositoryError> {
    let graph = |classes| {
        build(Shape::new(3, side, side), classes).map_err(|reason| {
            RepositoryError::Misfit(format!(
                "{} cannot take images of {side}x{side} pixels: {reason}",
                architecture.name
            ))
        })
    };
    let native = graph(architecture.classes)?;
    let classifier = native.nodes().iter().rfind(|node| node.op.is_weighted());
    let rows = classifier
        .and_then(|node| weights.shapes().get(&format!("{}.weight", node.name)))
        .and_then(|shape| shape.first().copied());
    match rows {
        Some(classes) if !(1..=MAX_CLASSES).contains(&classes) => {
            Err(RepositoryError::Misfit(format!(
                "the classifier in the weights has {classes} classes; expected 1 to {MAX_CLASSES}"
            )))
        }
        Some(classes) if classes != native.classes() => graph(classes),
        _ => Ok(native),
    }
}

/// Similar names offered for an unknown one.
const OFFERED: usize = 4;

/// # Errors
/// Offers the most similar names.
pub(super) fn architecture(name: &str) -> Result<&'static Architecture, RepositoryError> {
    families::find(name).ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        let mut near: Vec<&str> = families::all().map(|a| a.name).collect();
        near.sort_by_key(|known| distance(known.as_bytes(), shown.as_bytes()));
        near.truncate(OFFERED);
        RepositoryError::Architecture { name: shown, near }
    })
}

/// Edits between two names (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row[1..].iter_mut().zip(b) {
            let edited = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = edited.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    // of an empty `a` the row is still the cost of inserting `b`
    row.last().copied().unwrap_or(0)
}

//! From a description to a model that runs: classes from the weights, the graph, the labels, the engine.

use std::path::Path;
use std::sync::Arc;

use super::folder::Provenance;
use super::{LoadedModel, RepositoryError, labels};
use crate::engine::{EngineOptions, select};
use crate::families::{self, Architecture};
use crate::imaging::Preprocessing;
use crate::ir::{Graph, Shape};
use crate::weights::{self, Parameters, WeightSource};

/// A model as its source describes it.
pub(super) struct Description {
    pub(super) architecture: &'static Architecture,
    pub(super) version: String,
    pub(super) weights: Box<dyn WeightSource>,
    /// One per class; `None` for the default names.
    pub(super) labels: Option<Vec<String>>,
    pub(super) preprocessing: Preprocessing,
    pub(super) provenance: Provenance,
}

/// Version of a model that states none.
pub(super) const FIRST_VERSION: &str = "1";

/// A bare weight file, whose name is the architecture's.
pub(super) fn describe_file(name: &str, path: &Path) -> Result<Description, RepositoryError> {
    let architecture = architecture(name)?;
    Ok(Description {
        architecture,
        version: FIRST_VERSION.to_owned(),
        weights: weights::open(path)?,
        labels: None,
        preprocessing: default_preprocessing(architecture),
        provenance: Provenance::default(),
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
        ..
    } = description;
    preprocessing
        .validate()
        .map_err(|e| RepositoryError::Misfit(e.to_string()))?;
    let graph = Arc::new(graph(architecture, preprocessing.crop as usize, &*weights)?);
    let parameters = Parameters::load(&graph, &*weights)?;
    drop(weights);
    let classes = graph.classes();
    let labels = description
        .labels
        .unwrap_or_else(|| labels::default(classes, architecture.classes));
    if labels.len() != classes {
        return Err(RepositoryError::Misfit(format!(
            "there are {} labels for {classes} classes; expected one label a class",
            labels.len()
        )));
    }
    let engine = select(&graph, parameters, options)?;
    Ok(LoadedModel {
        name: name.to_owned(),
        version: description.version,
        architecture,
        graph,
        labels,
        preprocessing,
        provenance: description.provenance,
        engine,
    })
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
    side: usize,
    weights: &dyn WeightSource,
) -> Result<Graph, RepositoryError> {
    let build = |classes| {
        (architecture.build)(Shape::new(3, side, side), classes).map_err(|reason| {
            RepositoryError::Misfit(format!(
                "{} cannot take images of {side}x{side} pixels: {reason}",
                architecture.name
            ))
        })
    };
    let graph = build(architecture.classes)?;
    let classifier = graph.nodes().iter().rfind(|node| node.op.is_weighted());
    let rows = classifier
        .and_then(|node| weights.shapes().get(&format!("{}.weight", node.name)))
        .and_then(|shape| shape.first().copied());
    match rows {
        Some(classes) if !(1..=MAX_CLASSES).contains(&classes) => {
            Err(RepositoryError::Misfit(format!(
                "the classifier in the weights has {classes} classes; expected 1 to {MAX_CLASSES}"
            )))
        }
        Some(classes) if classes != graph.classes() => build(classes),
        _ => Ok(graph),
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

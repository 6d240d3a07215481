//! The model inside the binary: what is served when no model is named.

use super::RepositoryError;
use super::assemble::Description;
use super::{folder, labels};
use crate::weights;

pub(super) const NAME: &str = "resnet20-cifar10";

const MANIFEST: &str = include_str!("../../models/resnet20-cifar10/model.toml");
const LABELS: &str = include_str!("../../models/resnet20-cifar10/labels.txt");
const WEIGHTS: &[u8] = include_bytes!("../../models/resnet20-cifar10/weights.safetensors");

pub(super) fn describe() -> Result<Description, RepositoryError> {
    let misfit = |reason| RepositoryError::Misfit(format!("the embedded model: {reason}"));
    let manifest = folder::Manifest::parse(MANIFEST).map_err(misfit)?;
    let labels = labels::parse(LABELS).map_err(misfit)?;
    manifest.describe(weights::embedded(WEIGHTS)?, Some(labels), misfit)
}

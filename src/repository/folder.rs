//! Model folders: model.toml and the files it names.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::assemble::{self, Description};
use super::{Preset, RepositoryError, labels, versions};
use crate::families::{Architecture, Build};
use crate::imaging::{Interpolation, Preprocessing};
use crate::weights::{self, WeightSource};

pub(super) const MANIFEST: &str = "model.toml";
/// Largest text file read: model.toml, labels, config.json.
const MAX_TEXT: u64 = 16 << 20;

/// What model.toml holds; paths are relative to its folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    architecture: String,
    weights: String,
    labels: Option<String>,
    version: Option<String>,
    survival: Option<Survival>,
    #[serde(default)]
    preprocess: PreprocessTable,
    #[serde(default)]
    provenance: Provenance,
}

/// How training made up for the residual branches that stochastic depth dropped.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Survival {
    /// Not at all: inference scales each branch by its survival probability (Huang et al. 2016).
    ScaledAtTest,
    /// The surviving branches were divided by that probability, as torchvision's `StochasticDepth` does.
    ScaledAtTraining,
}

/// `[preprocess]`; what is absent is as the published weights or the architecture have it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreprocessTable {
    resize: Option<u32>,
    crop: Option<u32>,
    interpolation: Option<Interpolation>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

/// `[provenance]`: where the weights come from and what they are worth. Accuracies are in percent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub data: Option<String>,
    pub recipe: Option<String>,
    pub epochs: Option<u32>,
    pub seed: Option<u64>,
    pub train_top1: Option<f64>,
    pub test_top1: Option<f64>,
    pub test_top5: Option<f64>,
    /// Who measured `test_top1` and `test_top5`, and on what.
    pub test_source: Option<String>,
}

/// Reads a folder's model.toml and opens the files it names.
pub(super) fn describe(folder: &Path) -> Result<Description, RepositoryError> {
    let path = folder.join(MANIFEST);
    let misfit = |reason: String| RepositoryError::file(&path, reason);
    let manifest = Manifest::parse(&read_text(&path)?).map_err(misfit)?;
    let weights = inside(folder, &manifest.weights).map_err(|e| misfit(format!("weights {e}")))?;
    let labels = match &manifest.labels {
        Some(name) => {
            let file = inside(folder, name).map_err(|e| misfit(format!("labels {e}")))?;
            let labels = labels::parse(&read_text(&file)?);
            Some(labels.map_err(|reason| RepositoryError::file(&file, reason))?)
        }
        None => None,
    };
    manifest.describe(weights::open(&weights)?, labels, misfit)
}

impl Manifest {
    /// # Errors
    /// In words with the line, for bad TOML and for keys and types that model.toml does not have.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| format!("{e}").trim_end().to_owned())
    }

    /// The description of the model whose files have been opened; `misfit` words the errors of the values.
    pub(super) fn describe(
        self,
        weights: Box<dyn WeightSource>,
        labels: Option<Vec<String>>,
        misfit: impl Fn(String) -> RepositoryError,
    ) -> Result<Description, RepositoryError> {
        let architecture = assemble::architecture(&self.architecture)?;
        let build = build(architecture, self.survival).map_err(&misfit)?;
        let preset =
            Preset::of_file(Path::new(&self.weights)).filter(|preset| preset.is_for(architecture));
        let default = assemble::preprocessing(architecture, preset);
        let preprocessing = self.preprocess.over(default).map_err(&misfit)?;
        let version = self
            .version
            .unwrap_or_else(|| assemble::FIRST_VERSION.to_owned());
        versions::check_version(&version).map_err(&misfit)?;
        Ok(Description {
            architecture,
            build,
            version,
            weights,
            labels,
            preprocessing,
            provenance: self.provenance,
            preset,
        })
    }
}

/// The graph for weights trained so.
fn build(architecture: &Architecture, survival: Option<Survival>) -> Result<Build, String> {
    match (survival, architecture.unscaled) {
        (None, _) | (Some(Survival::ScaledAtTest), Some(_)) => Ok(architecture.build),
        (Some(Survival::ScaledAtTraining), Some(unscaled)) => Ok(unscaled),
        (Some(_), None) => Err(format!(
            "has survival, which is for networks with stochastic depth; {} has none: leave survival out",
            architecture.name
        )),
    }
}

impl PreprocessTable {
    /// These settings over those of the published weights or the architecture.
    fn over(self, default: Preprocessing) -> Result<Preprocessing, String> {
        if self.resize.is_some() != self.crop.is_some() {
            return Err("preprocess has one of resize and crop; they belong together".to_owned());
        }
        let settings = Preprocessing {
            resize: self.resize.unwrap_or(default.resize),
            crop: self.crop.unwrap_or(default.crop),
            interpolation: self.interpolation.unwrap_or(default.interpolation),
            mean: self.mean.unwrap_or(default.mean),
            std: self.std.unwrap_or(default.std),
        };
        settings.validate().map_err(|e| e.to_string())?;
        Ok(settings)
    }
}

/// The path of a file in `folder`. Links in the folder are followed: whoever may place them may place files as well.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let mut parts = path.components().peekable();
    if parts.peek().is_none() || !parts.all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!(
            "is {name:?}; expected the path of a file inside the model folder, without .."
        ));
    }
    Ok(folder.join(path))
}

/// Reads a text file of bounded size.
pub(super) fn read_text(path: &Path) -> Result<String, RepositoryError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text))
        .map_err(|e| RepositoryError::file(path, format!("cannot be read: {e}")))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(RepositoryError::file(
            path,
            format!("is larger than {MAX_TEXT} bytes"),
        ));
    }
    Ok(text)
}

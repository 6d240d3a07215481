//! Published weights known by name: the files of torchvision and the hub repositories of timm, with the preprocessing
//! they were measured with and the accuracy that was published. presets.toml has them and says where each value is from.

use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::folder::Provenance;
use crate::families::{self, Architecture};
use crate::imaging::{Interpolation, Preprocessing};

/// One set of published weights for the 1000 classes of ImageNet-1k.
#[derive(Clone, Debug)]
pub struct Preset {
    pub architecture: &'static Architecture,
    /// torchvision's name (`IMAGENET1K_V2`) or timm's tag (`a1_in1k`).
    pub weights: String,
    /// As `--model` takes it: a file's name (`resnet50-11ad3fa6.pth`) or `hf:OWNER/NAME`.
    pub source: String,
    /// Accuracy in percent on the validation images of ImageNet-1k, with this preprocessing.
    pub top1: f64,
    pub top5: f64,
    pub preprocessing: Preprocessing,
}

const TABLE: &str = include_str!("presets.toml");

static PRESETS: LazyLock<Vec<Preset>> =
    LazyLock::new(|| parse(TABLE).expect("presets.toml is part of the program"));

impl Preset {
    /// Every preset of an architecture here: torchvision's first, then timm's.
    pub fn all() -> &'static [Self] {
        &PRESETS
    }

    /// Those of one architecture.
    pub fn of(architecture: &'static Architecture) -> impl Iterator<Item = &'static Self> {
        let presets = Self::all().iter();
        presets.filter(|preset| preset.is_for(architecture))
    }

    /// The preset of a file, in whatever folder it lies.
    pub(super) fn of_file(path: &Path) -> Option<&'static Self> {
        let name = path.file_name()?.to_str()?;
        Self::all().iter().find(|preset| preset.source == name)
    }

    /// The preset of a repository of the hub.
    pub(super) fn of_hub(repo: &str) -> Option<&'static Self> {
        let is_it = |preset: &&Self| preset.source.strip_prefix("hf:") == Some(repo);
        Self::all().iter().find(is_it)
    }

    pub(super) fn is_for(&self, architecture: &Architecture) -> bool {
        self.architecture.name == architecture.name
    }

    /// Who published the weights and measured them.
    pub fn publisher(&self) -> &'static str {
        match self.source.starts_with("hf:") {
            true => "timm",
            false => "torchvision",
        }
    }

    /// Says of the weights what their owner left open; an accuracy that was stated is not mixed with the published one.
    pub(super) fn complete(&self, provenance: &mut Provenance) {
        provenance.data.get_or_insert_with(|| {
            format!("{} {} ({})", self.publisher(), self.weights, self.source)
        });
        if provenance.test_top1.is_none() && provenance.test_top5.is_none() {
            provenance.test_top1 = Some(self.top1);
            provenance.test_top5 = Some(self.top5);
            provenance.test_source = Some(format!(
                "published by {}: ImageNet-1k validation, {} pixels",
                self.publisher(),
                self.preprocessing.crop
            ));
        }
    }
}

/// presets.toml; rows are arrays, in the order of these fields.
#[derive(Deserialize)]
struct Table {
    normalise: Normalisations,
    weights: Publishers,
}

#[derive(Deserialize)]
struct Publishers {
    torchvision: Vec<Row>,
    timm: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    architecture: String,
    weights: String,
    source: String,
    top1: f64,
    top5: f64,
    resize: u32,
    crop: u32,
    interpolation: Interpolation,
    normalise: Normalise,
}

#[derive(Deserialize)]
struct Normalisations {
    imagenet: [[f32; 3]; 2],
    half: [[f32; 3]; 2],
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Normalise {
    Imagenet,
    Half,
}

/// The presets of registered architectures.
fn parse(text: &str) -> Result<Vec<Preset>, toml::de::Error> {
    let Table { normalise, weights } = toml::from_str(text)?;
    let rows = weights.torchvision.into_iter().chain(weights.timm);
    Ok(rows.filter_map(|row| row.preset(&normalise)).collect())
}

impl Row {
    fn preset(self, normalise: &Normalisations) -> Option<Preset> {
        let [mean, std] = match self.normalise {
            Normalise::Imagenet => normalise.imagenet,
            Normalise::Half => normalise.half,
        };
        Some(Preset {
            architecture: families::find(&self.architecture)?,
            weights: self.weights,
            source: self.source,
            top1: self.top1,
            top5: self.top5,
            preprocessing: Preprocessing {
                resize: self.resize,
                crop: self.crop,
                interpolation: self.interpolation,
                mean,
                std,
            },
        })
    }
}

#[cfg(test)]
mod tests;

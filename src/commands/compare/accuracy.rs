//! What is known of a network's accuracy, and who says so.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tracing::subscriber::{NoSubscriber, with_default};

use crate::families::Architecture;
use crate::repository::{self, ModelSpec, Preset};

/// In percent, on the data set that the architecture was designed for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Accuracy {
    pub(super) top1: f64,
    pub(super) top5: Option<f64>,
    pub(super) source: String,
}

/// The accuracies of published weights, and of the model inside the binary.
pub(super) struct Accuracies {
    embedded: Option<(&'static str, Accuracy)>,
}

impl Accuracies {
    /// # Errors
    /// When the embedded model cannot be loaded.
    pub(super) fn new(config: &repository::Config) -> Result<Self> {
        // that it is loaded is of no interest to whoever compares others
        let model = with_default(NoSubscriber::default(), || {
            repository::load(&ModelSpec::embedded(), config)
        })?;
        let provenance = &model.provenance;
        let embedded = provenance.test_top1.map(|top1| {
            let accuracy = Accuracy {
                top1,
                top5: provenance.test_top5,
                source: format!("model.toml of {}", model.name),
            };
            (model.architecture.name, accuracy)
        });
        Ok(Self { embedded })
    }

    pub(super) fn of(&self, architecture: &'static Architecture) -> Option<Accuracy> {
        let embedded = self.embedded.as_ref();
        published(architecture).or_else(|| {
            let (_, accuracy) = embedded.filter(|(name, _)| *name == architecture.name)?;
            Some(accuracy.clone())
        })
    }
}

/// Of the first weights that were published for the architecture at its own image size: torchvision's before timm's, so
/// that as many as can be are of one recipe.
fn published(architecture: &'static Architecture) -> Option<Accuracy> {
    let fits = |preset: &&Preset| preset.preprocessing.crop as usize == architecture.input_size;
    let preset = Preset::of(architecture).find(fits)?;
    Some(Accuracy {
        top1: preset.top1,
        top5: Some(preset.top5),
        source: format!("{} {}", preset.publisher(), preset.weights),
    })
}

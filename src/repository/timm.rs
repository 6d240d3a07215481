//! Hub repositories in timm's layout: config.json names the architecture and its preprocessing; of published weights the
//! preset says what it leaves out.

use serde::Deserialize;

use super::assemble::{self, Description};
use super::folder::{Provenance, read_text};
use super::hub::{self, HubConfig};
use super::{Preset, RepositoryError};
use crate::families::Architecture;
use crate::imaging::{Interpolation, Preprocessing};
use crate::weights;

/// The part of config.json that matters here. Files of older timm versions have the settings at the top level.
#[derive(Debug, Deserialize)]
struct Card {
    architecture: Option<String>,
    label_names: Option<Vec<String>>,
    pretrained_cfg: Option<Settings>,
    #[serde(flatten)]
    top: Settings,
}

/// `test_input_size` and `test_crop_pct` are left alone: they are those of timm's own best figures at other sizes.
#[derive(Debug, Deserialize)]
struct Settings {
    input_size: Option<[u32; 3]>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    interpolation: Option<Interpolation>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

/// Characters of a commit that make a version.
const VERSION_LENGTH: usize = 12;

/// Fetches a repository and describes its model.
pub(super) fn describe(
    repo: &str,
    revision: Option<&str>,
    config: &HubConfig,
) -> Result<Description, RepositoryError> {
    let snapshot = hub::fetch(repo, revision, config)?;
    let text = read_text(&snapshot.config)?;
    let misfit = |reason: String| RepositoryError::Hub {
        repo: repo.to_owned(),
        reason: format!("config.json {reason}"),
    };
    let card: Card =
        serde_json::from_str(&text).map_err(|e| misfit(format!("is not timm's: {e}")))?;
    let name = card.architecture.ok_or_else(|| {
        misfit(
            "has no \"architecture\"; only repositories in timm's layout can be served".to_owned(),
        )
    })?;
    let architecture = assemble::architecture(&name)?;
    let preset = Preset::of_hub(repo).filter(|preset| preset.is_for(architecture));
    let default = match preset {
        Some(preset) => preset.preprocessing.clone(),
        None => timm_default(architecture),
    };
    let settings = card.pretrained_cfg.unwrap_or(card.top);
    Ok(Description {
        architecture,
        build: architecture.build,
        version: snapshot.commit.chars().take(VERSION_LENGTH).collect(),
        weights: weights::open(&snapshot.weights)?,
        labels: card.label_names,
        preprocessing: settings.over(default).map_err(misfit)?,
        provenance: Provenance {
            data: Some(format!("hf:{repo} at commit {}", snapshot.commit)),
            ..Provenance::default()
        },
        preset,
    })
}

/// timm's own defaults over the architecture's.
fn timm_default(architecture: &Architecture) -> Preprocessing {
    let own = assemble::default_preprocessing(architecture);
    Preprocessing {
        resize: assemble::resize_for(own.crop, assemble::DEFAULT_CROP),
        interpolation: Interpolation::Bicubic,
        ..own
    }
}

impl Settings {
    /// The file's settings, with `default` for what is absent.
    fn over(self, default: Preprocessing) -> Result<Preprocessing, String> {
        let [channels, height, crop] = self.input_size.unwrap_or([3, default.crop, default.crop]);
        if channels != 3 || height != crop {
            return Err(format!(
                "has input_size {:?}; expected 3 channels and a square",
                [channels, height, crop]
            ));
        }
        if let Some(mode) = self.crop_mode.filter(|mode| mode != "center") {
            return Err(format!("has crop_mode {mode:?}; only center is supported"));
        }
        let resize = match self.crop_pct {
            None if crop == default.crop => default.resize,
            // a share of 0 or NaN yields a size that is refused below
            share => assemble::resize_for(crop, share.unwrap_or(assemble::DEFAULT_CROP)),
        };
        let settings = Preprocessing {
            resize,
            crop,
            interpolation: self.interpolation.unwrap_or(default.interpolation),
            mean: self.mean.unwrap_or(default.mean),
            std: self.std.unwrap_or(default.std),
        };
        settings
            .validate()
            .map_err(|e| format!("cannot be used: {e}"))?;
        Ok(settings)
    }
}

//! Which models the flags ask for.

use anyhow::{Result, bail};

use crate::config::ModelArgs;
use crate::repository::{self, ModelSpec};

/// A model to load.
pub(super) struct Wanted {
    pub(super) spec: ModelSpec,
    /// Named by `--model`: without it there is no point in starting.
    pub(super) required: bool,
}

/// The models of `--model`, then those of `--model-dir`; the embedded model if neither is given.
///
/// # Errors
/// When two share a name, the directory cannot be read, or `--default-model` is not among them.
pub(super) fn wanted(args: &ModelArgs) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for spec in &args.model {
        wanted.push(Wanted {
            spec: spec.clone(),
            required: true,
        });
    }
    if let Some(dir) = &args.model_dir {
        for spec in repository::scan(dir)? {
            wanted.push(Wanted {
                spec,
                required: false,
            });
        }
        if wanted.is_empty() {
            bail!("--model-dir {} holds no model folder", dir.display());
        }
    }
    if wanted.is_empty() {
        wanted.push(Wanted {
            spec: ModelSpec::embedded(),
            required: true,
        });
    }
    for (index, model) in wanted.iter().enumerate() {
        let name = &model.spec.name;
        if wanted[..index].iter().any(|other| other.spec.name == *name) {
            bail!("two models are named {name}; give each its own name with --model NAME=SOURCE");
        }
    }
    if let Some(default) = &args.default_model
        && !wanted.iter().any(|model| model.spec.name == *default)
    {
        let names: Vec<_> = wanted.iter().map(|m| m.spec.name.as_str()).collect();
        bail!(
            "--default-model {default} is not served; served are {}",
            names.join(", ")
        );
    }
    Ok(wanted)
}

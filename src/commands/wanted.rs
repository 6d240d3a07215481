//! Which models the flags ask for.

use anyhow::{Result, bail};

use crate::config::ModelArgs;
use crate::repository::{self, ModelSpec};
use crate::service::Sources;

/// The models of `--model`, then those of `--model-dir`; the embedded model if neither is given.
///
/// # Errors
/// When two share a name, the directory cannot be read, or `--default-model` is not among them.
pub(super) fn wanted(args: &ModelArgs, repository: repository::Config) -> Result<Sources> {
    let mut wanted = Sources {
        named: args.model.clone(),
        found: Vec::new(),
        directory: args.model_dir.clone(),
        repository,
    };
    if let Some(dir) = &args.model_dir {
        wanted.found = repository::scan(dir)?;
        if wanted.named.is_empty() && wanted.found.is_empty() {
            bail!("--model-dir {} holds no model folder", dir.display());
        }
    } else if wanted.named.is_empty() {
        wanted.named.push(ModelSpec::embedded());
    }
    let models = wanted.named.iter().chain(&wanted.found);
    let names: Vec<&str> = models.map(|spec| spec.name.as_str()).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            bail!("two models are named {name}; give each its own name with --model NAME=SOURCE");
        }
    }
    if let Some(default) = &args.default_model
        && !names.contains(&default.as_str())
    {
        bail!(
            "--default-model {default} is not served; served are {}",
            names.join(", ")
        );
    }
    Ok(wanted)
}

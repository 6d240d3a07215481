//! Names and sources of models, as the command line and a folder of folders give them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{RepositoryError, embedded};

/// One `--model NAME=SOURCE`, or a folder of `--model-dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Name in requests and metrics.
    pub name: String,
    /// Of a folder that its name makes a version; `None` where the source itself says its version.
    pub version: Option<String>,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model inside the binary.
    Embedded,
    /// A weight file; the model's name is then an architecture, unless the file's name is that of published weights.
    File(PathBuf),
    /// A folder with model.toml, or with such a folder for each version.
    Folder(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub {
        repo: String,
        revision: Option<String>,
    },
}

impl ModelSpec {
    /// The model inside the binary, under its own name.
    pub fn embedded() -> Self {
        Self {
            name: embedded::NAME.to_owned(),
            version: None,
            source: Source::Embedded,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::File(path) | Self::Folder(path) => path.display().fmt(f),
            Self::Hub {
                repo,
                revision: None,
            } => write!(f, "hf:{repo}"),
            Self::Hub {
                repo,
                revision: Some(revision),
            } => write!(f, "hf:{repo}@{revision}"),
        }
    }
}

/// Parses `NAME=SOURCE`; a path that is a folder now is a model folder, any other a weight file.
///
/// # Errors
/// A sentence that says what was expected.
impl FromStr for ModelSpec {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, source) = text
            .split_once('=')
            .filter(|(_, source)| !source.is_empty())
            .ok_or_else(|| {
                RepositoryError::Spec(format!(
                    "{text:?} is not NAME=SOURCE; SOURCE is a weight file, a model folder or hf:REPO[@REVISION]"
                ))
            })?;
        check_name(name)?;
        let source = match source.strip_prefix("hf:") {
            Some(repo) => hub_source(repo)?,
            None if Path::new(source).is_dir() => Source::Folder(source.into()),
            None => Source::File(source.into()),
        };
        Ok(Self {
            name: name.to_owned(),
            version: None,
            source,
        })
    }
}

fn hub_source(text: &str) -> Result<Source, RepositoryError> {
    let (repo, revision) = match text.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (text, None),
    };
    // both become parts of URLs and of paths in the cache
    let plain = |part: &str| is_word(part, 96) && !part.contains("..") && !part.starts_with('.');
    let parts: Vec<&str> = repo.split('/').collect();
    let repo_fits =
        parts.len() <= 2 && parts.iter().all(|part| plain(part) && !part.contains("--"));
    let revision_fits = revision.is_none_or(|r| r.len() <= 200 && r.split('/').all(plain));
    if !repo_fits || !revision_fits {
        return Err(RepositoryError::Spec(format!(
            "{text:?} is not a repository of the hub; expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION, as in \
             hf:timm/resnet50.a1_in1k"
        )));
    }
    Ok(Source::Hub {
        repo: repo.to_owned(),
        revision: revision.map(str::to_owned),
    })
}

/// Names become label values of metrics and parts of URLs.
///
/// # Errors
/// Says which characters a name may have.
pub(super) fn check_name(name: &str) -> Result<(), RepositoryError> {
    if is_word(name, 64) && !name.starts_with('.') {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(RepositoryError::Spec(format!(
        "{shown:?} cannot be a model's name; a name has 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not \
         begin with a dot"
    )))
}

/// Whether `text` is 1 to `longest` letters, digits, dots, underscores and hyphens.
pub(super) fn is_word(text: &str, longest: usize) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=longest).contains(&text.len()) && text.bytes().all(fits)
}

/// The specs of every folder in `--model-dir`, by name; hidden folders (`.name`) are passed over.
///
/// A folder that is no model folder, or whose name cannot be served, has a spec too: loading it fails with the reason,
/// so that it is seen. A directory without folders gives none.
///
/// # Errors
/// When `dir` cannot be read.
pub fn scan(dir: &Path) -> Result<Vec<ModelSpec>, RepositoryError> {
    let folders = folders(dir)
        .map_err(|e| RepositoryError::file(dir, format!("cannot read the model directory: {e}")))?;
    let specs = folders.into_iter().map(|(name, path)| ModelSpec {
        name,
        version: None,
        source: Source::Folder(path),
    });
    Ok(specs.collect())
}

/// Names and paths of the folders in a folder but the hidden ones, by name.
pub(super) fn folders(dir: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // through links, which is how volumes are often mounted
        if !name.starts_with('.') && entry.path().is_dir() {
            folders.push((name, entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

//! Versions of a model: the folders of a model folder, their order, and stamps that tell whether the files of one have
//! changed.
//!
//! A stamp is what the file system says without reading a byte: it works where notifications do not, on network mounts
//! and on the volumes of Kubernetes, which swap a link.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::folder::MANIFEST;
use super::{ModelSpec, RepositoryError, Source, source};

impl ModelSpec {
    /// The versions on disk, oldest first: one spec for each folder of a model folder without model.toml, and this spec
    /// itself for every other source. Hidden folders (`.name`) are passed over.
    ///
    /// # Errors
    /// `NoVersions` for a folder with neither; when the folder cannot be read.
    pub fn versions(&self) -> Result<Vec<Self>, RepositoryError> {
        let Source::Folder(folder) = &self.source else {
            return Ok(vec![self.clone()]);
        };
        if self.version.is_some() || folder.join(MANIFEST).is_file() {
            return Ok(vec![self.clone()]);
        }
        let folders = source::folders(folder)
            .map_err(|e| RepositoryError::file(folder, format!("cannot be read: {e}")))?;
        let mut versions: Vec<Self> = folders
            .into_iter()
            .map(|(version, path)| Self {
                name: self.name.clone(),
                version: Some(version),
                source: Source::Folder(path),
            })
            .collect();
        if versions.is_empty() {
            let path = folder.clone();
            return Err(RepositoryError::NoVersions { path });
        }
        versions.sort_by(|a, b| compare_versions(part(a), part(b)));
        Ok(versions)
    }

    /// The last of [`ModelSpec::versions`].
    ///
    /// # Errors
    /// Those of `versions`.
    pub fn newest(&self) -> Result<Self, RepositoryError> {
        Ok(self.versions()?.pop().unwrap_or_else(|| self.clone()))
    }
}

fn part(spec: &ModelSpec) -> &str {
    spec.version.as_deref().unwrap_or_default()
}

/// # Errors
/// Says which characters a version may have.
pub(super) fn check_version(version: &str) -> Result<(), String> {
    if source::is_word(version, 64) {
        return Ok(());
    }
    Err("version has characters other than A-Z a-z 0-9 . _ - or is not 1 to 64 of them".to_owned())
}

/// The order of versions as people count: runs of digits are numbers, so that `2` is older than `10`, and `v9` than
/// `v10`.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    // equal but for leading zeros: any order that is one
    parts(a).cmp(parts(b)).then_with(|| a.cmp(b))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// Without leading zeros; of two numbers the longer is the larger.
    Number(usize, &'a str),
    Other(char),
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
        if !digits.is_empty() {
            rest = after;
            let number = digits.trim_start_matches('0');
            return Some(Part::Number(number.len(), number));
        }
        let mut chars = rest.chars();
        let other = chars.next()?;
        rest = chars.as_str();
        Some(Part::Other(other))
    })
}

/// The files of one version at one moment. Equal stamps: nothing has changed, as far as the file system tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    /// Length, time of the last change, and inode; `None` for what cannot be read.
    state: Option<(u64, Option<SystemTime>, u64)>,
}

impl Stamp {
    /// Of a file, or of all files in a folder; links are followed. Sources that are no files of the operator's, such as
    /// the hub's, never change.
    pub fn of(source: &Source) -> Self {
        let mut stamp = Self::default();
        match source {
            Source::File(path) => stamp.add(path, &mut HashSet::new()),
            Source::Folder(path) => stamp.add(path, &mut HashSet::new()),
            Source::Embedded | Source::Hub { .. } => {}
        }
        stamp
    }

    /// `visited` holds the folders that have been entered: links may make a circle.
    fn add(&mut self, path: &Path, visited: &mut HashSet<(u64, u64)>) {
        let metadata = fs::metadata(path).ok();
        let is_folder = metadata.as_ref().is_some_and(fs::Metadata::is_dir);
        // what changes a folder shows in its files
        let state = metadata.as_ref().map(|m| match is_folder {
            true => (0, None, 0),
            false => (m.len(), m.modified().ok(), m.ino()),
        });
        self.0.push(Entry {
            path: path.to_owned(),
            state,
        });
        let folder = metadata.filter(|m| m.is_dir() && visited.insert((m.dev(), m.ino())));
        if folder.is_none() {
            return;
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            self.add(&path, visited);
        }
    }
}

#[cfg(test)]
mod tests;

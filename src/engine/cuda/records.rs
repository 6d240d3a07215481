//! Which algorithm was the fastest for each layer and batch: measured once for a card, driver and cuDNN, and kept in a
//! file for the next start.
//!
//! A line is `layer TAB batch TAB algorithm TAB microseconds`. What cannot be read is measured again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// A layer's shape and arithmetic in words, and the batch.
type Key = (String, usize);

/// The fastest algorithms that are known.
#[derive(Debug, Default)]
pub(super) struct Records {
    known: BTreeMap<Key, Record>,
    file: Option<PathBuf>,
    /// Whether something is known that the file lacks.
    news: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// Its name, from which it can be made again.
    pub(super) algorithm: String,
    pub(super) microseconds: f64,
}

/// What measurements hold for.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// `NVIDIA H100 80GB HBM3`.
    pub(super) card: String,
    pub(super) driver: i32,
    pub(super) cudnn: usize,
    pub(super) cublas: usize,
}

impl Machine {
    /// `NVIDIA-H100-80GB-HBM3-driver13000-cudnn92800-cublas130200.tsv`.
    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let card: String = self.card.chars().map(plain).collect();
        let Self {
            driver,
            cudnn,
            cublas,
            ..
        } = self;
        format!("{card}-driver{driver}-cudnn{cudnn}-cublas{cublas}.tsv")
    }
}

impl Records {
    /// What the file in `folder` knows of this machine; without a folder nothing is kept.
    pub(super) fn open(folder: Option<&Path>, machine: &Machine) -> Self {
        let Some(file) = folder.map(|folder| folder.join(machine.file_name())) else {
            return Self::default();
        };
        let known = match std::fs::read_to_string(&file) {
            Ok(text) => read(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let file = file.display();
                tracing::warn!(%error, "{file} cannot be read; algorithms are measured again");
                BTreeMap::new()
            }
        };
        Self {
            known,
            file: Some(file),
            news: false,
        }
    }

    pub(super) fn find(&self, layer: &str, batch: usize) -> Option<&Record> {
        self.known.get(&(layer.to_owned(), batch))
    }

    pub(super) fn insert(&mut self, layer: &str, batch: usize, record: Record) {
        self.known.insert((layer.to_owned(), batch), record);
        self.news = true;
    }

    /// Adds what is new to the file. Others may have added to it meanwhile; theirs stays.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub(super) fn save(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.news) else {
            return Ok(());
        };
        let mut all = std::fs::read_to_string(file).map_or_else(|_| BTreeMap::new(), |t| read(&t));
        all.extend(self.known.clone());
        let mut text = String::new();
        for ((layer, batch), record) in &all {
            let Record {
                algorithm,
                microseconds,
            } = record;
            // writing to a string cannot fail
            let _ = writeln!(text, "{layer}\t{batch}\t{algorithm}\t{microseconds:.2}");
        }
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // a reader sees the old file or the new one
        let new = file.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&new, text)?;
        std::fs::rename(&new, file)?;
        self.news = false;
        Ok(())
    }
}

fn read(text: &str) -> BTreeMap<Key, Record> {
    let line = |line: &str| {
        let mut parts = line.split('\t');
        let (layer, batch) = (parts.next()?, parts.next()?.parse().ok()?);
        let (algorithm, time) = (parts.next()?, parts.next()?.parse().ok()?);
        let record = Record {
            algorithm: algorithm.to_owned(),
            microseconds: time,
        };
        parts
            .next()
            .is_none()
            .then(|| ((layer.to_owned(), batch), record))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cudnn: usize) -> Machine {
        Machine {
            card: "NVIDIA H100 80GB/HBM3".to_owned(),
            driver: 13000,
            cudnn,
            cublas: 130_200,
        }
    }

    fn record(algorithm: &str, microseconds: f64) -> Record {
        Record {
            algorithm: algorithm.to_owned(),
            microseconds,
        }
    }

    #[test]
    fn what_was_measured_is_known_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let mut records = Records::open(Some(&folder), &machine(92800));
        assert_eq!(records.find("f16 conv", 8), None);
        records.insert("f16 conv", 8, record("fused cudnn/41/2=1", 12.25));
        // another process was faster to write
        let mut other = Records::open(Some(&folder), &machine(92800));
        other.insert("f16 conv", 1, record("product lt/00", 3.5));
        other.save().unwrap();
        records.save().unwrap();
        let again = Records::open(Some(&folder), &machine(92800));
        assert_eq!(
            again.find("f16 conv", 8),
            Some(&record("fused cudnn/41/2=1", 12.25))
        );
        assert_eq!(
            again.find("f16 conv", 1),
            Some(&record("product lt/00", 3.5))
        );
        let names: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        // of another cuDNN nothing is known
        assert_eq!(
            Records::open(Some(&folder), &machine(92900)).find("f16 conv", 8),
            None
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let text = "a\t1\tx\t2.5\nb\t1\tx\nc\tone\tx\t2\n\nd\t1\tx\t2\tmore\ne\t3\ty\t1";
        let known = read(text);
        let names: Vec<_> = known
            .keys()
            .map(|(layer, batch)| (layer.as_str(), *batch))
            .collect();
        assert_eq!(names, [("a", 1), ("e", 3)]);
    }

    #[test]
    fn without_a_folder_nothing_is_written() {
        let mut records = Records::open(None, &machine(1));
        records.insert("conv", 1, record("x", 1.0));
        records.save().unwrap();
        assert_eq!(records.find("conv", 1), Some(&record("x", 1.0)));
    }
}

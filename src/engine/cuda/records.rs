//! Which algorithm was the fastest for each layer and batch: measured once for a card, driver and cuDNN, and kept in a
//! file for the next start.
//!
//! A line is `layer TAB batch TAB algorithm TAB microseconds`, or `never` in their place for one that took the card with
//! it. What cannot be read is measured again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// A layer's shape and arithmetic in words, and the batch.
type Key = (String, usize);

/// What stands in place of the time of an algorithm that must not run.
const NEVER: &str = "never";

/// The fastest algorithms that are known.
#[derive(Debug, Default)]
pub(super) struct Records {
    lines: Lines,
    file: Option<PathBuf>,
    /// Whether something is known that the file lacks.
    news: bool,
}

#[derive(Clone, Debug, Default)]
struct Lines {
    known: BTreeMap<Key, Record>,
    banned: BTreeSet<(Key, String)>,
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
    /// `v1-NVIDIA-H100-80GB-HBM3-driver13000-cudnn92800-cublas130200.tsv`; the version is that of the lines' meaning.
    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let card: String = self.card.chars().map(plain).collect();
        let Self {
            driver,
            cudnn,
            cublas,
            ..
        } = self;
        format!("v1-{card}-driver{driver}-cudnn{cudnn}-cublas{cublas}.tsv")
    }
}

impl Records {
    /// What the file in `folder` knows of this machine; without a folder nothing is kept.
    pub(super) fn open(folder: Option<&Path>, machine: &Machine) -> Self {
        let Some(file) = folder.map(|folder| folder.join(machine.file_name())) else {
            return Self::default();
        };
        let lines = match std::fs::read_to_string(&file) {
            Ok(text) => read(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Lines::default(),
            Err(error) => {
                let file = file.display();
                tracing::warn!(%error, "{file} cannot be read; algorithms are measured again");
                Lines::default()
            }
        };
        Self {
            lines,
            file: Some(file),
            news: false,
        }
    }

    pub(super) fn find(&self, layer: &str, batch: usize) -> Option<&Record> {
        self.lines.known.get(&(layer.to_owned(), batch))
    }

    /// Whether an algorithm has taken a card with it.
    pub(super) fn is_banned(&self, layer: &str, batch: usize, algorithm: &str) -> bool {
        let key = ((layer.to_owned(), batch), algorithm.to_owned());
        self.lines.banned.contains(&key)
    }

    /// Forgets an algorithm, which must not run again.
    pub(super) fn ban(&mut self, layer: &str, batch: usize, algorithm: &str) {
        let key = (layer.to_owned(), batch);
        self.lines.known.remove(&key);
        self.lines.banned.insert((key, algorithm.to_owned()));
        self.news = true;
    }

    pub(super) fn insert(&mut self, layer: &str, batch: usize, record: Record) {
        self.lines.known.insert((layer.to_owned(), batch), record);
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
        let others = std::fs::read_to_string(file).map_or_else(|_| Lines::default(), |t| read(&t));
        let text = write(&self.lines.clone().over(others));
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

impl Lines {
    /// These, and of others what these do not know better.
    fn over(mut self, others: Self) -> Self {
        self.banned.extend(others.banned);
        for (key, record) in others.known {
            self.known.entry(key).or_insert(record);
        }
        let banned = &self.banned;
        let fit =
            |key: &Key, record: &Record| !banned.contains(&(key.clone(), record.algorithm.clone()));
        self.known.retain(|key, record| fit(key, record));
        self
    }
}

fn write(lines: &Lines) -> String {
    let known = lines.known.iter().map(|((layer, batch), record)| {
        let Record {
            algorithm,
            microseconds,
        } = record;
        format!("{layer}\t{batch}\t{algorithm}\t{microseconds:.2}\n")
    });
    let banned = lines
        .banned
        .iter()
        .map(|((layer, batch), algorithm)| format!("{layer}\t{batch}\t{algorithm}\t{NEVER}\n"));
    known.chain(banned).collect()
}

fn read(text: &str) -> Lines {
    let mut lines = Lines::default();
    for line in text.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let &[layer, batch, algorithm, time] = parts.as_slice() else {
            continue;
        };
        let Ok(batch) = batch.parse() else { continue };
        let (key, algorithm) = ((layer.to_owned(), batch), algorithm.to_owned());
        if time == NEVER {
            lines.banned.insert((key, algorithm));
        } else if let Ok(microseconds) = time.parse() {
            let record = Record {
                algorithm,
                microseconds,
            };
            lines.known.insert(key, record);
        }
    }
    lines
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
        let known = read(text).known;
        let names: Vec<_> = known
            .keys()
            .map(|(layer, batch)| (layer.as_str(), *batch))
            .collect();
        assert_eq!(names, [("a", 1), ("e", 3)]);
    }

    #[test]
    fn what_took_the_card_with_it_is_never_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Records::open(Some(folder.path()), &machine(92800));
        let mut records = open();
        records.insert("conv", 8, record("bad", 1.0));
        records.save().unwrap();
        // another process still believes in it
        let mut other = open();
        other.insert("conv", 1, record("good", 1.0));
        records.ban("conv", 8, "bad");
        assert!(records.find("conv", 8).is_none());
        records.save().unwrap();
        other.save().unwrap();
        let again = open();
        assert!(again.is_banned("conv", 8, "bad"));
        assert!(!again.is_banned("conv", 1, "good") && !again.is_banned("conv", 1, "bad"));
        assert_eq!(
            (again.find("conv", 8), again.find("conv", 1)),
            (None, Some(&record("good", 1.0)))
        );
    }

    #[test]
    fn without_a_folder_nothing_is_written() {
        let mut records = Records::open(None, &machine(1));
        records.insert("conv", 1, record("x", 1.0));
        records.save().unwrap();
        assert_eq!(records.find("conv", 1), Some(&record("x", 1.0)));
    }
}

//! The tensors of one file by the name a graph knows them by.

use std::collections::{BTreeMap, HashMap};

use super::WeightsError;

/// Wrappers that prefix every name: DataParallel and DistributedDataParallel (`module.`), Lightning and others
/// (`model.`). No architecture has a parameter that begins so.
const WRAPPERS: [&str; 2] = ["module.", "model."];

/// Shapes for the caller, and what the reader needs to find the values again.
#[derive(Debug)]
pub(super) struct Table<E> {
    shapes: BTreeMap<String, Vec<usize>>,
    entries: HashMap<String, E>,
}

impl<E> Table<E> {
    pub(super) fn new() -> Self {
        Self {
            shapes: BTreeMap::new(),
            entries: HashMap::new(),
        }
    }

    pub(super) fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    /// # Errors
    /// When there is no tensor of that name.
    pub(super) fn entry(&self, name: &str) -> Result<&E, WeightsError> {
        self.entries
            .get(name)
            .ok_or_else(|| WeightsError::UnknownTensor(name.to_owned()))
    }

    /// Adds a tensor under its name without wrappers.
    ///
    /// # Errors
    /// In words, when two tensors end up with one name.
    pub(super) fn insert(&mut self, full: &str, shape: Vec<usize>, entry: E) -> Result<(), String> {
        let mut name = full;
        while let Some(rest) = WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
            name = rest;
        }
        if is_counter(name) {
            return Ok(());
        }
        if self.entries.insert(name.to_owned(), entry).is_some() {
            return Err(format!(
                "two of its tensors are called {name:?} once the prefixes module. and model. are removed"
            ));
        }
        self.shapes.insert(name.to_owned(), shape);
        Ok(())
    }
}

/// Batch norm's step counter, which inference has no use for.
fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

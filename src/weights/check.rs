//! A graph's parameters, read from a source whose names and shapes are exactly the graph's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::{WeightSource, WeightsError};
use crate::ir::Graph;

/// The values of every parameter of one graph, by name; exactly the graph's names with the graph's shapes.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    values: HashMap<String, Vec<f32>>,
}

impl Parameters {
    /// Reads what `graph` needs from `source`.
    ///
    /// # Errors
    /// The lists of missing, unexpected and mis-shaped names, or a read error.
    pub fn load(graph: &Graph, source: &dyn WeightSource) -> Result<Self, WeightsError> {
        let wanted = graph.parameters();
        let shapes = wanted.iter().map(|p| (p.name.as_str(), p.shape.as_slice()));
        let mismatch = Mismatch::between(&shapes.collect(), source.shapes(), graph.training_only());
        if !mismatch.is_empty() {
            return Err(WeightsError::Mismatch(Box::new(mismatch)));
        }
        let mut values = HashMap::with_capacity(wanted.len());
        for parameter in wanted {
            let read = source.read(&parameter.name)?;
            let expected = parameter.shape.iter().product::<usize>();
            if read.len() != expected {
                return Err(WeightsError::Length {
                    name: parameter.name,
                    found: read.len(),
                    expected,
                });
            }
            values.insert(parameter.name, read);
        }
        Ok(Self { values })
    }

    /// Values of one parameter; present for every name the graph lists.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// Takes one parameter out, so that an engine can free it once packed.
    pub fn take(&mut self, name: &str) -> Option<Vec<f32>> {
        self.values.remove(name)
    }
}

/// How a file's tensors differ from a graph's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters that the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the graph has no place for.
    pub unexpected: Vec<String>,
    pub misshaped: Vec<Reshaped>,
}

/// A tensor of the right name and the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshaped {
    pub name: String,
    pub found: Vec<usize>,
    pub expected: Vec<usize>,
}

impl Mismatch {
    fn between(
        wanted: &BTreeMap<&str, &[usize]>,
        found: &BTreeMap<String, Vec<usize>>,
        training_only: &[&str],
    ) -> Self {
        let mut mismatch = Self::default();
        for (&name, &expected) in wanted {
            match found.get(name) {
                None => mismatch.missing.push(name.to_owned()),
                Some(found) if found != expected => mismatch.misshaped.push(Reshaped {
                    name: name.to_owned(),
                    found: found.clone(),
                    expected: expected.to_vec(),
                }),
                Some(_) => {}
            }
        }
        let known = |name: &str| {
            wanted.contains_key(name) || training_only.iter().any(|prefix| name.starts_with(prefix))
        };
        let unexpected = found.keys().filter(|name| !known(name));
        mismatch.unexpected = unexpected.cloned().collect();
        mismatch
    }

    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

/// Names shown of each list: enough to recognise a wrong file, few enough for one log line.
const SHOWN: usize = 10;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped = self
            .misshaped
            .iter()
            .map(|r| format!("{} is {:?}, expected {:?}", r.name, r.found, r.expected));
        let lists = [
            ("missing", self.missing.clone()),
            ("unexpected", self.unexpected.clone()),
            ("mis-shaped", misshaped.collect()),
        ];
        f.write_str("the weights do not fit the architecture:")?;
        let mut separator = " ";
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {what} (", names.len())?;
            for (i, name) in names.iter().take(SHOWN).enumerate() {
                // a name is the file's to choose, so its length is bounded too
                let shown: String = name.chars().take(120).collect();
                write!(f, "{}{shown}", if i == 0 { "" } else { ", " })?;
            }
            f.write_str(if names.len() > SHOWN { ", ...)" } else { ")" })?;
            separator = "; ";
        }
        Ok(())
    }
}

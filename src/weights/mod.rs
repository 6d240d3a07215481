//! Weight files: named tensors from safetensors or PyTorch files, checked against a graph's parameter list.
//!
//! A [`WeightSource`] lists names and shapes first and converts one tensor at a time to f32, so that a file that does
//! not fit is refused before its values are read and a large one is never held twice. Files are untrusted: whatever
//! their bytes, the answer is tensors or an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

mod check;
mod float;
mod generator;
mod pickle;
mod pth;
mod safetensors;
mod table;

pub use check::{Mismatch, Parameters, Reshaped};
pub use generator::Generator;

use self::safetensors::SafetensorsSource;

/// Where tensors come from: a file, an embedded file, the generator.
pub trait WeightSource {
    /// Name and shape of every floating-point tensor held.
    fn shapes(&self) -> &BTreeMap<String, Vec<usize>>;

    /// Values of one tensor in row-major order, converted to f32.
    ///
    /// # Errors
    /// When the name is unknown or its data cannot be read.
    fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError>;
}

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("the weight file {path} cannot be read: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The bytes are not what the format says; `origin` is the path, or words for an embedded file.
    #[error("the weight file {origin} cannot be used: {reason}")]
    Format { origin: String, reason: String },
    /// `form` is what it is; `weights_only` what torch.load must be told to read it.
    #[error(
        "the weight file {path} has {form}, which is not read; convert it with: python -c \"import torch; \
         torch.save(torch.load('{path}', map_location='cpu', weights_only={weights_only}), 'new.pth')\""
    )]
    Legacy {
        path: PathBuf,
        form: &'static str,
        weights_only: &'static str,
    },
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    #[error("the weights hold no tensor {0:?}")]
    UnknownTensor(String),
    /// A source that breaks its own word on a shape.
    #[error("tensor {name:?} has {found} values, expected {expected}")]
    Length {
        name: String,
        found: usize,
        expected: usize,
    },
}

impl WeightsError {
    fn format(origin: impl ToString, reason: impl ToString) -> Self {
        Self::Format {
            origin: origin.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Opens a weight file; its content decides whether it is safetensors or PyTorch's zip form.
///
/// Both name forms that training wrappers leave behind (`module.`, `model.`) are undone, tensors of integers and
/// `num_batches_tracked` are left out.
///
/// # Errors
/// When the file cannot be read, is of neither form, or is damaged; the text names the file.
pub fn open(path: &Path) -> Result<Box<dyn WeightSource>, WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(WeightsError::format(path.display(), "it is not a file"));
    }
    let mut start = Vec::new();
    (&file).take(START).read_to_end(&mut start).map_err(io)?;
    match form(&start) {
        Some(Form::Zip) => Ok(Box::new(pth::PthSource::open(path)?)),
        Some(Form::Safetensors) => Ok(Box::new(SafetensorsSource::open(path, &file)?)),
        Some(Form::Pickle) => Err(WeightsError::Legacy {
            path: path.to_owned(),
            form: "PyTorch's form from before 1.6",
            weights_only: "True",
        }),
        // torch.load refuses this form under weights_only, so the line says False and its reader is warned
        Some(Form::Tar) => Err(WeightsError::Legacy {
            path: path.to_owned(),
            form: "PyTorch's old tar form (which can hold code: convert only a file you trust)",
            weights_only: "False",
        }),
        None if start.is_empty() => Err(WeightsError::format(path.display(), "it is empty")),
        None => Err(WeightsError::format(
            path.display(),
            "it is neither a safetensors file nor a PyTorch file of the zip form",
        )),
    }
}

/// A safetensors file that is part of the binary.
///
/// # Errors
/// When the bytes are not a safetensors file.
pub fn embedded(bytes: &'static [u8]) -> Result<Box<dyn WeightSource>, WeightsError> {
    Ok(Box::new(SafetensorsSource::embedded(bytes)?))
}

/// Bytes needed to tell the forms apart: tar's magic ends at 262.
const START: u64 = 262;

enum Form {
    Safetensors,
    Zip,
    /// Bare pickles: torch.save before 1.6.
    Pickle,
    /// torch.save before 0.1.1.
    Tar,
}

fn form(start: &[u8]) -> Option<Form> {
    // the length of the header, then the header, a JSON object; asked first, for a length may look like other magic
    if start.get(8) == Some(&b'{') && start.get(6..8) == Some(&[0, 0]) {
        Some(Form::Safetensors)
    } else if start.starts_with(b"PK\x03\x04") {
        Some(Form::Zip)
    } else if start.get(257..262) == Some(b"ustar") {
        Some(Form::Tar)
    } else if matches!(start, [0x80, 1..=5, ..]) {
        Some(Form::Pickle)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;

//! safetensors files, mapped into memory so that only the pages being converted are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::float::Float;
use super::table::Table;
use super::{WeightSource, WeightsError};

#[derive(Debug)]
pub(super) struct SafetensorsSource {
    origin: String,
    bytes: Bytes,
    /// Type and place in the file.
    table: Table<(Float, Range<usize>)>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl SafetensorsSource {
    pub(super) fn open(path: &Path, file: &File) -> Result<Self, WeightsError> {
        let map = map(file).map_err(|source| WeightsError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::new(path.display().to_string(), Bytes::Mapped(map))
    }

    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self, WeightsError> {
        Self::new("inside the binary".to_owned(), Bytes::Static(bytes))
    }

    fn new(origin: String, bytes: Bytes) -> Result<Self, WeightsError> {
        let (header, metadata) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|e| {
            WeightsError::format(&origin, format!("it is not a whole safetensors file ({e})"))
        })?;
        let data = header + size_of::<u64>();
        let mut table = Table::new();
        for (name, info) in metadata.tensors() {
            let float = match info.dtype {
                Dtype::F16 => Float::F16,
                Dtype::BF16 => Float::Bf16,
                Dtype::F32 => Float::F32,
                Dtype::F64 => Float::F64,
                _ => continue,
            };
            let (start, end) = info.data_offsets;
            let place = (float, data + start..data + end);
            table
                .insert(&name, info.shape.clone(), place)
                .map_err(|reason| WeightsError::format(&origin, reason))?;
        }
        Ok(Self {
            origin,
            bytes,
            table,
        })
    }
}

impl WeightSource for SafetensorsSource {
    fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        self.table.shapes()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let (float, place) = self.table.entry(name)?;
        let bytes = self.bytes.as_slice().get(place.clone()).ok_or_else(|| {
            WeightsError::format(
                &self.origin,
                format!("tensor {name:?} lies outside the file"),
            )
        })?;
        Ok(float.decode(bytes))
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes of a map are only constant while nobody changes the file. The map lives no longer than the
    // load of one model, no reference into it outlives a `read`, and every byte is checked or is a float of any bits;
    // that the file is not rewritten in place during a load is what the operator promises, as for every mapped file.
    unsafe { Mmap::map(file) }
}

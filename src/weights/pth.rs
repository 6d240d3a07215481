//! PyTorch's zip form: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` holds one storage each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use zip::ZipArchive;

use super::float::Float;
use super::pickle::{self, TensorInfo};
use super::table::Table;
use super::{WeightSource, WeightsError};

type Archive = ZipArchive<BufReader<File>>;
type Tensors = Table<(Float, TensorInfo)>;

#[derive(Debug)]
pub(super) struct PthSource {
    origin: String,
    /// The archive's one top folder.
    folder: String,
    archive: RefCell<Archive>,
    table: Tensors,
    /// The storage read last, converted: views of one storage tend to follow each other.
    last: RefCell<Option<(String, Rc<Vec<f32>>)>>,
}

/// Largest description read; the 1202-layer network's takes less than 1 MiB.
const MAX_PICKLE: u64 = 64 << 20;

impl PthSource {
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let origin = path.display().to_string();
        let file = File::open(path).map_err(|source| WeightsError::Io {
            path: path.to_owned(),
            source,
        })?;
        let parsed = parse(file).map_err(|reason| WeightsError::format(&origin, reason))?;
        let (archive, folder, table) = parsed;
        Ok(Self {
            origin,
            folder,
            archive: RefCell::new(archive),
            table,
            last: RefCell::new(None),
        })
    }

    /// All values of the storage that `tensor` lies in.
    fn storage(&self, float: Float, tensor: &TensorInfo) -> Result<Rc<Vec<f32>>, String> {
        if let Some((name, values)) = self.last.borrow().as_ref()
            && *name == tensor.storage
            && values.len() >= tensor.storage_len
        {
            return Ok(Rc::clone(values));
        }
        let name = format!("{}/data/{}", self.folder, tensor.storage);
        let size = (tensor.storage_len as u64)
            .checked_mul(float.size() as u64)
            .ok_or("its storage claims more bytes than there can be")?;
        let bytes = entry(&mut self.archive.borrow_mut(), &name, size)?;
        if (bytes.len() as u64) < size {
            return Err(format!("{name} has {} bytes, expected {size}", bytes.len()));
        }
        let values = Rc::new(float.decode(&bytes));
        self.last
            .replace(Some((tensor.storage.clone(), Rc::clone(&values))));
        Ok(values)
    }
}

impl WeightSource for PthSource {
    fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        self.table.shapes()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let (float, tensor) = self.table.entry(name)?;
        self.storage(*float, tensor)
            .and_then(|storage| {
                gather(&storage, tensor).ok_or_else(|| "it lies outside its storage".to_owned())
            })
            .map_err(|reason| {
                WeightsError::format(&self.origin, format!("tensor {name:?}: {reason}"))
            })
    }
}

fn parse(file: File) -> Result<(Archive, String, Tensors), String> {
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|e| format!("it is not a whole zip archive ({e}); was the download cut off?"))?;
    let folder = archive
        .file_names()
        .filter_map(Result::ok)
        .find_map(|name| name.strip_suffix("/data.pkl").map(str::to_owned))
        .ok_or("it is a zip archive without data.pkl, so not written by torch.save")?;
    let order = format!("{folder}/byteorder");
    if archive.index_for_name(&order).is_some() && entry(&mut archive, &order, 16)? != b"little" {
        return Err(
            "it was written on a big-endian machine; only little-endian files are read".to_owned(),
        );
    }
    let description = entry(&mut archive, &format!("{folder}/data.pkl"), MAX_PICKLE + 1)?;
    if description.len() as u64 > MAX_PICKLE {
        return Err(format!("its data.pkl is larger than {MAX_PICKLE} bytes"));
    }
    let mut table = Table::new();
    for (name, tensor) in pickle::state_dict(&description)? {
        let Some(float) = tensor.float else { continue };
        if !lies_inside(&tensor) {
            return Err(format!(
                "tensor {name:?} does not fit into its storage, each value in a place of its own"
            ));
        }
        table.insert(&name, tensor.shape.clone(), (float, tensor))?;
    }
    Ok((archive, folder, table))
}

/// At most `limit` bytes of one file of the archive, whatever size it claims.
fn entry(archive: &mut Archive, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let failed =
        |e: &dyn std::fmt::Display| format!("{name} cannot be read from the archive ({e})");
    let file = archive.by_name(name).map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(&e))?;
    Ok(bytes)
}

/// Whether every value has a place of its own in the storage. A tensor with more values than its storage (an expanded
/// one, stride 0) is no parameter, and believing its shape would let a small file ask for any amount of memory.
fn lies_inside(tensor: &TensorInfo) -> bool {
    if tensor.shape.len() != tensor.strides.len() {
        return false;
    }
    let values = tensor
        .shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d));
    let end = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |end, (&size, &stride)| {
            end.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        });
    match (values, end) {
        (Some(0), _) => true,
        (Some(values), Some(end)) => values <= tensor.storage_len && end < tensor.storage_len,
        _ => false,
    }
}

/// Values in row-major order of a tensor with any strides.
fn gather(storage: &[f32], tensor: &TensorInfo) -> Option<Vec<f32>> {
    if tensor.shape.contains(&0) {
        return Some(Vec::new());
    }
    let count = tensor.shape.iter().product();
    let dense = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .rev()
        .try_fold(1, |expected, (&size, &stride)| {
            (size == 1 || stride == expected).then_some(expected * size)
        });
    if dense.is_some() {
        let end = tensor.offset.checked_add(count)?;
        return storage.get(tensor.offset..end).map(<[f32]>::to_vec);
    }
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; tensor.shape.len()];
    let mut position = tensor.offset;
    for _ in 0..count {
        values.push(*storage.get(position)?);
        // advance the last index that can, and reset those after it
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            position += tensor.strides[axis];
            if index[axis] < tensor.shape[axis] {
                break;
            }
            position -= tensor.strides[axis] * tensor.shape[axis];
            index[axis] = 0;
        }
    }
    Some(values)
}

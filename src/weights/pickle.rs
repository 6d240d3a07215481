//! Reads the pickle of a PyTorch zip file as data: which tensor has which name, storage, shape and strides.
//!
//! A pickle is a program for a small stack machine that can call any Python function. This machine knows only the
//! opcodes that torch.save emits and the few functions a state dict needs, runs none of them, and refuses the rest by
//! name. Values live in one arena and refer to each other by index, so that neither depth nor sharing nor cycles can
//! exhaust memory or the stack: everything is bounded by the pickle's length.
//!
//! candle-core's reader was considered: it refuses strided tensors, indexes into tuples of unchecked length, and clones
//! values at every memo access, which a small file can make exponential.

use self::machine::Machine;
use super::float::Float;

mod machine;

/// One tensor as the pickle describes it; nothing in it has been checked against the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    /// Name of the storage in the archive's data folder.
    pub(super) storage: String,
    /// Values in the storage.
    pub(super) storage_len: usize,
    /// `None` for types that are not floating-point.
    pub(super) float: Option<Float>,
    /// First value, in values.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In values, as long as `shape`.
    pub(super) strides: Vec<usize>,
}

/// Names and tensors of the state dict, which may be nested in a checkpoint.
///
/// # Errors
/// In words, for anything but a state dict.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, TensorInfo)>, String> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    machine.tensors(root)
}

/// Index of a value in the arena.
type Id = usize;

#[derive(Debug)]
enum Value {
    /// Something a state dict does not need: None, booleans, floats, lists, sets, devices.
    Other,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Function(Function),
    Storage {
        float: Option<Float>,
        name: String,
        len: usize,
    },
    Tensor(TensorInfo),
}

/// What the allowed globals stand for.
#[derive(Clone, Copy, Debug)]
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    /// A storage class.
    Storage(Option<Float>),
    /// Harmless and of no use here.
    Other,
}

impl Function {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch", "Size") => Self::Size,
            ("torch", "HalfStorage") => Self::Storage(Some(Float::F16)),
            ("torch", "BFloat16Storage") => Self::Storage(Some(Float::Bf16)),
            ("torch", "FloatStorage") => Self::Storage(Some(Float::F32)),
            ("torch", "DoubleStorage") => Self::Storage(Some(Float::F64)),
            (
                "torch",
                "BoolStorage" | "ByteStorage" | "CharStorage" | "ShortStorage" | "IntStorage"
                | "LongStorage",
            ) => Self::Storage(None),
            // what optimizers and schedulers leave beside the weights
            ("collections", "defaultdict" | "Counter")
            | ("torch", "device" | "float16" | "bfloat16" | "float32" | "float64")
            | ("builtins" | "__builtin__", "set" | "dict" | "list") => Self::Other,
            _ => return None,
        })
    }
}

/// Keys under which checkpoints keep the state dict, in the order they are tried.
const NESTS: [&str; 3] = ["state_dict", "model", "model_state_dict"];
/// Levels of nesting followed.
const MAX_NESTING: usize = 4;

impl Machine<'_> {
    fn tensors(&self, root: Id) -> Result<Vec<(String, TensorInfo)>, String> {
        let mut id = root;
        for _ in 0..MAX_NESTING {
            match NESTS.iter().find_map(|key| self.nested(id, key)) {
                Some(inner) => id = inner,
                None => break,
            }
        }
        let Some(Value::Dict(items)) = self.value(id) else {
            return Err("it holds no state dict, a dict from names to tensors".to_owned());
        };
        let tensors: Vec<_> = items
            .iter()
            .filter_map(|&(key, value)| match (self.value(key), self.value(value)) {
                (Some(Value::Text(name)), Some(Value::Tensor(tensor))) => {
                    Some((name.clone(), tensor.clone()))
                }
                _ => None,
            })
            .collect();
        if tensors.is_empty() {
            return Err(format!(
                "it holds no tensors at its top level or under {}",
                NESTS.join(", ")
            ));
        }
        Ok(tensors)
    }

    /// The dict under `key` of the dict `id`.
    fn nested(&self, id: Id, key: &str) -> Option<Id> {
        let Some(Value::Dict(items)) = self.value(id) else {
            return None;
        };
        let is_key = |id| matches!(self.value(id), Some(Value::Text(text)) if text == key);
        items
            .iter()
            .find(|&&(k, v)| is_key(k) && matches!(self.value(v), Some(Value::Dict(_))))
            .map(|&(_, v)| v)
    }
}

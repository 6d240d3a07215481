//! Reads the pickle of a PyTorch zip file as data: which tensor has which name, storage, shape and strides.
//!
//! A pickle is a program for a small stack machine that can call any Python function. This machine knows only the
//! opcodes that torch.save emits and the few functions a state dict needs, runs none of them, and refuses the rest by
//! name. Values live in one arena and refer to each other by index, so that neither depth nor sharing nor cycles can
//! exhaust memory or the stack: everything is bounded by the pickle's length.
//!
//! candle-core's reader was considered: it refuses strided tensors, indexes into tuples of unchecked length, and clones
//! values at every memo access, which a small file can make exponential.

use std::collections::HashMap;

use super::float::Float;

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

struct Machine<'a> {
    rest: &'a [u8],
    arena: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        Self {
            rest: pickle,
            arena: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to the end; returns the result.
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let [opcode] = self.array()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => {
                    let [protocol] = self.array()?;
                    if protocol > 3 {
                        return Err(format!(
                            "its pickle has protocol {protocol}; save it with torch.save's default protocol, 2"
                        ));
                    }
                }
                b'(' => self.marks.push(self.stack.len()),
                b'q' => {
                    let [slot] = self.array()?;
                    self.remember(u32::from(slot))?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.remember(slot)?;
                }
                b'h' => {
                    let [slot] = self.array()?;
                    self.recall(u32::from(slot))?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b'c' => self.global()?,
                b'Q' => self.persistent()?,
                b'R' | 0x81 => self.call()?,
                b'b' => {
                    // a state for the object below it: the metadata of a state dict, which nothing here reads
                    self.pop()?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                b'a' => {
                    self.pop()?;
                }
                b'e' => {
                    self.pop_to_mark()?;
                }
                _ => {
                    let value = self.literal(opcode)?;
                    self.push(value);
                }
            }
        }
    }

    /// The value of an opcode that makes one.
    fn literal(&mut self, opcode: u8) -> Result<Value, String> {
        Ok(match opcode {
            b'N' | 0x88 | 0x89 | b']' => Value::Other,
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'}' => Value::Dict(Vec::new()),
            b'K' => Value::Int(i64::from(self.array::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            0x8a => self.long()?,
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                let text = std::str::from_utf8(self.take(len as usize)?);
                Value::Text(text.map_err(|_| damaged("a name is not UTF-8"))?.to_owned())
            }
            b')' => Value::Tuple(Vec::new()),
            b't' => Value::Tuple(self.pop_to_mark()?),
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                Value::Tuple(items)
            }
            _ => {
                return Err(format!(
                    "its pickle has the opcode {opcode:#04x}, which torch.save does not write for a state dict"
                ));
            }
        })
    }

    fn long(&mut self) -> Result<Value, String> {
        let [len] = self.array()?;
        let bytes = self.take(usize::from(len))?;
        if bytes.len() > 8 {
            return Ok(Value::Other);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn global(&mut self) -> Result<(), String> {
        let module = self.line()?;
        let name = self.line()?;
        let function = Function::find(module, name).ok_or_else(|| {
            let full: String = format!("{module}.{name}").chars().take(120).collect();
            format!(
                "it holds the Python object {full}, and only state dicts are read; save the weights alone with \
                 torch.save(model.state_dict(), 'new.pth')"
            )
        })?;
        self.push(Value::Function(function));
        Ok(())
    }

    /// A reference to a storage: `('storage', class, name, device, length)`.
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some([_, class, name, _, len]) => {
                match (self.value(*class), self.value(*name), self.int(*len)) {
                    (
                        Some(Value::Function(Function::Storage(float))),
                        Some(Value::Text(name)),
                        Some(len),
                    ) => Some(Value::Storage {
                        float: *float,
                        name: name.clone(),
                        len,
                    }),
                    _ => None,
                }
            }
            _ => None,
        };
        let storage =
            storage.ok_or_else(|| damaged("a storage is not described as torch.save does"))?;
        self.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let Some(&Value::Function(function)) = self.value(function) else {
            return Err(damaged("it calls something that is not a function"));
        };
        match function {
            Function::OrderedDict => self.push(Value::Dict(Vec::new())),
            Function::Other => self.push(Value::Other),
            Function::RebuildTensor => {
                let tensor = self
                    .rebuild(arguments)
                    .ok_or_else(|| damaged("a tensor is not described as torch.save does"))?;
                self.push(Value::Tensor(tensor));
            }
            Function::RebuildParameter | Function::Size => match self.tuple(arguments) {
                Some(&[first, ..]) => self.stack.push(first),
                _ => return Err(damaged("a parameter or size has no arguments")),
            },
            Function::Storage(_) => return Err(damaged("it calls a storage class")),
        }
        Ok(())
    }

    /// `(storage, offset, size, strides, requires_grad, hooks[, metadata])`.
    fn rebuild(&self, arguments: Id) -> Option<TensorInfo> {
        let &[storage, offset, shape, strides, ..] = self.tuple(arguments)? else {
            return None;
        };
        let Some(Value::Storage { float, name, len }) = self.value(storage) else {
            return None;
        };
        let sizes =
            |id| -> Option<Vec<usize>> { self.tuple(id)?.iter().map(|&i| self.int(i)).collect() };
        Some(TensorInfo {
            storage: name.clone(),
            storage_len: *len,
            float: *float,
            offset: self.int(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(damaged("a dict has a key without a value"));
        }
        match self.stack.last().and_then(|&id| self.arena.get_mut(id)) {
            Some(Value::Dict(dict)) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Some(Value::Other) => {}
            _ => return Err(damaged("it sets items of something that is not a dict")),
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.arena.len());
        self.arena.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(damaged("its stack is empty"));
        }
        self.stack
            .pop()
            .ok_or_else(|| damaged("its stack is empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let &top = self
            .stack
            .last()
            .ok_or_else(|| damaged("its stack is empty"))?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let &id = self
            .memo
            .get(&slot)
            .ok_or_else(|| damaged("it recalls what it never remembered"))?;
        self.stack.push(id);
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or_else(|| damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| damaged("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&b| b == b'\n');
        let line = self.take(end.ok_or_else(|| damaged("it ends early"))?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| damaged("a name is not UTF-8"))
    }

    fn value(&self, id: Id) -> Option<&Value> {
        self.arena.get(id)
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.value(id)? {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn int(&self, id: Id) -> Option<usize> {
        match self.value(id)? {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
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

fn damaged(what: &str) -> String {
    format!("its pickle is damaged: {what}")
}

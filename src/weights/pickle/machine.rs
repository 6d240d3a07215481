//! The stack machine: opcodes in, values in an arena out.

use std::collections::HashMap;

use super::{Function, Id, TensorInfo, Value};

/// Most dimensions of a tensor, and longest text that can be a name. Shapes and names are copied wherever they are
/// referred to, so that without bounds a small file could ask for much memory.
const MAX_RANK: usize = 8;
const MAX_NAME: usize = 500;

pub(super) struct Machine<'a> {
    rest: &'a [u8],
    arena: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(pickle: &'a [u8]) -> Self {
        Self {
            rest: pickle,
            arena: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to the end; returns the result.
    pub(super) fn run(&mut self) -> Result<Id, String> {
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
                b'q' | b'r' | b'h' | b'j' => self.memo(opcode)?,
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
                let len = u32::from_le_bytes(self.array()?) as usize;
                let text = std::str::from_utf8(self.take(len)?);
                let text = text.map_err(|_| damaged("a name is not UTF-8"))?;
                if len <= MAX_NAME {
                    Value::Text(text.to_owned())
                } else {
                    Value::Other
                }
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
        let sizes = |id| -> Option<Vec<usize>> {
            let sizes = self.tuple(id).filter(|sizes| sizes.len() <= MAX_RANK)?;
            sizes.iter().map(|&size| self.int(size)).collect()
        };
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

    /// Stores the top of the stack in a slot, or pushes what a slot holds.
    fn memo(&mut self, opcode: u8) -> Result<(), String> {
        let slot = match opcode {
            b'q' | b'h' => u32::from(self.array::<1>()?[0]),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(opcode, b'q' | b'r') {
            let top = self.stack.last();
            let &top = top.ok_or_else(|| damaged("its stack is empty"))?;
            self.memo.insert(slot, top);
        } else {
            let held = self.memo.get(&slot);
            let &held = held.ok_or_else(|| damaged("it recalls what it never remembered"))?;
            self.stack.push(held);
        }
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

    pub(super) fn value(&self, id: Id) -> Option<&Value> {
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

fn damaged(what: &str) -> String {
    format!("its pickle is damaged: {what}")
}

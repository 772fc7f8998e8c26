//! The part of Python's pickle format (protocol 2) that a dictionary of tensors takes.
//!
//! A stack machine. Names are looked up in a fixed list, calls build descriptions of tensors, and every
//! other operation, name or call ends the reading. Values are small, nest at most [`DEEPEST`] levels, and
//! only what is small is remembered for reuse, so that a file cannot grow in memory.

use std::collections::HashMap;

const DEEPEST: usize = 32;
/// Longest text and tuple that can be used again.
const LONGEST_AGAIN: usize = 512;

/// Names that a pickle may say; storages come on top.
const CALLED: [&str; 3] = [
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
];

/// Where a tensor's values are.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// Name of the storage's class.
    pub storage: String,
    /// Name of the storage.
    pub key: String,
    /// First value.
    pub offset: usize,
    /// Shape.
    pub size: Vec<usize>,
    /// Values from one entry to the next, for each dimension.
    pub stride: Vec<usize>,
}

/// A value on the stack.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Everything that does not matter: none, floats, lists.
    Other,
    Int(i64),
    Text(String),
    Name(String),
    Tuple(Vec<Value>),
    /// Entries whose keys are texts.
    Dict(Vec<(String, Value)>),
    /// Class and key.
    Storage(String, String),
    Tensor(Described),
}

impl Value {
    fn depth(&self) -> usize {
        match self {
            Self::Tuple(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Dict(items) => 1 + items.iter().map(|(_, v)| v.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// As remembered for reuse.
    fn memo(&self) -> Option<Value> {
        match self {
            Self::Text(t) if t.len() > LONGEST_AGAIN => None,
            Self::Tuple(items) if items.len() > LONGEST_AGAIN || self.depth() > 1 => None,
            Self::Dict(_) => None,
            _ => Some(self.clone()),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Option<Value>>,
}

/// Runs a pickle to its end.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader {
        bytes,
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
    };
    loop {
        if let Some(value) = reader.step()? {
            return Ok(value);
        }
    }
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], String> {
        let (first, rest) = self.bytes.split_at_checked(n).ok_or("ends too early")?;
        self.bytes = rest;
        Ok(first)
    }

    fn number(&mut self, n: usize) -> Result<usize, String> {
        let bytes = self.take(n)?;
        Ok(bytes.iter().rev().fold(0, |v, &b| v << 8 | usize::from(b)))
    }

    fn text(&mut self, n: usize) -> Result<String, String> {
        let bytes = self.take(n)?.to_vec();
        String::from_utf8(bytes).map_err(|_| "holds a text that is none".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.bytes.iter().position(|&b| b == b'\n');
        let line = self.text(end.ok_or("ends too early")?)?;
        self.take(1)?;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        let value = (self.stack.len() > lowest).then(|| self.stack.pop());
        value
            .flatten()
            .ok_or_else(|| "takes more than it put".into())
    }

    /// What lies above the last mark.
    fn marked(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("takes a mark that it did not set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<Value, String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(Value::Tuple(items))
    }

    /// Adds keys and values to the dictionary on the stack; keys that are no texts are left out.
    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            return Err("sets entries of what is no dictionary".into());
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if value.depth() >= DEEPEST {
                return Err("nests too deep".into());
            }
            if let Value::Text(key) = key {
                dict.push((key, value));
            }
        }
        Ok(())
    }

    /// One operation; the value at the end.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let op = self.number(1)?;
        let value = match op as u8 {
            b'.' => return self.pop().map(Some),
            0x80 => {
                self.number(1)?;
                return Ok(None);
            }
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            b'q' | b'r' => {
                let slot = self.number(if op as u8 == b'q' { 1 } else { 4 })?;
                let top = self.stack.last().ok_or("remembers nothing")?.memo();
                self.memo.insert(slot, top);
                return Ok(None);
            }
            b'h' | b'j' => {
                let slot = self.number(if op as u8 == b'h' { 1 } else { 4 })?;
                let found = self.memo.get(&slot).cloned().flatten();
                found.ok_or("uses a large value twice, or one that it did not put")?
            }
            b'N' | 0x88 | 0x89 | b']' => Value::Other,
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => Value::Int(self.number(4)? as i64),
            0x8a => match self.number(1)? {
                n @ 0..=7 => Value::Int(self.number(n)? as i64),
                n => {
                    self.take(n)?;
                    Value::Other
                }
            },
            b'X' => {
                let n = self.number(4)?;
                Value::Text(self.text(n)?)
            }
            b'c' => self.name()?,
            b'}' => Value::Dict(vec![]),
            b')' => Value::Tuple(vec![]),
            0x85..=0x87 => self.tuple(op - 0x84)?,
            b't' => Value::Tuple(self.marked()?),
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' | b'a' => {
                // Attributes of a dictionary, or an entry of a list.
                self.pop()?;
                return Ok(None);
            }
            b'e' => {
                self.marked()?;
                return Ok(None);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
                return Ok(None);
            }
            b'u' => {
                let items = self.marked()?;
                self.set(items)?;
                return Ok(None);
            }
            _ => {
                return Err(format!(
                    "uses the operation {op:#04x}, which a state dict does not take"
                ));
            }
        };
        if value.depth() > DEEPEST {
            return Err("nests too deep".into());
        }
        self.stack.push(value);
        Ok(None)
    }

    fn name(&mut self) -> Result<Value, String> {
        let name = format!("{}.{}", self.line()?, self.line()?);
        let storage = name.starts_with("torch.") && name.ends_with("Storage");
        if !storage && !CALLED.contains(&name.as_str()) {
            return Err(format!("names {name}, which a state dict does not take"));
        }
        Ok(Value::Name(name))
    }

    /// ("storage", class, key, device, number of values).
    fn storage(&mut self) -> Result<Value, String> {
        if let Value::Tuple(items) = self.pop()?
            && let [Value::Text(tag), Value::Name(class), Value::Text(key), ..] = &items[..]
            && tag == "storage"
        {
            let class = class.trim_start_matches("torch.").to_owned();
            return Ok(Value::Storage(class, key.clone()));
        }
        Err("refers to something that is no storage".into())
    }

    fn call(&mut self) -> Result<Value, String> {
        let (Value::Tuple(mut arguments), Value::Name(name)) = (self.pop()?, self.pop()?) else {
            return Err("calls what is no name".into());
        };
        match (name.as_str(), &mut arguments[..]) {
            ("collections.OrderedDict", []) => Ok(Value::Dict(vec![])),
            ("torch._utils._rebuild_parameter", [Value::Tensor(t), ..]) => {
                Ok(Value::Tensor(t.clone()))
            }
            (
                "torch._utils._rebuild_tensor_v2",
                [
                    Value::Storage(class, key),
                    Value::Int(offset),
                    Value::Tuple(size),
                    Value::Tuple(stride),
                    ..,
                ],
            ) => {
                let count = |v: &Value| match v {
                    Value::Int(n) => usize::try_from(*n).ok(),
                    _ => None,
                };
                let counts = |v: &[Value]| v.iter().map(count).collect::<Option<Vec<_>>>();
                let sizes = counts(size).zip(counts(stride));
                let Some(((size, stride), offset)) = sizes.zip(usize::try_from(*offset).ok())
                else {
                    return Err("describes a tensor by what are no numbers".into());
                };
                Ok(Value::Tensor(Described {
                    storage: class.clone(),
                    key: key.clone(),
                    offset,
                    size,
                    stride,
                }))
            }
            _ => Err(format!(
                "calls {name} in a way that a state dict does not take"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_bombs_are_refused() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err();
        let system = b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.";
        assert!(refused(system).contains("os.system"));
        assert!(refused(b"\x80\x04\x95").contains("0x95"));
        assert!(refused(b"\x80\x02").contains("early"));
        assert!(refused(b"0.").contains("0x30"));
        assert!(refused(b"(.").contains("more than it put"));
        let deep = [&[b')'][..], &[0x85; 100_000], b"."].concat();
        assert!(refused(&deep).contains("deep"));
        // Each dictionary in the next: what is remembered of one cannot be used again.
        assert!(refused(b"}q\0h\0.").contains("twice"));
        // Nested tuples are not remembered either, so that doubling them again and again is not possible.
        assert!(refused(b"))\x86\x85q\0h\0.").contains("twice"));
    }
}

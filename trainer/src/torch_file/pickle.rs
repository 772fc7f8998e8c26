//! Python's pickle format (protocols 0 to 5) as far as it tells where tensors are.
//!
//! A stack machine. Every operation is known, and none runs anything: calls of the few names by which `torch.save`
//! writes dictionaries and tensors are described, and whatever else a training script left in the file becomes
//! a value that does not matter. What is read is bounded by the file's size and by [`value`](super::value).

use super::value::{OTHER, Ref, Value, Values};
use std::collections::HashMap;

/// Most values on the stack at a time.
const DEEPEST: usize = 16 << 20;

const EARLY: &str = "ends too early";
const LESS: &str = "takes more than it put";

struct Reader<'a> {
    bytes: &'a [u8],
    values: Values,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<usize, Ref>,
}

/// Runs a pickle to its end: its values, which of them is the result, and what follows it.
pub(super) fn read(bytes: &[u8]) -> Result<(Values, Ref, &[u8]), String> {
    let mut reader = Reader {
        bytes,
        values: Values::new(),
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
    };
    loop {
        let op = reader.take(1)?[0];
        if op == b'.' {
            let result = reader.pop()?;
            return Ok((reader.values, result, reader.bytes));
        }
        let known = reader.scalar(op)?
            || reader.collection(op)?
            || reader.object(op)?
            || reader.stack_op(op)?;
        if !known {
            return Err(format!("uses {op:#04x}, which is no operation of a pickle"));
        }
        if reader.stack.len() > DEEPEST {
            return Err("nests too deep".into());
        }
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (first, rest) = self.bytes.split_at_checked(n).ok_or(EARLY)?;
        self.bytes = rest;
        Ok(first)
    }

    /// A little-endian number of at most eight bytes.
    fn number(&mut self, n: usize) -> Result<usize, String> {
        let bytes = self.take(n)?;
        Ok(bytes.iter().rev().fold(0, |v, &b| v << 8 | usize::from(b)))
    }

    /// As many bytes as a number of `n` bytes says.
    fn counted(&mut self, n: usize) -> Result<&'a [u8], String> {
        let n = self.number(n)?;
        self.take(n)
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = self.bytes.iter().position(|&b| b == b'\n');
        let line = self.take(end.ok_or(EARLY)?)?;
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<bool, String> {
        let place = self.values.add(value)?;
        self.stack.push(place);
        Ok(true)
    }

    fn pop(&mut self) -> Result<Ref, String> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        let value = (self.stack.len() > lowest).then(|| self.stack.pop());
        value.flatten().ok_or_else(|| LESS.into())
    }

    fn top(&self) -> Result<Ref, String> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(lowest..).and_then(<[Ref]>::last);
        above.copied().ok_or_else(|| LESS.into())
    }

    /// What lies above the last mark.
    fn marked(&mut self) -> Result<Vec<Ref>, String> {
        let mark = self.marks.pop().ok_or("takes a mark that it did not set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// Numbers, texts and constants.
    fn scalar(&mut self, op: u8) -> Result<bool, String> {
        let value = match op {
            // None, true, false, the next buffer.
            b'N' | 0x88 | 0x89 | 0x97 => Value::Other,
            b'G' => self.take(8).map(|_| Value::Other)?,
            b'F' => self.line().map(|_| Value::Other)?,
            b'I' | b'L' => {
                let line = self.line()?;
                let text = std::str::from_utf8(line).unwrap_or_default();
                let number = text.trim_end_matches('L').parse();
                number.map_or(Value::Other, Value::Int)
            }
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => integer(self.take(4)?),
            0x8a => integer(self.counted(1)?),
            0x8b => integer(self.counted(4)?),
            b'U' | 0x8c => text(self.counted(1)?),
            b'X' | b'T' => text(self.counted(4)?),
            0x8d => text(self.counted(8)?),
            b'V' => text(self.line()?),
            b'S' => {
                let line = self.line()?;
                let inner = line.get(1..line.len().saturating_sub(1));
                text(inner.unwrap_or_default())
            }
            b'C' => self.counted(1).map(|_| Value::Other)?,
            b'B' => self.counted(4).map(|_| Value::Other)?,
            // Bytes, and bytes that can be changed.
            0x8e | 0x96 => self.counted(8).map(|_| Value::Other)?,
            // Numbers that a program agreed on with itself.
            0x82 => self.take(1).map(|_| Value::Other)?,
            0x83 => self.take(2).map(|_| Value::Other)?,
            0x84 => self.take(4).map(|_| Value::Other)?,
            _ => return Ok(false),
        };
        self.push(value)
    }

    /// Tuples, lists, sets and dictionaries, and what is put into them.
    fn collection(&mut self, op: u8) -> Result<bool, String> {
        match op {
            b')' => return self.push(Value::Tuple(vec![])),
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                return self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.marked()?;
                return self.push(Value::Tuple(items));
            }
            b']' | 0x8f => return self.push(Value::List(vec![])),
            b'l' | 0x91 => {
                let items = self.marked()?;
                return self.push(Value::List(items));
            }
            b'}' => return self.push(Value::Dict(vec![])),
            b'd' => {
                let items = self.marked()?;
                self.push(Value::Dict(vec![]))?;
                self.set(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Adds to the list on the stack, where it is one.
    fn extend(&mut self, items: &[Ref]) -> Result<(), String> {
        let to = self.top()?;
        match self.values.at_mut(to) {
            Some(Value::List(list)) => list.extend(items.iter().filter(|&&i| i != OTHER)),
            Some(Value::Tensor(_) | Value::Storage(..)) => return Err(CHANGED.into()),
            _ => {}
        }
        Ok(())
    }

    /// Sets keys and values of the dictionary on the stack, where it is one.
    fn set(&mut self, items: &[Ref]) -> Result<(), String> {
        let to = self.top()?;
        match self.values.at_mut(to) {
            Some(Value::Dict(entries) | Value::Made(_, entries)) => {
                let (pairs, _) = items.as_chunks::<2>();
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            Some(Value::Tensor(_) | Value::Storage(..)) => return Err(CHANGED.into()),
            _ => {}
        }
        Ok(())
    }

    /// Names, and what is made by calling them.
    fn object(&mut self, op: u8) -> Result<bool, String> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                return self.push(name_of(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let texts = self.values.text(module).zip(self.values.text(name));
                let value = texts.map(|(m, n)| Value::Name(format!("{m}.{n}").into()));
                return self.push(value.unwrap_or(Value::Other));
            }
            // A call, and a new object of a class.
            b'R' | 0x81 => {
                let (arguments, name) = (self.pop()?, self.pop()?);
                self.call(name, arguments)?;
            }
            0x92 => {
                let (_, arguments, name) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(name, arguments)?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.marked()?;
                let name = self.values.add(name_of(module, name))?;
                return self.push(Value::Made(name, vec![]));
            }
            b'o' => {
                let name = self.marked()?.first().copied().unwrap_or(OTHER);
                return self.push(Value::Made(name, vec![]));
            }
            // Attributes. A tensor with some may be another one than its storage says.
            b'b' => {
                self.pop()?;
                let of = self.top()?;
                if let Value::Tensor(_) | Value::Storage(..) = self.values.at(of) {
                    self.pop()?;
                    return self.push(Value::Made(OTHER, vec![]));
                }
            }
            b'P' => {
                self.line()?;
                return self.push(Value::Other);
            }
            b'Q' => {
                let of = self.pop()?;
                let meant = self.values.persistent(of)?;
                self.stack.push(meant);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn call(&mut self, name: Ref, arguments: Ref) -> Result<(), String> {
        let made = self.values.call(name, arguments)?;
        self.stack.push(made);
        Ok(())
    }

    /// What only moves values about.
    fn stack_op(&mut self, op: u8) -> Result<bool, String> {
        match op {
            // The protocol's number, and the length of a frame.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            0x98 => {}
            b'(' => self.marks.push(self.stack.len()),
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'p' => self.line_number().and_then(|slot| self.remember(slot))?,
            b'q' => self.number(1).and_then(|slot| self.remember(slot))?,
            b'r' => self.number(4).and_then(|slot| self.remember(slot))?,
            0x94 => self.remember(self.memo.len())?,
            b'g' => self.line_number().and_then(|slot| self.recall(slot))?,
            b'h' => self.number(1).and_then(|slot| self.recall(slot))?,
            b'j' => self.number(4).and_then(|slot| self.recall(slot))?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn line_number(&mut self) -> Result<usize, String> {
        let line = std::str::from_utf8(self.line()?).unwrap_or_default();
        line.parse().map_err(|_| "remembers nothing".into())
    }

    fn remember(&mut self, slot: usize) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        match self.memo.len() > DEEPEST {
            true => Err("remembers too much".into()),
            false => Ok(()),
        }
    }

    fn recall(&mut self, slot: usize) -> Result<(), String> {
        let found = self.memo.get(&slot).ok_or("uses what it did not put")?;
        self.stack.push(*found);
        Ok(())
    }
}

const CHANGED: &str = "changes a tensor, which torch.save does not do";

/// A signed little-endian number; what is longer than eight bytes does not matter.
fn integer(bytes: &[u8]) -> Value {
    let Some((&last, _)) = bytes.split_last() else {
        return Value::Int(0);
    };
    if bytes.len() > 8 {
        return Value::Other;
    }
    let fill = if last & 0x80 == 0 { 0 } else { -1 };
    Value::Int(
        bytes
            .iter()
            .rev()
            .fold(fill, |v: i64, &b| v << 8 | i64::from(b)),
    )
}

/// Longest text that can be the name of anything. Longer ones do not matter, and copies and comparisons of them would.
const LONGEST: usize = 4096;

fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= LONGEST => Value::Text(text.into()),
        _ => Value::Other,
    }
}

fn name_of(module: &[u8], name: &[u8]) -> Value {
    let [module, name] = [module, name].map(std::str::from_utf8);
    match (module, name) {
        (Ok(module), Ok(name)) if module.len().max(name.len()) <= LONGEST => {
            Value::Name(format!("{module}.{name}").into())
        }
        _ => Value::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(bytes: &[u8]) -> String {
        let (values, of, _) = read(bytes).unwrap();
        values.kind(of)
    }

    #[test]
    fn calls_are_noted_and_never_run() {
        let system = b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.";
        assert_eq!(result(system), "made by os.system");
        let new = b"\x80\x04\x95\x00\0\0\0\0\0\0\0\x8c\x08argparse\x8c\x09Namespace\x93)\x81}\x8c\x02lrK\x01sb.";
        assert_eq!(result(new), "made by argparse.Namespace");
        assert_eq!(result(b"(cos\nsystem\nK\x01o."), "made by os.system");
        assert_eq!(result(b"(K\x01ios\nsystem\n."), "made by os.system");
        assert_eq!(result(b"cos\nsystem\n)}\x92."), "made by os.system");
    }

    #[test]
    fn every_operation_leaves_the_stack_as_it_should() {
        // Each puts one value, of which the tuple then takes two: what it puts must be exactly one.
        let values: [&[u8]; 30] = [
            b"N",
            b"\x88",
            b"\x89",
            b"\x97\x98",
            b"G12345678",
            b"F1.5\n",
            b"I-3\n",
            b"I01\n",
            b"L5L\n",
            b"K\x01",
            b"M\x01\x02",
            b"J\xff\xff\xff\xff",
            b"\x8a\x02\x00\x80",
            b"\x8b\x01\0\0\0\x07",
            b"U\x01a",
            b"\x8c\x01a",
            b"X\x01\0\0\0a",
            b"T\x01\0\0\0\xff",
            b"\x8d\x01\0\0\0\0\0\0\0a",
            b"Va\n",
            b"S'a'\n",
            b"C\x01a",
            b"B\x01\0\0\0a",
            b"\x8e\x01\0\0\0\0\0\0\0a",
            b"\x96\x01\0\0\0\0\0\0\0a",
            b"\x82\x01",
            b"\x83\x01\x02",
            b"\x8f(K\x01\x90",
            b"(K\x01\x91",
            b"(K\x01K\x02d",
        ];
        for value in values {
            let bytes = [b"\x80\x04K\x09", value, b"\x940h\x00\x86."].concat();
            let (values, of, _) = read(&bytes).unwrap();
            let Value::Tuple(items) = values.at(of) else {
                panic!("{value:?}");
            };
            assert!(matches!(values.at(items[0]), Value::Int(9)), "{value:?}");
        }
        for (bytes, n) in [
            (&b"J\xff\xff\xff\xff."[..], -1),
            (b"J\x00\x00\x00\x80.", -2_147_483_648),
            (b"\x8a\x02\x00\x80.", -32_768),
            (b"\x8a\x02\xff\x00.", 255),
            (b"\x8a\x00.", 0),
            (b"I-3\n.", -3),
        ] {
            let (values, of, _) = read(bytes).unwrap();
            assert!(matches!(values.at(of), Value::Int(i) if *i == n), "{n}");
        }
    }

    #[test]
    fn bombs_and_cuts_are_refused_or_cost_nothing() {
        let refused = |bytes: &[u8]| read(bytes).err().unwrap();
        assert!(refused(b"\x80\x02").contains("early"));
        assert!(refused(b"0.").contains("more than it put"));
        assert!(refused(b"(.").contains("more than it put"));
        assert!(refused(b"h\0.").contains("did not put"));
        assert!(refused(b"\xff.").contains("0xff"));
        assert!(refused(&[&[b')'; 5 << 20][..], b"."].concat()).contains("more than"));
        assert!(refused(&[b'N'; 17 << 20]).contains("deep"));
        let deep = [&[b')'][..], &[0x85; 1_000_000], b"."].concat();
        assert_eq!(result(&deep), "a list");
        // A dictionary in itself, and tuples that double a hundred times.
        assert_eq!(result(b"}q\0K\x01h\0s."), "a dictionary");
        let doubled = [&b")"[..], &b"2\x86".repeat(100), b"."].concat();
        assert_eq!(result(&doubled), "a list");
    }
}

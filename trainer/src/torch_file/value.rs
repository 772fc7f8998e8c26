//! What a pickle makes: values in one list that refer to each other by their place in it.
//!
//! So one value may be in several places, even in itself, and neither reading nor dropping it recurses: how deep a
//! file nests and how often it says the same costs nothing.

use std::rc::Rc;

/// Most values that a pickle may describe. A state dict takes about twenty for each tensor.
const MOST: usize = 4 << 20;
/// Most dimensions of a tensor; weights have four.
const MOST_DIMENSIONS: usize = 8;

/// The place of a value.
pub(super) type Ref = u32;

/// The place of everything that does not matter: none, floats, bytes.
pub(super) const OTHER: Ref = 0;

/// Where a tensor's values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// Name of the storage's class.
    pub storage: Rc<str>,
    /// Name of the storage.
    pub key: Rc<str>,
    /// First value.
    pub offset: usize,
    /// Shape.
    pub size: Vec<usize>,
    /// Values from one entry to the next, for each dimension.
    pub stride: Vec<usize>,
}

/// A storage, or the part of one that starts at a value.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Name of its class, such as `FloatStorage`.
    pub class: Rc<str>,
    /// Its own name.
    pub key: Rc<str>,
    /// First value.
    pub offset: usize,
}

/// One value.
#[derive(Debug)]
pub(super) enum Value {
    Other,
    Int(i64),
    Text(Rc<str>),
    /// Something of a Python module, such as `torch.FloatStorage`.
    Name(Rc<str>),
    /// A list, tuple or set, without what does not matter.
    List(Vec<Ref>),
    /// A tuple with everything, for calls take it apart.
    Tuple(Vec<Ref>),
    /// Keys and values of a dictionary.
    Dict(Vec<(Ref, Ref)>),
    /// What a call gave that is not made here: the name that was called, and the entries that were set.
    Made(Ref, Vec<(Ref, Ref)>),
    Storage(Stored),
    Tensor(Box<Described>),
}

/// All values of a file.
#[derive(Debug)]
pub(super) struct Values(Vec<Value>);

impl Values {
    pub(super) fn new() -> Self {
        Self(vec![Value::Other])
    }

    /// Puts a value into the list.
    pub(super) fn add(&mut self, value: Value) -> Result<Ref, String> {
        if let Value::Other = value {
            return Ok(OTHER);
        }
        if self.0.len() >= MOST {
            return Err(format!("describes more than {MOST} values"));
        }
        self.0.push(value);
        Ok((self.0.len() - 1) as Ref)
    }

    pub(super) fn at(&self, place: Ref) -> &Value {
        self.0.get(place as usize).unwrap_or(&Value::Other)
    }

    pub(super) fn at_mut(&mut self, place: Ref) -> Option<&mut Value> {
        self.0.get_mut(place as usize)
    }

    pub(super) fn text(&self, place: Ref) -> Option<&Rc<str>> {
        match self.at(place) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn count(&self, place: Ref) -> Option<usize> {
        match self.at(place) {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    fn counts(&self, place: Ref) -> Option<Vec<usize>> {
        match self.at(place) {
            Value::Tuple(items) if items.len() <= MOST_DIMENSIONS => {
                items.iter().map(|&i| self.count(i)).collect()
            }
            _ => None,
        }
    }

    /// What is known of a value, for messages.
    pub(super) fn kind(&self, place: Ref) -> String {
        match self.at(place) {
            Value::Other => "a value".into(),
            Value::Int(_) => "a number".into(),
            Value::Text(_) => "a text".into(),
            Value::Name(name) => format!("the name {}", shown(name)),
            Value::List(_) | Value::Tuple(_) => "a list".into(),
            Value::Dict(_) => "a dictionary".into(),
            Value::Made(by, _) => match self.at(*by) {
                Value::Name(name) => format!("made by {}", shown(name)),
                _ => "made by a call".into(),
            },
            Value::Storage(..) => "a storage".into(),
            Value::Tensor(_) => "a tensor".into(),
        }
    }

    /// Every storage that is named.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Stored> {
        self.0.iter().filter_map(|value| match value {
            Value::Storage(stored) => Some(stored),
            _ => None,
        })
    }

    /// What a persistent id stands for: ("storage", class, key, device, number of values), before PyTorch 1.6 with
    /// a part (key, first value, number of values) or none behind it; or ("module", class, file, source) there.
    pub(super) fn persistent(&mut self, of: Ref) -> Result<Ref, String> {
        let Value::Tuple(items) = self.at(of) else {
            return Ok(OTHER);
        };
        let tag = items.first().and_then(|&tag| self.text(tag));
        match (tag.map(|t| &**t), &items[..]) {
            (Some("module"), &[_, class, ..]) => Ok(class),
            (Some("storage"), &[_, class, key, _, _]) => self.stored(class, key, OTHER),
            (Some("storage"), &[_, class, key, _, _, part]) => self.stored(class, key, part),
            _ => Ok(OTHER),
        }
    }

    fn stored(&mut self, class: Ref, key: Ref, part: Ref) -> Result<Ref, String> {
        let offset = match self.at(part) {
            Value::Other => Some(0),
            Value::Tuple(items) => match items[..] {
                [_, first, _] => self.count(first),
                _ => None,
            },
            _ => None,
        };
        match (self.at(class), self.at(key), offset) {
            (Value::Name(class), Value::Text(key), Some(offset)) => {
                let (class, key) = (class.strip_prefix("torch.").unwrap_or(class), key.clone());
                let class = class.into();
                self.add(Value::Storage(Stored { class, key, offset }))
            }
            _ => Ok(OTHER),
        }
    }

    /// What calling `name` gives. Nothing is run: dictionaries and tensors are described, all else is only noted.
    pub(super) fn call(&mut self, name: Ref, arguments: Ref) -> Result<Ref, String> {
        let made = self.known_call(name, arguments);
        match made {
            Some(Call::Is(place)) => Ok(place),
            Some(Call::New(value)) => self.add(value),
            None => self.add(Value::Made(name, vec![])),
        }
    }

    fn known_call(&self, name: Ref, arguments: Ref) -> Option<Call> {
        let (Value::Name(name), Value::Tuple(arguments)) = (self.at(name), self.at(arguments))
        else {
            return None;
        };
        match (&**name, &arguments[..]) {
            ("collections.OrderedDict", []) | ("collections.defaultdict", [] | [_]) => {
                Some(Call::New(Value::Dict(vec![])))
            }
            (
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                [tensor, ..],
            ) => matches!(self.at(*tensor), Value::Tensor(_)).then_some(Call::Is(*tensor)),
            (
                "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                [storage, offset, size, stride, rest @ ..],
            ) => {
                // The third of the rest says that the values are to be negated or conjugated.
                let plain = match rest.get(2).map(|&m| self.at(m)) {
                    None | Some(Value::Other) => true,
                    Some(Value::Dict(entries)) => entries.is_empty(),
                    Some(_) => false,
                };
                let Value::Storage(stored) = self.at(*storage) else {
                    return None;
                };
                let described = Described {
                    storage: stored.class.clone(),
                    key: stored.key.clone(),
                    offset: self.count(*offset)?.checked_add(stored.offset)?,
                    size: self.counts(*size)?,
                    stride: self.counts(*stride)?,
                };
                plain.then(|| Call::New(Value::Tensor(Box::new(described))))
            }
            _ => None,
        }
    }
}

/// What a known call gives.
enum Call {
    /// One of its arguments.
    Is(Ref),
    New(Value),
}

/// A text of the file as a terminal may show it.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).collect();
    shown = shown.escape_debug().to_string();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

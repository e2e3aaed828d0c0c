//! The values of an evaluation, and what it may take: steps and memory.

use crate::datum::{self, Datum};

use super::error::{Error, wrong};
use super::names::Procedure;

/// The most steps of one evaluation; Guix's own expression takes about a thousand.
const MAX_STEPS: u32 = 200_000;
/// How many names, elements or bytes are looked at in the time of one step.
pub(super) const LOOKS_PER_STEP: usize = 64;
/// The most memory, in bytes, approximately.
const MAX_MEMORY: usize = 10_000_000;
/// What a value takes on the heap besides its text.
pub(super) const OVERHEAD: usize = 64;

/// The index of something on the heap.
pub(super) type Handle = usize;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// What `define` gives, for example.
    Unspecified,
    Nil,
    Bool(bool),
    Integer(i64),
    Symbol(Handle),
    String(Handle),
    Bytes(Handle),
    Pair(Handle),
    Closure(Handle),
    Procedure(Procedure),
}

/// Texts, bytes and pairs. Nothing is freed before the end, as the size is limited.
#[derive(Default)]
pub(super) struct Heap {
    texts: Vec<String>,
    bytes: Vec<Vec<u8>>,
    pairs: Vec<(Value, Value)>,
    steps: u32,
    memory: usize,
}

impl Heap {
    /// Starts to count steps anew.
    pub(super) fn begin(&mut self) {
        self.steps = 0;
    }

    /// Counts the time that it takes to look at so many names, elements or bytes.
    pub(super) fn spend(&mut self, count: usize) -> Result<(), Error> {
        let steps = u32::try_from(count / LOOKS_PER_STEP).unwrap_or(u32::MAX);
        self.steps = self.steps.saturating_add(steps);
        match self.steps > MAX_STEPS {
            true => Err(Error::Limit("time")),
            false => Ok(()),
        }
    }

    pub(super) fn allocate(&mut self, size: usize) -> Result<(), Error> {
        self.memory = self.memory.saturating_add(size);
        match self.memory > MAX_MEMORY {
            true => Err(Error::Limit("memory")),
            false => Ok(()),
        }
    }

    pub(super) fn string(&mut self, text: String) -> Result<Value, Error> {
        Ok(Value::String(self.text(text)?))
    }

    pub(super) fn symbol(&mut self, name: String) -> Result<Value, Error> {
        Ok(Value::Symbol(self.text(name)?))
    }

    fn text(&mut self, text: String) -> Result<Handle, Error> {
        self.allocate(OVERHEAD + text.len())?;
        self.texts.push(text);
        Ok(self.texts.len() - 1)
    }

    pub(super) fn bytevector(&mut self, bytes: Vec<u8>) -> Result<Value, Error> {
        self.allocate(OVERHEAD + bytes.len())?;
        self.bytes.push(bytes);
        Ok(Value::Bytes(self.bytes.len() - 1))
    }

    pub(super) fn pair(&mut self, first: Value, second: Value) -> Result<Value, Error> {
        self.allocate(OVERHEAD)?;
        self.pairs.push((first, second));
        Ok(Value::Pair(self.pairs.len() - 1))
    }

    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value, Error> {
        let mut list = Value::Nil;
        for item in items.into_iter().rev() {
            list = self.pair(item, list)?;
        }
        Ok(list)
    }

    /// The elements of a list; `None` for anything else. Pairs never change, so lists end.
    pub(super) fn elements(&mut self, list: Value) -> Result<Option<Vec<Value>>, Error> {
        let mut elements = Vec::new();
        let mut rest = list;
        loop {
            match rest {
                Value::Nil => {
                    self.spend(elements.len())?;
                    return Ok(Some(elements));
                }
                Value::Pair(handle) => {
                    let (first, next) = self.pairs[handle];
                    elements.push(first);
                    rest = next;
                }
                _ => return Ok(None),
            }
        }
    }

    pub(super) fn as_pair(&self, value: Value) -> Option<(Value, Value)> {
        match value {
            Value::Pair(handle) => Some(self.pairs[handle]),
            _ => None,
        }
    }

    pub(super) fn as_string(&self, value: Value) -> Option<&str> {
        match value {
            Value::String(handle) => Some(&self.texts[handle]),
            _ => None,
        }
    }

    pub(super) fn as_symbol(&self, value: Value) -> Option<&str> {
        match value {
            Value::Symbol(handle) => Some(&self.texts[handle]),
            _ => None,
        }
    }

    pub(super) fn as_bytes(&self, value: Value) -> Option<&[u8]> {
        match value {
            Value::Bytes(handle) => Some(&self.bytes[handle]),
            _ => None,
        }
    }

    /// A datum as a value. The depth of data is limited by its reader.
    pub(super) fn constant(&mut self, datum: &Datum) -> Result<Value, Error> {
        match &datum.value {
            datum::Value::String(text) => self.string(text.clone()),
            datum::Value::Symbol(name) => self.symbol(name.clone()),
            datum::Value::Bool(truth) => Ok(Value::Bool(*truth)),
            datum::Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                Ok(Value::Integer(*number as i64))
            }
            datum::Value::Number(_) => Err(wrong(datum, format!("unknown number `{datum}'"))),
            datum::Value::List(items) => {
                let items = items.iter().map(|item| self.constant(item));
                let items = items.collect::<Result<Vec<_>, _>>()?;
                self.list(items)
            }
        }
    }
}

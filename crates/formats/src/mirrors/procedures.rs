//! The procedures that expressions for mirrors can call. None has a side effect.

use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use super::error::Error;
use super::heap::{Heap, Value};
use super::names::Procedure;
use crate::base32;

/// Calls a procedure, but `map` and `apply`, which call others. `None` if it doesn't take these
/// arguments.
pub(super) fn call(
    it: &mut Heap,
    procedure: Procedure,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    let mut looked_at = arguments.len();
    for argument in arguments {
        looked_at += it.as_string(*argument).map_or(0, str::len);
        looked_at += it.as_bytes(*argument).map_or(0, <[u8]>::len);
    }
    it.spend(looked_at)?;
    match arguments {
        _ if procedure == Procedure::List => it.list(arguments.to_vec()).map(Some),
        _ if procedure == Procedure::StringAppend => {
            let texts = arguments.iter().map(|argument| it.as_string(*argument));
            match texts.collect::<Option<Vec<_>>>() {
                None => Ok(None),
                Some(texts) => {
                    let text = texts.concat();
                    it.string(text).map(Some)
                }
            }
        }
        _ if procedure == Procedure::Append => append(it, arguments),
        // They make names known, and all are.
        _ if procedure == Procedure::ModuleAutoload => Ok(Some(Value::Unspecified)),
        [] if procedure == Procedure::CurrentModule => Ok(Some(Value::Unspecified)),
        [one] => with_one(it, procedure, *one),
        [one, two] => with_two(it, procedure, *one, *two),
        [text, start, end] if procedure == Procedure::Substring => {
            substring(it, *text, *start, Some(*end))
        }
        _ => Ok(None),
    }
}

fn append(it: &mut Heap, lists: &[Value]) -> Result<Option<Value>, Error> {
    let mut all = Vec::new();
    for list in lists {
        match it.elements(*list)? {
            Some(elements) => all.extend(elements),
            None => return Ok(None),
        }
    }
    it.list(all).map(Some)
}

fn with_one(it: &mut Heap, procedure: Procedure, argument: Value) -> Result<Option<Value>, Error> {
    let truth = |truth| Ok(Some(Value::Bool(truth)));
    match procedure {
        Procedure::Not => return truth(argument == Value::Bool(false)),
        Procedure::IsNull => return truth(argument == Value::Nil),
        Procedure::IsPair => return truth(it.as_pair(argument).is_some()),
        Procedure::IsString => return truth(it.as_string(argument).is_some()),
        Procedure::IsSymbol => return truth(it.as_symbol(argument).is_some()),
        Procedure::IsBytes => return truth(it.as_bytes(argument).is_some()),
        Procedure::Car => return Ok(it.as_pair(argument).map(|(first, _)| first)),
        Procedure::Cdr => return Ok(it.as_pair(argument).map(|(_, second)| second)),
        Procedure::Reverse => {
            return match it.elements(argument)? {
                Some(elements) => it.list(elements.into_iter().rev().collect()).map(Some),
                None => Ok(None),
            };
        }
        Procedure::Length => {
            let elements = it.elements(argument)?;
            return Ok(elements.map(|elements| integer(elements.len())));
        }
        Procedure::ListToBytes => {
            let byte = |value: Value| match value {
                Value::Integer(number) => u8::try_from(number).ok(),
                _ => None,
            };
            let elements = it.elements(argument)?.unwrap_or_default();
            return match elements.into_iter().map(byte).collect() {
                Some(bytes) => it.bytevector(bytes).map(Some),
                None => Ok(None),
            };
        }
        _ => {}
    }
    if let Some(bytes) = it.as_bytes(argument) {
        let text = match procedure {
            Procedure::ToBase16 => HEXLOWER.encode(bytes),
            Procedure::ToBase32 => BASE32_NOPAD.encode(bytes).to_ascii_lowercase(),
            Procedure::ToNixBase32 => base32::encode(bytes),
            Procedure::Utf8ToString => String::from_utf8_lossy(bytes).into_owned(),
            Procedure::BytesLength => return Ok(Some(integer(bytes.len()))),
            Procedure::BytesToList => {
                let numbers = bytes.iter().map(|byte| Value::Integer((*byte).into()));
                let numbers = numbers.collect();
                return it.list(numbers).map(Some);
            }
            _ => return Ok(None),
        };
        return it.string(text).map(Some);
    }
    if let Some(text) = it.as_string(argument) {
        let bytes = match procedure {
            Procedure::StringLength => return Ok(Some(integer(text.chars().count()))),
            Procedure::StringToSymbol => {
                let name = text.to_owned();
                return it.symbol(name).map(Some);
            }
            Procedure::FromBase16 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            Procedure::FromBase32 => {
                let text = text.to_ascii_uppercase();
                BASE32_NOPAD.decode(text.as_bytes()).ok()
            }
            Procedure::FromNixBase32 => base32::decode(text),
            _ => None,
        };
        return match bytes {
            Some(bytes) => it.bytevector(bytes).map(Some),
            None => Ok(None),
        };
    }
    let text = match (procedure, argument) {
        (Procedure::SymbolToString, symbol) => it.as_symbol(symbol).map(str::to_owned),
        (Procedure::NumberToString, Value::Integer(number)) => Some(number.to_string()),
        _ => None,
    };
    match text {
        Some(text) => it.string(text).map(Some),
        None => Ok(None),
    }
}

fn with_two(
    it: &mut Heap,
    procedure: Procedure,
    one: Value,
    two: Value,
) -> Result<Option<Value>, Error> {
    let both_texts = it.as_string(one).zip(it.as_string(two));
    let truth = match procedure {
        Procedure::Cons => return it.pair(one, two).map(Some),
        Procedure::Substring => return substring(it, one, two, None),
        Procedure::BytesRef => {
            let Value::Integer(index) = two else {
                return Ok(None);
            };
            let index = usize::try_from(index).ok();
            let byte = it.as_bytes(one).zip(index);
            let byte = byte.and_then(|(bytes, index)| bytes.get(index));
            return Ok(byte.map(|byte| Value::Integer((*byte).into())));
        }
        Procedure::StringEqual => both_texts.map(|(one, two)| one == two),
        Procedure::StringPrefix => both_texts.map(|(start, text)| text.starts_with(start)),
        Procedure::StringSuffix => both_texts.map(|(end, text)| text.ends_with(end)),
        Procedure::BytesEqual => {
            let both = it.as_bytes(one).zip(it.as_bytes(two));
            both.map(|(one, two)| one == two)
        }
        Procedure::IsEq | Procedure::IsEqual => {
            let texts = both_texts.filter(|_| procedure == Procedure::IsEqual);
            let names = it.as_symbol(one).zip(it.as_symbol(two));
            let same = texts.or(names).map(|(one, two)| one == two);
            Some(same.unwrap_or(one == two))
        }
        _ => None,
    };
    Ok(truth.map(Value::Bool))
}

fn substring(
    it: &mut Heap,
    text: Value,
    start: Value,
    end: Option<Value>,
) -> Result<Option<Value>, Error> {
    let index = |value: Value| match value {
        Value::Integer(number) => usize::try_from(number).ok(),
        _ => None,
    };
    let part = it
        .as_string(text)
        .zip(index(start))
        .and_then(|(text, start)| {
            let length = text.chars().count();
            let end = end.map_or(Some(length), index)?;
            let chosen = start <= end && end <= length;
            chosen.then(|| {
                text.chars()
                    .skip(start)
                    .take(end - start)
                    .collect::<String>()
            })
        });
    match part {
        Some(part) => it.string(part).map(Some),
        None => Ok(None),
    }
}

fn integer(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

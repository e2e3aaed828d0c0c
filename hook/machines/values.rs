//! Types and limits of the values of fields, for all formats of machine files.

use std::path::PathBuf;

use formats::datum::{Datum, Value};

/// A value, or a message with what was expected instead.
pub type FieldResult<T> = Result<T, String>;

/// The message for a value of the wrong type.
pub fn expected<T>(what: &str, value: &Datum) -> FieldResult<T> {
    let shown: String = value.to_string().chars().take(80).collect();
    Err(format!("expected {what}, got {shown}"))
}

/// Checks a string.
pub fn string(value: &Datum) -> FieldResult<String> {
    match &value.value {
        Value::String(s) if s.contains(['\0', '\n']) => Err("contains a control character".into()),
        Value::String(s) if s.is_empty() => Err("is empty".into()),
        Value::String(s) => Ok(s.clone()),
        _ => expected("a string", value),
    }
}

/// Checks a list of strings.
pub fn strings(value: &Datum) -> FieldResult<Vec<String>> {
    match value.list() {
        Some(items) => items.iter().map(string).collect(),
        None => expected("a list of strings", value),
    }
}

/// Checks a symbol, or a string that stands for one.
pub fn choice(value: &Datum) -> FieldResult<String> {
    value
        .symbol()
        .map_or_else(|| string(value), |symbol| Ok(symbol.into()))
}

/// Checks a truth value.
pub fn truth(value: &Datum) -> FieldResult<bool> {
    match value.value {
        Value::Bool(truth) => Ok(truth),
        _ => expected("#t or #f (true or false)", value),
    }
}

/// Checks a system type or a feature, which is a word of the daemon's questions.
pub fn word(value: &Datum) -> FieldResult<String> {
    let word = string(value)?;
    if word.contains(|c: char| c.is_whitespace() || c == ',') {
        return Err(format!("`{word}' has a blank or a comma in it"));
    }
    Ok(word)
}

/// Checks a list of them.
pub fn words(value: &Datum) -> FieldResult<Vec<String>> {
    match value.list() {
        Some(items) => items.iter().map(word).collect(),
        None => expected("a list of strings", value),
    }
}

/// Checks the name of an account.
pub fn user_name(value: &Datum) -> FieldResult<String> {
    let name = string(value)?;
    let fine = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '`' | '$' | '\\' | ';');
    if name.starts_with('-') || !name.chars().all(fine) {
        return Err(format!("`{name}' is not a user name"));
    }
    Ok(name)
}

/// Checks an absolute file name.
pub fn absolute(value: &Datum) -> FieldResult<PathBuf> {
    let name = string(value)?;
    if !name.starts_with('/') {
        return Err(format!("`{name}' is not an absolute file name"));
    }
    Ok(name.into())
}

/// Checks an integer.
pub fn integer(value: &Datum, least: i64, most: i64) -> FieldResult<i64> {
    match value.value {
        Value::Number(n) if n.fract() == 0.0 && n >= least as f64 && n <= most as f64 => {
            Ok(n as i64)
        }
        _ => expected(&format!("an integer from {least} to {most}"), value),
    }
}

/// Checks a number.
pub fn positive(value: &Datum) -> FieldResult<f64> {
    match value.value {
        Value::Number(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => expected("a number that is not negative", value),
    }
}

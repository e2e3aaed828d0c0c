//! Conversion of an entry's fields to a [`Machine`]: default, type and limits of every field, for
//! all formats of machine files.

use std::path::{Path, PathBuf};

use super::machine::{Machine, TransportChoice};
use super::problem::{Place, Problem};
use super::sexp::{Datum, Position, Value};

/// One entry as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// Its position.
    pub position: Position,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its position.
    pub position: Position,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Datum,
}

/// A value, or a message with what was expected instead.
type FieldResult<T> = Result<T, String>;

impl Entry {
    /// The machine that the fields describe, or all mistakes in them.
    pub fn machine(&self, file: &Path) -> Result<Machine, Vec<Problem>> {
        let place = |position| Place {
            file: file.into(),
            position,
        };
        let mut machine = Machine {
            name: String::new(),
            port: 22,
            systems: Vec::new(),
            user: String::new(),
            private_key: None,
            host_key: String::new(),
            daemon_socket: "/var/guix/daemon-socket/socket".into(),
            overload_threshold: Some(0.8),
            parallel_builds: 1,
            speed: 1.0,
            features: Vec::new(),
            mandatory_features: Vec::new(),
            transport: TransportChoice::Auto,
            ssh_config: None,
            transfer_compression: None,
            cores: None,
            program: None,
            place: place(self.position),
        };
        let mut problems = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for field in &self.fields {
            let problem = |message: String| Problem {
                place: place(field.position),
                field: Some(field.name.clone()),
                message,
            };
            if seen.contains(&field.name.as_str()) {
                problems.push(problem("given twice".into()));
            } else if let Err(message) = set(&mut machine, field) {
                problems.push(problem(message));
            }
            seen.push(&field.name);
        }
        let either = |a, b| seen.contains(&a) || seen.contains(&b);
        for (name, given) in [
            ("name", seen.contains(&"name")),
            ("systems", either("systems", "system")),
            ("user", seen.contains(&"user")),
            ("host-key", seen.contains(&"host-key")),
        ] {
            if !given {
                let field = Some(name.to_string());
                let message = "missing field initializer".into();
                problems.push(Problem {
                    place: place(self.position),
                    field,
                    message,
                });
            }
        }
        if problems.is_empty() {
            Ok(machine)
        } else {
            Err(problems)
        }
    }
}

fn set(machine: &mut Machine, field: &Field) -> FieldResult<()> {
    let value = &field.value;
    match field.name.as_str() {
        "name" => machine.name = host_name(value)?,
        "port" => machine.port = integer(value, 1, 65535)? as u16,
        "systems" => {
            machine.systems = strings(value)?;
            if machine.systems.is_empty() {
                return Err("names no system".into());
            }
        }
        "system" => {
            if machine.systems.is_empty() {
                machine.systems = vec![string(value)?];
            }
        }
        "user" => machine.user = user_name(value)?,
        "private-key" => machine.private_key = Some(absolute(value)?),
        "host-key" => machine.host_key = host_key(value)?,
        "daemon-socket" => {
            machine.daemon_socket = string(value)?;
            if !machine.daemon_socket.starts_with('/') || machine.daemon_socket.contains(':') {
                return Err("expected an absolute file name without a colon".into());
            }
        }
        "overload-threshold" => {
            machine.overload_threshold = match value.value {
                Value::Bool(false) => None,
                _ => Some(positive(value)?),
            }
        }
        "parallel-builds" => machine.parallel_builds = integer(value, 0, 4096)? as u32,
        "speed" => machine.speed = positive(value)?,
        "features" => machine.features = strings(value)?,
        "mandatory-features" => machine.mandatory_features = strings(value)?,
        // SSH's own compression is always off; these are checked so that Guix can use the file,
        // too.
        "compression" => {
            if value.value != Value::Bool(false) {
                string(value)?;
            }
        }
        "compression-level" => drop(integer(value, 0, 9)?),
        "transport" => {
            machine.transport = match value
                .symbol()
                .map_or_else(|| string(value), |s| Ok(s.into()))?
                .as_str()
            {
                "auto" => TransportChoice::Auto,
                "socket" => TransportChoice::Socket,
                "commands" => TransportChoice::Commands,
                _ => return Err("expected \"auto\", \"socket\" or \"commands\"".into()),
            }
        }
        "ssh-config" => machine.ssh_config = Some(absolute(value)?),
        "transfer-compression" => {
            machine.transfer_compression = match value.value {
                Value::Bool(false) => None,
                _ => Some(integer(value, 1, 19)? as i32),
            }
        }
        "cores" => machine.cores = Some(integer(value, 0, 65536)? as u32),
        "program" => machine.program = Some(string(value)?),
        _ => return Err("extraneous field initializer".into()),
    }
    Ok(())
}

fn expected<T>(what: &str, value: &Datum) -> FieldResult<T> {
    let shown: String = value.to_string().chars().take(80).collect();
    Err(format!("expected {what}, got {shown}"))
}

fn string(value: &Datum) -> FieldResult<String> {
    match &value.value {
        Value::String(s) if s.contains(['\0', '\n']) => Err("contains a control character".into()),
        Value::String(s) if s.is_empty() => Err("is empty".into()),
        Value::String(s) => Ok(s.clone()),
        _ => expected("a string", value),
    }
}

fn strings(value: &Datum) -> FieldResult<Vec<String>> {
    match value.list() {
        Some(items) => items.iter().map(string).collect(),
        None => expected("a list of strings", value),
    }
}

/// Checks a host name, which is also used as a directory name and as an argument of `ssh`.
fn host_name(value: &Datum) -> FieldResult<String> {
    let name = string(value)?;
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if name.starts_with(['-', '.']) || !name.chars().all(fine) || name.len() > 253 {
        return Err(format!("`{name}' is not a host name"));
    }
    Ok(name)
}

fn user_name(value: &Datum) -> FieldResult<String> {
    let name = string(value)?;
    let fine = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '`' | '$' | '\\' | ';');
    if name.starts_with('-') || !name.chars().all(fine) {
        return Err(format!("`{name}' is not a user name"));
    }
    Ok(name)
}

/// Checks `TYPE BASE64 [COMMENT]`; returns it without the comment.
fn host_key(value: &Datum) -> FieldResult<String> {
    let text = string(value)?;
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key))
            if key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
                && !kind.starts_with(['@', '#', '|']) =>
        {
            Ok(format!("{kind} {key}"))
        }
        _ => Err("expected an OpenSSH public key, `TYPE BASE64 [COMMENT]'".into()),
    }
}

fn absolute(value: &Datum) -> FieldResult<PathBuf> {
    let name = string(value)?;
    if !name.starts_with('/') {
        return Err(format!("`{name}' is not an absolute file name"));
    }
    Ok(name.into())
}

fn integer(value: &Datum, least: i64, most: i64) -> FieldResult<i64> {
    match value.value {
        Value::Number(n) if n.fract() == 0.0 && n >= least as f64 && n <= most as f64 => {
            Ok(n as i64)
        }
        _ => expected(&format!("an integer from {least} to {most}"), value),
    }
}

fn positive(value: &Datum) -> FieldResult<f64> {
    match value.value {
        Value::Number(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => expected("a number that is not negative", value),
    }
}

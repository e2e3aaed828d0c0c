//! `machines.toml`: one `[[machine]]` table per machine, with the field names of `machines.scm`
//! (and the same meaning, see [`super::entry`]):
//!
//! ```toml
//! [[machine]]
//! name = "build1.example.org"
//! systems = ["x86_64-linux", "i686-linux"]
//! user = "offload"
//! host-key = "ssh-ed25519 AAAAC3Nza…"
//! parallel-builds = 4
//! ```
//!
//! and one `[[generate]]` table for each command that prints such tables (see [`super::generator`]).

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::entry::{Entry, Field};
use super::generator::Generator;
use super::machine_list::MachineList;
use super::problem::{Error, Place, Problem};
use formats::datum::{Datum, Position, Value};

/// The machines of a file with this text.
pub fn load(file: &Path, text: &str) -> Result<MachineList, Error> {
    let lines = Lines::new(text);
    let place = |offset| Place {
        file: file.into(),
        position: lines.position(offset),
    };
    let syntax = |offset, message: String| {
        Error::Syntax(Problem {
            place: place(offset),
            field: None,
            message,
        })
    };
    let document = DeTable::parse(text)
        .map_err(|e| syntax(e.span().map_or(0, |s| s.start), e.message().to_string()))?;
    let mut loaded = MachineList::default();
    for (name, value) in document.get_ref() {
        let offset = name.span().start;
        let kind = name.get_ref().as_ref();
        let ("machine" | "generate", DeValue::Array(tables)) = (kind, value.get_ref()) else {
            let message =
                "expected `[[machine]]' and `[[generate]]' tables and nothing else".into();
            loaded.problems.push(Problem {
                place: place(offset),
                field: Some(kind.to_string()),
                message,
            });
            continue;
        };
        for table in tables {
            let DeValue::Table(fields) = table.get_ref() else {
                let message = "expected a table".into();
                let place = place(table.span().start);
                loaded.problems.push(Problem {
                    place,
                    field: None,
                    message,
                });
                continue;
            };
            let entry = Entry {
                position: lines.position(table.span().start),
                fields: fields
                    .iter()
                    .map(|(name, value)| Field {
                        position: lines.position(name.span().start),
                        name: name.get_ref().to_string(),
                        value: datum(value.get_ref(), lines.position(value.span().start)),
                    })
                    .collect(),
            };
            let added = match kind {
                "machine" => entry.machine(file).map(|one| loaded.machines.push(one)),
                _ => Generator::new(&entry, file).map(|one| loaded.generators.push(one)),
            };
            if let Err(problems) = added {
                loaded.problems.extend(problems);
            }
        }
    }
    Ok(loaded)
}

/// A field's value: a scalar, a list of scalars, or a table of such lists, which becomes lists that
/// begin with a name. No field has a value that is nested deeper.
fn datum(value: &DeValue<'_>, position: Position) -> Datum {
    let at = |value| Datum { position, value };
    let list = |value: &DeValue<'_>| match value {
        DeValue::Array(items) => {
            let items = items.iter().map(|item| at(scalar(item.get_ref())));
            Value::List(items.collect())
        }
        other => scalar(other),
    };
    at(match value {
        DeValue::Table(rows) => {
            let rows = rows.iter().map(|(name, value)| {
                let name = at(Value::String(name.get_ref().to_string()));
                let row = match list(value.get_ref()) {
                    Value::List(items) => [vec![name], items].concat(),
                    other => vec![name, at(Value::List(vec![at(other)]))],
                };
                at(Value::List(row))
            });
            Value::List(rows.collect())
        }
        other => list(other),
    })
}

fn scalar(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(i) => Value::Number(i as f64),
            Err(_) => Value::Symbol(i.as_str().into()),
        },
        DeValue::Float(f) => match f.as_str().parse::<f64>() {
            Ok(f) if f.is_finite() => Value::Number(f),
            _ => Value::Symbol(f.as_str().into()),
        },
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::Symbol(d.to_string()),
        DeValue::Array(_) => Value::Symbol("an array".into()),
        DeValue::Table(_) => Value::Symbol("a table".into()),
    }
}

/// Converts byte offsets to lines and columns, without counting lines from the start each time.
struct Lines<'a> {
    text: &'a str,
    /// Where each line starts.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        let after_newlines = text.match_indices('\n').map(|(index, _)| index + 1);
        Lines {
            text,
            starts: std::iter::once(0).chain(after_newlines).collect(),
        }
    }

    fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        // The first line starts at 0, so at least one line starts at or before any offset.
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = &self.text.as_bytes()[self.starts[line - 1]..offset];
        Position {
            line: line as u32,
            column: String::from_utf8_lossy(before).chars().count() as u32 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_and_leaves_the_others() {
        let text = "\
[[machine]]
name = \"good\"
systems = [\"x86_64-linux\"]
user = \"u\"
host-key = \"t AAAAAXQAAAABaw== comment\"
overload-threshold = false
cores = 2
transport = \"commands\"
use-substitutes = true

[[machine]]
name = \"bad\"
systems = [\"x86_64-linux\"]
user = \"u\"
  port = 0
host-key = \"t AAAAAXQAAAABaw==\"
";
        let loaded = load(Path::new("/m.toml"), text).unwrap();
        assert_eq!(loaded.machines.len(), 1);
        assert_eq!(loaded.machines[0].host_key, "t AAAAAXQAAAABaw==");
        assert_eq!(loaded.machines[0].overload_threshold, None);
        assert_eq!(loaded.machines[0].cores, Some(2));
        assert!(loaded.machines[0].use_substitutes);
        assert_eq!(
            loaded
                .problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["/m.toml:15:3: field `port': expected an integer from 1 to 65535, got 0"]
        );
    }

    #[test]
    fn broken_syntax_is_an_error_with_its_place() {
        let error = load(Path::new("/m.toml"), "[[machine]]\nname = \n").unwrap_err();
        assert!(error.to_string().contains("/m.toml:2:"), "{error}");
    }

    #[test]
    fn lines_and_columns_count_from_one_and_columns_are_characters() {
        let lines = Lines::new("a\n\u{e9}b\n");
        for (offset, line, column) in [(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 2, 2), (6, 3, 1)] {
            assert_eq!(lines.position(offset), Position { line, column });
        }
        // After the end, and inside a character.
        assert_eq!(lines.position(99), Position { line: 3, column: 1 });
        assert_eq!(lines.position(3), Position { line: 2, column: 2 });
    }
}

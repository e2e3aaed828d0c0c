//! `machines.scm`: a Scheme program whose value is a list of `(build-machine (FIELD VALUE) …)`.
//!
//! Most such files are essentially data, and are evaluated here without Guile: `list`, `quote`,
//! `cons`, `cons*`, `append`, names bound by `define`, `(inherit MACHINE)`, after any number of
//! `use-modules`. Everything else is left to Guile (`guile.rs`). Without Guile, the affected
//! entries are rejected, each with its position and form, and the other machines are still usable.

use std::collections::HashMap;
use std::path::Path;

use super::entry::{Entry, Field};
use super::guile;
use super::machine_list::MachineList;
use super::problem::{Error, Place, Problem};
use formats::datum::{self, Datum, Position, Value};

/// Whether Guile has to run for a file with this text.
pub fn needs_guile(text: &str) -> bool {
    let Ok(data) = datum::read_all(text) else {
        return false;
    };
    let mut evaluator = Evaluator::default();
    evaluator.program(&data);
    !evaluator.scheme.is_empty()
}

/// The machines of a file with this text.
pub fn load(file: &Path, text: &str) -> Result<MachineList, Error> {
    let place = |position| Place {
        file: file.into(),
        position,
    };
    let data = datum::read_all(text).map_err(|e| {
        let place = place(e.position);
        Error::Syntax(Problem {
            place,
            field: None,
            message: e.message,
        })
    })?;

    let mut evaluator = Evaluator::default();
    let result = evaluator.program(&data);
    if !evaluator.scheme.is_empty() {
        if let Some(text) = guile::evaluate(file)? {
            return Ok(from_guile(file, &text));
        }
    }
    let mut loaded = MachineList::default();
    for needed in evaluator.scheme {
        let form: String = needed.form.chars().take(120).collect();
        loaded.problems.push(Problem {
            place: place(needed.position),
            field: needed.field,
            message: format!(
                "`{form}' must be evaluated as Scheme, and there is no `guile' to do it: install \
                 it, or write a plain value"
            ),
        });
    }
    let Evaluated::List(items) = result else {
        if loaded.problems.is_empty() && !matches!(result, Evaluated::NeedsScheme) {
            loaded.problems.push(Problem {
                place: place(
                    data.last()
                        .map_or(Position { line: 1, column: 1 }, |d| d.position),
                ),
                field: None,
                message: "the value of the file is not a list of build machines".into(),
            });
        }
        return Ok(loaded);
    };
    for item in items {
        match item {
            Evaluated::Machine(entry) => match entry.machine(file) {
                Ok(machine) => loaded.machines.push(machine),
                Err(problems) => loaded.problems.extend(problems),
            },
            Evaluated::NeedsScheme => {}
            Evaluated::List(_) | Evaluated::Datum(_) => loaded.problems.push(Problem {
                place: place(Position { line: 1, column: 1 }),
                field: None,
                message: "an element of the list is not a build machine".into(),
            }),
        }
    }
    Ok(loaded)
}

/// The machines that Guile printed, as `(build-machine LINE COLUMN (FIELD VALUE) …)`.
fn from_guile(file: &Path, text: &str) -> MachineList {
    let mut loaded = MachineList::default();
    for datum in datum::read_all(text).unwrap_or_default() {
        let number = |d: &Datum| match d.value {
            Value::Number(n) => n as u32,
            _ => 0,
        };
        match datum.list() {
            Some([head, line, column, fields @ ..]) if head.symbol() == Some("build-machine") => {
                let position = Position {
                    line: number(line),
                    column: number(column),
                };
                let fields = fields
                    .iter()
                    .filter_map(|field| match field.list() {
                        Some([name, value]) => Some(Field {
                            position,
                            name: name.symbol()?.into(),
                            value: Datum {
                                position,
                                value: value.value.clone(),
                            },
                        }),
                        _ => None,
                    })
                    .collect();
                match (Entry { position, fields }).machine(file) {
                    Ok(machine) => loaded.machines.push(machine),
                    Err(problems) => loaded.problems.extend(problems),
                }
            }
            _ => loaded.problems.push(Problem {
                place: Place {
                    file: file.into(),
                    position: Position { line: 1, column: 1 },
                },
                field: None,
                message: "the value of the file is not a list of build machines".into(),
            }),
        }
    }
    loaded
}

/// The value of an expression.
#[derive(Debug, Clone)]
enum Evaluated {
    Machine(Entry),
    List(Vec<Evaluated>),
    Datum(Datum),
    /// Only Scheme can evaluate it; it was added to the evaluator's list.
    NeedsScheme,
}

/// An expression that only Scheme can evaluate.
struct Unevaluated {
    position: Position,
    field: Option<String>,
    form: String,
}

/// Evaluates what a machine file usually contains.
#[derive(Default)]
struct Evaluator {
    bindings: HashMap<String, Evaluated>,
    scheme: Vec<Unevaluated>,
}

/// The maximum length of a list: repeating a list's name doubles it, so there must be a limit.
const MAX_ITEMS: usize = 100_000;

impl Evaluator {
    fn program(&mut self, data: &[Datum]) -> Evaluated {
        let mut last = Evaluated::List(Vec::new());
        for datum in data {
            last = match datum.list() {
                Some([head, ..])
                    if matches!(head.symbol(), Some("use-modules" | "define-module")) =>
                {
                    continue;
                }
                Some([head, name, value])
                    if head.symbol() == Some("define") && name.symbol().is_some() =>
                {
                    let evaluated = self.expression(value, None);
                    self.bindings
                        .insert(name.symbol().unwrap_or_default().into(), evaluated);
                    continue;
                }
                _ => self.expression(datum, None),
            };
        }
        last
    }

    fn needs_scheme(&mut self, datum: &Datum, field: Option<&str>) -> Evaluated {
        self.scheme.push(Unevaluated {
            position: datum.position,
            field: field.map(Into::into),
            form: datum.to_string(),
        });
        Evaluated::NeedsScheme
    }

    /// Evaluates an expression. Recursion is as deep as the data, whose depth the reader limits.
    fn expression(&mut self, datum: &Datum, field: Option<&str>) -> Evaluated {
        let items = match &datum.value {
            Value::Symbol(name) => {
                return match self.bindings.get(name) {
                    Some(evaluated) => evaluated.clone(),
                    None => self.needs_scheme(datum, field),
                };
            }
            Value::List(items) => items,
            _ => return Evaluated::Datum(datum.clone()),
        };
        let Some((head, arguments)) = items.split_first() else {
            return self.needs_scheme(datum, field);
        };
        match (head.symbol(), arguments) {
            (Some("quote"), [quoted]) => constant(quoted),
            (Some("list"), _) => Evaluated::List(
                arguments
                    .iter()
                    .map(|a| self.expression(a, field))
                    .collect(),
            ),
            (Some("cons" | "cons*"), [init @ .., last]) if !init.is_empty() => {
                let mut all: Vec<_> = init.iter().map(|a| self.expression(a, field)).collect();
                match self.expression(last, field) {
                    Evaluated::List(rest) if all.len() + rest.len() <= MAX_ITEMS => {
                        all.extend(rest)
                    }
                    _ => return self.needs_scheme(datum, field),
                }
                Evaluated::List(all)
            }
            (Some("append"), _) => {
                let mut all = Vec::new();
                for argument in arguments {
                    match self.expression(argument, field) {
                        Evaluated::List(more) if all.len() + more.len() <= MAX_ITEMS => {
                            all.extend(more);
                        }
                        _ => return self.needs_scheme(datum, field),
                    }
                }
                Evaluated::List(all)
            }
            (Some("build-machine"), fields) => self.machine(datum, fields),
            _ => self.needs_scheme(datum, field),
        }
    }

    fn machine(&mut self, datum: &Datum, fields: &[Datum]) -> Evaluated {
        let mut entry = Entry {
            position: datum.position,
            fields: Vec::new(),
        };
        let before = self.scheme.len();
        for field in fields {
            let Some([name, value]) = field.list() else {
                return self.needs_scheme(field, None);
            };
            let Some(name) = name.symbol() else {
                return self.needs_scheme(field, None);
            };
            match (name, self.expression(value, Some(name))) {
                ("inherit", Evaluated::Machine(parent)) => {
                    let own = std::mem::take(&mut entry.fields);
                    let overridden = |f: &Field| {
                        fields.iter().any(|own| {
                            own.list().and_then(|l| l.first()?.symbol()) == Some(&f.name)
                        })
                    };
                    entry.fields = parent
                        .fields
                        .into_iter()
                        .filter(|f| !overridden(f))
                        .collect();
                    entry.fields.extend(own);
                }
                (_, Evaluated::NeedsScheme) => {}
                (_, evaluated) => match datum_of(evaluated, value.position) {
                    Some(value) => entry.fields.push(Field {
                        position: field.position,
                        name: name.into(),
                        value,
                    }),
                    None => return self.needs_scheme(field, Some(name)),
                },
            }
        }
        if self.scheme.len() > before {
            Evaluated::NeedsScheme
        } else {
            Evaluated::Machine(entry)
        }
    }
}

/// The value of a quoted datum.
fn constant(datum: &Datum) -> Evaluated {
    match &datum.value {
        Value::List(items) => Evaluated::List(items.iter().map(constant).collect()),
        _ => Evaluated::Datum(datum.clone()),
    }
}

/// Converts a value to the datum of a field, unless it contains machines: a list may contain lists,
/// and no field has a value that is nested deeper.
fn datum_of(evaluated: Evaluated, position: Position) -> Option<Datum> {
    let list_of = |items: Vec<Evaluated>, item: fn(Evaluated, Position) -> Option<Datum>| {
        let items = items.into_iter().map(|one| item(one, position));
        let value = Value::List(items.collect::<Option<_>>()?);
        Some(Datum { position, value })
    };
    let plain = |item: Evaluated, _: Position| match item {
        Evaluated::Datum(datum) => Some(datum),
        _ => None,
    };
    match evaluated {
        Evaluated::Datum(datum) => Some(datum),
        Evaluated::List(items) if items.iter().any(|item| matches!(item, Evaluated::List(_))) => {
            let mut rows = Vec::new();
            for item in items {
                rows.push(match item {
                    Evaluated::List(row) => list_of(row, plain)?,
                    other => plain(other, position)?,
                });
            }
            let value = Value::List(rows);
            Some(Datum { position, value })
        }
        Evaluated::List(items) => list_of(items, plain),
        Evaluated::Machine(_) | Evaluated::NeedsScheme => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Guix manual, and the plain idioms around it.
    const EXAMPLE: &str = r#"
(use-modules (srfi srfi-1))   ; nothing of it is used
(define %features '("kvm"))
(define eight
  (build-machine
    (name "eightysix.example.org")
    (systems (list "x86_64-linux" "i686-linux"))
    (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA bob@there")
    (user "bob")
    (features %features)
    (speed 2.)))               ;incredibly fast!

(cons* eight
  (build-machine (inherit eight) (name "copy") (port 2222) (use-substitutes #t))
  (list (build-machine
          (name "armeight.example.org")
          (system "aarch64-linux")
          (host-key "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAACQAAAAAAAAAAAA==")
          (user "alice")
          (overload-threshold #f)
          (parallel-builds 4)
          (private-key "/root/.ssh/identity-for-guix"))))
"#;

    #[test]
    fn reads_the_manuals_example() {
        let loaded = load(Path::new("/m.scm"), EXAMPLE).unwrap();
        assert_eq!(loaded.problems, []);
        let [eight, copy, arm] = &loaded.machines[..] else {
            panic!("{loaded:?}")
        };
        assert_eq!(eight.name, "eightysix.example.org");
        assert_eq!(eight.systems, ["x86_64-linux", "i686-linux"]);
        assert_eq!(
            (eight.speed, eight.parallel_builds, eight.port),
            (2.0, 1, 22)
        );
        assert_eq!(eight.features, ["kvm"]);
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(eight.host_key, key);
        assert_eq!(eight.overload_threshold, Some(0.8));
        assert_eq!(
            (copy.name.as_str(), copy.port, copy.speed),
            ("copy", 2222, 2.0)
        );
        assert!(copy.use_substitutes && !eight.use_substitutes);
        assert_eq!(arm.systems, ["aarch64-linux"]);
        assert_eq!((arm.overload_threshold, arm.parallel_builds), (None, 4));
        assert_eq!(
            arm.private_key.as_deref(),
            Some(Path::new("/root/.ssh/identity-for-guix"))
        );
    }

    #[test]
    fn a_bad_entry_is_named_and_leaves_the_others() {
        let text =
            "(list (build-machine (name \"a\") (systems '(\"x\")) (user \"u\") (host-key \"t AAAAAXQAAAABaw==\"))
  (build-machine (name \"b\") (systems \"x\") (user \"u\") (host-key \"t AAAAAXQAAAABaw==\") (colour \"red\")))";
        let loaded = load(Path::new("/m.scm"), text).unwrap();
        assert_eq!(loaded.machines.len(), 1);
        assert_eq!(
            loaded
                .problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            [
                "/m.scm:2:29: field `systems': expected a list of strings, got \"x\"",
                "/m.scm:2:86: field `colour': extraneous field initializer",
            ]
        );
    }

    #[test]
    fn what_needs_scheme_is_listed_with_its_place() {
        let data = datum::read_all(
            "(list (build-machine (name \"a\"))\n (build-machine (name (getenv \"X\"))))",
        )
        .unwrap();
        let mut evaluator = Evaluator::default();
        let Evaluated::List(items) = evaluator.program(&data) else {
            panic!()
        };
        assert!(matches!(
            items[..],
            [Evaluated::Machine(_), Evaluated::NeedsScheme]
        ));
        let [needed] = &evaluator.scheme[..] else {
            panic!()
        };
        assert_eq!(
            needed.position,
            Position {
                line: 2,
                column: 23
            }
        );
        assert_eq!(needed.field.as_deref(), Some("name"));
        assert_eq!(needed.form, "(getenv \"X\")");
    }

    #[test]
    fn guile_evaluates_the_rest_where_there_is_one() {
        if guile::program().is_none() {
            return crate::skip::skip("there is no Guile");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.scm");
        let text = "(use-modules (srfi srfi-1))
(define base (build-machine (name \"n0\") (systems '(\"x86_64-linux\")) (user \"u\")
                            (host-key \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\")))
(map (lambda (i)
       (build-machine (inherit base) (name (string-append \"n\" (number->string i)))
                      (overload-threshold (and (= i 2) 1/2))))
     (iota 3))";
        std::fs::write(&file, text).unwrap();
        let loaded = load(&file, text).unwrap();
        assert_eq!(loaded.problems, []);
        let names: Vec<_> = loaded
            .machines
            .iter()
            .map(|m| (m.name.as_str(), m.overload_threshold))
            .collect();
        assert_eq!(names, [("n0", None), ("n1", None), ("n2", Some(0.5))]);
        assert_eq!(loaded.machines[1].place.position.line, 5);

        std::fs::write(&file, "(map car 42 (no-such-thing))").unwrap();
        let error = load(&file, "(map car 42 (no-such-thing))")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-thing"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn damage_never_makes_it_panic(at in 0..EXAMPLE.len(), with in "[()'\"a ]{0,3}") {
            if EXAMPLE.is_char_boundary(at) {
                let text = format!("{}{with}{}", &EXAMPLE[..at], &EXAMPLE[(at + 1).min(EXAMPLE.len())..]);
                if let Ok(data) = datum::read_all(&text) {
                    let mut evaluator = Evaluator::default();
                    let _ = evaluator.program(&data);
                }
            }
        }
    }

    #[test]
    fn a_pool_has_lists_of_words_for_its_features() {
        let text = r#"
(define gpu '("gpu" "--gres=gpu:1"))
(list (build-machine (name "pool") (systems '("x")) (transport 'command)
        (command '("srun" "{options}" "{worker}"))
        (resources (list gpu '("big")))))"#;
        let loaded = load(Path::new("/m.scm"), text).unwrap();
        assert_eq!(loaded.problems, []);
        let pool = loaded.machines[0].pool.as_ref().unwrap();
        assert_eq!(pool.resources["gpu"], ["--gres=gpu:1"]);
        assert!(pool.resources["big"].is_empty());
        assert!(loaded.machines[0].offers(&"gpu".to_owned()));
    }
}

//! Nix's `machines` file: one machine per line,
//!
//! ```text
//! URI SYSTEMS KEY MAX-JOBS SPEED FEATURES MANDATORY-FEATURES HOST-KEY
//! ```
//!
//! with `-` (or nothing) for a default, lists separated by commas, and the host key in base64.
//! Unlike in Nix, the last column is required: every machine's host key is checked.

use std::path::Path;

use data_encoding::BASE64_NOPAD;

use super::entry::{Entry, Field};
use super::machine_list::MachineList;
use super::problem::{Place, Problem};
use super::sexp::{Datum, Position, Value};

/// The machines of a file with this text.
pub fn load(file: &Path, text: &str) -> MachineList {
    let mut loaded = MachineList::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("");
        let columns = columns(line, index as u32 + 1);
        if columns.is_empty() {
            continue;
        }
        match entry(&columns) {
            Err((position, field, message)) => loaded.problems.push(Problem {
                place: Place {
                    file: file.into(),
                    position,
                },
                field: Some(field.into()),
                message,
            }),
            Ok(entry) => match entry.machine(file) {
                Ok(machine) => loaded.machines.push(machine),
                Err(problems) => loaded.problems.extend(problems),
            },
        }
    }
    loaded
}

/// The words of a line and where they start.
fn columns(line: &str, number: u32) -> Vec<(Position, &str)> {
    let mut found = Vec::new();
    let mut offset = 0;
    for word in line.split([' ', '\t', '\r']) {
        if !word.is_empty() {
            found.push((
                Position {
                    line: number,
                    column: offset as u32 + 1,
                },
                word,
            ));
        }
        offset += word.len() + 1;
    }
    found
}

/// What is wrong: where, in which field, and how.
type Mistake = (Position, &'static str, String);

fn entry(columns: &[(Position, &str)]) -> Result<Entry, Mistake> {
    let start = columns[0].0;
    let mut entry = Entry {
        position: start,
        fields: Vec::new(),
    };
    let mut add = |position, name: &str, value| {
        entry.fields.push(Field {
            position,
            name: name.into(),
            value: Datum { position, value },
        });
    };
    let text = |s: &str| Value::String(s.into());
    let list = |position, words: &str| {
        let datum = |w: &str| Datum {
            position,
            value: Value::String(w.into()),
        };
        Value::List(
            words
                .split(',')
                .filter(|w| !w.is_empty())
                .map(datum)
                .collect(),
        )
    };

    for (index, &(at, word)) in columns.iter().enumerate() {
        if index == 0 {
            let address = match word.split_once("://") {
                Some(("ssh" | "ssh-ng", rest)) => rest,
                Some((scheme, _)) => {
                    return Err((at, "name", format!("cannot reach `{scheme}://' machines")));
                }
                None => word,
            };
            let address = address.split(['?', '/']).next().unwrap_or("");
            let (user, host) = match address.rsplit_once('@') {
                Some((user, host)) => (user, host),
                None => ("root", address),
            };
            add(at, "user", text(user));
            match host.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => {
                    let Ok(port) = port.parse::<u16>() else {
                        return Err((at, "port", format!("`{port}' is not a port")));
                    };
                    add(at, "name", text(host));
                    add(at, "port", Value::Number(port.into()));
                }
                _ => add(at, "name", text(host.trim_matches(['[', ']']))),
            }
            continue;
        }
        if word == "-" {
            continue;
        }
        let number = |name: &'static str| match word.parse::<f64>() {
            Ok(n) => Ok(Value::Number(n)),
            Err(_) => Err((at, name, format!("`{word}' is not a number"))),
        };
        match index {
            1 => add(at, "systems", list(at, word)),
            2 => add(at, "private-key", text(word)),
            3 => add(at, "parallel-builds", number("parallel-builds")?),
            4 => add(at, "speed", number("speed")?),
            5 => add(at, "features", list(at, word)),
            6 => add(at, "mandatory-features", list(at, word)),
            7 => match base64_text(word) {
                Some(key) => add(at, "host-key", text(&key)),
                None => return Err((at, "host-key", "is not base64 of a public key".into())),
            },
            _ => return Err((at, "host-key", format!("unexpected `{word}' after it"))),
        }
    }
    if columns.len() < 2 || columns[1].1 == "-" {
        add(
            start,
            "systems",
            list(start, &format!("{}-linux", std::env::consts::ARCH)),
        );
    }
    Ok(entry)
}

/// The text that a column has in base64, with or without padding and ending in a newline or not,
/// like a file of OpenSSH's.
fn base64_text(word: &str) -> Option<String> {
    let bytes = BASE64_NOPAD
        .decode(word.trim_end_matches('=').as_bytes())
        .ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_nixs_manual() {
        let text = "\
# comment
ssh://mac x86_64-darwin,x86_64-linux /root/.ssh/k 4 2 kvm,big-parallel kvm c3NoLWVkMjU1MTkgQUFBQUMz
ssh-ng://nix@itchy:2222 i686-linux - 8 1 - - c3NoLWVkMjU1MTkgQUFBQUMz # end
scratchy i686-linux
ssh://poochie x - many
";
        let loaded = load(Path::new("/m"), text);
        assert_eq!(loaded.machines.len(), 2, "{:?}", loaded.problems);
        let mac = &loaded.machines[0];
        assert_eq!(
            (mac.name.as_str(), mac.user.as_str(), mac.port),
            ("mac", "root", 22)
        );
        assert_eq!(mac.systems, ["x86_64-darwin", "x86_64-linux"]);
        assert_eq!(mac.features, ["kvm", "big-parallel"]);
        assert_eq!(mac.mandatory_features, ["kvm"]);
        assert_eq!(mac.host_key, "ssh-ed25519 AAAAC3");
        assert_eq!((mac.parallel_builds, mac.speed), (4, 2.0));
        let itchy = &loaded.machines[1];
        assert_eq!(
            (itchy.name.as_str(), itchy.user.as_str(), itchy.port),
            ("itchy", "nix", 2222)
        );
        assert_eq!(
            loaded
                .problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            [
                "/m:4:1: field `host-key': missing field initializer",
                "/m:5:19: field `parallel-builds': `many' is not a number",
            ]
        );
    }

    #[test]
    fn host_keys_are_base64_with_or_without_padding() {
        assert_eq!(base64_text("dCBr").as_deref(), Some("t k"));
        assert_eq!(base64_text("dCBrCg==").as_deref(), Some("t k"));
        assert_eq!(base64_text("dCBrCg").as_deref(), Some("t k"));
        for bad in ["dCBrC", "dC Br", "dCB-", "/w=="] {
            assert_eq!(base64_text(bad), None, "{bad}");
        }
    }
}

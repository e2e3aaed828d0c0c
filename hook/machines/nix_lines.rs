//! Nix's `machines` file: one machine per line,
//!
//! ```text
//! URI SYSTEMS KEY MAX-JOBS SPEED FEATURES MANDATORY-FEATURES HOST-KEY
//! ```
//!
//! with `-` (or nothing) for a default, lists separated by commas, and the host key in base64.
//! Several machines may be on one line, separated by `;`. The address may end with `?NAME=VALUE&…`:
//! `ssh-key` and `base64-ssh-public-host-key` are the columns of that meaning, `use-substitutes` is
//! ours (Nix has `builders-use-substitutes` for all machines, in another file), whatever else has no
//! effect here and is reported. Unlike in Nix, a host key is required: every machine's is checked.

use std::path::Path;

use data_encoding::BASE64_NOPAD;

use super::entry::{Entry, Field};
use super::machine_list::MachineList;
use super::problem::{Place, Problem};
use formats::datum::{Datum, Position, Value};

/// The fields that correspond to the columns.
const COLUMNS: [&str; 8] = [
    "name",
    "systems",
    "private-key",
    "parallel-builds",
    "speed",
    "features",
    "mandatory-features",
    "host-key",
];

/// The words of a machine's line, and their positions.
type Columns<'a> = Vec<(Position, &'a str)>;

/// The machines of a file with this text.
pub fn load(file: &Path, text: &str) -> MachineList {
    let mut loaded = MachineList::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("");
        for columns in columns(line, index as u32 + 1) {
            load_machine(file, &columns, &mut loaded);
        }
    }
    loaded
}

fn load_machine(file: &Path, columns: &Columns<'_>, loaded: &mut MachineList) {
    let problem = |(position, field, message): Mistake| Problem {
        place: Place {
            file: file.into(),
            position,
        },
        field: Some(field.into()),
        message,
    };
    let mut line = Line::default();
    if let Err(mistake) = line.read(columns) {
        loaded.problems.push(problem(mistake));
        return;
    }
    match line.entry.machine(file) {
        Ok(machine) => {
            loaded.machines.push(machine);
            let warnings = line.warnings.into_iter().map(problem);
            loaded.warnings.extend(warnings);
        }
        Err(problems) => loaded.problems.extend(problems),
    }
}

/// The machines on a line.
fn columns(line: &str, number: u32) -> Vec<Columns<'_>> {
    let mut found = Vec::new();
    let mut offset = 0;
    for machine in line.split(';') {
        let mut columns = Vec::new();
        for word in machine.split([' ', '\t', '\r']) {
            if !word.is_empty() {
                let position = Position {
                    line: number,
                    column: offset as u32 + 1,
                };
                columns.push((position, word));
            }
            offset += word.len() + 1;
        }
        if !columns.is_empty() {
            found.push(columns);
        }
    }
    found
}

/// A mistake: the position, the field, and the message.
type Mistake = (Position, &'static str, String);

/// A machine that is being parsed.
#[derive(Default)]
struct Line {
    entry: Entry,
    /// What has no effect.
    warnings: Vec<Mistake>,
}

impl Line {
    fn read(&mut self, columns: &Columns<'_>) -> Result<(), Mistake> {
        let Some(&(start, address)) = columns.first() else {
            return Ok(());
        };
        self.entry.position = start;
        // The address only counts where a column is empty.
        for (index, &(at, word)) in columns.iter().enumerate().skip(1) {
            let word = self.without_stray_quotes(index, at, word);
            if word != "-" {
                self.column(index, at, word)?;
            }
        }
        if !self.has("systems") {
            let system = format!("{}-linux", std::env::consts::ARCH);
            self.add(start, "systems", list(start, &system));
        }
        let address = self.without_stray_quotes(0, start, address);
        self.address(start, address)
    }

    fn add(&mut self, position: Position, name: &str, value: Value) {
        self.entry.fields.push(Field {
            position,
            name: name.into(),
            value: Datum { position, value },
        });
    }

    fn has(&self, name: &str) -> bool {
        self.entry.fields.iter().any(|field| field.name == name)
    }

    /// Removes quotes that a shell or another configuration file has left at the ends of a word.
    fn without_stray_quotes<'a>(&mut self, index: usize, at: Position, word: &'a str) -> &'a str {
        let trimmed = word.trim_matches(['\'', '"']);
        if trimmed.len() != word.len() {
            let message = format!("ignoring the quotes of `{word}'");
            let field = COLUMNS.get(index).unwrap_or(&"host-key");
            self.warnings.push((at, field, message));
        }
        trimmed
    }

    fn column(&mut self, index: usize, at: Position, word: &str) -> Result<(), Mistake> {
        let number = |name: &'static str| match word.parse::<f64>() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => Err((at, name, format!("`{word}' is not a number"))),
        };
        match index {
            1 => self.add(at, "systems", list(at, word)),
            2 => self.add(at, "private-key", text(word)),
            3 => self.add(at, "parallel-builds", number("parallel-builds")?),
            4 => self.add(at, "speed", number("speed")?),
            5 => self.add(at, "features", list(at, word)),
            6 => self.add(at, "mandatory-features", list(at, word)),
            7 => self.add(at, "host-key", public_key(at, word)?),
            _ if word.is_empty() => {}
            _ => return Err((at, "host-key", format!("unexpected `{word}' after it"))),
        }
        Ok(())
    }

    /// `[SCHEME://][USER@]HOST[:PORT][/PATH][?NAME=VALUE&…]`.
    fn address(&mut self, at: Position, word: &str) -> Result<(), Mistake> {
        let address = match word.split_once("://") {
            Some(("ssh" | "ssh-ng", rest)) => rest,
            Some((scheme, _)) => {
                return Err((at, "name", format!("cannot reach `{scheme}://' machines")));
            }
            None => word,
        };
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let (address, path) = address.split_once('/').unwrap_or((address, ""));
        if !path.is_empty() {
            let message = format!("`/{path}' has no effect here");
            self.warnings.push((at, "name", message));
        }
        let (user, host) = address.rsplit_once('@').unwrap_or(("root", address));
        self.add(at, "user", text(user));
        // An IPv6 address contains colons: if there is a port, it is in brackets.
        let (host, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
            Some(Some((host, rest))) => (host, rest.strip_prefix(':').or(not_empty(rest))),
            Some(None) => return Err((at, "name", format!("`{host}' lacks a `]'"))),
            None => match host.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') => (name, Some(port)),
                _ => (host, None),
            },
        };
        // In addresses of this form, the `%' before a network interface is written `%25'.
        self.add(at, "name", text(&host.replace("%25", "%")));
        if let Some(port) = port {
            let Ok(number) = port.parse::<u16>() else {
                return Err((at, "port", format!("`{port}' is not a port")));
            };
            self.add(at, "port", Value::Number(number.into()));
        }
        query
            .split('&')
            .filter(|part| !part.is_empty())
            .try_for_each(|part| self.query_part(at, part))
    }

    fn query_part(&mut self, at: Position, part: &str) -> Result<(), Mistake> {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let field = match name {
            "ssh-key" => "private-key",
            "base64-ssh-public-host-key" => "host-key",
            "use-substitutes" => {
                let truth = match value {
                    "true" => true,
                    "false" => false,
                    _ => {
                        let message = format!("expected `true' or `false', got `{value}'");
                        return Err((at, "use-substitutes", message));
                    }
                };
                self.add(at, "use-substitutes", Value::Bool(truth));
                return Ok(());
            }
            _ => {
                let message = format!("`{part}' after the address has no effect here");
                self.warnings.push((at, "name", message));
                return Ok(());
            }
        };
        if self.has(field) {
            let message =
                format!("`{name}' after the address is ignored: there is a column for it");
            self.warnings.push((at, field, message));
            return Ok(());
        }
        let value = percent_decoded(value)
            .ok_or_else(|| (at, field, format!("`{value}' is not percent-encoded text")))?;
        let value = match field {
            "host-key" => public_key(at, &value)?,
            _ => text(&value),
        };
        self.add(at, field, value);
        Ok(())
    }
}

fn not_empty(word: &str) -> Option<&str> {
    (!word.is_empty()).then_some(word)
}

fn text(word: &str) -> Value {
    Value::String(word.into())
}

fn list(position: Position, words: &str) -> Value {
    let words = words.split(',').filter(|word| !word.is_empty());
    let datum = |word| Datum {
        position,
        value: text(word),
    };
    Value::List(words.map(datum).collect())
}

fn public_key(at: Position, word: &str) -> Result<Value, Mistake> {
    match base64_text(word) {
        Some(key) => Ok(text(&key)),
        None => Err((at, "host-key", "is not base64 of a public key".into())),
    }
}

/// Decodes the text in a base64 column, which may lack padding or end with a newline, like one of
/// OpenSSH's files.
fn base64_text(word: &str) -> Option<String> {
    let bytes = BASE64_NOPAD
        .decode(word.trim_end_matches('=').as_bytes())
        .ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

/// Decodes `%2F` and the like.
fn percent_decoded(word: &str) -> Option<String> {
    let mut parts = word.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_nixs_manual() {
        let text = "\
# comment
ssh://mac x86_64-darwin,x86_64-linux /root/.ssh/k 4 2 kvm,big-parallel kvm dCBBQUFBQVhRQUFBQUJhdz09
ssh-ng://nix@itchy:2222 i686-linux - 8 1 - - dCBBQUFBQVhRQUFBQUJhdz09 # end
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
        assert_eq!(mac.host_key, "t AAAAAXQAAAABaw==");
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
    fn addresses_of_real_people() {
        let key = "dCBBQUFBQVhRQUFBQUJhdz09";
        let text = format!(
            "ssh://root@build-one?ssh-key=/etc/my%20keys/id x86_64-linux - - - - - {key}
ssh://root@[fd00:77:1::2]:2222 x86_64-linux - - - - - {key}
ssh-ng://[fe80::1%25eth0] x86_64-linux - - - - - {key}
fd00::3 x86_64-linux - - - - - {key}
ssh://four?base64-ssh-public-host-key={key}%3D&compress=true&ssh-key=/k x86_64-linux
ssh://five x86_64-linux - - - - - {key}; ssh://six x86_64-linux - - - - - {key};
ssh://seven x86_64-linux - - - - - {key}'
\"ssh://eight x86_64-linux /k - - - - {key}\"
ssh://nine/store?ssh-key=/unused&use-substitutes=true x86_64-linux /k - - - - {key}
"
        );
        let loaded = load(Path::new("/m"), &text);
        assert_eq!(loaded.problems, []);
        let found: Vec<_> = loaded
            .machines
            .iter()
            .map(|machine| {
                assert_eq!(machine.host_key, "t AAAAAXQAAAABaw==");
                let key = machine
                    .private_key
                    .as_ref()
                    .map(|key| key.to_str().unwrap());
                (machine.name.as_str(), machine.port, key)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("build-one", 22, Some("/etc/my keys/id")),
                ("fd00:77:1::2", 2222, None),
                ("fe80::1%eth0", 22, None),
                ("fd00::3", 22, None),
                ("four", 22, Some("/k")),
                ("five", 22, None),
                ("six", 22, None),
                ("seven", 22, None),
                ("eight", 22, Some("/k")),
                ("nine", 22, Some("/k")),
            ]
        );
        let fetching = loaded.machines.iter().filter(|m| m.use_substitutes);
        assert_eq!(fetching.map(|m| &m.name).collect::<Vec<_>>(), ["nine"]);
        let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "/m:5:1: field `name': `compress=true' after the address has no effect here",
                &format!("/m:7:36: field `host-key': ignoring the quotes of `{key}''"),
                &format!("/m:8:38: field `host-key': ignoring the quotes of `{key}\"'"),
                "/m:8:1: field `name': ignoring the quotes of `\"ssh://eight'",
                "/m:9:1: field `name': `/store' has no effect here",
                "/m:9:1: field `private-key': `ssh-key' after the address is ignored: there is a \
                 column for it",
            ]
        );
    }

    #[test]
    fn mistakes_in_addresses_are_named() {
        let problem = |line: &str| {
            let loaded = load(Path::new("/m"), line);
            assert!(loaded.machines.is_empty(), "{line}");
            loaded.problems[0].to_string()
        };
        for (line, expected) in [
            ("ssh://[::1 x", "/m:1:1: field `name': `[::1' lacks a `]'"),
            ("ssh://[::1]x x", "/m:1:1: field `port': `x' is not a port"),
            ("ssh://a:b x", "/m:1:1: field `port': `b' is not a port"),
            (
                "ssh://a?ssh-key=%zz x",
                "/m:1:1: field `private-key': `%zz' is not percent-encoded text",
            ),
            (
                "ssh://a?base64-ssh-public-host-key=! x",
                "/m:1:1: field `host-key': is not base64 of a public key",
            ),
            (
                "ssh://a?use-substitutes=1 x",
                "/m:1:1: field `use-substitutes': expected `true' or `false', got `1'",
            ),
            (
                "s3://a x",
                "/m:1:1: field `name': cannot reach `s3://' machines",
            ),
        ] {
            assert_eq!(problem(line), expected);
        }
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

//! Conversion of an entry's fields to a [`Machine`]: default, type and limits of every field, for
//! all formats of machine files.

use std::path::Path;

use data_encoding::BASE64;

use super::machine::{Machine, TransportChoice};
use super::pool::Pool;
use super::pool_fields;
use super::problem::{Place, Problem};
use super::values::{
    FieldResult, absolute, choice, integer, positive, string, truth, user_name, word, words,
};
use formats::datum::{Datum, Position, Value};

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
            use_substitutes: false,
            pool: None,
            place: place(self.position),
        };
        let mut pool = Pool::default();
        let mut problems = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for field in &self.fields {
            let problem = |message: String| Problem {
                place: place(field.position),
                field: Some(field.name.clone()),
                message,
            };
            let result = match pool_fields::FIELDS.contains(&field.name.as_str()) {
                true => pool_fields::set(&mut pool, &field.name, &field.value),
                false => set(&mut machine, field),
            };
            if seen.contains(&field.name.as_str()) {
                problems.push(problem("given twice".into()));
            } else if let Err(message) = result {
                problems.push(problem(message));
            }
            seen.push(&field.name);
        }
        let is_wrong = |problems: &[Problem], name: &str| {
            let of_it = |problem: &Problem| problem.field.as_deref() == Some(name);
            problems.iter().any(of_it)
        };
        if is_wrong(&problems, "transport") {
            // What else is needed, and what is out of place, depends on it.
            return Err(problems);
        }
        let is_pool = machine.transport == TransportChoice::Command;
        let either = |a, b| seen.contains(&a) || seen.contains(&b);
        for (name, given) in [
            ("name", seen.contains(&"name")),
            ("systems", either("systems", "system")),
            ("user", is_pool || seen.contains(&"user")),
            ("host-key", is_pool || seen.contains(&"host-key")),
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
        if is_pool {
            match pool_fields::check(&pool) {
                Err((name, message)) if !is_wrong(&problems, "scheduler") => {
                    problems.push(Problem {
                        place: place(self.position),
                        field: Some(name.into()),
                        message,
                    });
                }
                _ => {}
            }
            machine.pool = Some(Box::new(pool));
        } else {
            for field in &self.fields {
                if pool_fields::FIELDS.contains(&field.name.as_str()) {
                    problems.push(Problem {
                        place: place(field.position),
                        field: Some(field.name.clone()),
                        message: "has a meaning only with the transport `command'".into(),
                    });
                }
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
            machine.systems = words(value)?;
            if machine.systems.is_empty() {
                return Err("names no system".into());
            }
        }
        "system" => {
            let system = word(value)?;
            if machine.systems.is_empty() {
                machine.systems = vec![system];
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
        "features" => machine.features = words(value)?,
        "mandatory-features" => machine.mandatory_features = words(value)?,
        // SSH's own compression is always off; these are checked so that Guix can use the file,
        // too.
        "compression" => {
            if value.value != Value::Bool(false) {
                compression(&string(value)?)?;
            }
        }
        "compression-level" => drop(integer(value, 0, 9)?),
        "transport" => {
            machine.transport = match choice(value)?.as_str() {
                "auto" => TransportChoice::Auto,
                "socket" => TransportChoice::Socket,
                "commands" => TransportChoice::Commands,
                "command" => TransportChoice::Command,
                _ => {
                    let all = "\"auto\", \"socket\", \"commands\" or \"command\"";
                    return Err(format!("expected {all}"));
                }
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
        "use-substitutes" => machine.use_substitutes = truth(value)?,
        _ => return Err("extraneous field initializer".into()),
    }
    Ok(())
}

/// Checks what Guix's hook would give to libssh: a list of methods, or a word.
fn compression(methods: &str) -> FieldResult<()> {
    let known = |method| matches!(method, "none" | "zlib" | "zlib@openssh.com");
    if matches!(methods, "yes" | "no") || methods.split(',').all(known) {
        return Ok(());
    }
    Err(format!(
        "`{methods}' is not a list of none, zlib and zlib@openssh.com, separated by commas"
    ))
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

/// Checks `TYPE BASE64 [COMMENT]`; returns it without the comment.
fn host_key(value: &Datum) -> FieldResult<String> {
    let text = string(value)?;
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else {
        return Err("expected an OpenSSH public key, `TYPE BASE64 [COMMENT]'".into());
    };
    match BASE64.decode(key.as_bytes()) {
        Ok(key) if is_public_key(kind.as_bytes(), &key) => {}
        Ok(_) => return Err(format!("is not a whole public key of type `{kind}'")),
        Err(_) => return Err("expected an OpenSSH public key, `TYPE BASE64 [COMMENT]'".into()),
    }
    Ok(format!("{kind} {key}"))
}

/// Whether bytes are a public key (RFC 4253, section 6.6): strings, each after its length in four
/// bytes, of which the first is the type.
fn is_public_key(kind: &[u8], key: &[u8]) -> bool {
    let mut count = 0;
    let mut rest = key;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Some((string, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize)
        else {
            return false;
        };
        if count == 0 && string != kind {
            return false;
        }
        count += 1;
        rest = after;
    }
    rest.is_empty() && count > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::datum;

    /// A machine with the required fields, and one more; a pool, if only pools have that one.
    fn machine_with(name: &str, value: &str) -> Result<Machine, Vec<Problem>> {
        another(is_of_pools(name), name, value)
    }

    fn another(is_pool: bool, name: &str, value: &str) -> Result<Machine, Vec<Problem>> {
        let required = match is_pool {
            true => {
                "(name \"m\") (systems (\"x\")) (transport \"command\") \
                 (command (\"srun\" \"{options}\" \"{worker}\"))"
            }
            false => {
                "(name \"m\") (systems (\"x\")) (user \"u\") (host-key \"t AAAAAXQAAAABaw==\")"
            }
        };
        let fields = datum::read_all(&format!("{required} ({name} {value})")).unwrap();
        let field = |datum: &Datum| {
            let [name, value] = datum.list().unwrap() else {
                panic!("not a field: {datum}");
            };
            Field {
                position: Position::default(),
                name: name.symbol().unwrap().to_owned(),
                value: value.clone(),
            }
        };
        let mut fields: Vec<Field> = fields.iter().map(field).collect();
        let last = fields.pop().unwrap();
        fields.retain(|field| field.name != last.name);
        fields.push(last);
        let position = Position::default();
        Entry { position, fields }.machine(Path::new("/m"))
    }

    /// The manual's tables of fields: name, value and default.
    fn fields_of_the_manual() -> Vec<[&'static str; 3]> {
        let manual = include_str!("../../doc/src/machine-files.md");
        let (manual, _) = manual.split_once("## Entries from a command").unwrap();
        let rows = manual.lines().filter_map(|line| line.strip_prefix("| `"));
        let fields: Vec<_> = rows
            .map(|row| {
                let mut cells = row.split(" | ").map(|cell| cell.trim_matches('`'));
                [(); 3].map(|()| cells.next().unwrap())
            })
            .collect();
        assert!(fields.len() > 15, "{fields:?}");
        fields
    }

    fn is_of_pools(name: &str) -> bool {
        pool_fields::FIELDS.contains(&name)
    }

    /// A string, where the text is not a number or a truth value.
    fn as_value(text: &str) -> String {
        if matches!(text, "#t" | "#f") || text.parse::<f64>().is_ok() {
            text.to_owned()
        } else {
            format!("\"{text}\"")
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let problem = |name: &str, value: &str| {
            let problems = machine_with(name, value).expect_err(value);
            assert_eq!(problems[0].field.as_deref(), Some(name));
            problems[0].message.clone()
        };
        // Truncated, too long, of another type, no base64.
        for key in [
            "AAAAAXQAAAAB",
            "AAAAAXQAAAABawA=",
            "AAAAAXUAAAABaw==",
            "AAAAAXQ=",
            "AAAA",
        ] {
            let message = problem("host-key", &format!("\"t {key}\""));
            assert_eq!(message, "is not a whole public key of type `t'", "{key}");
        }
        for key in ["t", "t !", "t AAAAAXQAAAABaw"] {
            let message = problem("host-key", &format!("\"{key}\""));
            assert!(
                message.starts_with("expected an OpenSSH public key"),
                "{message}"
            );
        }
        for (name, value) in [
            ("system", "\"x y\""),
            ("systems", "(\"x86_64-linux\" \"i686-linux,x\")"),
            ("features", "(\"kvm big\")"),
            ("mandatory-features", "(\"\")"),
            ("compression", "\"foo\""),
            ("compression", "\"zlib,\""),
        ] {
            problem(name, value);
        }
        for value in ["#f", "\"none\"", "\"zlib@openssh.com,zlib\"", "\"yes\""] {
            assert!(machine_with("compression", value).is_ok(), "{value}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let mut checked = 0;
        for [name, _, default] in fields_of_the_manual() {
            if matches!(default, "required" | "none" | "") || default.contains(' ') {
                continue;
            }
            // What is run there without `program' depends on the transport.
            if name == "program" {
                continue;
            }
            let given = machine_with(name, &as_value(default));
            assert_eq!(given, another(is_of_pools(name), "port", "22"), "{name}");
            checked += 1;
        }
        assert!(checked >= 7, "{checked}");
    }

    #[test]
    fn the_limits_are_those_of_the_manual() {
        let mut checked = 0;
        for [name, value, _] in fields_of_the_manual() {
            let accepts = |value: &str| machine_with(name, value).is_ok();
            let range = value.trim_end_matches(", or `#f");
            if let Some(most) = range.strip_prefix("number from 0 to ") {
                assert!(accepts("0") && accepts("0.5") && accepts(most), "{name}");
                assert!(!accepts("-0.1") && !accepts(&format!("{most}.1")), "{name}");
            } else if let Some((least, most)) = range.split_once(" to ") {
                let (least, most): (i64, i64) = (least.parse().unwrap(), most.parse().unwrap());
                for (number, expected) in [(least - 1, false), (least, true), (most, true)] {
                    assert_eq!(accepts(&number.to_string()), expected, "{name} {number}");
                }
                assert!(!accepts(&(most + 1).to_string()), "{name}");
                assert!(!accepts(&format!("{least}.5")), "{name}");
            } else if range.starts_with("number from 0 on") {
                assert!(accepts("0") && accepts("1.5") && !accepts("-0.1"), "{name}");
            } else if range.starts_with("list of strings") {
                assert!(accepts("(\"a\" \"b\")") && !accepts("\"a\""), "{name}");
                assert_eq!(accepts("()"), !range.ends_with("at least one"), "{name}");
            } else if range.starts_with("absolute file name") {
                assert!(accepts("\"/a\"") && !accepts("\"a\""), "{name}");
                assert_eq!(accepts("\"/a:b\""), !range.contains("without"), "{name}");
            } else if value.contains(" or `") {
                let words = value.split([',', ' ']).map(|word| word.trim_matches('`'));
                for word in words.filter(|word| !matches!(*word, "or" | "" | "string")) {
                    // A pool needs more than the name of its transport.
                    let is_pool = word == "command";
                    let given = another(is_pool || is_of_pools(name), name, &as_value(word));
                    assert!(given.is_ok(), "{name} {word}");
                }
                assert!(!accepts("17"), "{name}");
            } else if range == "lists of strings by feature" {
                assert!(accepts("((\"gpu\" \"--gres=gpu:1\") (\"big\"))") && accepts("()"));
                assert!(!accepts("(\"gpu\")") && !accepts("(())") && !accepts("(((\"a\")))"));
            } else if range == "TYPE BASE64" {
                assert!(accepts("\"t AAAAAXQAAAABaw== comment\"") && !accepts("\"a b\""));
            } else {
                assert!(accepts("\"a\""), "{name}");
                assert!(!accepts("17"), "{name}");
            }
            assert_eq!(accepts("#f"), value.ends_with("#f"), "{name}");
            checked += 1;
        }
        assert!(checked > 15, "{checked}");
    }

    #[test]
    fn required_fields_are_those_of_the_manual() {
        let problems = Entry::default().machine(Path::new("/m")).unwrap_err();
        let mut missing: Vec<_> = problems.into_iter().map(|p| p.field.unwrap()).collect();
        missing.sort();
        let mut required: Vec<_> = (fields_of_the_manual().into_iter())
            .filter_map(|[name, _, default]| (default == "required").then_some(name))
            .collect();
        required.sort_unstable();
        assert_eq!(missing, required);
    }

    /// The messages about a pool with these fields.
    fn problems_of_pool(fields: &str) -> Vec<String> {
        let text = format!("[[machine]]\nname = \"m\"\nsystems = [\"x\"]\n{fields}\n");
        let loaded = super::super::load_text(Path::new("/m.toml"), &text).unwrap();
        let place = |problem: &Problem| {
            let field = problem.field.as_deref().unwrap_or("");
            format!("{field}: {}", problem.message)
        };
        loaded.problems.iter().map(place).collect()
    }

    #[test]
    fn a_pool_needs_a_command_or_a_scheduler() {
        let of = |fields: &str| problems_of_pool(&format!("transport = \"command\"\n{fields}"));
        assert_eq!(of(""), ["command: missing field initializer"]);
        assert!(of("scheduler = \"slurm\"").is_empty());
        assert!(of("scheduler = \"podman\"\noptions = [\"--rm\"]").is_empty());
        assert_eq!(
            of("command = [\"srun\", \"{worker}\"]\noptions = [\"-p\", \"a b\"]"),
            ["options: `command' has no word `{options}' for them"]
        );
        let command = "command = [\"srun\", \"{options}\", \"{worker}\"]";
        let table = "[machine.resources]\ngpu = [\"--gres=gpu:1\"]\nbig = []";
        assert!(of(&format!("{command}\n{table}")).is_empty());
        for (fields, problem) in [
            ("command = []", "command: names no program"),
            (
                "command = [\"{worker}\"]",
                "command: its program is a placeholder",
            ),
            (
                "cancel = [\"a\", \"{jobs}\"]",
                "cancel: `{jobs}' is no placeholder",
            ),
            (
                "command = \"srun\"",
                "command: expected a list of strings, got \"srun\"",
            ),
        ] {
            assert!(
                of(fields).contains(&problem.to_owned()),
                "{fields}: {:?}",
                of(fields)
            );
        }
    }

    #[test]
    fn what_follows_from_a_wrong_field_is_not_reported() {
        for (fields, wrong) in [
            ("transport = \"comand\"\nscheduler = \"slurm\"", "transport"),
            (
                "transport = \"command\"\nscheduler = \"slrum\"",
                "scheduler",
            ),
        ] {
            let problems = problems_of_pool(fields);
            let expected = format!("{wrong}: expected ");
            assert!(
                problems.len() == 1 && problems[0].starts_with(&expected),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn the_fields_of_pools_are_no_fields_of_hosts() {
        let problems = problems_of_pool(
            "user = \"u\"\nhost-key = \"t AAAAAXQAAAABaw==\"\nidle = 3\nscheduler = \"slurm\"",
        );
        let message = "has a meaning only with the transport `command'";
        assert_eq!(
            problems,
            [format!("idle: {message}"), format!("scheduler: {message}")]
        );
    }
}

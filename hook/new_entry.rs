//! The entry of a machine that is to be added to `machines.toml`: what was asked for, and what is found there.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::machines::{self, Machine};
use crate::remote::Vitals;

/// What is asked for. Everything else is left to the defaults, or found.
#[derive(Debug, Clone, Default)]
pub struct NewEntry {
    /// Its name.
    pub name: String,
    /// The port of its SSH server.
    pub port: Option<u16>,
    /// The account.
    pub user: String,
    /// `TYPE BASE64`.
    pub host_key: String,
    /// The private key to log in with.
    pub private_key: Option<String>,
    /// Its systems; if there are none, that of its kernel.
    pub systems: Vec<String>,
    /// How many builds it gets at once; `None`: according to its processors.
    pub parallel_builds: Option<u32>,
    /// Cores for each build; `None`: according to its processors.
    pub cores: Option<u32>,
    /// Its speed.
    pub speed: Option<f64>,
    /// Its features.
    pub features: Vec<String>,
    /// The socket of its daemon.
    pub daemon_socket: Option<String>,
    /// `auto`, `socket` or `commands`.
    pub transport: Option<String>,
    /// The program to run there.
    pub program: Option<String>,
    /// An OpenSSH configuration file for it.
    pub ssh_config: Option<String>,
}

/// How many processors a slot has, if nobody says otherwise.
const CORES_OF_SLOT: u32 = 4;

/// Stands for a host key that is not known yet.
const UNKNOWN_KEY: &str = "none AAAABG5vbmUAAAABAA==";

impl NewEntry {
    /// Completes it by what the machine has reported about itself.
    pub fn complete(&mut self, vitals: &Vitals) -> Result<()> {
        if self.systems.is_empty() {
            let system = system_of(&vitals.architecture).with_context(|| {
                format!(
                    "'{}' has the architecture `{}': say what it builds for by --systems",
                    self.name, vitals.architecture
                )
            })?;
            self.systems.push(system.to_owned());
        }
        let slots = match self.parallel_builds {
            Some(slots) => slots,
            None => vitals.cores.div_ceil(
                self.cores
                    .filter(|cores| *cores > 0)
                    .unwrap_or(CORES_OF_SLOT),
            ),
        };
        self.parallel_builds = Some(slots.clamp(0, 4096));
        if self.cores.is_none() && slots > 0 {
            self.cores = Some((vitals.cores / slots).clamp(1, 65536));
        }
        Ok(())
    }

    /// Its table.
    pub fn toml(&self) -> String {
        let mut text = "[[machine]]\n".to_owned();
        let mut field = |name: &str, value: String| text += &format!("{name} = {value}\n");
        field("name", quoted(&self.name));
        if let Some(port) = self.port.filter(|port| *port != 22) {
            field("port", port.to_string());
        }
        field("systems", list(&self.systems));
        field("user", quoted(&self.user));
        if let Some(file) = &self.private_key {
            field("private-key", quoted(file));
        }
        field("host-key", quoted(&self.host_key));
        if let Some(slots) = self.parallel_builds {
            field("parallel-builds", slots.to_string());
        }
        if let Some(cores) = self.cores {
            field("cores", cores.to_string());
        }
        if let Some(speed) = self.speed {
            field("speed", format!("{speed:?}"));
        }
        if !self.features.is_empty() {
            field("features", list(&self.features));
        }
        for (name, value) in [
            ("daemon-socket", &self.daemon_socket),
            ("transport", &self.transport),
            ("program", &self.program),
            ("ssh-config", &self.ssh_config),
        ] {
            if let Some(value) = value {
                field(name, quoted(value));
            }
        }
        text
    }

    /// The machine that it describes. Mistakes are errors.
    pub fn machine(&self) -> Result<Machine> {
        let mut entry = self.clone();
        if entry.systems.is_empty() {
            // It is not known yet, and nothing depends on it.
            entry.systems.push("unknown".to_owned());
        }
        if entry.host_key.is_empty() {
            entry.host_key = UNKNOWN_KEY.to_owned();
        }
        let mut list = machines::load_text(Path::new("the new entry.toml"), &entry.toml())?;
        match (list.machines.pop(), list.problems.first()) {
            (Some(machine), None) => Ok(machine),
            (_, Some(problem)) => {
                let field = problem.field.as_deref().unwrap_or("entry");
                bail!("{field}: {}", problem.message)
            }
            (None, None) => bail!("there is no entry"),
        }
    }
}

/// A string of TOML. Those of JSON are: both have the same escape sequences.
fn quoted(text: &str) -> String {
    // (Strings can always be written.)
    let text = serde_json::to_string(text).unwrap_or_default();
    text.replace('\u{7f}', "\\u007f")
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// The system type of a kernel's architecture, as `uname -m` prints it.
fn system_of(architecture: &str) -> Option<&'static str> {
    Some(match architecture {
        "x86_64" => "x86_64-linux",
        "i486" | "i586" | "i686" => "i686-linux",
        "aarch64" => "aarch64-linux",
        "armv7l" | "armv8l" => "armhf-linux",
        "ppc64le" => "powerpc64le-linux",
        "ppc" => "powerpc-linux",
        "riscv64" => "riscv64-linux",
        "mips64" => "mips64el-linux",
        "loongarch64" => "loongarch64-linux",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry() -> NewEntry {
        NewEntry {
            name: "m".to_owned(),
            user: "u".to_owned(),
            host_key: "t AAAAAXQAAAABaw==".to_owned(),
            ..NewEntry::default()
        }
    }

    fn vitals(architecture: &str, cores: u32) -> Vitals {
        Vitals {
            load: 0.0,
            cores,
            free_bytes: 1 << 40,
            round_trip: Duration::ZERO,
            clock_offset: 0.0,
            kernel: "Linux".to_owned(),
            architecture: architecture.to_owned(),
            host_name: "m".to_owned(),
        }
    }

    #[test]
    fn processors_become_slots() {
        for (processors, slots, cores) in [
            (1, 1, 1),
            (2, 1, 2),
            (4, 1, 4),
            (6, 2, 3),
            (16, 4, 4),
            (96, 24, 4),
        ] {
            let mut entry = entry();
            entry.complete(&vitals("x86_64", processors)).unwrap();
            let machine = entry.machine().unwrap();
            assert_eq!(
                (machine.parallel_builds, machine.cores),
                (slots, Some(cores))
            );
            assert_eq!(machine.systems, ["x86_64-linux"]);
        }
        let mut given = NewEntry {
            parallel_builds: Some(3),
            ..entry()
        };
        given.complete(&vitals("aarch64", 16)).unwrap();
        assert_eq!((given.parallel_builds, given.cores), (Some(3), Some(5)));
        let mut given = NewEntry {
            cores: Some(2),
            ..entry()
        };
        given.complete(&vitals("aarch64", 16)).unwrap();
        assert_eq!((given.parallel_builds, given.cores), (Some(8), Some(2)));
        assert!(entry().complete(&vitals("vax", 1)).is_err());
        // What a machine says of itself is checked as well.
        let mut entry = entry();
        entry.complete(&vitals("x86_64", u32::MAX)).unwrap();
        assert!(entry.machine().is_ok());
    }

    #[test]
    fn any_value_is_written_as_it_is_or_refused() {
        let file = "/a \"b\" \\c\t\u{7f}é'";
        let full = NewEntry {
            port: Some(2222),
            private_key: Some(file.to_owned()),
            systems: vec!["x86_64-linux".to_owned(), "i686-linux".to_owned()],
            parallel_builds: Some(2),
            speed: Some(2.0),
            features: vec!["kvm".to_owned()],
            transport: Some("socket".to_owned()),
            ..entry()
        };
        let machine = full.machine().unwrap();
        assert_eq!(machine.private_key.as_deref(), Some(Path::new(file)));
        assert_eq!((machine.port, machine.speed), (2222, 2.0));
        for wrong in [
            NewEntry {
                name: "-oProxyCommand=x".to_owned(),
                ..entry()
            },
            NewEntry {
                name: "a\"\nuser = \"b".to_owned(),
                ..entry()
            },
            NewEntry {
                user: "u'; x".to_owned(),
                ..entry()
            },
            NewEntry {
                host_key: "t".to_owned(),
                ..entry()
            },
            NewEntry {
                private_key: Some("key".to_owned()),
                ..entry()
            },
            NewEntry {
                speed: Some(f64::NAN),
                ..entry()
            },
            NewEntry {
                features: vec!["a b".to_owned()],
                ..entry()
            },
        ] {
            assert!(wrong.machine().is_err(), "{wrong:?}");
        }
    }
}

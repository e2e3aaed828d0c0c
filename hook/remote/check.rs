//! `offload test`: everything that must hold for a machine to work, in the order in which one
//! thing needs the other, and for each failure what would mend it.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use formats::StorePath;
use protocol::client::Connection;

use super::link::Link;
use super::{Error, Home, Obstacle, Transport, Vitals, auto, master, probe};
use crate::machines::Machine;

/// Builds are sent to machines with at least this much space, as in Guix.
const ENOUGH_SPACE: u64 = 100 << 20;
/// Clocks further apart confuse people who compare logs, and `make`.
const CLOCK_TOLERANCE: f64 = 5.0;

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: `name`, `login`, ….
    pub what: &'static str,
    /// What was found, or what is wrong.
    pub result: Result<String, String>,
    /// The command that would mend it.
    pub remedy: Option<String>,
}

/// Looks at everything, each step within `patience`; stops where the rest depends on what failed.
/// `local` is a connection to this host's daemon: without it, signatures aren't tried.
pub fn test(
    machine: &Machine,
    home: &Home,
    patience: Duration,
    local: Option<&mut Connection>,
) -> Vec<Check> {
    let mut test = Test {
        machine,
        checks: Vec::new(),
    };
    // The end is the first failure that makes the rest meaningless; it is among the checks.
    let _ = test.run(home, patience, local);
    test.checks
}

struct Test<'a> {
    machine: &'a Machine,
    checks: Vec<Check>,
}

impl Test<'_> {
    fn run(
        &mut self,
        home: &Home,
        patience: Duration,
        local: Option<&mut Connection>,
    ) -> Option<()> {
        let soon = || Instant::now() + patience;
        let link = match Link::new(self.machine, home) {
            Ok(link) => link,
            Err(error) => return self.failed("state directory", error, None),
        };
        self.name()?;
        match master::ensure(&link, 0, soon()) {
            Ok(_) => {
                self.passed("connection", format!("port {}", self.machine.port));
                let kind = self.machine.host_key.split(' ').next();
                self.passed("host key", kind.unwrap_or_default());
                self.passed("login", format!("as {}", self.machine.user));
            }
            Err(error) => return self.no_login(error),
        }
        match probe::probe(&link, soon()) {
            Ok(vitals) => self.vitals(&vitals),
            Err(error) => {
                let remedy = self.there("true");
                self.failed("commands", error, Some(remedy))?;
            }
        }
        let mut transport = match auto::connect(&link, soon()) {
            Ok(transport) => transport,
            Err(error) => return self.no_daemon(error),
        };
        match transport.kind() {
            "socket" => self.passed("forwarding", &self.machine.daemon_socket),
            _ => self.passed("forwarding", "not used"),
        }
        self.passed(
            "protocol",
            format!("the daemon answers, by {}", transport.kind()),
        );
        if let Some(local) = local {
            self.signing(local, &mut *transport)?;
        }
        let _ = transport.finish();
        Some(())
    }

    fn passed(&mut self, what: &'static str, found: impl Into<String>) {
        self.checks.push(Check {
            what,
            result: Ok(found.into()),
            remedy: None,
        });
    }

    /// Always `None`, for `?`.
    fn failed(
        &mut self,
        what: &'static str,
        why: impl ToString,
        remedy: Option<String>,
    ) -> Option<()> {
        self.checks.push(Check {
            what,
            result: Err(why.to_string()),
            remedy,
        });
        None
    }

    /// A command to be run there.
    fn there(&self, command: &str) -> String {
        let Machine {
            name, port, user, ..
        } = self.machine;
        let key = match &self.machine.private_key {
            Some(key) => format!("-i {} ", key.display()),
            None => String::new(),
        };
        format!("ssh -p {port} {key}{user}@{name} {command}")
    }

    /// Where something is to be done that only the administrator there may do.
    fn on(&self) -> String {
        format!("on '{}',", self.machine.name)
    }

    fn name(&mut self) -> Option<()> {
        if self.machine.ssh_config.is_some() {
            // It may be an alias, or a name that only a jump host knows.
            self.passed("name", "left to the machine's own ssh configuration");
            return Some(());
        }
        let name = self.machine.name.as_str();
        match (name, self.machine.port).to_socket_addrs() {
            Ok(addresses) => {
                let addresses: BTreeSet<_> = addresses.map(|a| a.ip().to_string()).collect();
                let addresses: Vec<_> = addresses.into_iter().collect();
                self.passed("name", addresses.join(", "));
                Some(())
            }
            Err(error) => {
                let remedy = format!("getent hosts {name}");
                self.failed("name", error, Some(remedy))
            }
        }
    }

    fn no_login(&mut self, error: Error) -> Option<()> {
        let Machine {
            name, port, user, ..
        } = self.machine;
        let obstacle = match &error {
            Error::Ssh { obstacle, .. } => obstacle.clone(),
            _ => Obstacle::Other,
        };
        let (what, remedy) = match obstacle {
            Obstacle::Name => ("name", format!("getent hosts {name}")),
            Obstacle::HostKey => {
                let kind = self.machine.host_key.split(' ').next().unwrap_or_default();
                let kind = kind.strip_prefix("ssh-").unwrap_or(kind);
                let kind = kind.split('-').next().unwrap_or(kind);
                (
                    "host key",
                    format!("ssh-keyscan -p {port} -t {kind} {name}"),
                )
            }
            Obstacle::Login => {
                let key = match &self.machine.private_key {
                    Some(key) => format!("-i {}.pub ", key.display()),
                    None => String::new(),
                };
                let remedy = format!("ssh-copy-id {key}-p {port} {user}@{name}");
                ("login", remedy)
            }
            Obstacle::NoKey(file) => ("login", format!("ssh-keygen -t ed25519 -N '' -f {file}")),
            Obstacle::Unreachable | Obstacle::TimedOut(_) => {
                ("connection", format!("nc -vz {name} {port}"))
            }
            Obstacle::Other => ("connection", self.there("true")),
        };
        self.failed(what, error, Some(remedy))
    }

    fn vitals(&mut self, vitals: &Vitals) {
        let space = format!("{} MiB free", vitals.free_bytes >> 20);
        if vitals.free_bytes < ENOUGH_SPACE {
            let remedy = format!("{} as root: guix gc -F 10G", self.on());
            self.failed("disk", space, Some(remedy));
        } else {
            self.passed("disk", space);
        }
        let offset = vitals.clock_offset;
        let clock = format!("{:.3} s {}", offset.abs(), ahead(offset));
        if offset.abs() > CLOCK_TOLERANCE {
            let remedy = format!("{} as root: timedatectl set-ntp true", self.on());
            self.failed("clock", clock, Some(remedy));
        } else {
            self.passed("clock", clock);
        }
    }

    fn no_daemon(&mut self, error: Error) -> Option<()> {
        let (what, remedy) = match &error {
            Error::Forwarding { .. } => (
                "forwarding",
                "systemctl start guix-daemon; sshd -T | grep -i forwarding",
            ),
            Error::SameStore { .. } => {
                let place = &self.machine.place;
                let remedy = format!("$EDITOR +{} {}", place.position.line, place.file.display());
                return self.failed("store", error, Some(remedy));
            }
            _ => ("protocol", "systemctl restart guix-daemon"),
        };
        // Nothing that the account for offloading may do.
        let remedy = format!("{} as root: {remedy}", self.on());
        self.failed(what, error, Some(remedy))
    }

    /// Sends a new text there, and brings it back.
    fn signing(&mut self, local: &mut Connection, remote: &mut dyn Transport) -> Option<()> {
        const KEY: &str = "/etc/guix/signing-key.pub";
        let (item, archive) = match export_text(local) {
            Ok(exported) => exported,
            Err(error) => {
                let remedy = "guix archive --generate-key".to_owned();
                return self.failed("signing", error, Some(remedy));
            }
        };
        let sent = remote
            .protect(std::slice::from_ref(&item))
            .and_then(|()| remote.import(&mut &archive[..]));
        match sent {
            Ok(()) => self.passed("signatures there", "our signature is accepted"),
            Err(error) => {
                let remedy = format!(
                    "{} as root, with our {KEY}: guix archive --authorize",
                    self.on()
                );
                return self.failed("signatures there", error, Some(remedy));
            }
        }
        let mut archive = Vec::new();
        if let Err(error) = remote.export(std::slice::from_ref(&item), &mut archive) {
            let remedy = format!("{} as root: guix archive --generate-key", self.on());
            return self.failed("signing there", error, Some(remedy));
        }
        match local.import_paths(&mut &archive[..]) {
            Ok(_) => self.passed("signatures here", "its signature is accepted"),
            Err(error) => {
                let remedy = format!(
                    "here, as root, with {KEY} of '{}': guix archive --authorize",
                    self.machine.name
                );
                return self.failed("signatures here", error, Some(remedy));
            }
        }
        Some(())
    }
}

fn export_text(local: &mut Connection) -> Result<(StorePath, Vec<u8>), protocol::client::Error> {
    let text = format!("test of offloading {:032x}\n", rand::random::<u128>());
    let item = local.add_text_to_store("offload-test", text, BTreeSet::new())?;
    let mut archive = Vec::new();
    local.export_paths([&item], true, &mut archive)?;
    Ok((item, archive))
}

fn ahead(offset: f64) -> &'static str {
    if offset < 0.0 { "behind" } else { "ahead" }
}

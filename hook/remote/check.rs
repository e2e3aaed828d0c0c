//! `offload test`: the checks of a machine, in order of dependence, and for each failure the
//! command that would fix it.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use formats::{StoreDir, StorePath};
use protocol::client::{self, Connection};
use system::host_names;

use super::check_archive::{Limited, is_only, is_signed_by};
use super::destination::{self, Destination};
use super::error::{Error, KeyFault, SshFailure};
use super::probe::{REQUIRED_FREE_BYTES, Vitals};
use super::transport::Transport;
use super::{connect, master, probe};
use crate::directories::HookDirectories;
use crate::machines::{Machine, Trust};

/// A larger clock difference, in seconds, confuses `make`, and people who compare logs.
const CLOCK_TOLERANCE: f64 = 5.0;

/// What to do if this host's daemon does not answer.
pub(super) const START_DAEMON: &str =
    "here, as root: systemctl start guix-daemon || systemctl start guix-daemon-rs";

/// What to do without ssh.
const INSTALL_SSH: &str = "here: install OpenSSH's client, or put its directory into the PATH";

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is right.
    Right,
    /// Nothing is wrong, but the administrator should know it.
    Note,
    /// A failure.
    Wrong,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The name of the check: `name`, `login`, ….
    pub what: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// The command that would fix it.
    pub remedy: Option<String>,
}

/// Runs all checks, each with this timeout, and stops at a failure that the rest depends on.
/// `local` is a connection to this host's daemon, or why there is none. Returns also what the
/// machine has reported about itself, if it has.
pub fn check(
    machine: &Machine,
    directories: &HookDirectories,
    timeout: Duration,
    local: Result<Connection, client::Error>,
) -> (Vec<Check>, Option<Vitals>) {
    let mut checker = Checker::new(machine);
    // `None` means that the checks ended early; the failure is among the results.
    let _ = checker.run(directories, timeout, local);
    (checker.checks, checker.vitals)
}

/// The checks of a machine so far.
pub(super) struct Checker<'a> {
    pub machine: &'a Machine,
    pub checks: Vec<Check>,
    vitals: Option<Vitals>,
}

impl<'a> Checker<'a> {
    /// None yet.
    pub fn new(machine: &'a Machine) -> Checker<'a> {
        Checker {
            machine,
            checks: Vec::new(),
            vitals: None,
        }
    }

    fn run(
        &mut self,
        directories: &HookDirectories,
        timeout: Duration,
        local: Result<Connection, client::Error>,
    ) -> Option<()> {
        let deadline = || Instant::now() + timeout;
        if let Err(error) = destination::ssh_program() {
            return self.failed("ssh", error, Some(INSTALL_SSH.to_owned()));
        }
        let destination = match Destination::new(self.machine, directories) {
            Ok(destination) => destination,
            Err(error) => return self.failed("state directory", error, None),
        };
        self.name()?;
        // What the account may do is decided when it logs in: what was mended since counts now.
        master::give_up_all(&destination);
        match master::ensure(&destination, 0, deadline()) {
            Ok(_) => {
                self.passed("connection", format!("port {}", self.machine.port));
                let kind = self.machine.host_key.split(' ').next();
                self.passed("host key", kind.unwrap_or_default());
                self.passed("login", format!("as {}", self.machine.user));
            }
            Err(error) => return self.no_login(error),
        }
        match probe::probe(&destination, deadline()) {
            Ok(vitals) => {
                self.vitals(&vitals);
                self.vitals = Some(vitals);
            }
            Err(error) => {
                let remedy = self.remedy(&error);
                self.failed("commands", error, remedy)?;
            }
        }
        let mut transport = match connect::connect(&destination, deadline()) {
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
        match local {
            Ok(mut local) => self.signing(&mut local, &mut *transport, &directories.store)?,
            Err(error) => {
                return self.failed("signing", error, Some(START_DAEMON.to_owned()));
            }
        }
        let _ = transport.finish();
        Some(())
    }

    /// Adds a check that all is right with.
    pub fn passed(&mut self, what: &'static str, found: impl Into<String>) {
        self.checks.push(Check {
            what,
            verdict: Verdict::Right,
            found: found.into(),
            remedy: None,
        });
    }

    /// Always `None`, for `?`.
    pub fn failed(
        &mut self,
        what: &'static str,
        why: impl ToString,
        remedy: Option<String>,
    ) -> Option<()> {
        self.checks.push(Check {
            what,
            verdict: Verdict::Wrong,
            found: why.to_string(),
            remedy,
        });
        None
    }

    /// A command line that runs a command there.
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

    /// The beginning of advice for the machine's administrator.
    fn on(&self) -> String {
        format!("on '{}',", self.machine.name)
    }

    fn name(&mut self) -> Option<()> {
        if self.machine.ssh_config.is_some() {
            // The name may be an alias, or one that only the jump host can resolve.
            self.passed("name", "left to the machine's own ssh configuration");
            return Some(());
        }
        let name = self.machine.name.as_str();
        match host_names::resolve(name, self.machine.port) {
            Ok(addresses) => {
                let addresses = addresses.iter().map(|address| address.ip().to_string());
                let addresses: BTreeSet<_> = addresses.collect();
                let addresses: Vec<_> = addresses.into_iter().collect();
                self.passed("name", addresses.join(", "));
                Some(())
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.passed("name", format!("left to ssh ({error})"));
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
        let failure = match &error {
            Error::Ssh { failure, .. } => failure.clone(),
            _ => SshFailure::Other,
        };
        let (what, remedy) = match failure {
            SshFailure::Name => ("name", format!("getent hosts {name}")),
            SshFailure::HostKey => {
                let kind = self.machine.host_key.split(' ').next().unwrap_or_default();
                let kind = kind.strip_prefix("ssh-").unwrap_or(kind);
                let kind = kind.split('-').next().unwrap_or(kind);
                (
                    "host key",
                    format!("ssh-keyscan -p {port} -t {kind} {name}"),
                )
            }
            SshFailure::Login => {
                let key = match &self.machine.private_key {
                    Some(key) => format!("-i {}.pub ", key.display()),
                    None => String::new(),
                };
                let remedy = format!("ssh-copy-id {key}-p {port} {user}@{name}");
                ("login", remedy)
            }
            SshFailure::UnusableKey(file, KeyFault::Mode) => ("login", format!("chmod 600 {file}")),
            SshFailure::UnusableKey(file, KeyFault::Passphrase) => {
                ("login", format!("ssh-keygen -p -N '' -f {file}"))
            }
            SshFailure::UnusableKey(file, KeyFault::Unreadable(_)) => {
                ("login", format!("ssh-keygen -y -f {file}"))
            }
            SshFailure::NoKey(file) => ("login", format!("ssh-keygen -t ed25519 -N '' -f {file}")),
            SshFailure::Unreachable | SshFailure::TimedOut(_) => {
                ("connection", format!("ping -c 3 {name}"))
            }
            SshFailure::Refused => {
                let command = "systemctl start ssh || systemctl start sshd; sshd -T | grep '^port'";
                ("connection", self.as_root(command))
            }
            SshFailure::Closed => {
                let command = "journalctl -n 30 -u ssh -u sshd; sshd -T | grep -i maxstartups";
                ("connection", self.as_root(command))
            }
            SshFailure::Other => ("connection", self.there("true")),
        };
        self.failed(what, error, Some(remedy))
    }

    fn vitals(&mut self, vitals: &Vitals) {
        let space = format!("{} MiB free", vitals.free_bytes >> 20);
        if vitals.free_bytes < REQUIRED_FREE_BYTES {
            let remedy = self.as_root(&self.guix("gc -F 10G"));
            self.failed("disk", space, Some(remedy));
        } else {
            self.passed("disk", space);
        }
        let offset = vitals.clock_offset;
        let clock = format!("{:.3} s {}", offset.abs(), ahead(offset));
        if offset.abs() > CLOCK_TOLERANCE {
            let remedy = self.as_root("timedatectl set-ntp true");
            self.failed("clock", clock, Some(remedy));
        } else {
            self.passed("clock", clock);
        }
    }

    fn no_daemon(&mut self, error: Error) -> Option<()> {
        let (what, remedy) = match &error {
            Error::Ssh { .. } => return self.no_login(error),
            Error::Forwarding { .. } => (
                "forwarding",
                // The account may not reach the socket; then ssh's message is the same.
                self.as_root(&format!(
                    "systemctl start guix-daemon || systemctl start guix-daemon-rs; sshd -T | grep -i forwarding; \
                     su -s /bin/sh -c 'ls -l {}' {}",
                    self.machine.daemon_socket, self.machine.user
                )),
            ),
            Error::SameStore { .. } => {
                return self.failed("store", error, Some(self.edit()));
            }
            Error::NoDaemon { reason, .. } if is_missing_program(reason) => {
                let program = self.machine.program.as_deref().unwrap_or("guix");
                ("program", self.there(&format!("command -v {program}")))
            }
            Error::NoDaemon { .. } => ("protocol", self.as_root("systemctl restart guix-daemon || systemctl restart guix-daemon-rs")),
            _ => {
                let remedy = self.remedy(&error);
                return self.failed("protocol", error, remedy);
            }
        };
        self.failed(what, error, Some(remedy))
    }

    /// The key of a worker, if that is trusted because of its connection.
    fn key_of_connection(&self, remote: &dyn Transport) -> Option<String> {
        let pool = self.machine.pool.as_deref()?;
        let key = remote.key()?;
        (pool.trust == Trust::Connection).then(|| key.to_owned())
    }

    /// What to do on the machine; the account for offloading may not do it.
    fn as_root(&self, command: &str) -> String {
        format!("{} as root: {command}", self.on())
    }

    /// A command of Guix or of guix-client, whichever is on the machine.
    fn guix(&self, words: &str) -> String {
        match &self.machine.program {
            Some(program) => format!("{program} {words}"),
            None => format!("guix {words} || guix-client {words}"),
        }
    }

    /// What helps against a failure that may occur at any time; nothing if that is not known.
    fn remedy(&self, error: &Error) -> Option<String> {
        match error {
            Error::NoShell { .. } => {
                let command = format!("usermod --shell /bin/sh {}", self.machine.user);
                Some(self.as_root(&command))
            }
            Error::NoSession { .. } => Some(self.as_root("sshd -T | grep -i maxsessions")),
            Error::Exhausted { .. } => {
                Some(self.as_root(&format!("df -h; {}", self.guix("gc -F 10G"))))
            }
            Error::Lost { .. } => Some(self.there("true")),
            _ => None,
        }
    }

    /// Sends a new item to the machine and fetches it back.
    pub fn signing(
        &mut self,
        local: &mut Connection,
        remote: &mut dyn Transport,
        store: &StoreDir,
    ) -> Option<()> {
        const KEY: &str = "/etc/guix/signing-key.pub";
        let (item, archive) = match export_text(local) {
            Ok(exported) => exported,
            Err(error) => {
                let remedy = "guix-client archive --generate-key".to_owned();
                let is_it = is_about_our_key(&error.to_string());
                return self.failed("signing", error, is_it.then_some(remedy));
            }
        };
        let sent = remote
            .protect(std::slice::from_ref(&item))
            .and_then(|()| remote.import(&mut &archive[..]));
        match sent {
            Ok(()) => self.passed("signatures there", "our signature is accepted"),
            Err(error) => {
                let remedy = match is_unauthorized(&error.to_string()) {
                    true => Some(format!(
                        "{} as root, with our {KEY}: {}",
                        self.on(),
                        self.guix("archive --authorize")
                    )),
                    false => self.remedy(&error),
                };
                return self.failed("signatures there", error, remedy);
            }
        }
        let mut returned = Limited::default();
        if let Err(error) = remote.export(std::slice::from_ref(&item), &mut returned) {
            let remedy = match is_about_our_key(&error.to_string()) {
                true => Some(self.as_root(&self.guix("archive --generate-key"))),
                false => self.remedy(&error),
            };
            return self.failed("signing there", error, remedy);
        }
        let Limited(archive) = returned;
        // The daemon here would take whatever a machine signs.
        if !is_only(&archive, store, &item) {
            let error = format!("it sent something else than `{item}', which it was asked for");
            return self.failed("signing there", error, None);
        }
        if let Some(key) = self.key_of_connection(remote) {
            let signed = is_signed_by(&archive, store, &key);
            return match signed {
                Ok(()) => {
                    self.passed("signatures here", "its key for this connection is accepted");
                    Some(())
                }
                Err(error) => self.failed("signatures here", error, None),
            };
        }
        match local.import_paths(&mut &archive[..]) {
            Ok(_) => self.passed("signatures here", "its signature is accepted"),
            Err(error) => {
                let remedy = self.authorize_here(KEY);
                let is_it = is_unauthorized(&error.to_string());
                return self.failed("signatures here", error, is_it.then_some(remedy));
            }
        }
        Some(())
    }
}

impl Checker<'_> {
    /// The command that opens the machine's entry.
    pub fn edit(&self) -> String {
        let place = &self.machine.place;
        format!("$EDITOR +{} {}", place.position.line, place.file.display())
    }

    /// What makes this host accept what the machine signs, with this public key there.
    fn authorize_here(&self, key: &str) -> String {
        let authorize = "guix-client archive --authorize";
        match &self.machine.pool {
            None => format!(
                "here, as root, with {key} of '{}': {authorize}",
                self.machine.name
            ),
            // No other job has the key of this one.
            Some(pool) => match &pool.worker_key {
                None => format!("{}, and set trust = \"connection\"", self.edit()),
                Some(names) => {
                    format!("here, as root, with {names}.pub of the nodes: {authorize}")
                }
            },
        }
    }
}

/// Whether a message says that a public key is not authorised: in our words or Guix's.
fn is_unauthorized(message: &str) -> bool {
    message.contains("unauthorized")
}

/// Whether a message says that an item could not be signed for lack of a key: it names the file.
fn is_about_our_key(message: &str) -> bool {
    message.contains("signing-key") || message.contains("generate-key")
}

/// Whether a message is that of a shell which does not find a program.
fn is_missing_program(message: &str) -> bool {
    ["not found", "No such file", "Permission denied"]
        .iter()
        .any(|words| message.ends_with(words))
}

fn export_text(local: &mut Connection) -> Result<(StorePath, Vec<u8>), client::Error> {
    let text = format!("test of offloading {:032x}\n", rand::random::<u128>());
    let item = local.add_text_to_store("offload-test", text, BTreeSet::new())?;
    let mut archive = Vec::new();
    local.export_paths([&item], true, &mut archive)?;
    Ok((item, archive))
}

fn ahead(offset: f64) -> &'static str {
    if offset < 0.0 { "behind" } else { "ahead" }
}

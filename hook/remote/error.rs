//! Errors with a build machine, and whose fault they are: the derivation's, this host's, or, in all
//! other cases, the machine's, so that another machine may succeed.

use std::fs;
use std::io;
use std::path::Path;

use formats::StorePath;
use protocol::client;
use protocol::frames::status;

/// The reason in [`Error::Lost`] for a machine that timed out.
pub(super) const NO_ANSWER: &str = "no answer in time";

/// Why something could not be done on, or with, a build machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No SSH connection.
    #[error("failed to connect to '{machine}': {failure}{}", after_colon(.stderr))]
    Ssh {
        /// The machine.
        machine: String,
        /// Why.
        failure: SshFailure,
        /// What ssh printed.
        stderr: String,
    },
    /// The SSH connection works, but sshd does not forward the daemon's socket.
    #[error("failed to reach the build daemon of '{machine}': sshd does not connect to '{socket}': no daemon listens there, or forwarding is forbidden{}", after_colon(.stderr))]
    Forwarding {
        /// The machine.
        machine: String,
        /// The socket there.
        socket: String,
        /// What ssh printed.
        stderr: String,
    },
    /// Logging in works, but the account runs no commands.
    #[error("the account on '{machine}' does not run commands{}", after_colon(.said))]
    NoShell {
        /// The machine.
        machine: String,
        /// What its login shell printed.
        said: String,
    },
    /// Its sshd allows no sessions.
    #[error("sshd on '{machine}' allows no sessions: see MaxSessions in its sshd_config")]
    NoSession {
        /// The machine.
        machine: String,
    },
    /// The program that listens on its socket is not a build daemon.
    #[error("failed to talk to the build daemon of '{machine}': {reason}")]
    NoDaemon {
        /// The machine.
        machine: String,
        /// Why.
        reason: String,
    },
    /// Its store is also our store, in which the derivation is: it would only build what is being
    /// built here.
    #[error("build machine '{machine}' has this very store '{store}'")]
    SameStore {
        /// The machine.
        machine: String,
        /// The store.
        store: String,
    },
    /// The connection was lost, or received data is invalid.
    #[error("lost '{machine}' while {doing}: {reason}")]
    Lost {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// Why.
        reason: String,
    },
    /// Its daemon, or a program there, reports an error.
    #[error("'{machine}' failed at {doing}: {message}")]
    Refused {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// Its message.
        message: String,
    },
    /// It lacks a resource for the build: space, memory.
    #[error("'{machine}' ran out of resources while {doing}: {message}")]
    Exhausted {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// Its message.
        message: String,
    },
    /// A build had a job of a pool for itself, and did not end before that did.
    #[error("the job of '{machine}' has lasted as long as it may while {doing}: {message}")]
    OutOfTime {
        /// The pool.
        machine: String,
        /// What was attempted.
        doing: String,
        /// The scheduler's message.
        message: String,
    },
    /// A pool has no room for a job now, or not for too long.
    #[error("'{machine}' has no room: {message}")]
    Busy {
        /// The pool.
        machine: String,
        /// The scheduler's message.
        message: String,
    },
    /// There is no job of a pool, or no worker in it.
    #[error("failed to get a worker of '{machine}': {message}")]
    NoJob {
        /// The pool.
        machine: String,
        /// The message of the scheduler or the worker.
        message: String,
    },
    /// The scheduler of a pool will never run such a job.
    #[error("failed to get a worker of '{machine}': {message}")]
    Rejected {
        /// The pool.
        machine: String,
        /// The scheduler's message.
        message: String,
    },
    /// It has got an item from its substitute servers that is not ours, and keeps it.
    #[error(
        "'{machine}' has another `{item}' than ours, from its substitute servers, and keeps it: {reason}"
    )]
    DifferentItem {
        /// The machine.
        machine: String,
        /// The item.
        item: StorePath,
        /// Why it can't be removed.
        reason: String,
    },
    /// The build failed, and would also fail elsewhere.
    #[error("derivation '{derivation}' offloaded to '{machine}' failed: {message}")]
    Build {
        /// The machine.
        machine: String,
        /// What was built.
        derivation: StorePath,
        /// The daemon's status: 1, 100 or 101.
        status: u32,
        /// Its daemon's message.
        message: Box<str>,
        /// What it says of the builder, on one line.
        verdict: Box<str>,
    },
    /// This host is at fault.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why there is no SSH connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshFailure {
    /// Its name has no address.
    #[error("its name cannot be resolved")]
    Name,
    /// No machine answers at its address.
    #[error("it cannot be reached")]
    Unreachable,
    /// A machine answers, but no program listens at the port.
    #[error("it cannot be reached: nothing listens at its port")]
    Refused,
    /// What listens there hangs up before the login.
    #[error("it cannot be reached: it closes the connection")]
    Closed,
    /// It took too long.
    #[error("no answer within {0} s")]
    TimedOut(u64),
    /// The machine is not the one in the machine file, or the connection is intercepted.
    #[error("its host key is not the one in the machine file")]
    HostKey,
    /// It rejects our login.
    #[error("it does not accept the login")]
    Login,
    /// There is no private key for the login.
    #[error("there is no private key '{0}'")]
    NoKey(String),
    /// There is one, but ssh cannot use it.
    #[error("the private key '{0}' {1}")]
    UnusableKey(String, KeyFault),
    /// Any other failure.
    #[error("ssh failed")]
    Other,
}

/// What is wrong with a private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Others may read it.
    #[error("may be read by others, so ssh does not use it")]
    Mode,
    /// Nobody is there to type its passphrase.
    #[error("has a passphrase, which nobody can type")]
    Passphrase,
    /// It cannot be read, or is no key.
    #[error("cannot be used: {0}")]
    Unreadable(String),
}

impl KeyFault {
    /// What is wrong with the key `file`, if that is why a login failed. `stderr`: what ssh printed.
    pub(super) fn find(file: &Path, stderr: &str) -> Option<KeyFault> {
        if stderr.contains("bad permissions") || stderr.contains("UNPROTECTED PRIVATE KEY FILE") {
            return Some(KeyFault::Mode);
        }
        let reason = stderr.lines().find_map(|line| {
            let (_, reason) = line.trim().strip_prefix("Load key ")?.rsplit_once(": ")?;
            Some(reason.to_owned())
        });
        match fs::read(file) {
            // ssh does not say so: without a terminal, it merely does not try the key.
            Ok(text) if is_encrypted(&text) => Some(KeyFault::Passphrase),
            _ => reason.map(KeyFault::Unreadable),
        }
    }
}

/// Whether a private key, in OpenSSH's own format or in PEM, is encrypted.
fn is_encrypted(key: &[u8]) -> bool {
    /// How the data begins: followed by the name of a cipher, with its length.
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    let text = String::from_utf8_lossy(key);
    if text.contains("ENCRYPTED") {
        return true;
    }
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN OPENSSH"));
    let data: String = lines
        .skip(1)
        .take_while(|line| !line.starts_with('-'))
        .collect();
    let Ok(data) = data_encoding::BASE64.decode(data.as_bytes()) else {
        return false;
    };
    let none = [&4_u32.to_be_bytes()[..], b"none"].concat();
    data.strip_prefix(MAGIC)
        .is_some_and(|rest| !rest.starts_with(&none))
}

impl Error {
    /// The daemon's status (1, 100, 101) if the build itself failed, and would fail elsewhere, too.
    pub fn is_build_failure(&self) -> Option<u32> {
        match self {
            Error::Build { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the machine says of a builder that has failed, on one line.
    pub fn verdict(&self) -> Option<&str> {
        match self {
            Error::Build { verdict, .. } => Some(verdict),
            _ => None,
        }
    }

    /// Whether this host is at fault, so that no other machine would succeed.
    pub fn is_local(&self) -> bool {
        matches!(self, Error::Local { .. })
    }

    /// Whether the machine works, and another build may succeed there: a pool has no room, or a job was
    /// too small.
    pub fn is_about_room(&self, is_pool: bool) -> bool {
        match self {
            Error::Busy { .. } | Error::OutOfTime { .. } => true,
            Error::Exhausted { .. } => is_pool,
            _ => false,
        }
    }

    /// Whether the machine may just be slow: it timed out.
    pub fn is_timeout(&self) -> bool {
        match self {
            Error::Ssh { failure, .. } => {
                matches!(
                    failure,
                    SshFailure::TimedOut(_)
                        | SshFailure::Unreachable
                        | SshFailure::Refused
                        | SshFailure::Closed
                )
            }
            Error::Lost { reason, .. } => reason == NO_ANSWER,
            _ => false,
        }
    }

    /// An error of the protocol's client, with what was attempted on which machine. `doing` follows
    /// "while".
    pub(super) fn of_daemon(machine: &str, doing: &str, error: client::Error) -> Error {
        let machine = machine.to_owned();
        let doing = doing.to_owned();
        match error {
            client::Error::Daemon { message, .. } if is_exhaustion(&message) => Error::Exhausted {
                machine,
                doing,
                message: shortened(on_one_line(&message)),
            },
            client::Error::Daemon { message, .. } => Error::Refused {
                machine,
                doing,
                message: shortened(on_one_line(&message)),
            },
            client::Error::Local { source, .. } => Error::Local { doing, source },
            client::Error::Io { source, .. } => Error::Lost {
                machine,
                doing,
                reason: connection_error(&source),
            },
            other => Error::Lost {
                machine,
                doing,
                reason: other.to_string(),
            },
        }
    }

    /// The error for a build that the daemon reports as failed. `remark` is what else is known
    /// about the failure; it may quote the builder, so nothing is concluded from it. `says_full` is
    /// whether the daemon reported that a disk was full; `is_full` checks whether its store is full
    /// now.
    pub(super) fn of_build(
        machine: &str,
        derivation: &StorePath,
        (code, message): (u32, String),
        remark: Option<String>,
        says_full: bool,
        is_full: impl FnOnce() -> bool,
    ) -> Error {
        let machine = machine.to_owned();
        let doing = format!("building '{derivation}'");
        // A daemon that could not start the build reports the reason in another message.
        let is_refusal = code == status::FAILURE && !is_verdict(&message);
        let is_exhaustion = is_refusal && is_exhaustion(&message);
        let verdict = on_one_line(remark.as_ref().unwrap_or(&message));
        let message = shortened(match remark {
            Some(remark) if remark != message => format!("{message} ({remark})"),
            _ => message,
        });
        // A build that exceeds a time limit doesn't do so for lack of space.
        if code != status::TIMED_OUT && (says_full || is_full()) || is_exhaustion {
            return Error::Exhausted {
                machine,
                doing,
                message: on_one_line(&message),
            };
        }
        if is_refusal {
            return Error::Refused {
                machine,
                doing,
                message: on_one_line(&message),
            };
        }
        Error::Build {
            machine,
            derivation: derivation.clone(),
            status: code,
            message: message.into(),
            verdict: shortened(verdict).into(),
        }
    }
}

/// A message on one line: a public key in it, for example, spans several.
pub fn on_one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ")
}

/// A message of a machine, but no more of it than anybody wants to read.
pub(super) fn shortened(mut message: String) -> String {
    const MOST: usize = 8 << 10;
    if message.len() > MOST {
        let is_end = |end: &usize| message.is_char_boundary(*end);
        message.truncate((0..=MOST).rev().find(is_end).unwrap_or(0));
        message.push('…');
    }
    message
}

/// A description of a lost connection that says more than "end of file".
fn connection_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NO_ANSWER.to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a message reports a lack of resources on the machine, rather than why a build failed.
pub(super) fn is_exhaustion(message: &str) -> bool {
    [
        "No space left on device",
        "Disk quota exceeded",
        "database or disk is full",
        "build daemon out of memory",
        "Cannot allocate memory",
        "Read-only file system",
        "Input/output error",
        "Too many open files",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Whether a daemon's message reports that the build itself failed. Status 1 isn't enough: it is
/// also the status for a build that could not be started, and for a fixed-output derivation whose
/// builder fails.
fn is_verdict(message: &str) -> bool {
    message.starts_with("build of ") && message.contains("failed")
}

fn after_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_machines_message_takes_one_line() {
        let error = client::Error::Daemon {
            message: "unauthorized public key: (public-key\n  (ecc\n   (q #AB#)\n  )\n )\n"
                .to_owned(),
            status: 1,
        };
        let error = Error::of_daemon("m", "sending", error);
        assert_eq!(
            error.to_string(),
            "'m' failed at sending: unauthorized public key: (public-key (ecc (q #AB#) ) )"
        );
    }

    #[test]
    fn failed_builds_are_told_from_failed_machines() {
        let store = formats::StoreDir::new("/gnu/store").unwrap();
        let derivation = store
            .join("00000000000000000000000000000000-x.drv")
            .unwrap();
        let failed = |code, message: &str, full| {
            // The text quoted in a remark is chosen by builders.
            let remark = Some("builder for `No space left on device'".to_owned());
            let said = (code, message.to_owned());
            let error = Error::of_build("m", &derivation, said, remark, full, || false);
            error.is_build_failure()
        };
        assert_eq!(failed(100, "build of `x' failed", false), Some(100));
        assert_eq!(failed(101, "timed out", true), Some(101));
        assert_eq!(failed(1, "build of `x' failed", false), Some(1));
        assert_eq!(failed(1, "cannot create the build directory", false), None);
        assert_eq!(failed(100, "build of `x' failed", true), None);
        assert_eq!(failed(1, "writing: No space left on device", false), None);
    }
}

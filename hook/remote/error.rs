//! What can go wrong with a build machine, and whose fault it is: the derivation's, this host's,
//! or, in all other cases, the machine's, so that another one may do better.

use std::io;

use formats::StorePath;
use protocol::client;
use protocol::frames::status;

/// Why a machine is lost that was silent for too long.
pub(super) const NO_ANSWER: &str = "no answer in time";

/// Why something could not be done on, or with, a build machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No SSH connection.
    #[error("failed to connect to '{machine}': {obstacle}{}", after_colon(.said))]
    Ssh {
        /// The machine.
        machine: String,
        /// What is in the way.
        obstacle: Obstacle,
        /// What ssh printed.
        said: String,
    },
    /// There is a connection, but its server doesn't lead to the daemon's socket.
    #[error("failed to reach the build daemon of '{machine}': sshd does not connect to '{socket}': no daemon listens there, or forwarding is forbidden{}", after_colon(.said))]
    Forwarding {
        /// The machine.
        machine: String,
        /// The socket there.
        socket: String,
        /// What ssh printed.
        said: String,
    },
    /// Its daemon doesn't answer as one does.
    #[error("failed to talk to the build daemon of '{machine}': {reason}")]
    NoDaemon {
        /// The machine.
        machine: String,
        /// Why.
        reason: String,
    },
    /// It has the very store that the derivation is in: nothing is gained by asking it.
    #[error("build machine '{machine}' has this very store '{store}'")]
    SameStore {
        /// The machine.
        machine: String,
        /// The store.
        store: String,
    },
    /// The connection ended, or what came over it makes no sense.
    #[error("lost '{machine}' while {doing}: {reason}")]
    Lost {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// Why.
        reason: String,
    },
    /// It can't do it: its daemon or a program there says so.
    #[error("'{machine}' failed at {doing}: {message}")]
    Refused {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// What it says.
        message: String,
    },
    /// It lacks what a build needs: space, memory.
    #[error("'{machine}' ran out of resources while {doing}: {message}")]
    Exhausted {
        /// The machine.
        machine: String,
        /// What was attempted.
        doing: String,
        /// What it says.
        message: String,
    },
    /// The build failed, and would elsewhere.
    #[error("derivation '{derivation}' offloaded to '{machine}' failed: {message}")]
    Build {
        /// The machine.
        machine: String,
        /// What was built.
        derivation: StorePath,
        /// The daemon's status: 1, 100 or 101.
        status: u32,
        /// What its daemon says.
        message: String,
    },
    /// Something on this side.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// What is in the way of an SSH connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Its name has no address.
    #[error("its name cannot be resolved")]
    Name,
    /// Nothing answers, or not in time.
    #[error("it cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("no answer within {0} s")]
    TimedOut(u64),
    /// It is another machine than the machine file says, or somebody is in between.
    #[error("its host key is not the one in the machine file")]
    HostKey,
    /// It lets us not in.
    #[error("it does not accept the login")]
    Login,
    /// There is no private key to log in with.
    #[error("there is no private key '{0}'")]
    NoKey(String),
    /// Something else.
    #[error("ssh failed")]
    Other,
}

impl Error {
    /// The daemon's status (1, 100, 101) if the build itself failed: it would elsewhere, too.
    pub fn is_build_failure(&self) -> Option<u32> {
        match self {
            Error::Build { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the trouble is on this side, so that no other machine would do better.
    pub fn is_local(&self) -> bool {
        matches!(self, Error::Local { .. })
    }

    /// Whether the machine may be slow, rather than broken: nothing came in time.
    pub fn is_silence(&self) -> bool {
        match self {
            Error::Ssh { obstacle, .. } => {
                matches!(obstacle, Obstacle::TimedOut(_) | Obstacle::Unreachable)
            }
            Error::Lost { reason, .. } => reason == NO_ANSWER,
            _ => false,
        }
    }

    /// What the protocol's client says, of this machine. `doing` follows "while".
    pub(super) fn of_daemon(machine: &str, doing: &str, error: client::Error) -> Error {
        let machine = machine.to_owned();
        let doing = doing.to_owned();
        match error {
            client::Error::Daemon { message, .. } if is_exhaustion(&message) => Error::Exhausted {
                machine,
                doing,
                message,
            },
            client::Error::Daemon { message, .. } => Error::Refused {
                machine,
                doing,
                message,
            },
            client::Error::Local { source, .. } => Error::Local { doing, source },
            client::Error::Io { source, .. } => Error::Lost {
                machine,
                doing,
                reason: of_connection(&source),
            },
            other => Error::Lost {
                machine,
                doing,
                reason: other.to_string(),
            },
        }
    }

    /// How a build ended that the daemon calls failed. `full`: the machine had no disk space left.
    pub(super) fn of_build(
        machine: &str,
        derivation: &StorePath,
        code: u32,
        message: String,
        full: bool,
    ) -> Error {
        // Running into a time limit has nothing to do with space.
        if code != status::TIMED_OUT && (full || is_exhaustion(&message)) {
            return Error::Exhausted {
                machine: machine.to_owned(),
                doing: format!("building '{derivation}'"),
                message,
            };
        }
        // A daemon that could not even try says why, in words of its own.
        if code == status::FAILURE && !is_verdict(&message) {
            return Error::Refused {
                machine: machine.to_owned(),
                doing: format!("building '{derivation}'"),
                message,
            };
        }
        Error::Build {
            machine: machine.to_owned(),
            derivation: derivation.clone(),
            status: code,
            message,
        }
    }
}

/// The end of a connection in words: end of file says nothing to anybody.
fn of_connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NO_ANSWER.to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a message is about what a machine has run out of, and not about a build.
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

/// Whether a daemon's message says that the build itself failed. Status 1 doesn't: it is also that
/// of a fixed-output derivation whose builder fails.
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
    fn failed_builds_are_told_from_failed_machines() {
        let store = formats::StoreDir::new("/gnu/store").unwrap();
        let derivation = store
            .join("00000000000000000000000000000000-x.drv")
            .unwrap();
        let failed = |code, message: &str, full| {
            Error::of_build("m", &derivation, code, message.to_owned(), full).is_build_failure()
        };
        assert_eq!(failed(100, "build of `x' failed", false), Some(100));
        assert_eq!(failed(101, "timed out", true), Some(101));
        assert_eq!(failed(1, "build of `x' failed", false), Some(1));
        assert_eq!(failed(1, "cannot create the build directory", false), None);
        assert_eq!(failed(100, "build of `x' failed", true), None);
        assert_eq!(failed(1, "writing: No space left on device", false), None);
    }
}

//! A build machine, as its entry in a machine file describes it.

use std::path::PathBuf;

use super::problem::Place;

/// How the hook communicates with the build machine's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Forward its socket; where that is forbidden, run commands.
    #[default]
    Auto,
    /// The daemon's socket, forwarded by sshd.
    Socket,
    /// `guix archive` and `guix build`, run over SSH.
    Commands,
}

/// One build machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Host name, as written.
    pub name: String,
    /// Port of its SSH server.
    pub port: u16,
    /// System types that it builds for.
    pub systems: Vec<String>,
    /// Account to log in to.
    pub user: String,
    /// Private key; without one, `~/.ssh/id_rsa` as in Guix, or another usual name.
    pub private_key: Option<PathBuf>,
    /// `TYPE BASE64`: the only host key that is accepted.
    pub host_key: String,
    /// Its daemon's socket.
    pub daemon_socket: String,
    /// Load (1 is all processors busy) from which on it gets no builds; `None`: no limit.
    pub overload_threshold: Option<f64>,
    /// How many builds it gets at once.
    pub parallel_builds: u32,
    /// Relative speed.
    pub speed: f64,
    /// What it offers beyond its system types.
    pub features: Vec<String>,
    /// Features that a derivation must ask for to be built here (Nix's field; ours in TOML).
    pub mandatory_features: Vec<String>,
    /// How its daemon is reached.
    pub transport: TransportChoice,
    /// An `ssh_config` of this machine's own, for jump hosts and the like.
    pub ssh_config: Option<PathBuf>,
    /// zstd level of the data sent by [`TransportChoice::Commands`]; `None`: not compressed.
    pub transfer_compression: Option<i32>,
    /// Cores per build (`build-cores`) asked of its daemon; `None`: its own default.
    pub cores: Option<u32>,
    /// The Guix program to run there with [`TransportChoice::Commands`].
    pub program: Option<String>,
    /// Where its entry starts.
    pub place: Place,
}

impl Machine {
    /// `NAME:PORT`: the name of its directory of locks, as in Guix.
    pub fn key(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }
}

//! A build machine, as described by its entry in a machine file.

use std::path::PathBuf;

use super::pool::Pool;
use super::problem::Place;

/// How the hook communicates with the build machine's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Forward its socket; if that is forbidden, run commands.
    #[default]
    Auto,
    /// The daemon's socket, forwarded by sshd.
    Socket,
    /// `guix archive` and `guix build`, run over SSH.
    Commands,
    /// The standard input and output of a command, which reach a worker.
    Command,
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
    /// The load (where 1 means that all processors are busy) from which it gets no builds; `None`:
    /// no limit.
    pub overload_threshold: Option<f64>,
    /// The maximum number of simultaneous builds.
    pub parallel_builds: u32,
    /// Relative speed.
    pub speed: f64,
    /// Its features, besides its system types.
    pub features: Vec<String>,
    /// Features that a derivation must require to be built here (Nix's field; ours in TOML).
    pub mandatory_features: Vec<String>,
    /// The transport to its daemon.
    pub transport: TransportChoice,
    /// A separate `ssh_config` for this machine, for jump hosts and the like.
    pub ssh_config: Option<PathBuf>,
    /// zstd level of the data sent by [`TransportChoice::Commands`] and [`TransportChoice::Command`];
    /// `None`: not compressed.
    pub transfer_compression: Option<i32>,
    /// The number of cores for each build (`build-cores`); `None`: the default of its daemon.
    pub cores: Option<u32>,
    /// The Guix command to run there with [`TransportChoice::Commands`].
    pub program: Option<String>,
    /// Whether its daemon may fetch inputs from its substitute servers, instead of being sent them.
    pub use_substitutes: bool,
    /// How its jobs are had, if it is a pool: with [`TransportChoice::Command`].
    pub pool: Option<Box<Pool>>,
    /// The position of its entry.
    pub place: Place,
}

impl Machine {
    /// `NAME:PORT`: the name of its directory of locks, as in Guix.
    pub fn key(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }

    /// Whether it can offer a feature.
    pub fn offers(&self, feature: &String) -> bool {
        let by_request = |pool: &Pool| pool.resources.contains_key(feature);
        self.features.contains(feature)
            || self.mandatory_features.contains(feature)
            || self.pool.as_deref().is_some_and(by_request)
    }
}

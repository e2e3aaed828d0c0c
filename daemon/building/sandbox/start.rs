//! The daemon's side: starting the process that becomes the builder.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use system::pipe;
use system::process::{Child, Spawn};

use super::fork_server::{ForkServer, unless_ended};
use super::identity::Identity;
use super::inside::{ALONE, CONNECTED, READY};
use super::network;
use super::orders::Isolation;
use super::phase::SetUpError;
use super::plan::{Network, Plan};

/// The longest error that is taken from the process.
const ERROR_LIMIT: u64 = 64 << 10;

/// A builder that has been started.
#[derive(Debug)]
pub struct Running {
    /// The builder (in a chroot, process 1 of its PID namespace). It leads its own session and
    /// process group, and is killed when this is dropped.
    pub child: Child,
    /// What it writes to descriptors 1 and 2, from its first byte on.
    pub log: File,
    /// What connects it to the host's network.
    _network: Option<Child>,
}

/// Why a builder could not be started. All of these are general errors: they end the client's
/// request.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process could not be started or talked to.
    #[error("cannot start a builder for `{derivation}': {source}")]
    Io {
        /// The derivation.
        derivation: String,
        /// The reason.
        source: io::Error,
    },
    /// What the process reported: `while setting up the child process: in phase X: …`.
    #[error("{0}")]
    SetUp(String),
}

/// Starts the builder of a plan and waits until it is about to be executed.
///
/// `spawn` starts a program from a thread that lives as long as the daemon.
pub fn start(
    plan: &Plan,
    fork_server: &ForkServer,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> Result<Running, StartError> {
    let failed = |source| StartError::Io {
        derivation: plan.derivation.clone(),
        source,
    };
    // An attempt that failed leaves nobody who could read its plan.
    let Started {
        child,
        orders,
        status,
        log,
    } = unless_ended(|| fork(plan, fork_server)).map_err(|error| {
        StartError::SetUp(
            SetUpError {
                phase: "clone",
                error,
            }
            .to_string(),
        )
    })?;
    let (network, report) = launch(plan, child.pid(), orders, status, spawn).map_err(failed)?;
    match report.trim_end() {
        READY => Ok(Running {
            child,
            log,
            _network: network,
        }),
        "" => Err(failed(io::Error::other(
            "the process ended without saying why",
        ))),
        error => Err(StartError::SetUp(error.to_owned())),
    }
}

/// A process that has been forked, and our ends of its pipes.
struct Started {
    child: Child,
    orders: File,
    status: File,
    log: File,
}

/// Has the process forked. Nobody else has its ends of the pipes, so that its end is noticed.
fn fork(plan: &Plan, fork_server: &ForkServer) -> io::Result<Started> {
    let (its_plan, orders) = pipe::pipe()?;
    let (status, its_status) = pipe::pipe()?;
    let (log, its_log) = pipe::pipe()?;
    let child = fork_server.builder(isolation(plan), &its_log, &its_plan, &its_status)?;
    Ok(Started {
        child,
        orders: orders.into(),
        status: status.into(),
        log: log.into(),
    })
}

/// What the builder has for itself.
fn isolation(plan: &Plan) -> Isolation {
    match (&plan.chroot, &plan.identity) {
        (None, _) => Isolation::None,
        (Some(_), Identity::User { .. }) => Isolation::Namespaces,
        (Some(_), Identity::Own) => Isolation::UserNamespace,
    }
}

/// Sends the process the plan, connects it to the network if it is to have that, and hears what
/// becomes of it.
fn launch(
    plan: &Plan,
    pid: i32,
    mut orders: File,
    status: File,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> io::Result<(Option<Child>, String)> {
    let mut text = serde_json::to_vec(plan)?;
    text.push(b'\n');
    order(&mut orders, &text)?;
    let mut connection = None;
    let network = plan.chroot.as_ref().map(|chroot| &chroot.network);
    if let Some(Network::Host {
        program,
        loopback,
        ipv6,
    }) = network
    {
        let program = program.as_path().to_owned();
        let answer = match network::connect(pid, &plan.identity, program, *loopback, *ipv6, spawn) {
            Ok(child) => {
                connection = Some(child);
                CONNECTED.to_owned()
            }
            Err(error) => format!("{ALONE}{}\n", error.to_string().replace('\n', " ")),
        };
        order(&mut orders, answer.as_bytes())?;
    }
    let mut status = BufReader::new(status.take(ERROR_LIMIT));
    let mut report = String::new();
    status.read_line(&mut report)?;
    if report.trim_end() != READY {
        status.read_to_string(&mut report)?;
    }
    Ok((connection, report))
}

/// Tells the process something.
fn order(orders: &mut File, text: &[u8]) -> io::Result<()> {
    match orders.write_all(text) {
        // It went away meanwhile, and has said why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

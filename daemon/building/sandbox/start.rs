//! The daemon's side: starting the process that becomes the builder.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use store::Level;
use system::pipe;
use system::process::{Child, Spawn};

use super::builder_process::{CONNECTED, NOT_CONNECTED, READY};
use super::fork_request::Isolation;
use super::fork_server::{ForkServer, retry_if_ended};
use super::identity::Identity;
use super::kvm;
use super::network;
use super::phase::SetUpError;
use super::plan::{Network, Order, Plan};

/// The maximum length of an error that the process reports, in bytes.
const ERROR_LIMIT: u64 = 64 << 10;

/// A builder that was started.
#[derive(Debug)]
pub struct Running {
    /// The builder (in a chroot, process 1 of its PID namespace). It leads its own session and
    /// process group, and is killed on drop.
    pub child: Child,
    /// Its output on descriptors 1 and 2, from the first byte on.
    pub log: File,
    /// The process that connects it to the host's network.
    _network: Option<Child>,
}

/// Why a builder could not be started. These are general errors, which end the client's request.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process could not be started, or communication with it failed.
    #[error("cannot start a builder for `{derivation}': {source}")]
    Io {
        /// The derivation.
        derivation: String,
        /// The reason.
        source: io::Error,
    },
    /// The process's report: `while setting up the child process: in phase X: …`.
    #[error("{0}")]
    SetUp(String),
}

/// Starts the builder of a plan and waits until it is about to be executed.
///
/// `spawn` starts a program from a thread that lives as long as the daemon. `tell` is told what does
/// not keep the builder from running.
pub fn start(
    plan: &Plan,
    fork_server: &ForkServer,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
    tell: &dyn Fn(Level, String),
) -> Result<Running, StartError> {
    let failed = |source| StartError::Io {
        derivation: plan.derivation.clone(),
        source,
    };
    // A failed attempt leaves no process that could read its plan, so it can be retried.
    let Started {
        child,
        plan_pipe,
        status,
        log,
    } = retry_if_ended(|| fork(plan, fork_server)).map_err(|error| {
        StartError::SetUp(
            SetUpError {
                phase: "clone",
                error,
            }
            .to_string(),
        )
    })?;
    let groups_mapped =
        isolation(plan) == Isolation::UserNamespace && kvm::map_groups(child.pid(), spawn, tell);
    let plan = &Order {
        plan: Cow::Borrowed(plan),
        groups_mapped,
    };
    let (network, report) =
        hand_over_plan(plan, child.pid(), plan_pipe, status, spawn).map_err(failed)?;
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

/// A process that was forked, and our ends of its pipes.
struct Started {
    child: Child,
    plan_pipe: File,
    status: File,
    log: File,
}

/// Forks the process. It alone has the other ends of the pipes, so they are closed when it ends.
fn fork(plan: &Plan, fork_server: &ForkServer) -> io::Result<Started> {
    let (child_plan, plan_pipe) = pipe::pipe()?;
    let (status, child_status) = pipe::pipe()?;
    let (log, child_log) = pipe::pipe()?;
    let child = fork_server.builder(isolation(plan), &child_log, &child_plan, &child_status)?;
    Ok(Started {
        child,
        plan_pipe: plan_pipe.into(),
        status: status.into(),
        log: log.into(),
    })
}

/// The namespaces that the builder does not share with the daemon.
fn isolation(plan: &Plan) -> Isolation {
    match (&plan.chroot, &plan.identity) {
        (None, _) => Isolation::None,
        (Some(_), Identity::User { .. }) => Isolation::Namespaces,
        (Some(_), Identity::Own) => Isolation::UserNamespace,
    }
}

/// Sends the plan to the process, connects it to the network if the plan requires it, and returns
/// the process's report.
fn hand_over_plan(
    order: &Order<'_>,
    pid: i32,
    mut plan_pipe: File,
    status: File,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> io::Result<(Option<Child>, String)> {
    let plan = &order.plan;
    let mut text = serde_json::to_vec(order)?;
    text.push(b'\n');
    send(&mut plan_pipe, &text)?;
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
            Err(error) => format!("{NOT_CONNECTED}{}\n", error.to_string().replace('\n', " ")),
        };
        send(&mut plan_pipe, answer.as_bytes())?;
    }
    let mut status = BufReader::new(status.take(ERROR_LIMIT));
    let mut report = String::new();
    status.read_line(&mut report)?;
    if report.trim_end() != READY {
        status.read_to_string(&mut report)?;
    }
    Ok((connection, report))
}

/// Sends text to the process.
fn send(plan_pipe: &mut File, text: &[u8]) -> io::Result<()> {
    match plan_pipe.write_all(text) {
        // The process has ended, and has reported why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

//! The daemon's side: starting the process that becomes the builder.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use system::process::{Child, Spawn};

use super::inside::{ALONE, CONNECTED, NAME, PLAN, READY, STATUS};
use super::network;
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
/// `program` is the daemon's own executable (`/proc/self/exe`); `spawn` starts a program from
/// a thread that lives as long as the daemon, since the builder dies with that thread.
pub fn start(
    plan: &Plan,
    program: &Path,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> Result<Running, StartError> {
    let failed = |source| StartError::Io {
        derivation: plan.derivation.clone(),
        source,
    };
    let (running, error) = launch(plan, program, spawn).map_err(failed)?;
    match error {
        None => Ok(running),
        Some(text) if text.is_empty() => {
            let text = "the process ended without saying why";
            Err(failed(io::Error::other(text)))
        }
        Some(text) => Err(StartError::SetUp(text)),
    }
}

/// Starts the process, sends the plan, and hears what becomes of it: nothing, or an error.
fn launch(
    plan: &Plan,
    program: &Path,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> io::Result<(Running, Option<String>)> {
    let (its_plan, plan_writer) = system::pipe::pipe()?;
    let (status, its_status) = system::pipe::pipe()?;
    let (log, its_log) = system::pipe::pipe()?;
    let its_errors = its_log.try_clone()?;
    let mut first = spawn(
        Spawn::new(program)
            .arg0(NAME)
            .fd(system::pipe::null()?, 0)
            .fd(its_log, 1)
            .fd(its_errors, 2)
            .fd(its_plan, PLAN)
            .fd(its_status, STATUS),
    )?;
    let mut orders = File::from(plan_writer);
    let mut status = BufReader::new(File::from(status)).take(ERROR_LIMIT);
    let mut text = serde_json::to_vec(plan)?;
    text.push(b'\n');
    order(&mut orders, &text)?;
    let mut builder = None;
    let mut network = None;
    let report = read_report(&mut status, plan.chroot.is_some(), |pid| {
        // The first process has made the builder its sibling: ours to reap.
        builder = Some(Child::new(pid, true)?);
        if let Some(Network::Host { program, loopback }) = plan.chroot.as_ref().map(|c| &c.network)
        {
            let program = program.as_path().to_owned();
            let answer = match network::connect(pid, &plan.identity, program, *loopback, spawn) {
                Ok(child) => {
                    network = Some(child);
                    CONNECTED.to_owned()
                }
                Err(error) => format!("{ALONE}{}\n", error.to_string().replace('\n', " ")),
            };
            order(&mut orders, answer.as_bytes())?;
        }
        Ok(())
    })?;
    let child = match builder {
        Some(child) => {
            first.wait()?;
            child
        }
        None => first,
    };
    let running = Running {
        child,
        log: File::from(log),
        _network: network,
    };
    let error = (!report.ready).then(|| report.error.trim_end().to_owned());
    Ok((running, error))
}

/// Tells the process something.
fn order(orders: &mut File, text: &[u8]) -> io::Result<()> {
    match orders.write_all(text) {
        // It went away meanwhile, and has said why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

/// What was reported of becoming the builder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    pid: Option<i32>,
    ready: bool,
    error: String,
}

/// Reads the report to its end, or until there can be no error any more. Where there is a process
/// besides the first, the two don't wait for each other; `on_pid` gets to know it.
fn read_report(
    status: &mut impl BufRead,
    two_processes: bool,
    mut on_pid: impl FnMut(i32) -> io::Result<()>,
) -> io::Result<Report> {
    let mut report = Report::default();
    while !(report.ready && (report.pid.is_some() || !two_processes)) {
        let mut line = String::new();
        if status.read_line(&mut line)? == 0 {
            break;
        }
        match line.strip_prefix("pid ").map(|pid| pid.trim_end().parse()) {
            Some(Ok(pid)) => {
                report.pid = Some(pid);
                on_pid(pid)?;
            }
            _ if line == READY => report.ready = true,
            _ => report.error += &line,
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_report_in_any_order() {
        let ready = Report {
            pid: Some(7),
            ready: true,
            error: String::new(),
        };
        for text in ["pid 7\nready\n", "ready\npid 7\n"] {
            let report = read_report(&mut text.as_bytes(), true, |_| Ok(())).expect("report");
            assert_eq!(report, ready, "{text:?}");
        }
        for text in ["pid 7\nin phase X\n", "in phase X\npid 7\n"] {
            let report = read_report(&mut text.as_bytes(), true, |_| Ok(())).expect("report");
            assert_eq!(report.pid, Some(7));
            assert!(!report.ready);
            assert_eq!(report.error, "in phase X\n");
        }
        let alone = read_report(&mut "ready\n".as_bytes(), false, |_| Ok(())).expect("report");
        assert!(alone.ready && alone.pid.is_none());
    }
}

//! Accepting clients, a thread for each, until a signal shuts the daemon down.
//!
//! The loop owns the list of sessions. SIGTERM, SIGINT and SIGHUP begin a graceful shutdown: all
//! sessions are cancelled, which ends their builds. When they have ended, or the shutdown has timed
//! out, the process ends by the signal, as if it had not been caught.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use system::poll::{PollFd, PollFlags, is_ready, poll};
use system::sync::{Condvar, Mutex, MutexGuard};

use crate::cancel::CancellationToken;
use crate::daemon::Daemon;
use crate::hangup::HangupWatcher;
use crate::listen::{Listener, Listeners};
use crate::session;
use crate::settings::Settings;
use crate::stream::{Peer, Stream};

/// The signals that shut the daemon down.
const SHUTDOWN_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// How long the sessions may take to end once they are cancelled.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// The stack of a session; nothing in it recurses on what clients send.
const STACK: usize = 1 << 20;

/// The sessions that have not ended.
#[derive(Default)]
struct Sessions {
    running: Mutex<HashMap<u64, (CancellationToken, Arc<Stream>)>>,
    ended: Condvar,
    next: AtomicU64,
}

impl Sessions {
    fn running(&self) -> MutexGuard<'_, HashMap<u64, (CancellationToken, Arc<Stream>)>> {
        self.running.lock()
    }
}

/// Serves clients until a signal ends the daemon.
pub fn run(listeners: Listeners, settings: Settings) -> Result<()> {
    let signals: SigSet = SHUTDOWN_SIGNALS.into_iter().collect();
    // Before there are threads, which inherit this; programs we start get the usual mask.
    signals.thread_block().context("cannot block signals")?;
    let shutdown = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot wait for signals")?;
    let watcher = HangupWatcher::start().context("cannot watch connections")?;
    let daemon = Arc::new(Daemon::new(settings, watcher));
    let sessions = Arc::new(Sessions::default());
    let signal = loop {
        let waiting = wait(listeners.as_slice(), &shutdown)?;
        if let Ok(Some(info)) = shutdown.read_signal() {
            break Signal::try_from(info.ssi_signo.cast_signed()).unwrap_or(Signal::SIGTERM);
        }
        for index in waiting {
            match listeners.as_slice()[index].accept() {
                Ok(Some(stream)) => start_session(&daemon, &sessions, stream),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("error processing connection: {error}");
                    // Out of descriptors, accepting fails until a client hangs up.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    };
    tracing::info!("ending on {signal}");
    listeners.close();
    shut_down_sessions(&sessions);
    end_by_signal(signal)
}

/// Waits for clients or a signal; returns the indices of the listeners where a client waits.
fn wait(listeners: &[Listener], shutdown: &SignalFd) -> Result<Vec<usize>> {
    let mut waiting: Vec<PollFd<'_>> = listeners
        .iter()
        .map(AsFd::as_fd)
        .chain([shutdown.as_fd()])
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut waiting, None).context("waiting for connections")?;
    Ok((0..listeners.len())
        .filter(|&index| is_ready(&waiting[index]))
        .collect())
}

/// Starts a session in a thread of its own.
fn start_session(daemon: &Arc<Daemon>, sessions: &Arc<Sessions>, stream: Stream) {
    let peer = match stream.peer() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::error!("error processing connection: {error}");
            return;
        }
    };
    tracing::info!("accepted connection from {}", describe(&peer));
    stream.set_nodelay();
    let stream = Arc::new(stream);
    let cancel = CancellationToken::new();
    let number = sessions.next.fetch_add(1, Ordering::Relaxed);
    sessions
        .running()
        .insert(number, (cancel.clone(), stream.clone()));
    let (daemon, registry) = (daemon.clone(), sessions.clone());
    // `guix-client processes' looks for these names.
    let name = match &peer {
        Peer::Local(peer) => format!("client {}", peer.pid),
        Peer::Remote(_) => "remote client".to_owned(),
    };
    let thread = thread::Builder::new().name(name).stack_size(STACK);
    let started = thread.spawn(move || {
        let run = AssertUnwindSafe(|| session::run(&daemon, stream, peer, cancel));
        // A panic ends its session only.
        if std::panic::catch_unwind(run).is_err() {
            tracing::error!("a session ended by a bug in this program; the others go on");
        }
        registry.running().remove(&number);
        registry.ended.notify_all();
    });
    if let Err(error) = started {
        tracing::error!("error processing connection: cannot start a thread: {error}");
        sessions.running().remove(&number);
    }
}

fn describe(peer: &Peer) -> String {
    match peer {
        Peer::Local(peer) => {
            let name = match system::ids::user_by_id(peer.uid) {
                Ok(Some(account)) => account.name,
                _ => peer.uid.to_string(),
            };
            format!("pid {}, user {name}", peer.pid)
        }
        Peer::Remote(address) => address.to_string(),
    }
}

/// Cancels all sessions, and waits until they have ended or the shutdown times out.
fn shut_down_sessions(sessions: &Sessions) {
    for (cancel, stream) in sessions.running().values() {
        cancel.cancel();
        stream.shut_down();
    }
    let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
    let mut running = sessions.running();
    while !running.is_empty() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            tracing::warn!("{} sessions did not end in time", running.len());
            return;
        };
        running = sessions.ended.wait_timeout(running, left);
    }
}

/// Ends the process by the signal that shut it down.
fn end_by_signal(signal: Signal) -> Result<()> {
    // It was only blocked: its action is still the default.
    raise(signal).context("raising a signal")?;
    let one: SigSet = [signal].into_iter().collect();
    one.thread_unblock().context("unblocking a signal")
}

//! Accepting clients, with a thread for each, until a signal shuts the daemon down.
//!
//! SIGTERM, SIGINT and SIGHUP start a graceful shutdown: all sessions are cancelled, which ends
//! their builds. When they have ended, or the shutdown has timed out, the process ends by the
//! signal, as if it had not been caught.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use system::poll::{PollFd, PollFlags, is_ready, poll};

use crate::cancel::CancellationToken;
use crate::client_limits::ClientLimits;
use crate::connections::{Connections, Refusal};
use crate::daemon::Daemon;
use crate::hangup::HangupWatcher;
use crate::listen::{Listener, Listeners};
use crate::session;
use crate::settings::Settings;
use crate::stream::{LocalPeer, Peer, Stream};

/// The signals that shut the daemon down.
const SHUTDOWN_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// How long cancelled sessions may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// The stack size of a session's thread; nothing in it recurses on data from clients.
const STACK: usize = 1 << 20;
/// How long a refused client has to read the reason before its connection is closed.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);
const REFUSED_LIMIT: usize = 16;
/// The minimum interval between log messages about refusals.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Serves clients until a signal ends the daemon.
pub fn run(listeners: Listeners, settings: Settings) -> Result<()> {
    let signals: SigSet = SHUTDOWN_SIGNALS.into_iter().collect();
    // Before there are threads, which inherit this; programs that we start get the default mask.
    signals.thread_block().context("cannot block signals")?;
    let shutdown = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot wait for signals")?;
    let watcher = HangupWatcher::start().context("cannot watch connections")?;
    let limits = ClientLimits::of_this_process();
    let mut server = Server {
        connections: Connections::new(limits.connections.clone()),
        daemon: Arc::new(Daemon::new(settings, limits, watcher)),
        refused: RefusedClients::default(),
    };
    let signal = loop {
        let now = Instant::now();
        let next = [
            server.connections.end_silent(now),
            server.refused.close_old(now),
        ];
        let deadline = next.into_iter().flatten().min();
        let waiting = wait(listeners.as_slice(), &shutdown, deadline)?;
        if let Ok(Some(info)) = shutdown.read_signal() {
            break Signal::try_from(info.ssi_signo as i32).unwrap_or(Signal::SIGTERM);
        }
        for index in waiting {
            match listeners.as_slice()[index].accept() {
                Ok(Some(stream)) => server.start_session(stream),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("error processing connection: {error}");
                    // Without free descriptors, accepting fails until a client disconnects.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    };
    tracing::info!("ending on {signal}");
    listeners.close();
    let running = server.connections.end_all(SHUTDOWN_TIMEOUT);
    server.daemon.finish_history();
    if running > 0 {
        tracing::warn!("{running} sessions did not end in time");
    } else {
        server.daemon.close_store();
    }
    end_by_signal(signal)
}

/// Waits for clients, a signal, or the deadline, if there is one; returns the indices of the
/// listeners with waiting clients.
fn wait(
    listeners: &[Listener],
    shutdown: &SignalFd,
    deadline: Option<Instant>,
) -> Result<Vec<usize>> {
    let mut waiting: Vec<PollFd<'_>> = listeners
        .iter()
        .map(AsFd::as_fd)
        .chain([shutdown.as_fd()])
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    poll(&mut waiting, timeout).context("waiting for connections")?;
    Ok((0..listeners.len())
        .filter(|&index| is_ready(&waiting[index]))
        .collect())
}

/// The state of the accepting loop.
struct Server {
    daemon: Arc<Daemon>,
    connections: Arc<Connections>,
    refused: RefusedClients,
}

impl Server {
    /// Starts a session in its own thread, or sends the client the reason why not.
    fn start_session(&mut self, stream: Stream) {
        let mut shown = self.daemon.settings.session.shown_directories();
        let peer = match stream.peer(shown.next().is_some()) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!("error processing connection: {error}");
                return;
            }
        };
        stream.set_nodelay();
        let stream = Arc::new(stream);
        let cancel = CancellationToken::new();
        let admission = match self.connections.admit(&peer, &stream, &cancel) {
            Ok(admission) => admission,
            Err(refusal) => return self.refused.add(&peer, stream, refusal),
        };
        tracing::info!("accepted connection from {}", describe(&peer));
        // `guix-client processes' searches for these names.
        let name = match &peer {
            Peer::Local(peer) => format!("client {}", peer.process.pid),
            Peer::Remote(_) => "remote client".to_owned(),
        };
        let thread = thread::Builder::new().name(name).stack_size(STACK);
        let (daemon, client) = (self.daemon.clone(), stream.clone());
        let started = thread.spawn(move || {
            let run = AssertUnwindSafe(|| session::run(&daemon, client, peer, cancel, &admission));
            // A panic only ends its own session.
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("a session ended by a bug in this program; the others go on");
            }
        });
        if let Err(error) = started {
            tracing::error!("error processing connection: cannot start a thread: {error}");
            self.refused.add(&peer, stream, Refusal::NoThread);
        }
    }
}

/// Clients that were refused. Their connections are closed a little later: a client that can't send
/// its greeting would never read the reason.
#[derive(Default)]
struct RefusedClients {
    open: VecDeque<(Instant, Arc<Stream>)>,
    last_logged: Option<Instant>,
}

impl RefusedClients {
    /// Sends a client the reason why it is refused.
    fn add(&mut self, peer: &Peer, stream: Arc<Stream>, refusal: Refusal) {
        let now = Instant::now();
        if (self.last_logged).is_none_or(|last| now - last >= REFUSAL_LOG_INTERVAL) {
            self.last_logged = Some(now);
            tracing::warn!("refused connection from {}: {refusal}", describe(peer));
        }
        stream.send_without_waiting(&protocol::server::refusal(&refusal.to_string()));
        stream.end_sending();
        if self.open.len() >= REFUSED_LIMIT {
            self.open.pop_front();
        }
        self.open.push_back((now + REFUSED_TIMEOUT, stream));
    }

    /// Closes the connections whose time is over. Returns the next time, if there are more.
    fn close_old(&mut self, now: Instant) -> Option<Instant> {
        while let Some((deadline, _)) = self.open.front() {
            if now < *deadline {
                return Some(*deadline);
            }
            self.open.pop_front();
        }
        None
    }
}

fn describe(peer: &Peer) -> String {
    match peer {
        Peer::Local(LocalPeer { process, .. }) => {
            let name = system::ids::user_name(process.uid);
            format!("pid {}, user {name}", process.pid)
        }
        Peer::Remote(address) => address.to_string(),
    }
}

/// Ends the process with the signal that shut it down.
fn end_by_signal(signal: Signal) -> Result<()> {
    // It was only blocked: its action is still the default.
    raise(signal).context("raising a signal")?;
    let one: SigSet = [signal].into_iter().collect();
    one.thread_unblock().context("unblocking a signal")
}

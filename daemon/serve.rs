//! Accepting clients, a thread for each, until the daemon is told to stop.
//!
//! The loop owns the list of sessions. SIGTERM, SIGINT and SIGHUP end it: all sessions are
//! interrupted, which ends their builds; when they are gone (or do not go), the process dies of
//! the signal, as if it had not been caught.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use system::poll::{PollFd, PollFlags, is_ready, poll};
use system::process::{Child, Spawn};
use system::sync::{Condvar, Mutex, MutexGuard};

use crate::cancel::CancellationToken;
use crate::daemon::Daemon;
use crate::hangup::HangupWatcher;
use crate::listen::{Listener, Peer, Stream};
use crate::session;
use crate::settings::Settings;

/// The signals that end the daemon.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// How long sessions may take to end once they are interrupted.
const FAREWELL: Duration = Duration::from_secs(20);
/// The stack of a session; nothing in it recurses on what clients send.
const STACK: usize = 1 << 20;

/// The sessions that are going on.
#[derive(Default)]
struct Sessions {
    going: Mutex<HashMap<u64, (CancellationToken, Arc<Stream>)>>,
    ended: Condvar,
    next: AtomicU64,
}

impl Sessions {
    fn going(&self) -> MutexGuard<'_, HashMap<u64, (CancellationToken, Arc<Stream>)>> {
        self.going.lock()
    }
}

/// Serves clients until a signal ends the daemon.
pub fn run(listeners: Vec<Listener>, settings: Settings) -> Result<()> {
    let signals: SigSet = ENDING.into_iter().collect();
    // Before there are threads, which inherit this; programs we start get the usual mask.
    signals.thread_block().context("cannot block signals")?;
    let ending = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot wait for signals")?;
    let own_sockets: Vec<(PathBuf, (u64, u64))> = own_sockets(&listeners, &settings)
        .into_iter()
        .filter_map(|path| inode_of(&path).map(|inode| (path, inode)))
        .collect();
    let watcher = HangupWatcher::start().context("cannot watch connections")?;
    let daemon = Arc::new(Daemon::new(settings, watcher));
    let sessions = Arc::new(Sessions::default());
    let signal = loop {
        let waiting = wait(&listeners, &ending)?;
        if let Ok(Some(info)) = ending.read_signal() {
            break Signal::try_from(info.ssi_signo.cast_signed()).unwrap_or(Signal::SIGTERM);
        }
        for index in waiting {
            match listeners[index].accept() {
                Ok(Some(stream)) => admit(&daemon, &sessions, stream),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("error processing connection: {error}");
                    // Without descriptors to spare, accepting fails until a client goes.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    };
    tracing::info!("ending on {signal}");
    // Before they are closed: a daemon that takes our place waits for that, and the sockets of one
    // that did not are others.
    for (path, inode) in own_sockets {
        if inode_of(&path) == Some(inode) {
            let _ = std::fs::remove_file(&path);
        }
    }
    drop(listeners);
    say_farewell(&sessions);
    die_of(signal)
}

/// The names of the sockets that we made ourselves and that nobody needs after us.
fn own_sockets(listeners: &[Listener], settings: &Settings) -> Vec<PathBuf> {
    let named = listeners
        .iter()
        .filter(|listener| matches!(listener, Listener::Unix(_)))
        .count();
    if std::env::var_os("LISTEN_FDS").is_some() || named == 0 {
        return Vec::new();
    }
    if settings.endpoints.is_empty() {
        return vec![settings.directories.socket()];
    }
    let absolute = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b"/");
    settings
        .endpoints
        .iter()
        .filter(|name| absolute(name))
        .map(PathBuf::from)
        .collect()
}

/// Device and inode of what is there.
fn inode_of(path: &Path) -> Option<(u64, u64)> {
    let status = std::fs::symlink_metadata(path).ok()?;
    Some((status.dev(), status.ino()))
}

/// Waits for clients or a signal; the indices of the listeners where there is somebody.
fn wait(listeners: &[Listener], ending: &SignalFd) -> Result<Vec<usize>> {
    let mut waiting: Vec<PollFd<'_>> = listeners
        .iter()
        .map(AsFd::as_fd)
        .chain([ending.as_fd()])
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut waiting, None).context("waiting for connections")?;
    Ok((0..listeners.len())
        .filter(|&index| is_ready(&waiting[index]))
        .collect())
}

/// Gives a client its thread.
fn admit(daemon: &Arc<Daemon>, sessions: &Arc<Sessions>, stream: Stream) {
    let peer = match stream.peer() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::error!("error processing connection: {error}");
            return;
        }
    };
    tracing::info!("accepted connection from {}", describe(&peer));
    stream.set_prompt();
    let stream = Arc::new(stream);
    let cancel = CancellationToken::new();
    let number = sessions.next.fetch_add(1, Ordering::Relaxed);
    sessions
        .going()
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
        // What a panic leaves behind is the session's own; the others go on.
        if std::panic::catch_unwind(run).is_err() {
            tracing::error!("a session ended by a bug in this program; the others go on");
        }
        registry.going().remove(&number);
        registry.ended.notify_all();
    });
    if let Err(error) = started {
        tracing::error!("error processing connection: cannot start a thread: {error}");
        sessions.going().remove(&number);
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

/// Interrupts all sessions and waits for them, within reason.
fn say_farewell(sessions: &Sessions) {
    for (cancel, stream) in sessions.going().values() {
        cancel.cancel();
        stream.shut_down();
    }
    let deadline = Instant::now() + FAREWELL;
    let mut going = sessions.going();
    while !going.is_empty() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            tracing::warn!("{} sessions did not end in time", going.len());
            return;
        };
        going = sessions.ended.wait_timeout(going, left);
    }
}

/// Ends the process by the signal that it was sent.
fn die_of(ending: Signal) -> Result<()> {
    // It was only blocked; its action is still the usual one.
    raise(ending).context("raising a signal")?;
    let one: SigSet = [ending].into_iter().collect();
    one.thread_unblock().context("unblocking a signal")
}

/// Starts `guix discover`, which finds substitute servers nearby, if that is wanted. It ends with
/// the daemon.
pub fn start_discovery(settings: &Settings) -> Option<Child> {
    if !settings.discover {
        return None;
    }
    let guix = &settings.directories.guix;
    let file = settings.directories.state.join("discover/publish");
    let started = Spawn::new(guix)
        .args(["discover".as_ref(), file.as_os_str()])
        .parent_death_signal(Signal::SIGKILL)
        .spawn();
    started
        .inspect_err(|error| tracing::warn!("cannot start `{} discover': {error}", guix.display()))
        .ok()
}

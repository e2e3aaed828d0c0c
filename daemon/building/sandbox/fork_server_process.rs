//! The fork server itself, which the daemon [starts](super::fork_server) and to which it sends
//! [requests](super::fork_request).
//!
//! It forks children of its parent, the daemon, and never waits for them, so that no builder can
//! delay others. It exits when the daemon closes its end of the connection.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::exit;

use nix::libc;
use nix::sys::prctl::set_name;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use system::process::{exit_now, kill_user_from_here};
use system::processors::Followed;
use system::{ids, ipc, keyring, namespace, pipe, socket};

use super::builder_process;
use super::fork_request::{self, ForkRequest, Ipc, Isolation, NAME};
use super::helper_process;

/// If this process was started as the fork server, runs it and never returns. Has to be the first
/// call in `main`, before there are other threads.
pub fn run_if_fork_server() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    // Otherwise its name is `exe', from /proc/self/exe.
    let _ = set_name(c"guix-forkserver");
    match take_connection().and_then(serve) {
        Ok(()) => exit(0),
        // If it was started by hand, standard input isn't a socket.
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "{NAME}: {error} (to be started by guix-daemon only)"
            );
            exit(1)
        }
    }
}

/// The connection to the daemon, which was standard input until now.
fn take_connection() -> io::Result<UnixStream> {
    let connection = pipe::inherited(0)?.ok_or(io::ErrorKind::NotConnected)?;
    dup2_stdin(pipe::null()?)?;
    Ok(connection.into())
}

/// Forks processes until the daemon closes the connection.
fn serve(connection: UnixStream) -> io::Result<()> {
    // The ids outside of the builders' user namespaces.
    let ids = (ids::effective_uid(), ids::effective_gid());
    let daemon = std::os::unix::process::parent_id();
    let mut processors = Followed::default();
    loop {
        let mut request = [0; fork_request::LENGTH];
        let (count, descriptors) = socket::receive_with_fds(&connection, &mut request)?;
        if count == 0 {
            return Ok(());
        }
        let decoded = ForkRequest::decode(request).filter(|_| count == request.len());
        let request = decoded.ok_or_else(|| io::Error::other("an unknown request"))?;
        processors.follow(daemon as i32);
        let reply = match namespace::fork_sibling(request.namespaces()) {
            Ok(None) => {
                drop(connection);
                run_child(request, descriptors, ids, daemon)
            }
            Ok(Some(pid)) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        (&connection).write_all(&reply.to_ne_bytes())?;
    }
}

/// Runs in the new process: does what was requested.
fn run_child(
    request: ForkRequest,
    descriptors: Vec<OwnedFd>,
    ids_outside: (u32, u32),
    daemon: u32,
) -> ! {
    match request {
        ForkRequest::KillUser(uid, ipc) => exit_now(match clear_user(uid, ipc, daemon) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }),
        ForkRequest::Builder(isolation) => {
            let Ok([log, plan, status]) = <[OwnedFd; 3]>::try_from(descriptors) else {
                exit(1)
            };
            // The process has this name until it executes the builder.
            let _ = set_name(c"guix-builder");
            if dup2_stdout(&log).and(dup2_stderr(&log)).is_err() {
                exit(1);
            }
            drop(log);
            let user_namespace = isolation == Isolation::UserNamespace;
            builder_process::run(
                user_namespace.then_some(ids_outside),
                plan.into(),
                status.into(),
            )
        }
        ForkRequest::Helper(isolation) => {
            let Ok([input, output, replies, control]) = <[OwnedFd; 4]>::try_from(descriptors)
            else {
                exit(1)
            };
            let _ = set_name(c"guix-helper");
            helper_process::run(
                isolation,
                ids_outside,
                [input, output, replies],
                control.into(),
            )
        }
    }
}

/// Kills all processes of a build user, and removes what would be left for that user's next build.
///
/// If the daemon has ended, its locks have, too, and another one may build as this user already.
fn clear_user(uid: u32, ipc: Ipc, daemon: u32) -> io::Result<()> {
    kill_user_from_here(uid, daemon)?;
    // By now, this process runs as that user.
    keyring::clear_user_keyrings()?;
    match ipc {
        Ipc::Own => Ok(()),
        Ipc::Host => ipc::remove_own(),
    }
}

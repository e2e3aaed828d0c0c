//! The fork server itself, which the daemon [starts](super::fork_server) and gives
//! [orders](mod@super::orders).
//!
//! It forks children of its parent, the daemon, and never waits for them, so that no builder can
//! hold up others. It ends when the daemon's end of the connection is closed.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::exit;

use nix::libc;
use nix::sys::prctl::set_name;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use system::process::kill_user_from_here;
use system::{ids, ipc, keyring, namespace, pipe, processors, socket};

use super::inside;
use super::orders::{self, Isolation, NAME, Order};

/// If this process was started to be the fork server, is it and never returns. To be called first
/// of all in `main`, before there are other threads.
pub fn run_if_fork_server() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    // Else it has the name of `/proc/self/exe'.
    let _ = set_name(c"guix-forkserver");
    match take_orders().and_then(serve) {
        Ok(()) => exit(0),
        // Started by hand, it has no socket.
        Err(error) => {
            eprintln!("{NAME}: {error} (to be started by guix-daemon only)");
            exit(1)
        }
    }
}

/// The connection to the daemon, which was standard input until now.
fn take_orders() -> io::Result<UnixStream> {
    let orders = pipe::inherited(0)?.ok_or(io::ErrorKind::NotConnected)?;
    dup2_stdin(pipe::null()?)?;
    Ok(orders.into())
}

/// Until the daemon closes the connection.
fn serve(orders: UnixStream) -> io::Result<()> {
    // As they are outside of the namespaces of builders.
    let ids = (ids::effective_uid(), ids::effective_gid());
    loop {
        let mut order = [0; orders::LENGTH];
        let (count, descriptors) = socket::receive_with_fds(&orders, &mut order)?;
        if count == 0 {
            return Ok(());
        }
        let order = Order::decode(order).filter(|_| count == order.len());
        let order = order.ok_or_else(|| io::Error::other("an order that means nothing"))?;
        processors::follow(std::os::unix::process::parent_id().cast_signed());
        let answer = match namespace::fork_sibling(order.namespaces()) {
            Ok(None) => {
                drop(orders);
                obey(order, descriptors, ids)
            }
            Ok(Some(pid)) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        (&orders).write_all(&answer.to_ne_bytes())?;
    }
}

/// In the new process.
fn obey(order: Order, descriptors: Vec<OwnedFd>, ids_outside: (u32, u32)) -> ! {
    match (order, <[OwnedFd; 3]>::try_from(descriptors)) {
        (Order::KillUser(uid), _) => exit(match clear_user(uid) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }),
        (Order::Builder(isolation), Ok([log, plan, status])) => {
            // Until it is executed.
            let _ = set_name(c"guix-builder");
            if dup2_stdout(&log).and(dup2_stderr(&log)).is_err() {
                exit(1);
            }
            drop(log);
            let user_namespace = isolation == Isolation::UserNamespace;
            inside::run(
                user_namespace.then_some(ids_outside),
                plan.into(),
                status.into(),
            )
        }
        (Order::Builder(_), Err(_)) => exit(1),
    }
}

/// Ends all that a build user has running, and removes what would be there for the next build of
/// that user.
fn clear_user(uid: u32) -> io::Result<()> {
    kill_user_from_here(uid)?;
    // This process is that user now.
    keyring::clear_user_keyrings()?;
    ipc::remove_own()
}

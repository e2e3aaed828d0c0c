//! `guix-offload worker`: a build machine for as long as a scheduler's job lasts.
//!
//! It runs at the end of a command that a head's keeper has started, and serves that keeper over its
//! standard input and output (`doc/spec/worker-frames.md`). [`run`] tells the whole run:
//!
//! * With `--socket`, it passes connections on to a daemon that runs there anyway.
//! * Otherwise there are two processes. The first one (`supervisor.rs`) makes a directory
//!   (`directory.rs`), starts the second one in namespaces of its own, waits for its end, whatever
//!   that comes from, and removes the directory. The second one (`inside.rs`) is the first process of
//!   its namespace, so that its end is the end of everything in it. It makes a root directory with a
//!   store (`root.rs`), starts a daemon (`daemon.rs`) with keys (`keys.rs`), and serves (`session.rs`).
//!
//! Both are the same for root, but that root gives the second one a user id that nobody else has.

mod daemon;
mod directory;
mod inside;
mod keys;
mod node;
mod options;
mod root;
mod session;
mod streams;
mod supervisor;

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::frames::{Class, Failure, StoreIdentity};
use node::Node;
use options::Options;
use session::{Ready, Served, Session};
use streams::{Streams, say};

/// Runs the worker with these words of its command line.
pub fn run(words: &[&str]) -> Result<u8> {
    let options = Options::parse(words)?;
    // (Slurm gives a job that is not to buffer its output a terminal for that, in raw mode.)
    if io::stdin().is_terminal() {
        bail!("a worker talks to the head by its standard input and output: a terminal is no head");
    }
    let mut streams = Streams::take()?;
    streams.output.greet().context("standard output")?;
    let served = match options.socket.clone() {
        Some(socket) => {
            let session = Session::new(streams, options.patience);
            session.serve(move |hello| {
                connect_to(&socket, Path::new(&hello.store), hello.store_identity)
            })
        }
        None => return supervisor::run(options, streams),
    };
    Ok(match served {
        Ok(()) => 0,
        Err(failure) => {
            say(&failure);
            1
        }
    })
}

/// A daemon that runs there anyway.
fn connect_to(socket: &Path, store: &Path, heads: Option<StoreIdentity>) -> Result<Ready, Failure> {
    let identity = StoreIdentity::of(store).ok();
    if identity.is_some() && identity == heads {
        let text = format!("the store `{}' is the head's own", store.display());
        return Err(Failure::new(Class::SameStore, text));
    }
    let connect = {
        let socket = socket.to_owned();
        move || -> io::Result<UnixStream> { system::socket::connect(&socket) }
    };
    if let Err(error) = connect() {
        let text = format!("no daemon serves at `{}': {error}", socket.display());
        return Err(Failure::new(Class::Daemon, text));
    }
    let node = Node::new(store.to_owned());
    let mut hello = node.hello();
    hello.store_identity = identity;
    Ok(Ready {
        hello,
        served: Served {
            connect: Box::new(connect),
            node,
        },
        watch: Box::new(|| None),
    })
}

//! The second process of a worker: the first one of its namespaces.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use formats::StoreDir;
use system::{ids, limits, poll, process};

use super::daemon::{self, Daemon, Program};
use super::keys::{FixedPair, Pair};
use super::node::Node;
use super::root::{self, PLACE};
use super::session::{Ready, Served, Session};
use super::streams::{Streams, say};
use crate::frames::{Class, Failure, KeeperHello};

/// What the first process has prepared.
pub(super) struct Plan {
    /// The worker's directory.
    pub directory: PathBuf,
    /// Whom this process is to become.
    pub user: Option<(u32, u32)>,
    pub program: Program,
    pub pair: Option<FixedPair>,
    pub patience: Duration,
}

/// Serves, and ends this process and with it the namespaces. A byte arrives in `go` when the ids of
/// this user namespace are mapped; its end is that of the first process.
pub(super) fn run(plan: Plan, mut streams: Streams, go: OwnedFd) -> ! {
    if let Err(failure) = become_user(&plan, &go) {
        streams.refuse(&failure);
        process::exit_now(1);
    }
    let session = Session::new(streams, plan.patience);
    let served = session.serve(prepare(plan));
    if let Err(failure) = &served {
        say(failure);
    }
    process::exit_now(i32::from(served.is_err()))
}

fn become_user(plan: &Plan, go: &OwnedFd) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let text = format!("cannot become the worker's user: {error}");
        Failure::new(Class::Namespaces, text)
    };
    limits::die_with_parent().map_err(failed)?;
    if nix::unistd::read(go, &mut [0]) != Ok(1) {
        process::exit_now(1); // the first process says why
    }
    if let Some((uid, gid)) = plan.user {
        ids::set_groups(&[]).map_err(failed)?;
        ids::set_gid(gid).map_err(failed)?;
        ids::set_uid(uid).map_err(failed)?;
        // The change took it away.
        limits::die_with_parent().map_err(failed)?;
    }
    let ended = poll::wait_readable(go, Some(Duration::ZERO)).map_err(failed)?;
    if ended {
        process::exit_now(1);
    }
    Ok(())
}

/// What starts the daemon. A key is made meanwhile, from now on.
fn prepare(plan: Plan) -> impl FnOnce(&KeeperHello) -> Result<Ready, Failure> + Send + 'static {
    let Plan {
        directory,
        program,
        pair,
        ..
    } = plan;
    let making: Making = match pair {
        Some(pair) => Ok(Pair::Fixed(pair)),
        None => Err(thread::spawn(Pair::generate)),
    };
    move |hello| {
        let store = store_directory(hello)?;
        root::enter(&directory, store.as_path())?;
        let mut daemon = Daemon::start(&program, hello)?;
        // Both wait for the disk.
        let (key, serves) = thread::scope(|scope| {
            let serves = scope.spawn(|| daemon.wait_to_serve(&store));
            let key = install(making, hello);
            (key, serves.join().unwrap_or_else(|_| Err(panicked())))
        });
        serves?;
        let node = Node::new(store.as_path().to_owned());
        let mut greeting = node.hello();
        greeting.key = key?;
        Ok(Ready {
            hello: greeting,
            served: Served {
                connect: Box::new(daemon::connect),
                node,
            },
            watch: Box::new(move || Some(daemon.wait_for_end())),
        })
    }
}

/// A pair, or the thread that makes one.
type Making = Result<Pair, JoinHandle<Result<Pair, Failure>>>;

/// Puts the keys where the daemon expects them.
fn install(making: Making, hello: &KeeperHello) -> Result<Option<String>, Failure> {
    let pair = match making {
        Ok(pair) => pair,
        Err(making) => making.join().unwrap_or_else(|_| Err(panicked()))?,
    };
    pair.install(hello.key.as_deref(), &Path::new(PLACE).join("etc"))
}

fn panicked() -> Failure {
    Failure::new(Class::Other, "a thread of the worker has panicked")
}

/// The store directory that the head wants.
fn store_directory(hello: &KeeperHello) -> Result<StoreDir, Failure> {
    match StoreDir::new(&hello.store) {
        Ok(store) if store.as_path().starts_with(PLACE) => {
            let text = format!("a store in `{PLACE}' can't be made");
            Err(Failure::new(Class::Protocol, text))
        }
        Ok(store) => Ok(store),
        Err(error) => Err(Failure::new(Class::Protocol, error.to_string())),
    }
}

//! The thread that starts builders, hooks and substituters.
//!
//! They are tied to the daemon with a parent-death signal, which the kernel sends when the
//! *thread* that started the process ends. So they are started by a thread that never does.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use system::process::{Child, Spawn};
use system::processors;
use system::signal::Signal;
use system::sync::Mutex;

type Order = (Spawn, Sender<io::Result<Child>>);

/// Starts programs that die with the daemon. Clones share the thread, which is started with the
/// first of them.
#[derive(Clone, Default)]
pub struct Spawner(Arc<Mutex<Option<Sender<Order>>>>);

impl Spawner {
    /// Starts a program.
    pub fn start(&self, program: Spawn) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts programs has ended");
        let (sender, receiver) = channel();
        self.orders()?.send((program, sender)).map_err(|_| gone())?;
        receiver.recv().map_err(|_| gone())?
    }

    fn orders(&self) -> io::Result<Sender<Order>> {
        let mut thread = self.0.lock();
        if let Some(orders) = &*thread {
            return Ok(orders.clone());
        }
        let (sender, orders) = channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (program, reply) in orders {
                    // Whoever had this thread started may be bound to a client's processor.
                    processors::follow(std::process::id().cast_signed());
                    // If nobody takes the child any more, dropping it ends it.
                    let _ = reply.send(program.parent_death_signal(Signal::SIGKILL).spawn());
                }
            })?;
        *thread = Some(sender.clone());
        Ok(sender)
    }
}

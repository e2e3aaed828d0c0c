//! The thread that starts builders, hooks and substituters.
//!
//! These are killed when the daemon dies, by a parent-death signal, which the kernel sends when the
//! *thread* that started the process ends. So they are started by a thread that never ends.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use system::process::{Child, Spawn};
use system::processors::Followed;
use system::signal::Signal;
use system::sync::Mutex;

type Order = (Spawn, Sender<io::Result<Child>>);

/// Starts programs that are killed when the daemon dies. Clones share the thread, which is started
/// with the first program.
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
                let mut processors = Followed::default();
                for (program, reply) in orders {
                    // The session that started this thread may be bound to a client's processor.
                    processors.follow(std::process::id() as i32);
                    // If the receiver has gone, the child is dropped and thereby killed.
                    let _ = reply.send(program.parent_death_signal(Signal::SIGKILL).spawn());
                }
            })?;
        *thread = Some(sender.clone());
        Ok(sender)
    }
}

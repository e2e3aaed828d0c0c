//! Receiving an item whose path is only known once it is complete.
//!
//! A small item is kept in memory until then, and written directly to its path, or discarded if the
//! path is valid already. A larger one is unpacked [by a thread](crate::unpack) under a temporary
//! name, which is a temporary root, and then renamed.

use std::io::{self, Read};

use bstr::BStr;
use formats::hash::Hash;
use formats::nar::Sink;
use formats::store_path::StorePath;
use nix::libc;
use system::tree::remove_tree;

use crate::error::{Error, Result, from_io, from_tree, into_io};
use crate::progress::Progress;
use crate::restore::{Restorer, link_item};
use crate::store::Store;
use crate::temp_roots::TempRoots;
use crate::unpack::{Event, NODE, Unpacker};

/// How much is kept in memory, in bytes.
const MEMORY: usize = 256 * 1024;

/// Receives a nar, and moves it to its path afterwards.
pub(crate) struct Receiver<'a> {
    store: &'a Store,
    temp_roots: &'a TempRoots,
    progress: &'a dyn Progress,
    received: Received,
}

/// What a [`Receiver`] has received, for a later one to go on with. Dropping it deletes it.
pub(crate) struct Received {
    deduplicate: bool,
    events: Vec<Event>,
    held: usize,
    /// The thread is joined before its files are removed.
    unpacking: Option<(Unpacker, Leftover)>,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(
        store: &'a Store,
        temp_roots: &'a TempRoots,
        progress: &'a dyn Progress,
    ) -> Receiver<'a> {
        let received = Received {
            deduplicate: store.options().deduplicate,
            events: Vec::new(),
            held: 0,
            unpacking: None,
        };
        Receiver::resume(store, temp_roots, progress, received)
    }

    /// Keeps what has been received, without the rest.
    pub(crate) fn pause(self) -> Received {
        self.received
    }

    /// Goes on with what has been received. `temp_roots` must protect what they protected before.
    pub(crate) fn resume(
        store: &'a Store,
        temp_roots: &'a TempRoots,
        progress: &'a dyn Progress,
        received: Received,
    ) -> Receiver<'a> {
        Receiver {
            store,
            temp_roots,
            progress,
            received,
        }
    }

    /// Whether files are replaced by links to equal ones, if not as the store's options say.
    pub(crate) fn deduplicating(mut self, deduplicate: bool) -> Self {
        self.received.deduplicate = deduplicate;
        self
    }

    /// The number of bytes kept in memory.
    pub(crate) fn held(&self) -> usize {
        self.received.held
    }

    /// Called when everything has been received and has to wait: keeps at most `memory` bytes in
    /// memory, and otherwise unpacks the item.
    pub(crate) fn wait(&mut self, memory: usize) -> io::Result<()> {
        if self.received.held > memory {
            self.unpack()?;
        }
        match &mut self.received.unpacking {
            Some((unpacker, _)) => unpacker.finish().map(drop),
            None => Ok(()),
        }
    }

    /// Moves the item to `path`, replacing what is there. `hash` and `size` are those of the nar.
    /// The path has to be locked. If this fails, the path has nothing new.
    pub(crate) fn settle(mut self, path: &StorePath, hash: &Hash, size: u64) -> Result<()> {
        let root = &self.store.inner.root;
        let name = path.base_name();
        let moving = || format!("cannot move to `{path}'");
        let existing = root
            .try_stat_at(name)
            .map_err(|error| Error::io(moving(), error))?;
        if existing.is_some() && self.received.unpacking.is_none() {
            self.unpack().map_err(|error| from_io(error, moving))?;
        }
        let Some((mut unpacker, leftover)) = self.received.unpacking.take() else {
            let mut leftover = Leftover::new(self.store, name.to_owned());
            let mut restorer = Restorer::new(self.store, name, self.received.deduplicate);
            for event in std::mem::take(&mut self.received.events) {
                let result = event.tell(&mut restorer);
                result.map_err(|error| from_io(error, moving))?;
            }
            if restorer.is_file() && self.received.deduplicate {
                link_item(self.store, name, hash, size)?;
            }
            leftover.keep();
            return Ok(());
        };
        let unpacked = unpacker.finish();
        let is_file = unpacked.map_err(|error| from_io(error, moving))?;
        if is_file && self.received.deduplicate {
            link_item(self.store, &leftover.name, hash, size)?;
        }
        match &existing {
            None => root.rename(&leftover.name, root, name),
            // The old item may be valid, so it must never be missing. The item that is deleted on
            // return is the old one.
            Some(_) => {
                return exchange(self.store, leftover, name)
                    .map_err(|error| Error::io(moving(), error));
            }
        }
        .map_err(|error| Error::io(moving(), error))?;
        leftover.into_kept();
        Ok(())
    }

    /// Starts to unpack, beginning with the recorded events.
    pub(crate) fn unpack(&mut self) -> io::Result<&mut Unpacker> {
        if self.received.unpacking.is_none() {
            let name = self.store.unique_name("nix");
            let path = self.store.dir().join(&name).map_err(io::Error::other)?;
            self.temp_roots.add(&path, self.progress).map_err(into_io)?;
            let leftover = Leftover::new(self.store, name.clone());
            let restorer = Restorer::new(self.store, &name, self.received.deduplicate);
            let unpacker = Unpacker::start(restorer, std::mem::take(&mut self.received.events))?;
            self.received.held = 0;
            self.received.unpacking = Some((unpacker, leftover));
        }
        match &mut self.received.unpacking {
            Some((unpacker, _)) => Ok(unpacker),
            None => Err(io::Error::other("nothing is unpacked")),
        }
    }

    /// Records the event, which takes `size` bytes, or returns `false` if it has to be unpacked.
    fn remember(&mut self, size: usize, event: impl FnOnce() -> Event) -> bool {
        if self.received.unpacking.is_some() || self.received.held + size + NODE > MEMORY {
            return false;
        }
        self.received.held += size + NODE;
        self.received.events.push(event());
        true
    }
}

impl Sink for Receiver<'_> {
    fn begin_directory(&mut self) -> io::Result<()> {
        if self.remember(0, || Event::BeginDirectory) {
            return Ok(());
        }
        self.unpack()?.begin_directory()
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        if self.remember(name.len(), || Event::Entry(name.to_owned())) {
            return Ok(());
        }
        self.unpack()?.entry(name)
    }

    fn end_directory(&mut self) -> io::Result<()> {
        if self.remember(0, || Event::EndDirectory) {
            return Ok(());
        }
        self.unpack()?.end_directory()
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        if self.remember(target.len(), || Event::Symlink(target.to_owned())) {
            return Ok(());
        }
        self.unpack()?.symlink(target)
    }

    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let small = usize::try_from(size).is_ok_and(|size| {
            let after = self.received.held.saturating_add(size).saturating_add(NODE);
            self.received.unpacking.is_none() && after <= MEMORY
        });
        if small {
            let mut data = vec![0; size as usize];
            contents.read_exact(&mut data)?;
            self.received.held += data.len() + NODE;
            self.received.events.push(Event::Regular(executable, data));
            return Ok(());
        }
        crate::progress::check(self.progress).map_err(into_io)?;
        self.unpack()?.regular(executable, size, contents)
    }
}

/// A name in the store directory that is removed recursively on drop, unless it is kept.
pub(crate) struct Leftover {
    store: Store,
    name: String,
    keep: bool,
}

impl Leftover {
    pub(crate) fn new(store: &Store, name: String) -> Leftover {
        Leftover {
            store: store.clone(),
            name,
            keep: false,
        }
    }

    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    fn into_kept(mut self) {
        self.keep = true;
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if !self.keep {
            if let Err(error) = remove_leftover(&self.store, &self.name) {
                tracing::warn!(name = self.name, %error, "something is left in the store");
            }
        }
    }
}

/// Puts the new tree in the place of the old one, which is deleted.
fn exchange(store: &Store, new: Leftover, name: &str) -> io::Result<()> {
    let root = &store.inner.root;
    match root.exchange(&new.name, root, name) {
        Ok(()) => Ok(()),
        // Some file systems don't support this.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            remove_leftover(store, name).map_err(into_io)?;
            root.rename(&new.name, root, name)
        }
        Err(error) => Err(error),
    }
}

/// Removes `name` in the store directory recursively, if it exists.
pub(crate) fn remove_leftover(store: &Store, name: &str) -> Result<()> {
    match remove_tree(&store.inner.root, name) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result
            .map(|_| ())
            .map_err(|error| from_tree(error, store.dir().as_path())),
    }
}

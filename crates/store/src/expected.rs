//! Receiving an item whose path, hash and size are known beforehand: a substitute.
//!
//! The nar comes from somebody whom nobody trusts. It is read up to the announced size and no
//! further, kept in memory or unpacked under a temporary name (see `receive`), and hashed
//! meanwhile. Only if hash and size are right, it can be moved to its path, in one step, and
//! registered. A nar that is anything else leaves nothing.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::sync::Arc;

use formats::hash::{Algorithm, Hash, HashReader};
use formats::nar;
use formats::store_path::StorePath;

use crate::error::{Error, Result, from_io, from_nar};
use crate::progress::Progress;
use crate::receive::{Leftover, Received, Receiver};
use crate::registration::NewPath;
use crate::store::Store;
use crate::temp_roots::TempRoots;

/// How much is read at a time, in bytes.
const BUFFER: usize = 64 * 1024;

/// What an item has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedItem {
    /// Its path.
    pub path: StorePath,
    /// The hash of its nar, by any algorithm.
    pub hash: Hash,
    /// The announced size of its nar in bytes.
    pub nar_size: u64,
    /// Whether its nar may be smaller than that; its real size is what is registered. It is never
    /// larger.
    pub may_be_smaller: bool,
    /// What it refers to, with itself if it does.
    pub references: BTreeSet<StorePath>,
    /// The derivation that built it, if known.
    pub deriver: Option<StorePath>,
}

/// How an item is received.
pub struct ReceiveOptions<'a> {
    /// Protect it from the collector under its temporary name.
    pub temp_roots: &'a Arc<TempRoots>,
    /// Whether its files are replaced by links to equal ones of other items.
    pub deduplicate: bool,
    /// Can interrupt.
    pub progress: &'a dyn Progress,
}

/// A received item with the right contents, not at its path yet. Dropping it deletes it.
pub struct ReceivedItem<'a> {
    store: &'a Store,
    temp_roots: &'a Arc<TempRoots>,
    receiver: Receiver<'a>,
    item: &'a ExpectedItem,
    /// SHA-256 of its nar.
    hash: Hash,
    /// The size of its nar.
    size: u64,
}

/// A received item that waits for something before it can be registered: its references, say. It
/// has no descriptors and no thread. Dropping it deletes it.
pub struct WaitingItem {
    // Deleted before the roots that protect it.
    received: Received,
    temp_roots: Arc<TempRoots>,
    store: Store,
    item: ExpectedItem,
    hash: Hash,
    size: u64,
}

impl Store {
    /// Reads the nar of `item` from `source`, not necessarily to the end of `source`.
    ///
    /// # Errors
    /// [`Error::BadInput`] or [`Error::DeepArchive`] if it isn't the nar of an item of that size,
    /// or `source` fails; [`Error::WrongHash`] if it is the nar of something else; otherwise the
    /// reason why it can't be received.
    pub fn receive<'a>(
        &'a self,
        source: &mut dyn Read,
        item: &'a ExpectedItem,
        options: &ReceiveOptions<'a>,
    ) -> Result<ReceivedItem<'a>> {
        let mut receiver = Receiver::new(self, options.temp_roots, options.progress)
            .deduplicating(options.deduplicate);
        let source = BufReader::with_capacity(BUFFER, source.take(item.nar_size));
        let mut hashing = HashReader::new(source, Algorithm::Sha256);
        let algorithm = item.hash.algorithm();
        let actual = if algorithm == Algorithm::Sha256 {
            nar::read(&mut hashing, &mut receiver).map_err(from_nar)?;
            hashing.current().0
        } else {
            let mut other = HashReader::new(&mut hashing, algorithm);
            nar::read(&mut other, &mut receiver).map_err(from_nar)?;
            other.current().0
        };
        let (_, hash, size) = hashing.finish();
        if actual != item.hash {
            return Err(Error::WrongHash {
                path: item.path.clone(),
                expected: Box::new(item.hash),
                actual: Box::new(actual),
            });
        }
        if size != item.nar_size && !item.may_be_smaller {
            let (path, announced) = (&item.path, item.nar_size);
            return Err(Error::BadInput(format!(
                "the nar of `{path}' has {size} bytes instead of {announced}"
            )));
        }
        // What has been received is also unpacked as far as it was not kept in memory, so that a
        // full disk is noticed here.
        let unpacked = receiver.wait(usize::MAX);
        unpacked.map_err(|error| from_io(error, || format!("unpacking `{}'", item.path)))?;
        Ok(ReceivedItem {
            store: self,
            temp_roots: options.temp_roots,
            receiver,
            item,
            hash,
            size,
        })
    }
}

impl ReceivedItem<'_> {
    /// The SHA-256 of its nar.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The size of its nar in bytes.
    pub fn nar_size(&self) -> u64 {
        self.size
    }

    /// Keeps the item until it can be registered.
    pub fn wait(self) -> WaitingItem {
        WaitingItem {
            received: self.receiver.pause(),
            temp_roots: self.temp_roots.clone(),
            store: self.store.clone(),
            item: self.item.clone(),
            hash: self.hash,
            size: self.size,
        }
    }

    /// Moves the item to `place` in one step, replacing what is there, for whoever has that locked
    /// and has the database to register it.
    pub fn move_to(mut self, place: &StorePath) -> Result<()> {
        let unpacked = self.receiver.unpack().map(drop);
        unpacked.map_err(|error| from_io(error, || format!("unpacking `{}'", self.item.path)))?;
        self.receiver.settle(place, &self.hash, self.size)
    }

    /// Moves the item to its path, replacing what is there, and registers it. Its path has to be
    /// locked, and its references have to be valid. If that fails, an item that was not valid is
    /// not there either.
    pub fn register(self) -> Result<()> {
        let item = self.item;
        let was_valid = self.store.is_valid(&item.path)?;
        self.receiver.settle(&item.path, &self.hash, self.size)?;
        let mut leftover = Leftover::new(self.store, item.path.base_name().to_owned());
        if was_valid {
            leftover.keep();
        }
        self.store.register_valid_paths(&[NewPath {
            path: item.path.clone(),
            hash: self.hash,
            nar_size: self.size,
            references: item.references.clone(),
            deriver: item.deriver.clone(),
            registration_time: None,
        }])?;
        leftover.keep();
        Ok(())
    }
}

impl WaitingItem {
    /// What the item is.
    pub fn item(&self) -> &ExpectedItem {
        &self.item
    }

    /// See [`ReceivedItem::register`].
    pub fn register(self, progress: &dyn Progress) -> Result<()> {
        let received = ReceivedItem {
            store: &self.store,
            temp_roots: &self.temp_roots,
            receiver: Receiver::resume(&self.store, &self.temp_roots, progress, self.received),
            item: &self.item,
            hash: self.hash,
            size: self.size,
        };
        received.register()
    }
}

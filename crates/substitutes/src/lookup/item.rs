//! An item that is being looked up: who was asked for it, and who comes next.

use std::sync::Arc;

use formats::store_path::StorePath;

use super::contacts::Contacts;
use crate::narinfo::Narinfo;
use crate::network::RequestId;

/// An item that is being looked up.
pub(super) struct Item {
    pub(super) path: StorePath,
    /// What servers said of it that is not believed, with their indices.
    pub(super) narinfos: Vec<(usize, Arc<Narinfo>)>,
    /// The server to ask next.
    next: usize,
    /// Servers before it that were left out because they are late, and are asked last.
    pub(super) left_out: Vec<usize>,
    /// The questions about it that are not answered, and who was asked.
    pub(super) open: Vec<(RequestId, usize)>,
    /// Whether it is among those to ask for.
    pub(super) is_queued: bool,
    /// Whether what the server says is used whether it is believed or not.
    pub(super) all: bool,
}

impl Item {
    /// An item that nobody has been asked for.
    pub(super) fn new(path: StorePath, all: bool) -> Item {
        Item {
            path,
            narinfos: Vec::new(),
            next: 0,
            left_out: Vec::new(),
            open: Vec::new(),
            is_queued: false,
            all,
        }
    }

    /// The next server to ask.
    pub(super) fn next_server(&mut self, contacts: &Contacts<'_>) -> Option<usize> {
        while self.next < contacts.len() {
            let server = self.next;
            self.next += 1;
            match contacts.is_late(server) {
                true => self.left_out.push(server),
                false => return Some(server),
            }
        }
        // If others are asked for all that they have, what is late can be left out.
        let is_enough = self.all && !self.narinfos.is_empty();
        (!self.left_out.is_empty() && !is_enough).then(|| self.left_out.remove(0))
    }

    /// Whether somebody else than `server` can still be asked.
    pub(super) fn has_others(&self, contacts: &Contacts<'_>) -> bool {
        self.next < contacts.len()
    }

    /// Whether it need not wait for the answers to its open questions.
    pub(super) fn is_overtaking(&self, contacts: &Contacts<'_>) -> bool {
        self.open
            .iter()
            .all(|(_, server)| contacts.is_late(*server))
    }
}

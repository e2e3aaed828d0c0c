//! Which narinfos are believed: those signed by a key of the ACL (`doc/spec/substitutes.md`,
//! section 3).

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use authority::{Authorised, Keys};
use formats::Hash;
use system::sync::Mutex;

use crate::narinfo::{Narinfo, Signature};

/// How many verdicts are remembered; a few megabytes.
const MAX_VERDICTS: usize = 1 << 16;

/// From how many narinfos on several threads verify signatures.
const SHARED_FROM: usize = 16;

/// The keys whose signatures are believed, as the configuration directory has them.
pub struct Trust {
    keys: Arc<Keys>,
    unauthenticated: bool,
    judge: Mutex<Option<Judge>>,
}

impl Trust {
    /// Believes what is signed by a key in the ACL of `keys`; or everything, if
    /// `unauthenticated` (`GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES`).
    pub fn new(keys: Arc<Keys>, unauthenticated: bool) -> Trust {
        Trust {
            keys,
            unauthenticated,
            judge: Mutex::default(),
        }
    }

    /// A judge with the ACL as it is now. It doesn't notice later changes, so that one request is
    /// judged by one ACL: call this for each.
    ///
    /// # Errors
    /// The ACL can't be read: nothing is believed. The message says why.
    pub fn judge(&self) -> Result<Judge, String> {
        let authorised = self.keys.authorised()?;
        let mut known = self.judge.lock();
        if let Some(judge) = &*known {
            if Arc::ptr_eq(&judge.0.authorised, &authorised) {
                return Ok(judge.clone());
            }
        }
        let judge = Judge(Arc::new(Bench {
            authorised,
            unauthenticated: self.unauthenticated,
            verdicts: Mutex::default(),
        }));
        *known = Some(judge.clone());
        Ok(judge)
    }
}

/// Judges narinfos by one version of the ACL. Cheap to clone; a signature that was verified once is
/// remembered.
#[derive(Clone)]
pub struct Judge(Arc<Bench>);

struct Bench {
    authorised: Arc<Authorised>,
    unauthenticated: bool,
    verdicts: Mutex<HashMap<[u8; 32], bool>>,
}

impl Judge {
    /// Whether nothing can be believed, since no key is authorised: then there is no reason to ask
    /// any server.
    pub fn believes_nobody(&self) -> bool {
        !self.0.unauthenticated && self.0.authorised.acl().is_empty()
    }

    /// Whether at most this machine's own key is authorised, as it is before an administrator has
    /// authorised any other: Guix then warns that substitutes may be unavailable.
    pub fn believes_only_us(&self) -> bool {
        !self.0.unauthenticated && self.0.authorised.is_at_most_own()
    }

    /// Whether everything is believed, signed or not.
    pub fn believes_everybody(&self) -> bool {
        self.0.unauthenticated
    }

    /// Whether `narinfo` is believed.
    pub fn vouches_for(&self, narinfo: &Narinfo) -> bool {
        if self.0.unauthenticated {
            return true;
        }
        narinfo
            .signature()
            .is_some_and(|signature| self.0.accepts(signature))
    }

    /// [`Judge::vouches_for`] of many, on all processors: verifying a signature takes a good part of
    /// a millisecond.
    pub fn vouches_for_each(&self, narinfos: &[Arc<Narinfo>]) -> Vec<bool> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = narinfos.len().div_ceil(threads);
        if narinfos.len() < SHARED_FROM || self.0.unauthenticated {
            return narinfos
                .iter()
                .map(|narinfo| self.vouches_for(narinfo))
                .collect();
        }
        let mut verdicts = vec![false; narinfos.len()];
        thread::scope(|scope| {
            for (narinfos, verdicts) in narinfos.chunks(share).zip(verdicts.chunks_mut(share)) {
                scope.spawn(move || {
                    for (narinfo, verdict) in narinfos.iter().zip(verdicts) {
                        *verdict = self.vouches_for(narinfo);
                    }
                });
            }
        });
        verdicts
    }
}

impl Bench {
    fn accepts(&self, signature: &Signature) -> bool {
        let key = identity(signature);
        if let Some(&verdict) = self.verdicts.lock().get(&key) {
            return verdict;
        }
        let acl = self.authorised.acl();
        let verdict =
            gcrypt::verify(signature.text(), acl).is_ok_and(|hash| &hash == signature.signed());
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(key, verdict);
        verdict
    }
}

/// Identifies a signature and what it must have signed.
fn identity(signature: &Signature) -> [u8; 32] {
    let both = [&signature.signed()[..], signature.text()].concat();
    Hash::sha256(both).compress()
}

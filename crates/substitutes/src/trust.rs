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
    /// Whether no server is believed, so that there is no reason to ask any: at most this machine's
    /// own key is authorised, as before an administrator has authorised any other. Guix then warns
    /// that substitutes may be unavailable.
    pub fn believes_nobody(&self) -> bool {
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
        if narinfos.len() < SHARED_FROM || self.0.unauthenticated {
            return narinfos
                .iter()
                .map(|narinfo| self.vouches_for(narinfo))
                .collect();
        }
        // The standard library reads files of the kernel for this.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = narinfos.len().div_ceil(threads);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Server;
    use data_encoding::BASE64;
    use formats::StoreDir;
    use gcrypt::{Acl, KeyPair, PublicKey, keys};

    #[test]
    fn a_signature_is_verified_once() {
        let configuration = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate(keys::DEFAULT_PARAMETERS).unwrap();
        let mut acl = Acl::default();
        acl.authorize(PublicKey::parse(pair.public().as_sexp().to_canonical()).unwrap());
        acl.save(configuration.path()).unwrap();
        let trust = Trust::new(Arc::new(Keys::new(configuration.path())), false);
        let judge = trust.judge().unwrap();

        let store = StoreDir::new("/gnu/store").unwrap();
        let path = store.join("0mgxsakkancy2iry6pj8hwcmlbmjbamn-x").unwrap();
        let narinfo = |server: &str, size: u64, files: &str| {
            let text = |size| {
                let hash = Hash::sha256("");
                format!("StorePath: {path}\nNarHash: {hash}\nNarSize: {size}\nReferences: \n")
            };
            let signed = Hash::sha256(text(100)).compress();
            let signature = BASE64.encode(&gcrypt::sign(&signed, &pair).unwrap());
            let text = format!("{}Signature: 1;x;{signature}\n{files}", text(size));
            let server = Arc::new(Server::new(server).unwrap());
            Arc::new(Narinfo::parse(text.as_bytes(), &path, &store, &server).unwrap())
        };
        let verified = || judge.0.verdicts.lock().len();
        let first = narinfo("http://a", 100, "URL: a\nCompression: none\n");
        assert!(judge.vouches_for(&first));
        assert_eq!(verified(), 1);
        // The same from another server, with other files, and from a judge with the same ACL.
        let second = narinfo("http://b", 100, "URL: b\nCompression: gzip\n");
        assert!(trust.judge().unwrap().vouches_for(&second));
        assert_eq!(verified(), 1);
        // The same signature below another text.
        let third = narinfo("http://a", 101, "URL: a\nCompression: none\n");
        assert!(!judge.vouches_for(&third) && !judge.vouches_for(&third));
        assert_eq!(verified(), 2);
        // Another ACL begins anew, and what was authorised no longer is.
        Acl::default().save(configuration.path()).unwrap();
        let later = trust.judge().unwrap();
        assert!(!later.vouches_for(&first) && judge.vouches_for(&first));
        assert_eq!(later.0.verdicts.lock().len(), 1);
    }
}

//! Signing exports and verifying imports with the keys of the configuration directory.
//!
//! The keys and the ACL are read when they are first needed, and again when their files have
//! changed, so that `guix archive --authorize` takes effect immediately, as it does with Guix,
//! which starts an agent for each session.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::hash::{Algorithm, Hash};
use gcrypt::{Acl, KeyPair, PublicKey};
use store::Authority;
use system::sync::Mutex;

/// Identifies a version of a file: device, inode, size, mode, and modification time.
type Stamp = Option<(u64, u64, u64, u32, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mode(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

/// A value read from two files, with the versions of those files.
type Cached<T> = Mutex<Option<([Stamp; 2], Arc<T>)>>;

/// The files that say whose signatures are accepted.
const ACL_FILES: [&str; 2] = ["acl", "signing-key.pub"];

/// The keys whose signatures are accepted.
#[derive(Debug)]
pub struct Authorised {
    acl: Acl,
    at_most_own: bool,
}

impl Authorised {
    fn load(directory: &Path) -> gcrypt::Result<Authorised> {
        let acl = Acl::load(directory)?;
        let own = || {
            let key = PublicKey::load(&directory.join("signing-key.pub"));
            key.is_ok_and(|key| acl.contains(key.as_sexp()))
        };
        let at_most_own = acl.is_empty() || (acl.len() == 1 && own());
        Ok(Authorised { acl, at_most_own })
    }

    /// The keys.
    #[must_use]
    pub fn acl(&self) -> &Acl {
        &self.acl
    }

    /// Whether there is no key, or only this machine's own.
    #[must_use]
    pub fn is_at_most_own(&self) -> bool {
        self.at_most_own
    }
}

/// The keys and the ACL in one directory.
pub struct Keys {
    directory: PathBuf,
    pair: Cached<KeyPair>,
    acl: Cached<Authorised>,
}

impl Keys {
    /// The keys in `directory`, which need not exist yet.
    pub fn new(directory: &Path) -> Keys {
        Keys {
            directory: directory.to_owned(),
            pair: Mutex::default(),
            acl: Mutex::default(),
        }
    }

    /// The keys whose signatures are accepted: the same value again as long as the files are the
    /// same.
    ///
    /// # Errors
    /// A file can't be read; the message says which and why.
    pub fn authorised(&self) -> Result<Arc<Authorised>, String> {
        self.current(&self.acl, ACL_FILES, Authorised::load)
    }

    fn current<T>(
        &self,
        cached: &Cached<T>,
        files: [&str; 2],
        load: impl FnOnce(&Path) -> gcrypt::Result<T>,
    ) -> Result<Arc<T>, String> {
        let stamps = || files.map(|name| stamp(&self.directory.join(name)));
        let mut cached = cached.lock();
        let before = stamps();
        match &*cached {
            Some((known, value)) if *known == before && before[0].is_some() => Ok(value.clone()),
            _ => {
                let value = Arc::new(load(&self.directory).map_err(|error| error.to_string())?);
                // Taken before reading, so that a change while we read is noticed next time.
                *cached = Some((before, value.clone()));
                Ok(value)
            }
        }
    }
}

/// One public key, whose signatures are accepted; nothing is signed.
pub struct SingleKey(Acl);

impl SingleKey {
    /// Parses the key, an s-expression.
    ///
    /// # Errors
    /// It is no public key.
    pub fn parse(text: &str) -> Result<SingleKey, String> {
        let key = PublicKey::parse(text).map_err(|error| error.to_string())?;
        let mut acl = Acl::default();
        acl.authorize(key);
        Ok(SingleKey(acl))
    }
}

impl Authority for SingleKey {
    fn sign(&self, _: &Hash) -> Result<Vec<u8>, String> {
        Err("there is only a public key".to_owned())
    }

    fn verify(&self, signature: &[u8]) -> Result<Hash, String> {
        verify(signature, &self.0)
    }
}

/// The hash that was signed by a key in `acl`.
fn verify(signature: &[u8], acl: &Acl) -> Result<Hash, String> {
    let signed = gcrypt::verify(signature, acl).map_err(|error| error.to_string())?;
    Hash::new(Algorithm::Sha256, &signed)
        .ok_or_else(|| "signed hash has the wrong length".to_owned())
}

impl Authority for Keys {
    fn sign(&self, hash: &Hash) -> Result<Vec<u8>, String> {
        let pair = self.current(
            &self.pair,
            ["signing-key.sec", "signing-key.pub"],
            KeyPair::load,
        )?;
        let refused = || "only SHA-256 hashes are signed".to_owned();
        let digest = match hash.algorithm() {
            Algorithm::Sha256 => hash.bytes().try_into().map_err(|_| refused())?,
            _ => return Err(refused()),
        };
        gcrypt::sign(digest, &pair).map_err(|error| error.to_string())
    }

    fn verify(&self, signature: &[u8]) -> Result<Hash, String> {
        verify(signature, self.authorised()?.acl())
    }
}

//! The keys that may sign imports: the file `acl` of the configuration directory.
//!
//! Its form is `(acl (entry KEY (tag (guix import))) …)` and nothing else, as in `(guix pki)`.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::keys::{PublicKey, read_sexp, write_atomically};
use crate::sexp::Sexp;

/// The keys authorised for imports.
#[derive(Debug, Default)]
pub struct Acl {
    keys: Vec<Sexp>,
}

impl Acl {
    /// Reads `acl` in the configuration `directory`. If it doesn't exist but `signing-key.pub`
    /// does, an ACL with that key is created first, as Guix does; if neither exists, the ACL is
    /// empty.
    ///
    /// # Errors
    /// A file cannot be read or written, or the ACL doesn't have the expected form.
    pub fn load(directory: &Path) -> Result<Acl> {
        let path = directory.join("acl");
        match read_sexp(&path) {
            Ok(sexp) => Acl::from_sexp(&sexp).ok_or(Error::Acl(path)),
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let mut acl = Acl::default();
                let public = directory.join("signing-key.pub");
                if public.exists() {
                    acl.authorize(PublicKey::load(&public)?);
                    acl.save(directory)?;
                }
                Ok(acl)
            }
            Err(error) => Err(error),
        }
    }

    fn from_sexp(sexp: &Sexp) -> Option<Acl> {
        if sexp.atom_at(0) != Some(b"acl") {
            return None;
        }
        let import = Sexp::parse("(tag (guix import))").ok()?.to_canonical();
        let entry = |index| {
            let entry = sexp.list_at(index)?;
            let right = entry.len() == 3
                && entry.atom_at(0) == Some(b"entry")
                && entry.list_at(2)?.to_canonical() == import;
            if right { entry.list_at(1) } else { None }
        };
        (1..sexp.len())
            .map(entry)
            .collect::<Option<_>>()
            .map(|keys| Acl { keys })
    }

    /// Whether imports signed by `key`, a `(public-key …)`, are authorised.
    #[must_use]
    pub fn contains(&self, key: &Sexp) -> bool {
        let wanted = key.to_canonical();
        self.keys.iter().any(|key| key.to_canonical() == wanted)
    }

    /// The keys, each a `(public-key …)`.
    #[must_use]
    pub fn keys(&self) -> &[Sexp] {
        &self.keys
    }

    /// Authorises `key`; a key that is authorised already isn't repeated.
    pub fn authorize(&mut self, key: PublicKey) {
        let key = key.into_sexp();
        if !self.contains(&key) {
            self.keys.insert(0, key);
        }
    }

    /// How many keys are authorised.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is authorised.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Writes the ACL to the configuration `directory`, replacing the existing one.
    ///
    /// # Errors
    /// The directory or the file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).map_err(Error::file("creating directory", directory))?;
        let mut text = b"(acl ".to_vec();
        for key in &self.keys {
            text.extend_from_slice(b"(entry ");
            text.extend_from_slice(&key.to_canonical());
            text.extend_from_slice(b" (tag (guix import)))");
        }
        text.push(b')');
        let path = directory.join("acl");
        let text = Sexp::parse(text)?.to_advanced();
        write_atomically(&path, 0o644, &text).map_err(Error::file("writing", &path))
    }
}

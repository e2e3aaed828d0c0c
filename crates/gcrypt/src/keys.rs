//! Key pairs: generating them, saving them to files, loading them.
//!
//! The files are Guix's: `signing-key.pub` (mode 0444) and `signing-key.sec` (mode 0400) in the
//! configuration directory, each one s-expression in advanced form.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::ptr;

use crate::error::{Error, Result};
use crate::sexp::{MAXIMUM_LENGTH, Sexp};
use crate::sys;

/// The parameters with which Guix makes its keys, for [`KeyPair::generate`].
pub const DEFAULT_PARAMETERS: &str = "(genkey (ecdsa (curve Ed25519) (flags rfc6979)))";

/// Whom files are given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Reads one s-expression from a file.
pub(crate) fn read_sexp(path: &Path) -> Result<Sexp> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAXIMUM_LENGTH as u64 + 1).read_to_end(&mut text))
        .map_err(Error::file("reading", path))?;
    Sexp::parse(&text).map_err(|source| Error::Content {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Replaces the file `path` atomically.
pub(crate) fn write_atomically(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written =
        write_new(&temporary, mode, content, None).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates the file `path` atomically; fails if it exists.
fn create_atomically(
    path: &Path,
    mode: u32,
    content: &[u8],
    owner: Option<Owner>,
) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written =
        write_new(&temporary, mode, content, owner).and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    written
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn write_new(path: &Path, mode: u32, content: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// A `(public-key …)` s-expression.
#[derive(Debug)]
pub struct PublicKey(Sexp);

impl PublicKey {
    /// Parses a public key, as `guix archive --authorize` reads it.
    ///
    /// # Errors
    /// The text isn't an s-expression, or isn't a public key.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<PublicKey> {
        PublicKey::from_sexp(Sexp::parse(text)?)
    }

    pub(crate) fn from_sexp(sexp: Sexp) -> Result<PublicKey> {
        if sexp.atom_at(0) == Some(b"public-key") {
            Ok(PublicKey(sexp))
        } else {
            Err(Error::Shape("s-expression does not denote a public key"))
        }
    }

    /// Reads a public key from a file.
    ///
    /// # Errors
    /// The file cannot be read or isn't a public key.
    pub fn load(path: &Path) -> Result<PublicKey> {
        PublicKey::from_sexp(read_sexp(path)?).map_err(|source| Error::Content {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// The s-expression itself.
    #[must_use]
    pub fn as_sexp(&self) -> &Sexp {
        &self.0
    }

    pub(crate) fn into_sexp(self) -> Sexp {
        self.0
    }

    /// The flag for signing with this kind of key: deterministic nonces for elliptic curves.
    pub(crate) fn signing_flag(&self) -> Result<&'static str> {
        let key = self
            .0
            .list_at(1)
            .ok_or(Error::Shape("public key without parameters"))?;
        match key.atom_at(0) {
            Some(b"ecc" | b"ecdsa" | b"dsa") => Ok("rfc6979"),
            Some(b"rsa") => Ok("pkcs1"),
            _ => Err(Error::Shape("unknown key type")),
        }
    }
}

/// A secret key, which signs exports, and its public key.
#[derive(Debug)]
pub struct KeyPair {
    public: PublicKey,
    secret: Sexp,
}

impl KeyPair {
    /// Generates a key pair; see [`DEFAULT_PARAMETERS`].
    ///
    /// # Errors
    /// The parameters aren't an s-expression, or libgcrypt can't generate such a key.
    pub fn generate(parameters: &str) -> Result<KeyPair> {
        let parameters = Sexp::parse(parameters)?;
        let mut pair = ptr::null_mut();
        // SAFETY: the parameters are valid, the result goes to a local.
        let code = unsafe { sys::gcry_pk_genkey(&mut pair, parameters.as_raw()) };
        let failure = |code| Error::Crypto {
            attempt: "key generation",
            reason: sys::message(code),
        };
        let pair = Sexp::from_raw(pair).ok_or_else(|| failure(code))?;
        match (pair.find(c"public-key"), pair.find(c"private-key")) {
            (Some(public), Some(secret)) => Ok(KeyPair {
                public: PublicKey(public),
                secret,
            }),
            _ => Err(failure(code)),
        }
    }

    /// Loads the pair whose secret key is `signing-key.sec` in `directory`.
    ///
    /// # Errors
    /// A file cannot be read or isn't a key, or the secret key is accessible to other users.
    pub fn load(directory: &Path) -> Result<KeyPair> {
        let path = directory.join("signing-key.sec");
        let mode = fs::metadata(&path).map_err(Error::file("getting status of", &path))?;
        if mode.permissions().mode() & 0o077 != 0 {
            return Err(Error::NotSecret(path));
        }
        let secret = read_sexp(&path)?;
        if secret.atom_at(0) != Some(b"private-key") {
            let source = Box::new(Error::Shape("s-expression does not denote a private key"));
            return Err(Error::Content { path, source });
        }
        let public = PublicKey::load(&directory.join("signing-key.pub"))?;
        Ok(KeyPair { public, secret })
    }

    /// Saves the pair in `directory`, which is created if necessary. An existing pair, or half of
    /// one, is never overwritten.
    ///
    /// # Errors
    /// A pair exists already, or a file can't be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        self.save_for(directory, None)
    }

    /// Like [`save`](KeyPair::save), for another user, who gets the files and the directory.
    ///
    /// # Errors
    /// Also if they can't be given away: only root can do that.
    pub fn save_for(&self, directory: &Path, owner: Option<Owner>) -> Result<()> {
        fs::create_dir_all(directory).map_err(Error::file("creating directory", directory))?;
        let public = directory.join("signing-key.pub");
        let secret = directory.join("signing-key.sec");
        if fs::symlink_metadata(&public).is_ok() || fs::symlink_metadata(&secret).is_ok() {
            return Err(Error::KeyPairExists(directory.to_owned()));
        }
        let exists_or = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::KeyPairExists(directory.to_owned()),
            _ => Error::file("writing", path)(error),
        };
        create_atomically(&secret, 0o400, &self.secret.to_advanced(), owner)
            .map_err(|error| exists_or(&secret, error))?;
        let text = self.public.as_sexp().to_advanced();
        create_atomically(&public, 0o444, &text, owner).map_err(|error| {
            let _ = fs::remove_file(&secret);
            exists_or(&public, error)
        })?;
        match owner {
            Some(owner) => chown(directory, Some(owner.uid), Some(owner.gid))
                .map_err(Error::file("changing the owner of", directory)),
            None => Ok(()),
        }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn secret(&self) -> &Sexp {
        &self.secret
    }
}

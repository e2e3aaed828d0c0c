//! The worker's keys: the pair that signs exports, and whose imports are accepted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gcrypt::keys::DEFAULT_PARAMETERS;
use gcrypt::{Acl, KeyPair, PublicKey};

use super::directory::{disk, is_full};
use crate::frames::{Class, Failure};

/// The longest file of a key, in bytes.
const LONGEST: u64 = 64 << 10;
/// The names of the files in the daemon's configuration directory, and their modes.
const NAMES: [(&str, u32); 2] = [("signing-key.sec", 0o400), ("signing-key.pub", 0o444)];

fn key(text: String) -> Failure {
    Failure::new(Class::Key, text)
}

/// A failure of the keys, or of the disk that they are written to.
fn failed(error: gcrypt::Error) -> Failure {
    let disk = matches!(&error, gcrypt::Error::File { source, .. } if is_full(source));
    let class = if disk { Class::Disk } else { Class::Key };
    Failure::new(class, error.to_string())
}

/// The files of a key pair that the pool has: the secret and the public key.
pub(super) struct FixedPair([Vec<u8>; 2]);

impl FixedPair {
    /// Reads `PREFIX.sec` and `PREFIX.pub`.
    pub fn read(prefix: &Path) -> Result<FixedPair, Failure> {
        let file = |suffix: &str| {
            let mut name = prefix.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let secret = read(&file(".sec"), true)?;
        Ok(FixedPair([secret, read(&file(".pub"), false)?]))
    }
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: io::Error| key(format!("cannot read the key `{}': {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if secret && metadata.mode() & 0o077 != 0 {
        let text = format!("the secret key `{}' can be read by others", path.display());
        return Err(key(text));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// The pair that signs exports.
pub(super) enum Pair {
    /// One that the pool has.
    Fixed(FixedPair),
    /// One for this worker.
    Fresh(KeyPair),
}

impl Pair {
    /// Makes one.
    pub fn generate() -> Result<Pair, Failure> {
        let pair = KeyPair::generate(DEFAULT_PARAMETERS);
        let pair = pair.map_err(|error| key(format!("cannot make a key: {error}")))?;
        Ok(Pair::Fresh(pair))
    }

    /// Writes it, and an ACL with the head's key, to the daemon's configuration directory. Returns the
    /// public key if the pair is for this worker.
    pub fn install(self, head: Option<&str>, directory: &Path) -> Result<Option<String>, Failure> {
        let mut acl = Acl::default();
        if let Some(head) = head {
            let head = PublicKey::parse(head);
            acl.authorize(head.map_err(|error| key(format!("the head's key: {error}")))?);
        }
        acl.save(directory).map_err(failed)?;
        match self {
            Pair::Fixed(FixedPair(files)) => {
                for ((name, mode), text) in NAMES.into_iter().zip(files) {
                    let path = directory.join(name);
                    write(&path, mode, &text).map_err(|error| disk("write", &path, &error))?;
                }
                // What can't sign is better known now.
                KeyPair::load(directory).map_err(failed)?;
                Ok(None)
            }
            Pair::Fresh(pair) => {
                pair.save(directory).map_err(failed)?;
                let text = pair.public().as_sexp().to_advanced();
                Ok(Some(String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }
}

fn write(path: &Path, mode: u32, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_fixed_pair_is_used_if_it_is_one_and_secret() {
        let scratch = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate(DEFAULT_PARAMETERS).unwrap();
        pair.save(scratch.path()).unwrap();
        let prefix = scratch.path().join("signing-key");
        let head = pair.public().as_sexp().to_advanced();
        let head = String::from_utf8(head).unwrap();
        let to = scratch.path().join("etc");
        fs::create_dir(&to).unwrap();
        let fixed = FixedPair::read(&prefix).unwrap();
        assert_eq!(Pair::Fixed(fixed).install(Some(&head), &to).unwrap(), None);
        assert!(Acl::load(&to).unwrap().contains(pair.public().as_sexp()));
        let refused = |head| {
            let to = scratch.path().join("other");
            let _ = fs::create_dir(&to);
            Pair::generate()
                .unwrap()
                .install(Some(head), &to)
                .unwrap_err()
        };
        assert_eq!(refused("(nonsense").class, Class::Key);
        let secret = scratch.path().join("signing-key.sec");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o440)).unwrap();
        let failure = FixedPair::read(&prefix).err().unwrap();
        assert!(failure.text.contains("can be read by others"), "{failure}");
        let failure = FixedPair::read(&scratch.path().join("none")).err().unwrap();
        assert_eq!(failure.class, Class::Key);
    }
}

//! Store directories and store file names: `STORE/HASH-NAME`.
//!
//! The checks are those that Guix's daemon applies to paths from clients: a store path is a direct
//! child of the store. As in Guix, only [`StorePath::is_well_formed`] checks the 32 characters of
//! the hash. Dangerous names (`.`, `..`, those with a NUL, invalid UTF-8, too long for a file
//! system) are refused here, so that no caller has to check again.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash as std_hash;
use std::path::Path;
use std::sync::Arc;

use bstr::ByteSlice;

use crate::base32;
use crate::hash::{Algorithm, Hash};

/// The longest name that a directory entry may have.
const MAX_BASE_NAME: usize = 255;

/// The number of characters of the hash part.
pub const HASH_LENGTH: usize = 32;

/// Why a string isn't a store path or the name of a store item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a direct child of the store.
    #[error("path `{0}' is not in the store")]
    NotInStore(String),
    /// A name that starts with a dot.
    #[error("invalid name: `{0}' (can't begin with dot)")]
    BeginsWithDot(String),
    /// A name with a character that isn't allowed.
    #[error("invalid character `{character}' in name `{name}'")]
    Character {
        /// The name.
        name: String,
        /// The first invalid character.
        character: char,
    },
    /// A name that is too long for file systems.
    #[error("name `{0}...' is too long for a store item")]
    TooLong(String),
    /// A store directory that isn't an absolute, normalized file name.
    #[error("`{0}' is not a suitable file name for the store")]
    Store(String),
}

/// The full, absolute file name of a store item. Cheap to clone.
///
/// ```
/// use formats::StoreDir;
///
/// let store = StoreDir::new("/gnu/store")?;
/// let path = store.parse("/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt")?;
/// assert_eq!(path.name(), "text.txt");
/// assert!(store.parse("/etc/passwd").is_err());
/// # Ok::<(), formats::store_path::Error>(())
/// ```
#[derive(Clone)]
pub struct StorePath {
    whole: Arc<str>,
    /// The offset at which the base name begins.
    base: u32,
}

impl StorePath {
    /// The full file name.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The full file name, as a [`Path`].
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_str())
    }

    /// The file name inside the store: `HASH-NAME`.
    pub fn base_name(&self) -> &str {
        &self.whole[self.base as usize..]
    }

    /// The 32 characters of the hash, or fewer if the base name is shorter.
    pub fn hash_part(&self) -> &str {
        let base = self.base_name();
        base.get(..HASH_LENGTH).unwrap_or(base)
    }

    /// What follows the hash part and its dash; may be empty.
    pub fn name(&self) -> &str {
        self.base_name().get(HASH_LENGTH + 1..).unwrap_or("")
    }

    /// Whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.whole.ends_with(".drv")
    }

    /// Whether this has the form of computed store paths: 32 base-32 digits, a dash and a valid
    /// name. The daemon accepts other paths too, but they are never valid.
    pub fn is_well_formed(&self) -> bool {
        let base = self.base_name().as_bytes();
        base.len() > HASH_LENGTH
            && base[..HASH_LENGTH].iter().copied().all(base32::is_digit)
            && base[HASH_LENGTH] == b'-'
            && check_characters(self.name()).is_ok()
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for StorePath {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for StorePath {}

/// Bytewise, the order in which sets of paths are sent.
impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.whole.cmp(&other.whole)
    }
}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std_hash::Hash for StorePath {
    fn hash<H: std_hash::Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

impl Borrow<str> for StorePath {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<Path> for StorePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// The directory that holds the store, usually `/gnu/store`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, std_hash::Hash)]
pub struct StoreDir(Arc<str>);

impl StoreDir {
    /// The store at `directory`, which must be absolute and have no trailing slash and no empty,
    /// `.` or `..` component.
    pub fn new(directory: impl Into<String>) -> Result<StoreDir, Error> {
        let directory = directory.into();
        let plain = directory.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        });
        if plain {
            Ok(StoreDir(directory.into()))
        } else {
            Err(Error::Store(directory))
        }
    }

    /// The directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory, as a [`Path`].
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_str())
    }

    /// Checks that `path` is a direct child of this store.
    pub fn parse(&self, path: impl AsRef<[u8]>) -> Result<StorePath, Error> {
        let path = path.as_ref();
        self.child(path)
            .ok_or_else(|| Error::NotInStore(shown(path)))
    }

    /// Like [`StoreDir::parse`], for a path that is a store item or inside one.
    pub fn item_of(&self, path: impl AsRef<[u8]>) -> Result<StorePath, Error> {
        let path = path.as_ref();
        let end = path
            .get(self.0.len() + 1..)
            .and_then(|rest| rest.find_byte(b'/'))
            .map_or(path.len(), |slash| self.0.len() + 1 + slash);
        self.child(&path[..end])
            .ok_or_else(|| Error::NotInStore(shown(path)))
    }

    /// The item with the base name `base_name`.
    pub fn join(&self, base_name: &str) -> Result<StorePath, Error> {
        self.parse(format!("{}/{base_name}", self.0))
    }

    fn child(&self, path: &[u8]) -> Option<StorePath> {
        let base = path.strip_prefix(self.0.as_bytes())?.strip_prefix(b"/")?;
        let harmless = !matches!(base, b"" | b"." | b"..")
            && base.len() <= MAX_BASE_NAME
            && base.find_byteset(b"/\0").is_none();
        let whole = if harmless {
            path.to_str().ok()?
        } else {
            return None;
        };
        Some(StorePath {
            whole: whole.into(),
            base: self.0.len() as u32 + 1,
        })
    }

    /// Checks that `name` may be the name of a store item: the part after the hash.
    pub fn check_name(&self, name: &str) -> Result<(), Error> {
        check_characters(name)?;
        if HASH_LENGTH + 1 + name.len() > MAX_BASE_NAME {
            return Err(Error::TooLong(name.chars().take(60).collect()));
        }
        Ok(())
    }

    /// The path of a text item (a derivation, for example) whose contents hash to `contents`.
    pub fn text_path<'a>(
        &self,
        name: &str,
        contents: &Hash,
        references: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<StorePath, Error> {
        let mut references: Vec<_> = references.into_iter().map(StorePath::as_str).collect();
        references.sort_unstable();
        references.dedup();
        let mut kind = String::from("text");
        for reference in references {
            kind.push(':');
            kind.push_str(reference);
        }
        self.computed(&kind, contents, name)
    }

    /// The path of an item that is identified by the hash of its contents: that of its nar if
    /// `recursive`, of the file's bytes otherwise. Used for added files and fixed outputs.
    pub fn fixed_output_path(
        &self,
        name: &str,
        recursive: bool,
        contents: &Hash,
    ) -> Result<StorePath, Error> {
        if recursive && contents.algorithm() == Algorithm::Sha256 {
            return self.computed("source", contents, name);
        }
        let prefix = if recursive { "r:" } else { "" };
        let inner = format!(
            "fixed:out:{prefix}{}:{}:",
            contents.algorithm(),
            contents.hex()
        );
        self.computed("output:out", &Hash::sha256(inner), name)
    }

    /// The path of the output `id` of a derivation called `name` (without `.drv`); `derivation` is
    /// the derivation's hash modulo its inputs.
    pub fn output_path(&self, id: &str, derivation: &Hash, name: &str) -> Result<StorePath, Error> {
        let kind = format!("output:{id}");
        if id == "out" {
            self.computed(&kind, derivation, name)
        } else {
            self.computed(&kind, derivation, &format!("{name}-{id}"))
        }
    }

    /// The path of kind `kind` for the SHA-256 `hash` and `name`.
    fn computed(&self, kind: &str, hash: &Hash, name: &str) -> Result<StorePath, Error> {
        self.check_name(name)?;
        let fingerprint = format!("{kind}:sha256:{}:{}:{name}", hash.hex(), self.0);
        let digits = base32::encode(&Hash::sha256(fingerprint).compress::<20>());
        Ok(StorePath {
            whole: format!("{}/{digits}-{name}", self.0).into(),
            base: self.0.len() as u32 + 1,
        })
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The name of an item, without directory and hash, by which nobody knows it; of whatever else, all that is behind
/// the last `/`.
///
/// ```
/// use formats::store_path::name_without_hash;
///
/// assert_eq!(name_without_hash("/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt"), "text.txt");
/// assert_eq!(name_without_hash("/etc/my-file"), "my-file");
/// ```
pub fn name_without_hash(path: &str) -> &str {
    let item = path.rsplit('/').next().unwrap_or(path);
    match item.split_at_checked(HASH_LENGTH) {
        Some((hash, rest)) if hash.bytes().all(base32::is_digit) => rest
            .strip_prefix('-')
            .filter(|name| !name.is_empty())
            .unwrap_or(item),
        _ => item,
    }
}

/// Shortens a path that may be very long or invalid UTF-8 for an error message.
fn shown(path: &[u8]) -> String {
    path[..path.len().min(1024)].to_str_lossy().into_owned()
}

/// Checks the characters of a name.
fn check_characters(name: &str) -> Result<(), Error> {
    if name.starts_with('.') {
        return Err(Error::BeginsWithDot(shown(name.as_bytes())));
    }
    match name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "+-._?=".contains(*c)))
    {
        Some(character) => Err(Error::Character {
            name: shown(name.as_bytes()),
            character,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> StoreDir {
        StoreDir::new("/gnu/store").unwrap()
    }

    const HELLO: &str = "Hello, world!\n";
    const NAR: &str = "5849379a8b8cbfc4131d0c0f89ad020ea270d85f161e257b7d52135b58337ece";

    #[test]
    fn computed_paths() {
        let store = store();
        let nar = Hash::parse(Algorithm::Sha256, NAR).unwrap();
        let base = |path: Result<StorePath, Error>| path.unwrap().base_name().to_owned();
        assert_eq!(
            base(store.text_path("hello.txt", &Hash::sha256(HELLO), [])),
            "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello.txt"
        );
        assert_eq!(
            base(store.fixed_output_path("hello.txt", true, &nar)),
            "939lqx80y1q6qlgk78i3d4h7hyvc98fl-hello.txt"
        );
        assert_eq!(
            base(store.fixed_output_path("hello.txt", false, &Hash::sha256(HELLO))),
            "l6irvhjpqzqkx3zy2ryfps4iy0bxzvzf-hello.txt"
        );
    }

    #[test]
    fn direct_children_only() {
        let store = store();
        let path = store
            .parse("/gnu/store/lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello.drv")
            .unwrap();
        assert_eq!(path.hash_part(), "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb");
        assert_eq!(path.name(), "hello.drv");
        assert!(path.is_derivation() && path.is_well_formed());
        let lax = store.parse("/gnu/store/.links").unwrap();
        assert_eq!(
            (lax.hash_part(), lax.name(), lax.is_well_formed()),
            (".links", "", false)
        );
        // A multi-byte character that spans the end of the hash part.
        assert_eq!(store.join(&"é".repeat(40)).unwrap().name(), "");
        for bad in [
            &b"/gnu/store"[..],
            b"/gnu/store/",
            b"/gnu/store/.",
            b"/gnu/store/..",
            b"/gnu/store/a/b",
            b"/gnu/store/a\0b",
            b"/gnu/store/\xff",
            b"/gnu/stores/a",
            b"",
        ] {
            assert!(store.parse(bad).is_err(), "{:?}", bad.as_bstr());
        }
        assert_eq!(
            store.parse("/etc/passwd").unwrap_err().to_string(),
            "path `/etc/passwd' is not in the store"
        );
        assert!(store.join(&"x".repeat(256)).is_err());
        assert_eq!(
            store.item_of("/gnu/store/abc/bin/sh").unwrap().as_str(),
            "/gnu/store/abc"
        );
        assert_eq!(
            store.item_of("/gnu/store/abc").unwrap().as_str(),
            "/gnu/store/abc"
        );
        assert!(store.item_of("/gnu/store//abc").is_err());
        assert!(store.item_of("/gnu").is_err());
    }

    #[test]
    fn names() {
        let store = store();
        assert!(store.check_name("a+b-c._d?=9").is_ok());
        assert_eq!(
            store.check_name("a/b").unwrap_err().to_string(),
            "invalid character `/' in name `a/b'"
        );
        assert_eq!(
            store.check_name(".x").unwrap_err().to_string(),
            "invalid name: `.x' (can't begin with dot)"
        );
        assert!(store.check_name(&"n".repeat(222)).is_ok());
        assert!(store.check_name(&"n".repeat(223)).is_err());
        assert!(store.check_name("é").is_err());
    }

    #[test]
    fn stores() {
        for bad in [
            "",
            "/",
            "gnu",
            "/gnu/",
            "/gnu//store",
            "/gnu/../store",
            "/a\0",
        ] {
            assert!(StoreDir::new(bad).is_err(), "{bad:?}");
        }
    }
}

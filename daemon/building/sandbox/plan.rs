//! The plan of a build: everything that the process that becomes the builder must know. It is sent
//! as JSON, in which byte strings are strings if they are UTF-8, and arrays of numbers otherwise.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::identity::Identity;

/// The plan of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The derivation's store path, for messages.
    pub derivation: String,
    /// The store directory.
    pub store: Bytes,
    /// What to execute.
    pub program: Program,
    /// The whole environment (for a builtin: set on top of the daemon's own).
    pub environment: Vec<(Bytes, Bytes)>,
    /// The working directory, as seen inside ([`super::BuildDirectory::inside`]).
    pub directory: Bytes,
    /// The builder's user.
    pub identity: Identity,
    /// The root directory and the namespaces, or `None` to share the daemon's
    /// (`--disable-chroot` and builtins).
    pub chroot: Option<Chroot>,
    /// The daemon's system type, as in `x86_64-linux`.
    pub own_system: String,
    /// Whether the kernel pretends to be version 2.6 (`--impersonate-linux-2.6`).
    pub impersonate_linux_26: bool,
    /// Whether to print `@ unsupported-platform` lines.
    pub print_build_trace: bool,
}

/// What the process is sent: a plan, and what was done for it already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order<'a> {
    pub(super) plan: Cow<'a, Plan>,
    /// Whether the groups of its new user namespace, if it has one, are mapped.
    pub(super) groups_mapped: bool,
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A derivation's builder.
    Builder {
        /// Its file name in the derivation; argument 0 is its base name.
        file: Bytes,
        /// Its other arguments.
        arguments: Vec<Bytes>,
        /// The derivation's platform.
        platform: String,
    },
    /// `builtin:download` or `builtin:git-download`: `PROGRAM perform-download DRV OUTPUT`.
    Builtin {
        /// The builder in the derivation, including `builtin:`.
        name: String,
        /// `guix-fetch`, or Guix's own program.
        program: Bytes,
        /// The path of the output `out`.
        output: Bytes,
    },
}

/// The builder's root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chroot {
    /// The directory that becomes the root.
    pub root: Bytes,
    /// The mounts in it, in this order.
    pub mounts: Vec<Mount>,
    /// The builder's network.
    pub network: Network,
    /// Whether there are pseudo-terminals (unless something else is mounted at `/dev/pts`).
    pub terminals: bool,
}

/// A file or directory of the host that is mounted in the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Its path inside.
    pub inside: Bytes,
    /// Its path outside. A symbolic link, which only store items can be, is copied, not mounted.
    pub outside: Bytes,
    /// Whether it is read-only for the builder.
    pub read_only: bool,
}

/// The network of a builder with its own root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Only the loopback device.
    Loopback,
    /// None: for a fixed-output build, if it can't be connected to the host's network.
    None,
    /// The host's network, for a fixed-output build.
    Host {
        /// `slirp4netns`.
        program: Bytes,
        /// Whether this includes servers on the host's loopback device.
        loopback: bool,
        /// Whether this includes IPv6.
        ipv6: bool,
    },
}

/// A byte string.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// As a file name.
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }

    /// As an operating system string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bstr::BStr::new(&self.0).fmt(f)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bstr::BStr::new(&self.0).fmt(f)
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Bytes {
        Bytes(text.into())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Bytes {
        Bytes(text.into())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes(bytes.into())
    }
}

impl From<OsString> for Bytes {
    fn from(text: OsString) -> Bytes {
        Bytes(text.into_vec())
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Bytes {
        Bytes(path.as_os_str().as_bytes().into())
    }
}

impl From<PathBuf> for Bytes {
    fn from(path: PathBuf) -> Bytes {
        path.into_os_string().into()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct EitherForm;
        impl<'de> Visitor<'de> for EitherForm {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of bytes")
            }

            fn visit_str<E>(self, text: &str) -> Result<Bytes, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_any(EitherForm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_strings_are_read_as_written() {
        for bytes in [&b"plain"[..], b"", b"\xff\x00\xfe", "\u{e9}\n\"".as_bytes()] {
            let sent = Bytes::from(bytes);
            let text = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), sent);
        }
        assert_eq!(
            serde_json::to_string(&Bytes::from("text")).unwrap(),
            "\"text\""
        );
    }
}

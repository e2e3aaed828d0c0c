//! Extended attributes and access control lists (`xattr(7)`, `acl(5)`) of the names in a directory.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use super::dir::check;
use super::{Dir, Kind};

/// The longest list of names that the kernel gives (`XATTR_LIST_MAX`), in bytes.
const LONGEST_LIST: usize = 64 << 10;

/// As much of a list as there usually is.
const USUAL_LIST: usize = 256;

impl Dir {
    /// The names of the extended attributes of `name` (of a symbolic link itself) that whoever
    /// wrote the file can have set: all but those that the system puts there by itself, such as
    /// the label of a security module. Access control lists are among them, as
    /// `system.posix_acl_access` and `system.posix_acl_default`.
    pub fn foreign_attributes_at(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<CString>> {
        let path = self.proc_name(name.as_ref())?;
        let mut buffer = [0; USUAL_LIST];
        let mut longer;
        let list = match list(&path, &mut buffer) {
            Ok(length) => &buffer[..length],
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {
                longer = vec![0; LONGEST_LIST];
                let length = self::list(&path, &mut longer)?;
                &longer[..length]
            }
            // A file system without them.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => &[],
            Err(error) => return Err(error),
        };
        let names = list.split_inclusive(|byte| *byte == 0);
        let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
        let foreign = names.filter(|name| !belongs_to_the_system(name.to_bytes()));
        Ok(foreign.map(CStr::to_owned).collect())
    }

    /// Removes those attributes of `name`; whether there were any. The mode is left as it is.
    pub fn remove_foreign_attributes_at(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        let name = name.as_ref();
        let foreign = self.foreign_attributes_at(name)?;
        if foreign.is_empty() {
            return Ok(false);
        }
        let path = self.proc_name(name)?;
        for attribute in &foreign {
            match remove(&path, attribute) {
                // Without privileges, an attribute can be removed only by who may write to the file.
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                    let stat = self.stat_at(name)?;
                    if stat.kind() == Kind::Symlink {
                        return Err(error);
                    }
                    self.chmod_at(name, stat.mode() | 0o200)?;
                    let removed = remove(&path, attribute);
                    self.chmod_at(name, stat.mode())?;
                    removed?;
                }
                removed => removed?,
            }
        }
        Ok(true)
    }

    /// A name of `name` that the calls for attributes take: the kernels that people use have none
    /// that take a directory and a name in it.
    fn proc_name(&self, name: &OsStr) -> io::Result<CString> {
        let directory = self.as_fd().as_raw_fd();
        let mut path = format!("/proc/self/fd/{directory}/").into_bytes();
        path.extend_from_slice(check(name)?.as_bytes());
        Ok(CString::new(path)?)
    }
}

/// Whether nobody but the administrator or the file system sets such an attribute. Of the class
/// `security`, only capabilities of files can come from somebody else.
fn belongs_to_the_system(name: &[u8]) -> bool {
    let acl = name.starts_with(b"system.posix_acl_");
    match name.split(|byte| *byte == b'.').next() {
        Some(b"security") => name != b"security.capability",
        Some(b"system") => !acl,
        Some(b"lustre" | b"ceph") => true,
        _ => false,
    }
}

fn list(path: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the path ends with NUL, and the buffer is as long as is said.
    let length =
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn remove(path: &CStr, attribute: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL.
    match unsafe { libc::lremovexattr(path.as_ptr(), attribute.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_builder_can_set_is_foreign() {
        for name in [
            "user.note",
            "trusted.overlay.opaque",
            "security.capability",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "btrfs.compression",
        ] {
            assert!(!belongs_to_the_system(name.as_bytes()), "{name}");
        }
        for name in ["security.selinux", "security.SMACK64", "system.nfs4_acl"] {
            assert!(belongs_to_the_system(name.as_bytes()), "{name}");
        }
    }
}

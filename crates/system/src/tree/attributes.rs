//! Extended attributes and access control lists (`xattr(7)`, `acl(5)`) of files in a directory.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{flistxattr_query, llistxattr, lremovexattr};
use rustix::io::Errno;

use super::dir::check;
use super::{Dir, Kind};

/// The maximum size of the list of names in the kernel (`XATTR_LIST_MAX`), in bytes.
const LONGEST_LIST: usize = 64 << 10;

/// The usual maximum size of the list.
const USUAL_LIST: usize = 256;

impl Dir {
    /// The names of the extended attributes of `name` (if a symbolic link, its own) that the file's
    /// writer may have set: all except those that the system itself sets, such as the label of a
    /// security module. Access control lists are included, as `system.posix_acl_access` and
    /// `system.posix_acl_default`.
    pub fn foreign_attributes_at(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<CString>> {
        let path = self.proc_name(name.as_ref())?;
        let mut buffer = [0; USUAL_LIST];
        let mut longer;
        let list: &[u8] = match llistxattr(&path, &mut buffer) {
            Ok(length) => &buffer[..length],
            Err(Errno::RANGE) => {
                longer = vec![0; LONGEST_LIST];
                let length = llistxattr(&path, &mut longer)?;
                &longer[..length]
            }
            // A file system without extended attributes.
            Err(Errno::OPNOTSUPP) => &[],
            Err(error) => return Err(error.into()),
        };
        let names = list.split_inclusive(|byte| *byte == 0);
        let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
        let foreign = names.filter(|name| !belongs_to_the_system(name.to_bytes()));
        Ok(foreign.map(CStr::to_owned).collect())
    }

    /// Removes those attributes of `name` and returns whether there were any. Keeps the mode.
    pub fn remove_foreign_attributes_at(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        let name = name.as_ref();
        let foreign = self.foreign_attributes_at(name)?;
        if foreign.is_empty() {
            return Ok(false);
        }
        let path = self.proc_name(name)?;
        for attribute in &foreign {
            match lremovexattr(&path, attribute) {
                // Without privileges, removing an attribute requires write permission to the file.
                Err(Errno::ACCESS) => {
                    let stat = self.stat_at(name)?;
                    if stat.kind() == Kind::Symlink {
                        return Err(Errno::ACCESS.into());
                    }
                    self.chmod_at(name, stat.mode() | 0o200)?;
                    let removed = lremovexattr(&path, attribute);
                    self.chmod_at(name, stat.mode())?;
                    removed?;
                }
                removed => removed?,
            }
        }
        Ok(true)
    }

    /// A path to `name` for the system calls for attributes: commonly used kernels have none that
    /// take a directory descriptor and a name.
    fn proc_name(&self, name: &OsStr) -> io::Result<CString> {
        let directory = self.as_fd().as_raw_fd();
        let mut path = format!("/proc/self/fd/{directory}/").into_bytes();
        path.extend_from_slice(check(name)?.as_bytes());
        Ok(CString::new(path)?)
    }
}

/// Whether an open file has any extended attribute, of whatever kind: cheaper than to ask by name.
pub fn has_attributes(file: &impl AsFd) -> io::Result<bool> {
    match flistxattr_query(file) {
        Ok(length) => Ok(length > 0),
        // A file system without extended attributes.
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether only the administrator or the file system sets such an attribute. In the namespace
/// `security`, only file capabilities can be set by others.
fn belongs_to_the_system(name: &[u8]) -> bool {
    let acl = name.starts_with(b"system.posix_acl_");
    match name.split(|byte| *byte == b'.').next() {
        Some(b"security") => name != b"security.capability",
        Some(b"system") => !acl,
        Some(b"lustre" | b"ceph") => true,
        _ => false,
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

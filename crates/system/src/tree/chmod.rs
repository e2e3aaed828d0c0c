//! Changing the mode of a file in a directory, without following links.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fstat};

use super::dir::{Dir, Kind, Stat, bits, check};
use crate::call_numbers::new::FCHMODAT2;

impl Dir {
    /// Sets the mode of `name`; an error if it is a symbolic link.
    pub fn chmod_at(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
        let name = check(name.as_ref())?;
        // Linux 6.6. On older kernels, an O_PATH descriptor and its name in /proc do the same.
        // (Old C libraries do so on all kernels. Old filters of system calls say EPERM.)
        let file = CString::new(name.as_bytes())?;
        // SAFETY: the name ends with NUL; otherwise, only numbers are passed.
        let changed = unsafe {
            libc::syscall(
                FCHMODAT2,
                self.as_fd().as_raw_fd(),
                file.as_ptr(),
                mode,
                libc::AT_SYMLINK_NOFOLLOW,
            )
        };
        if changed == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM)
                ) => {}
            error => return Err(error),
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(self, name, flags, Mode::empty())?;
        if Stat::of(fstat(&file)?).kind() == Kind::Symlink {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let path = crate::pipe::proc_path(&file);
        Ok(nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &path,
            bits(mode),
            FchmodatFlags::FollowSymlink,
        )?)
    }
}

//! Whether anybody has a file open for writing, which the kernel tells who asks for a lease
//! (`fcntl(2)`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of `linux/fcntl.h`, which the C library hides.
const SET_SIGNAL: libc::c_int = 10;

/// Whether any process has a descriptor or a mapping through which it can write to this file, which
/// was opened for reading only. `None` if the file system doesn't tell.
///
/// Has to be the owner of the file, or root.
pub fn is_open_for_writing(file: &File) -> io::Result<Option<bool>> {
    // Whoever opens the file while there is a lease causes a signal. That of choice is ignored
    // unless a program asks for it; the usual one would end this process.
    set(file, SET_SIGNAL, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            set(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(Some(false))
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Some(true)),
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOLCK | libc::EACCES | libc::EPERM) => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

fn set(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take an integer, and the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn descriptors_for_writing_are_noticed_and_others_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        let _reader = File::open(&path).unwrap();
        assert_eq!(is_open_for_writing(&file).unwrap(), Some(true));
        drop(writer);
        assert_eq!(is_open_for_writing(&file).unwrap(), Some(false));
        // The lease is gone: this neither waits nor sends a signal.
        drop(OpenOptions::new().append(true).open(&path).unwrap());
    }
}

//! Reading the names in a directory (`getdents64(2)`).
//!
//! The C library's `opendir` makes four system calls more, which is as long as listing and deleting a
//! small directory takes.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// What is read at a time, aligned as the kernel's records are.
#[repr(align(8))]
struct Buffer([u8; BUFFER]);
const BUFFER: usize = 16 << 10;

/// Where the length of a record is in it (`d_reclen`), after `d_ino` and `d_off`.
const LENGTH: std::ops::Range<usize> = 16..18;
/// Where the name begins, after `d_reclen` and `d_type`.
const NAME: usize = 19;

/// The names from the position of an open directory to its end, without `.` and `..`, in the order of
/// the file system.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let mut buffer = Buffer([0; BUFFER]);
    loop {
        // SAFETY: the buffer has the length that is passed.
        let length = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                buffer.0.as_mut_ptr(),
                buffer.0.len(),
            )
        };
        let Ok(length) = usize::try_from(length) else {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                // The directory itself was deleted meanwhile.
                error if error.kind() == io::ErrorKind::NotFound => return Ok(names),
                error => return Err(error),
            }
        };
        let mut records = &buffer.0[..length];
        if records.is_empty() {
            return Ok(names);
        }
        while !records.is_empty() {
            let (name, rest) = first(records).ok_or(io::ErrorKind::InvalidData)?;
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
            records = rest;
        }
    }
}

/// The name in the first of some records, and the other records.
fn first(records: &[u8]) -> Option<(&OsStr, &[u8])> {
    let length = records.get(LENGTH)?.try_into().map(u16::from_ne_bytes);
    let (record, rest) = records.split_at_checked(length.ok()?.into())?;
    let name = CStr::from_bytes_until_nul(record.get(NAME..)?).ok()?;
    Some((OsStr::from_bytes(name.to_bytes()), rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn all_names_are_read_whatever_their_length() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(
            names(fs::File::open(scratch.path()).unwrap().as_fd()).unwrap(),
            [""; 0]
        );
        // More than one buffer.
        let made: BTreeSet<OsString> = (0..1000)
            .map(|number| format!("{number}{}", "x".repeat(number % 250)).into())
            .collect();
        for name in &made {
            fs::write(scratch.path().join(name), "").unwrap();
        }
        let directory = fs::File::open(scratch.path()).unwrap();
        let read = names(directory.as_fd()).unwrap();
        assert_eq!(read.len(), made.len());
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), made);
    }

    #[test]
    fn records_that_are_cut_off_are_not_read() {
        let mut record = [0; 24];
        record[16..18].copy_from_slice(&24u16.to_ne_bytes());
        record[19..22].copy_from_slice(b"abc");
        assert_eq!(first(&record), Some((OsStr::new("abc"), &[][..])));
        for length in 0..24 {
            assert_eq!(first(&record[..length]), None);
        }
        assert_eq!(first(&[b'x'; 24]), None);
    }
}

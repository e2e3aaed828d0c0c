//! Making sure that no daemon uses the store, ours or Guix's.
//!
//! Whoever listens on the daemon's socket is a daemon, or would start one; `/proc/net/unix` lists them,
//! so that nobody is woken by asking. Whoever has the store open holds `big-lock`
//! (`doc/spec/store-formats.md`); we hold it exclusively, and a daemon that is started waits.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use system::lock::{LockFile, Mode};
use system::pipe;
use system::tree::Dir;

use super::directory;

/// `__SO_ACCEPTCON`: the flag of a socket that listens.
const LISTENS: u32 = 1 << 16;

/// Takes the lock that keeps all daemons out, or says what to stop. `None` if there is no database that
/// a daemon could have open.
pub fn lock(socket: &Path, database: Option<&Path>) -> Result<Option<LockFile>> {
    let sockets = fs::read_to_string("/proc/net/unix").context("cannot read /proc/net/unix")?;
    if listens(&sockets, socket) {
        bail!(
            "a daemon serves `{}', or systemd does for it; stop it first: systemctl stop \
             guix-daemon-rs.socket guix-daemon-rs guix-daemon.socket guix-daemon",
            socket.display()
        );
    }
    let Some(database) = database else {
        return Ok(None);
    };
    let path = database.join("big-lock");
    let Some(database) = directory::open(database)? else {
        return Ok(None);
    };
    let lock = open(&database).with_context(|| format!("cannot open `{}'", path.display()))?;
    let taken = lock
        .try_lock(Mode::Exclusive)
        .with_context(|| format!("cannot lock `{}'", path.display()))?;
    if !taken {
        bail!(
            "a daemon has the store open, since it holds `{}'; stop it first",
            path.display()
        );
    }
    Ok(Some(lock))
}

/// Opens the lock file in a directory that its owner could have replaced by a link.
fn open(database: &Dir) -> std::io::Result<LockFile> {
    LockFile::open(pipe::proc_path(database).join("big-lock"))
}

/// Whether the text, of `/proc/net/unix`, has a socket with this name that listens.
fn listens(sockets: &str, path: &Path) -> bool {
    sockets.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words
            .get(3)
            .and_then(|word| u32::from_str_radix(word, 16).ok());
        // A name may have blanks.
        let name = line.find('/').map(|at| &line[at..]);
        flags.is_some_and(|flags| flags & LISTENS != 0) && name.map(Path::new) == Some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20000 /var/guix/a socket\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20001 /var/guix/connected\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20002\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20003 @abstract/var/guix/x\n";
        assert!(listens(sockets, Path::new("/var/guix/a socket")));
        assert!(!listens(sockets, Path::new("/var/guix/a")));
        assert!(!listens(sockets, Path::new("/var/guix/connected")));
        assert!(!listens(sockets, Path::new("/var/guix/other")));
        assert!(!listens("", Path::new("/var/guix/other")));
    }
}

//! The program `guix-offload`, of which keepers and workers are a part.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use system::companion::{Companion, Installation};
use system::pipe;
use system::process::Spawn;

/// The hook, for other programs that use this library.
const HOOK: Companion = Companion {
    variable: "NIX_BUILD_HOOK",
    built: "guix-offload",
    installed: "guix/offload",
};

/// Starts it in the background, where it isn't killed with us: in a session of its own, with none of our files
/// but these. Returns what it reads as its standard input.
pub fn start(word: &str, out: OwnedFd, errors: OwnedFd) -> io::Result<UnixStream> {
    let (ours, theirs) = pipe::socket_pair()?;
    Spawn::new(find()?)
        .arg0("guix-offload")
        .arg(word)
        .current_dir("/")
        .setsid()
        .fd(theirs, 0)
        .fd(out, 1)
        .fd(errors, 2)
        .spawn()?
        .leave();
    Ok(ours)
}

/// Its file name: that of this program, if it is the hook (which is installed under other names, too).
pub fn find() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let name = this.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("offload") {
        return Ok(this);
    }
    let installation = Installation {
        bin: env!("GUIX_BIN_DIR").into(),
        libexec: env!("GUIX_LIBEXEC_DIR").into(),
    };
    HOOK.find(&installation)
        .filter(|program| program.exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `guix-offload'"))
}

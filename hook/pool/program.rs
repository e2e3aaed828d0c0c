//! The program `guix-offload`, of which keepers and workers are a part.

use std::io;
use std::path::PathBuf;

use system::companion::Companion;

/// The hook, for other programs that use this library.
const HOOK: Companion = Companion {
    variable: "NIX_BUILD_HOOK",
    built: "guix-offload",
    installed: "guix/offload",
};

/// Its file name: that of this program, if it is the hook (which is installed under other names, too).
pub fn find() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let name = this.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("offload") {
        return Ok(this);
    }
    HOOK.find(env!("GUIX_LIBEXEC_DIR").as_ref())
        .filter(|program| program.exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `guix-offload'"))
}

//! Opening the directories that are given away: no link in their names is followed, so that nobody who
//! owns one of them can put another in its place.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use system::tree::Dir;

/// Opens a directory without following links; `None` if it doesn't exist.
pub fn open(path: &Path) -> Result<Option<Dir>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let opened = match relative.as_os_str().is_empty() {
        true => Dir::open("/"),
        false => Dir::open("/").and_then(|root| root.open_beneath(relative)),
    };
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot open directory `{}'", path.display()))
        }
    }
}

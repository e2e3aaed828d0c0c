//! Symbolic links that protect build results from garbage collection.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use formats::StorePath;
use protocol::client::Connection;

/// Makes `root` protect `paths`: one link if there is one path, or else `root-0`, `root-1`, ….
pub fn register(daemon: &mut Connection, paths: &[StorePath], root: &Path) -> Result<()> {
    let base = absolute(root)?;
    let numbered = |number: usize| {
        let mut name = base.clone().into_os_string();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    for (number, path) in paths.iter().enumerate() {
        let link = if paths.len() == 1 {
            base.clone()
        } else {
            numbered(number)
        };
        symlink(path.as_path(), &link)
            .with_context(|| format!("failed to create GC root `{}'", base.display()))?;
        daemon.add_indirect_root(OsString::from(link).into_vec())?;
    }
    Ok(())
}

/// The absolute name of a file that may not exist yet.
fn absolute(root: &Path) -> Result<PathBuf> {
    if root.is_absolute() {
        return Ok(root.to_owned());
    }
    let failed = || format!("failed to create GC root `{}'", root.display());
    let Some(name) = root.file_name() else {
        bail!("{}: the file name is missing", failed());
    };
    let parent = root
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent
        .unwrap_or(Path::new("."))
        .canonicalize()
        .with_context(failed)?
        .join(name))
}

//! Symbolic links that protect build results from garbage collection.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use formats::StorePath;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use protocol::client::Connection;

/// Makes `root` protect `paths`, by [`links`].
pub fn register(daemon: &mut Connection, paths: &[StorePath], root: &Path) -> Result<()> {
    for (path, link) in paths.iter().zip(links(paths.len(), root)?) {
        symlink(path.as_path(), &link).with_context(|| failed(root))?;
        daemon.add_indirect_root(OsString::from(link).into_vec())?;
    }
    Ok(())
}

/// An error if [`register`] could not create its links for `count` paths now.
pub fn check(count: usize, root: &Path) -> Result<()> {
    for link in links(count, root)? {
        can_be_created(&link).with_context(|| failed(root))?;
    }
    Ok(())
}

fn can_be_created(link: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(_) => return Err(Errno::EEXIST.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    let parent = link.parent().unwrap_or(Path::new("/"));
    Ok(access(parent, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// The links for `count` paths: one if there is one path, or else `root-0`, `root-1`, ….
fn links(count: usize, root: &Path) -> Result<Vec<PathBuf>> {
    let base = absolute(root)?;
    if count == 1 {
        return Ok(vec![base]);
    }
    let numbered = |number| {
        let mut name = base.clone().into_os_string();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    Ok((0..count).map(numbered).collect())
}

fn failed(root: &Path) -> String {
    format!("failed to create GC root `{}'", root.display())
}

/// The absolute name of a file that may not exist yet.
fn absolute(root: &Path) -> Result<PathBuf> {
    if root.is_absolute() {
        return Ok(root.to_owned());
    }
    let Some(name) = root.file_name() else {
        bail!("{}: the file name is missing", failed(root));
    };
    let parent = root
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent
        .unwrap_or(Path::new("."))
        .canonicalize()
        .with_context(|| failed(root))?
        .join(name))
}

//! The directory that a build runs in.

use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use super::error_context::context;
use super::identity::Identity;

/// The directory that a build runs in. It isn't deleted on drop, but by [`BuildDirectory::delete`],
/// since `--keep-failed` keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildDirectory {
    outer: PathBuf,
    outside: PathBuf,
    inside: PathBuf,
}

impl BuildDirectory {
    /// Creates `$TMPDIR/guix-build-NAME.drv-N` with the first free N, mode 0700; `name` is the
    /// derivation's name with `.drv`, without the hash.
    ///
    /// With a chroot, the build gets `top` in it, so that the outer directory remains the daemon's,
    /// and always sees it as `/tmp/guix-build-NAME.drv-0`.
    pub fn create(name: &str, identity: &Identity, in_chroot: bool) -> io::Result<BuildDirectory> {
        let base = std::env::var_os("TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from);
        Self::create_in(&base, name, identity, in_chroot)
    }

    /// Like [`BuildDirectory::create`], below a directory other than `$TMPDIR`.
    pub fn create_in(
        base: &Path,
        name: &str,
        identity: &Identity,
        in_chroot: bool,
    ) -> io::Result<BuildDirectory> {
        let base = context(base.canonicalize(), "find", base)?;
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700);
        let mut number = 0u32;
        let outer = loop {
            let path = base.join(format!("guix-build-{name}-{number}"));
            match private.create(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                error => context(error, "create", &path)?,
            }
        };
        let (outside, inside) = if in_chroot {
            let top = outer.join("top");
            context(private.create(&top), "create", &top)?;
            let temporary = Path::new("/tmp")
                .canonicalize()
                .unwrap_or_else(|_| "/tmp".into());
            (top, temporary.join(format!("guix-build-{name}-0")))
        } else {
            (outer.clone(), outer.clone())
        };
        if let Identity::User { uid, gid, .. } = identity {
            context(
                chown(&outside, Some(*uid), Some(*gid)),
                "change the owner of",
                &outside,
            )?;
        }
        Ok(BuildDirectory {
            outer,
            outside,
            inside,
        })
    }

    /// The directory of the build's files, as seen by the host.
    pub fn outside(&self) -> &Path {
        &self.outside
    }

    /// The same directory, as seen by the builder.
    pub fn inside(&self) -> &Path {
        &self.inside
    }

    /// The daemon's directory that contains [`BuildDirectory::outside`] (the same without chroot).
    pub fn outer(&self) -> &Path {
        &self.outer
    }

    /// Deletes the directory recursively.
    pub fn delete(self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.outer.parent(), self.outer.file_name()) else {
            return Ok(());
        };
        system::tree::remove_tree(&system::tree::Dir::open(parent)?, name)?;
        Ok(())
    }
}

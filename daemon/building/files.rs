//! Operations on whole files and trees, with errors for the client.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use system::lease;
use system::tree::{self, Dir, copy_tree, remove_tree};

use super::sandbox::BuildDirectory;
use crate::request_error::RequestError;

/// Converts a system error to an error for the client.
pub(super) fn failed(action: impl Into<String>, error: impl Into<io::Error>) -> RequestError {
    store::Error::io(action, error).into()
}

fn split(path: &Path) -> Result<(Dir, &std::ffi::OsStr), RequestError> {
    let name = path
        .file_name()
        .ok_or_else(|| RequestError::new(format!("`{}' names no file", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = Dir::open(parent)
        .map_err(|e| failed(format!("opening directory `{}'", parent.display()), e))?;
    Ok((dir, name))
}

fn tree_failed(action: &str, path: &Path, error: tree::Error) -> RequestError {
    RequestError::new(format!("{action} `{}': {error}", path.display()))
}

/// Deletes a file or a tree, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), RequestError> {
    if !exists(path)? {
        return Ok(());
    }
    let (dir, name) = split(path)?;
    match remove_tree(&dir, name) {
        Err(error) if exists(path)? => Err(tree_failed("deleting", path, error)),
        _ => Ok(()),
    }
}

/// Whether the path exists; a dangling link counts.
pub(super) fn exists(path: &Path) -> Result<bool, RequestError> {
    Ok(status(path)?.is_some())
}

/// The result of `lstat`; `None` if the path does not exist.
pub(super) fn status(path: &Path) -> Result<Option<fs::Metadata>, RequestError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(failed(
            format!("getting attributes of path `{}'", path.display()),
            e,
        )),
    }
}

/// Renames a file or a tree.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), RequestError> {
    fs::rename(from, to).map_err(|e| {
        failed(
            format!("renaming `{}' to `{}'", from.display(), to.display()),
            e,
        )
    })
}

/// Moves a tree to another directory of the same file system. To be moved, a directory has to be
/// writable itself, so it is made writable meanwhile.
pub(super) fn move_tree(from: &Path, to: &Path) -> Result<(), RequestError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::symlink_metadata(from).map_err(|e| {
        failed(
            format!("getting attributes of path `{}'", from.display()),
            e,
        )
    })?;
    let mode = metadata.mode() & 0o7777;
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| {
            failed(
                format!("changing the mode of directory `{}'", path.display()),
                e,
            )
        })
    };
    if metadata.is_dir() {
        set(from, mode | 0o700)?;
    }
    rename(from, to)?;
    if metadata.is_dir() {
        set(to, mode)?;
    }
    Ok(())
}

/// Replaces a tree by a copy, to which no process has an open descriptor, unless `progress`
/// interrupts it.
pub(super) fn replace_by_copy(
    path: &Path,
    progress: &dyn store::Progress,
) -> Result<(), RequestError> {
    let mut copy = path.as_os_str().to_owned();
    copy.push(".tmp");
    let copy = Path::new(&copy);
    remove(copy)?;
    let (dir, name) = split(path)?;
    let copy_name = copy.file_name().unwrap_or_default();
    let interrupted = || progress.interrupted();
    let copied = copy_tree(&dir, name, &dir, copy_name, &interrupted)
        .map_err(|e| tree_failed("copying", path, e));
    if let Err(error) = copied {
        let _ = remove(copy);
        return Err(error);
    }
    remove(path)?;
    rename(copy, path)
}

/// Whether somebody may be able to write to a file of the tree, which belongs to the daemon, by a
/// descriptor from before.
pub(super) fn may_be_open_for_writing(
    path: &Path,
    progress: &dyn store::Progress,
) -> Result<bool, RequestError> {
    let mut visitor = Writers {
        found: false,
        progress,
    };
    let (dir, name) = split(path)?;
    let walked = tree::walk(&dir, name, &mut visitor);
    walked.map_err(|e| tree_failed("inspecting", path, e))?;
    Ok(visitor.found)
}

struct Writers<'a> {
    found: bool,
    progress: &'a dyn store::Progress,
}

impl tree::Visit for Writers<'_> {
    fn visit(&mut self, file: &tree::Visited<'_>) -> io::Result<tree::Descend> {
        if self.found {
            return Ok(tree::Descend::Over);
        }
        if self.progress.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if file.stat.kind() == tree::Kind::Regular {
            let opened = file.parent.open_file(file.name)?;
            self.found = lease::is_open_for_writing(&opened)?.unwrap_or(true);
        }
        Ok(tree::Descend::Into)
    }

    fn action(&self) -> &'static str {
        "inspect"
    }
}

/// Moves `new` to `path`, which may exist. For a moment, `path` does not exist.
pub(super) fn replace(path: &Path, new: &Path) -> Result<(), RequestError> {
    let mut old = path.as_os_str().to_owned();
    old.push(format!(
        ".old-{}-{}",
        std::process::id(),
        rand::random::<u32>()
    ));
    let old = Path::new(&old);
    let existed = exists(path)?;
    if existed {
        rename(path, old)?;
    }
    if let Err(error) = move_tree(new, path) {
        if existed {
            let _ = fs::rename(old, path);
        }
        return Err(error);
    }
    remove(old)
}

/// Removes setuid and setgid bits, write permission for others and access control lists from
/// everything in the tree that a failed build of the user `builder` has left in its directory, and
/// changes its owner to `owner` (user, group). Devices are an error.
fn make_kept_tree_harmless(
    path: &Path,
    builder: u32,
    owner: Option<(u32, Option<u32>)>,
) -> Result<(), RequestError> {
    secure(
        path,
        Harmless {
            builder,
            seen: HashSet::new(),
            owner,
            forbidden: 0o6002,
            only_items: false,
        },
    )
}

/// Makes an output of a failed build of the user `builder` safe for inspection in the store: nobody can write to it, or
/// execute it with its builder's privileges. File types that a store item can't have are an error.
pub(super) fn make_failed_output_harmless(path: &Path, builder: u32) -> Result<(), RequestError> {
    let owner = nix::unistd::geteuid()
        .is_root()
        .then(|| (0, Some(system::ids::effective_gid())));
    secure(
        path,
        Harmless {
            builder,
            seen: HashSet::new(),
            owner,
            forbidden: 0o6022,
            only_items: true,
        },
    )
}

fn secure(path: &Path, mut visitor: Harmless) -> Result<(), RequestError> {
    let (dir, name) = split(path)?;
    tree::walk(&dir, name, &mut visitor).map_err(|e| tree_failed("securing", path, e))
}

struct Harmless {
    /// The user who made the tree.
    builder: u32,
    /// Files that were made harmless already, which may have several names in the tree.
    seen: HashSet<(u64, u64)>,
    owner: Option<(u32, Option<u32>)>,
    /// Permission bits to remove.
    forbidden: u32,
    /// Whether pipes and sockets are errors, too, as in store items.
    only_items: bool,
}

impl Harmless {
    /// Whether it is somebody else's file that has another name elsewhere: without a chroot, the
    /// builder may have made a link to it. The daemon's own files in the tree have one name.
    fn is_elsewhere(&self, stat: &tree::Stat) -> bool {
        !stat.is_dir()
            && stat.links() > 1
            && stat.uid() != self.builder
            && !self.seen.contains(&stat.identity())
    }

    /// Changes the owner: of a directory after all that is in it, since the new owner can put other
    /// files there.
    fn give_away(&self, file: &tree::Visited<'_>) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => file.parent.chown_at(file.name, Some(uid), gid),
            None => Ok(()),
        }
    }
}

impl tree::Visit for Harmless {
    fn visit(&mut self, file: &tree::Visited<'_>) -> io::Result<tree::Descend> {
        if self.is_elsewhere(&file.stat) {
            file.parent.remove_file(file.name)?;
            return Ok(tree::Descend::Over);
        }
        self.seen.insert(file.stat.identity());
        if file.stat.kind() == tree::Kind::Other {
            let kept = matches!(
                file.stat.raw().st_mode & libc::S_IFMT,
                libc::S_IFIFO | libc::S_IFSOCK
            );
            if self.only_items || !kept {
                return Err(io::Error::other(
                    "neither a file, nor a directory, nor a symbolic link",
                ));
            }
        }
        // Access control lists first: they may give write permission to more users than the mode
        // does.
        file.parent.remove_foreign_attributes_at(file.name)?;
        let mode = file.stat.mode();
        if file.stat.kind() != tree::Kind::Symlink && mode & self.forbidden != 0 {
            file.parent.chmod_at(file.name, mode & !self.forbidden)?;
        }
        if !file.stat.is_dir() {
            self.give_away(file)?;
        }
        Ok(tree::Descend::Into)
    }

    fn leave(&mut self, directory: &tree::Visited<'_>) -> io::Result<()> {
        self.give_away(directory)
    }

    fn action(&self) -> &'static str {
        "secure"
    }
}

/// Gives the kept build directory of the user `builder` to the user who requested the build.
///
/// For root, and for unknown clients, it stays below a directory that others can't enter, because
/// it may contain setuid programs of a build user.
pub(super) fn keep_for(
    directory: &BuildDirectory,
    builder: u32,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), RequestError> {
    use std::os::unix::fs::PermissionsExt;
    let (outer, top) = (directory.outer(), directory.outside());
    let open = || {
        fs::set_permissions(top, fs::Permissions::from_mode(0o755))
            .map_err(|e| failed("opening the build directory", e))
    };
    let Some(uid) = uid.filter(|uid| *uid != 0) else {
        return open();
    };
    let owner = Some((uid, gid.filter(|gid| *gid != 0)));
    make_kept_tree_harmless(top, builder, None)?;
    open()?;
    // After the change of owner, only root may still move the directory.
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        make_kept_tree_harmless(top, builder, owner)?;
    }
    if top != outer {
        // The client was told the name of the outer directory.
        let mut pivot = outer.as_os_str().to_owned();
        pivot.push(".pivot");
        let pivot = Path::new(&pivot);
        rename(outer, pivot)?;
        rename(&pivot.join("top"), outer)?;
        fs::remove_dir(pivot).map_err(|e| failed(format!("deleting `{}'", pivot.display()), e))?;
    }
    if !is_root {
        make_kept_tree_harmless(outer, builder, owner)?;
    }
    Ok(())
}

/// A file system with less free space than this, in bytes, counts as full.
const NEEDED_BYTES: u64 = 8 << 20;
/// A file system with fewer free inodes than this counts as full.
const NEEDED_INODES: u64 = 32;

/// Whether the file system of `path`, or the quota of its project, is (nearly) full, which may be
/// why a build failed.
pub(super) fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|stat| {
        let bytes = stat.blocks_available().saturating_mul(stat.fragment_size());
        // File systems that allocate inodes dynamically report a total of zero.
        let has_inodes = stat.files() == 0 || stat.files_available() >= NEEDED_INODES;
        bytes < NEEDED_BYTES || !has_inodes
    })
}

//! The root directory in which a worker's daemon runs: the node's, but with the worker's own store, `/proc`,
//! and its other directories at [`PLACE`].
//!
//! It is a file system in memory that shows the node's directories, because an ordinary user can't
//! make `/gnu` in the node's own one. Where the store directory exists, as on a node that mounts the
//! head's, the worker's is mounted on it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use system::mount::{self, MntFlags, MsFlags};

use crate::frames::{Class, Failure};

/// Where the worker's directories are.
pub(super) const PLACE: &str = "/guix-worker";
/// The directories there, and their modes.
pub(super) const DIRECTORIES: [(&str, u32); 5] = [
    ("store", 0o1775),
    ("var", 0o755),
    ("log", 0o755),
    ("etc", 0o755),
    ("tmp", 0o700),
];
/// Of a worker's directory: where the root directory is mounted, and what is shown at [`PLACE`].
pub(super) const ROOT: &str = "root";
pub(super) const FILES: &str = "files";

fn failed(doing: &str, error: &io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; the node, or the container, forbids mounts in user namespaces"
        }
        _ => "",
    };
    let text = format!("cannot {doing}: {error}{hint}");
    Failure::new(Class::Namespaces, text)
}

/// Makes that root directory the one of this process and its mount namespace, which must be its own.
/// `directory` is the worker's.
pub(super) fn enter(directory: &Path, store: &Path) -> Result<(), Failure> {
    mount::make_private(Path::new("/")).map_err(|error| failed("make mounts private", &error))?;
    let root = directory.join(ROOT);
    mount::mount_new("tmpfs", &root, MsFlags::empty(), "mode=755")
        .map_err(|error| failed("mount a root directory", &error))?;
    make_proc(&root)?;
    let exists = store.is_dir();
    let replaced = (!exists).then_some(store);
    show_all(directory, &root, replaced)
        .map_err(|error| failed("show the node's files", &error))?;
    let place = below(&root, Path::new(PLACE));
    fs::create_dir(&place)
        .and_then(|()| mount::bind(&directory.join(FILES), &place))
        .map_err(|error| failed("show the worker's files", &error))?;
    change_root(&root).map_err(|error| failed("change the root directory", &error))?;
    let own = Path::new(PLACE).join("store");
    mount::bind(&own, store).map_err(|error| failed("mount the worker's store", &error))
}

/// The name below `root` of an absolute name.
fn below(root: &Path, name: &Path) -> PathBuf {
    root.join(name.strip_prefix("/").unwrap_or(name))
}

fn make_proc(root: &Path) -> Result<(), Failure> {
    let proc = root.join("proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir(&proc)
        .and_then(|()| mount::mount_new("proc", &proc, flags, ""))
        .map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EPERM) => {
                    "; where a container hides parts of /proc, it must be started without that \
                     (podman: --security-opt unmask=ALL)"
                }
                _ => "",
            };
            let text = format!("cannot mount /proc: {error}{hint}");
            Failure::new(Class::Namespaces, text)
        })
}

/// Shows what there is in the node's root directory; where a store directory is missing, it and
/// those above it are made.
fn show_all(directory: &Path, root: &Path, store: Option<&Path>) -> io::Result<()> {
    let mut above = PathBuf::from("/");
    let names = store.unwrap_or(Path::new("/")).iter().skip(1);
    let mut names: Vec<_> = names.collect();
    names.reverse();
    // The tree with the worker's directory first: later, it would show the new root directory, too.
    let first = directory.iter().nth(1);
    loop {
        let next = names.pop();
        let at = below(root, &above);
        let mut entries: Vec<_> = fs::read_dir(&above)?.flatten().collect();
        entries.sort_by_key(|entry| Some(entry.file_name().as_os_str()) != first);
        for entry in entries {
            let name = entry.file_name();
            let is_root = above == Path::new("/");
            let own = ["proc", &PLACE[1..]].iter().any(|own| *own == name);
            if Some(&*name) == next || (is_root && own) {
                continue;
            }
            show(&entry, &at.join(&name))?;
        }
        let Some(next) = next else {
            return Ok(());
        };
        above.push(next);
        fs::create_dir(below(root, &above))?;
        if !above.is_dir() {
            let rest = names.iter().rev().collect::<PathBuf>();
            return fs::create_dir_all(below(root, &above.join(rest)));
        }
    }
}

/// Shows one entry of a directory. What can't be mounted, such as a broken network file system, is left
/// out.
fn show(entry: &fs::DirEntry, target: &Path) -> io::Result<()> {
    let Ok(kind) = entry.file_type() else {
        return Ok(());
    };
    if kind.is_symlink() {
        return symlink(fs::read_link(entry.path())?, target);
    }
    if kind.is_dir() {
        fs::create_dir(target)?;
    } else {
        fs::write(target, "")?;
    }
    let _ = mount::bind(&entry.path(), target);
    Ok(())
}

fn change_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    mount::pivot_root(Path::new("."), Path::new("."))?;
    // The old root lies on the new one.
    mount::unmount(Path::new("."), MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

//! Walking a tree: parents before children, names sorted, with few descriptors and no recursion.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::{Dir, Error, Stat};

/// How many directories are kept open. In deeper trees, the outermost ones are closed, and opened
/// again through `..` on the way back, which must lead to the same directory.
pub(super) const OPEN_DIRECTORIES: usize = 32;

/// What to do with a directory after visiting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// Visit its contents.
    Into,
    /// Skip its contents; [`Visit::leave`] is not called for it.
    Over,
}

/// A file that is visited.
#[derive(Debug)]
pub struct Visited<'a> {
    /// The open directory that contains it.
    pub parent: &'a Dir,
    /// Its name in that directory.
    pub name: &'a OsStr,
    /// Its metadata just before the call.
    pub stat: Stat,
    /// Its depth: 0 for the tree's root.
    pub depth: usize,
    prefix: &'a [Frame],
}

impl Visited<'_> {
    /// The file's path from (and including) the tree's root name, for messages.
    pub fn path(&self) -> PathBuf {
        path_of(self.prefix, self.name)
    }
}

/// The operations of a walk. An error ends the walk and is wrapped with the file's name.
pub trait Visit {
    /// Called for every file; for directories, before their contents.
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend>;

    /// Called for a directory after all of its contents, with the metadata from before.
    fn leave(&mut self, _directory: &Visited<'_>) -> io::Result<()> {
        Ok(())
    }

    /// What was attempted, for the message of an error in [`Visit::visit`] or `leave`.
    fn action(&self) -> &'static str {
        "process"
    }
}

/// A directory that is being walked.
#[derive(Debug)]
struct Frame {
    name: OsString,
    stat: Stat,
    /// Open, unless it was closed because the walk is deep below it.
    dir: Option<Dir>,
    /// The names that are still to be visited, in reverse.
    names: Vec<OsString>,
}

/// Walks the tree `name` in `parent` (which may be a single file). In each directory, names are
/// visited in bytewise order. A file that vanishes during the walk is an error, as is a directory
/// that is moved.
///
/// ```
/// use system::tree::{Descend, Dir, Visit, Visited, walk};
///
/// struct Names(Vec<String>);
///
/// impl Visit for Names {
///     fn visit(&mut self, file: &Visited<'_>) -> std::io::Result<Descend> {
///         self.0.push(file.name.to_string_lossy().into_owned());
///         Ok(if file.stat.is_dir() { Descend::Into } else { Descend::Over })
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let scratch = tempfile::tempdir()?;
/// std::fs::create_dir(scratch.path().join("a"))?;
/// std::fs::write(scratch.path().join("a/b"), "")?;
/// let mut names = Names(Vec::new());
/// walk(&Dir::open(scratch.path())?, "a", &mut names)?;
/// assert_eq!(names.0, ["a", "b"]);
/// # Ok(())
/// # }
/// ```
pub fn walk(parent: &Dir, name: impl AsRef<OsStr>, visitor: &mut impl Visit) -> Result<(), Error> {
    let mut frames: Vec<Frame> = Vec::new();
    enter(parent, &mut frames, name.as_ref().to_owned(), visitor)?;
    while let Some(frame) = frames.last_mut() {
        if let Some(name) = frame.names.pop() {
            enter(parent, &mut frames, name, visitor)?;
        } else {
            leave(parent, &mut frames, visitor)?;
        }
    }
    Ok(())
}

/// Visits `name` in the innermost directory, and enters it if requested.
fn enter(
    root: &Dir,
    frames: &mut Vec<Frame>,
    name: OsString,
    visitor: &mut impl Visit,
) -> Result<(), Error> {
    let fail = |action, source, frames: &[Frame]| Error {
        action,
        path: path_of(frames, &name),
        source,
    };
    let dir = match frames.last() {
        None => root,
        Some(frame) => frame.dir.as_ref().expect("the innermost directory is open"),
    };
    let stat = dir
        .stat_at(&name)
        .map_err(|e| fail("get the status of", e, frames))?;
    let visited = Visited {
        parent: dir,
        name: &name,
        stat,
        depth: frames.len(),
        prefix: frames,
    };
    let descend = visitor
        .visit(&visited)
        .map_err(|e| fail(visitor.action(), e, frames))?;
    if !stat.is_dir() || descend == Descend::Over {
        return Ok(());
    }
    let mut opened = dir
        .open_dir(&name)
        .map_err(|e| fail("open directory", e, frames))?;
    let mut names = same(&opened, &stat)
        .and_then(|()| opened.names_once())
        .map_err(|e| fail("read directory", e, frames))?;
    names.reverse();
    frames.push(Frame {
        name,
        stat,
        dir: Some(opened),
        names,
    });
    if let Some(far) = frames.len().checked_sub(OPEN_DIRECTORIES + 1) {
        frames[far].dir = None;
    }
    Ok(())
}

/// Returns to the parent of the innermost directory.
fn leave(root: &Dir, frames: &mut Vec<Frame>, visitor: &mut impl Visit) -> Result<(), Error> {
    let Some(done) = frames.pop() else {
        return Ok(());
    };
    let fail = |action, source, frames: &[Frame]| Error {
        action,
        path: path_of(frames, &done.name),
        source,
    };
    if let Some(outer) = frames.last_mut() {
        if outer.dir.is_none() {
            let inner = done.dir.as_ref().expect("the innermost directory is open");
            let found = inner
                .open_parent()
                .and_then(|up| same(&up, &outer.stat).map(|()| up));
            match found {
                Ok(up) => outer.dir = Some(up),
                Err(error) => return Err(fail("go back from", error, frames)),
            }
        }
    }
    let parent = match frames.last() {
        None => root,
        Some(frame) => frame.dir.as_ref().expect("opened above"),
    };
    let visited = Visited {
        parent,
        name: &done.name,
        stat: done.stat,
        depth: frames.len(),
        prefix: frames,
    };
    visitor
        .leave(&visited)
        .map_err(|e| fail(visitor.action(), e, frames))
}

/// Whether `dir` is the directory that was seen before, as an error if it is not.
pub(super) fn same(dir: &Dir, expected: &Stat) -> io::Result<()> {
    if dir.stat()?.identity() == expected.identity() {
        Ok(())
    } else {
        Err(io::Error::other("it was replaced meanwhile"))
    }
}

fn path_of(frames: &[Frame], name: &OsStr) -> PathBuf {
    frames
        .iter()
        .map(|frame| frame.name.as_os_str())
        .chain([name])
        .collect()
}

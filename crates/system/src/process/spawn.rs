//! Starting a program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::child::Child;
use super::setup::{Identity, Properties, Setup};
use crate::pipe;
use crate::signal::Signal;

/// A program to start, and the properties of its process.
///
/// Descriptors 0, 1 and 2 are inherited unless mapped with [`Spawn::fd`]; all others are
/// closed unless mapped. The environment is inherited unless [`Spawn::env_clear`] is called.
///
/// ```
/// use std::io::Read;
/// use system::pipe::pipe;
/// use system::process::Spawn;
///
/// let (output, stdout) = pipe()?;
/// let mut child = Spawn::new("/bin/sh")
///     .args(["-c", "echo $WORD"])
///     .env_clear()
///     .env("WORD", "hello")
///     .fd(stdout, 1)
///     .spawn()?;
/// let mut text = String::new();
/// std::fs::File::from(output).read_to_string(&mut text)?;
/// assert_eq!(text, "hello\n");
/// assert!(child.wait()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    clear_env: bool,
    env: Vec<(OsString, OsString)>,
    fds: Vec<(OwnedFd, RawFd)>,
    directory: Option<PathBuf>,
    properties: Properties,
}

impl Spawn {
    /// A program with this file name (which isn't searched for: see [`find_program`]).
    pub fn new(program: impl Into<PathBuf>) -> Spawn {
        Spawn {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            clear_env: false,
            env: Vec::new(),
            fds: Vec::new(),
            directory: None,
            properties: Properties::default(),
        }
    }

    /// Sets argument 0, which is the program's file name by default.
    pub fn arg0(mut self, name: impl Into<OsString>) -> Spawn {
        self.arg0 = Some(name.into());
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Spawn {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Spawn {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts with an empty environment instead of this process's.
    pub fn env_clear(mut self) -> Spawn {
        self.clear_env = true;
        self.env.clear();
        self
    }

    /// Sets an environment variable; the last value set for a name counts.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Spawn {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Passes an open file as the given descriptor number. Sources and targets may overlap or be
    /// the same numbers.
    pub fn fd(mut self, source: impl Into<OwnedFd>, target: RawFd) -> Spawn {
        self.fds.push((source.into(), target));
        self
    }

    /// Starts the program in this directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Spawn {
        self.directory = Some(directory.into());
        self
    }

    /// Makes the process the leader of its own session and process group, so that
    /// [`Child::kill_group`] reaches all processes that it starts.
    pub fn setsid(mut self) -> Spawn {
        self.properties.setsid = true;
        self
    }

    /// Runs the program as this user, with this group and these supplementary groups. Requires the
    /// privilege to become the user.
    pub fn user(mut self, uid: u32, gid: u32, groups: Vec<u32>) -> Spawn {
        self.properties.identity = Some(Identity { uid, gid, groups });
        self
    }

    /// Has the process sent this signal when the *thread* that starts it ends: start it from a
    /// thread that lives as long as the process should.
    pub fn parent_death_signal(mut self, signal: Signal) -> Spawn {
        self.properties.parent_death = Some(signal);
        self
    }

    /// Starts the program. The error is that of the fork, of a setup step, or of the exec; its
    /// message has the step and the file.
    pub fn spawn(self) -> io::Result<Child> {
        let (report_reader, report_writer) = pipe::pipe()?;
        let (args, env) = (self.c_args()?, self.c_env()?);
        let leads_group = self.properties.setsid;
        let setup = Setup::new(
            c_string(self.program.as_os_str())?,
            args,
            env,
            self.directory
                .as_ref()
                .map(|d| c_string(d.as_os_str()))
                .transpose()?,
            self.fds
                .iter()
                .map(|(fd, target)| (fd.as_raw_fd(), *target))
                .collect(),
            self.properties,
            report_writer.as_raw_fd(),
        )?;
        let child = Child::new(setup.fork()?, leads_group)?;
        drop(report_writer);
        let mut report = Vec::new();
        File::from(report_reader).take(8).read_to_end(&mut report)?;
        let Some((step, errno)) = report.first_chunk::<8>().map(super::setup::decode_report) else {
            return Ok(child); // exec closed the pipe
        };
        let mut child = child;
        child.wait()?;
        let error = io::Error::from_raw_os_error(errno);
        let what = match (&self.directory, step) {
            (Some(directory), super::setup::Step::Chdir) => directory,
            _ => &self.program,
        };
        let message = format!("cannot {} `{}': {error}", step.describe(), what.display());
        Err(io::Error::new(
            error.kind(),
            SpawnError {
                message,
                source: error,
            },
        ))
    }

    fn c_args(&self) -> io::Result<Vec<CString>> {
        let arg0 = self.arg0.as_deref().unwrap_or(self.program.as_os_str());
        std::iter::once(arg0)
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(c_string)
            .collect()
    }

    fn c_env(&self) -> io::Result<Vec<CString>> {
        let mut variables: std::collections::BTreeMap<OsString, OsString> = Default::default();
        if !self.clear_env {
            variables.extend(std::env::vars_os());
        }
        variables.extend(self.env.iter().cloned());
        variables
            .into_iter()
            .map(|(name, value)| {
                let mut text = name.into_vec();
                text.push(b'=');
                text.extend_from_slice(value.as_bytes());
                c_string(OsStr::from_bytes(&text))
            })
            .collect()
    }
}

/// The error of a child that could not execute the program.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct SpawnError {
    message: String,
    source: io::Error,
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        let message = format!("`{}' contains a NUL character", text.to_string_lossy());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Where to search for programs if `$PATH` isn't set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/run/current-system/profile/bin";

/// Finds a program as `execvp` would: a name with a slash is a file name; any other is searched for
/// in the directories of `$PATH` (or in the default directories, if it isn't set).
///
/// ```
/// use system::process::find_program;
///
/// assert!(find_program("sh").is_some_and(|file| file.ends_with("sh")));
/// assert_eq!(find_program("/nonexistent/sh"), None);
/// ```
pub fn find_program(name: impl AsRef<Path>) -> Option<PathBuf> {
    let name = name.as_ref();
    let runnable = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    if name.as_os_str().as_bytes().contains(&b'/') {
        return runnable(name).then(|| name.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|p| runnable(p))
}

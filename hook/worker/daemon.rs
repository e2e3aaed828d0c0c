//! The worker's daemon: which program it is, how it is started, and what it says if it ends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farm::history::Limits;
use formats::StoreDir;
use protocol::client::{Connection, Options};
use system::process::{Child, Spawn};
use system::{pipe, signal, socket};

use super::directory::{disk, is_full};
use super::root::PLACE;
use crate::frames::{Class, Failure, KeeperHello};

/// Where the daemon is, seen from this program: beside it, or as it is installed.
const NEAR: [&str; 2] = ["guix-daemon", "../../bin/guix-daemon"];
/// How often to look whether it answers.
const INTERVAL: Duration = Duration::from_millis(1);
/// How much of what it has said is told.
const TAIL: u64 = 2 << 10;
/// The limit of builds at the same time that a keeper can ask for.
const MOST_JOBS: u32 = 64;

/// A daemon's program, opened: where it is started, its name may mean something else.
pub(super) struct Program(File);

impl Program {
    /// The program with this name, or the one that belongs to this program.
    pub fn find(named: Option<&Path>) -> Result<Program, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => beside_this().ok_or_else(|| {
                let text = "there is no `guix-daemon' beside `guix-offload'; put it there, or name it by \
                            --daemon=FILE";
                Failure::new(Class::Daemon, text)
            })?,
        };
        let failed = |error: io::Error| {
            let text = format!("cannot use the daemon `{}': {error}", path.display());
            Failure::new(Class::Daemon, text)
        };
        let file = File::open(&path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("not a file")));
        }
        Ok(Program(file))
    }
}

fn beside_this() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let directory = this.parent()?;
    let near = NEAR.iter().map(|name| directory.join(name));
    near.into_iter().find(|file| file.is_file())
}

/// The worker's daemon, which has its directories at [`PLACE`].
pub(super) struct Daemon {
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it.
    pub fn start(program: &Program, hello: &KeeperHello) -> Result<Daemon, Failure> {
        let place = Path::new(PLACE);
        let log = place.join("log/daemon");
        let file = File::create(&log).map_err(|error| disk("write", &log, &error))?;
        let errors = file.try_clone();
        let errors = errors.map_err(|error| disk("write", &log, &error))?;
        let null = pipe::null().map_err(|error| disk("open", Path::new("/dev/null"), &error))?;
        let mut spawn = Spawn::new(format!("/proc/self/fd/{}", program.0.as_raw_fd()))
            .arg0("guix-daemon")
            .args(["--no-substitutes", "--no-offload", "--lose-logs"])
            .args(["--disable-deduplication"])
            .arg(format!("--max-jobs={}", hello.max_jobs.clamp(1, MOST_JOBS)))
            .env_clear()
            .env("NIX_STORE_DIR", &hello.store)
            // It would end with the worker.
            .env(Limits::VARIABLE, "no")
            .fd(null, 0)
            .fd(file, 1)
            .fd(errors, 2);
        if hello.cores > 0 {
            spawn = spawn.arg(format!("--cores={}", hello.cores));
        }
        for (variable, directory) in [
            ("GUIX_STATE_DIRECTORY", "var"),
            ("GUIX_DATABASE_DIRECTORY", "var/db"),
            ("GUIX_LOG_DIRECTORY", "log"),
            ("GUIX_CONFIGURATION_DIRECTORY", "etc"),
            ("TMPDIR", "tmp"),
            ("HOME", "tmp"),
        ] {
            spawn = spawn.env(variable, place.join(directory));
        }
        // Where it finds slirp4netns, for example.
        for variable in ["PATH", "LANG", "LC_ALL", "TZ"] {
            if let Some(value) = std::env::var_os(variable) {
                spawn = spawn.env(variable, value);
            }
        }
        let process = spawn.spawn().map_err(|error| {
            let text = format!("cannot start the daemon: {error}");
            Failure::new(Class::Daemon, text)
        })?;
        Ok(Daemon { process, log })
    }

    /// Waits until it answers a client, for whom it opens its database: the next client need not wait.
    pub fn wait_to_serve(&mut self, store: &StoreDir) -> Result<(), Failure> {
        let waited = |error: io::Error| Failure::new(Class::Daemon, error.to_string());
        let stream = loop {
            match connect() {
                Ok(stream) => break stream,
                Err(_) => {
                    if self
                        .process
                        .wait_timeout(INTERVAL)
                        .map_err(waited)?
                        .is_some()
                    {
                        return Err(self.why_it_ended());
                    }
                }
            }
        };
        let reader = stream.try_clone().map_err(waited)?;
        let (reader, writer) = (Box::new(reader), Box::new(stream));
        match Connection::over(reader, writer, store, &Options::default()) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = format!("the worker's daemon does not serve: {error}");
                Err(Failure::new(class(), text))
            }
        }
    }

    /// Waits for its end, and returns why that was.
    pub fn wait_for_end(mut self) -> Failure {
        let _ = self.process.wait();
        self.why_it_ended()
    }

    fn why_it_ended(&mut self) -> Failure {
        let ended = match self.process.wait() {
            Ok(status) => signal::describe_exit(status),
            Err(error) => error.to_string(),
        };
        let said = tail(&self.log).unwrap_or_default();
        Failure::new(class(), format!("the worker's daemon {ended}: {said}"))
    }
}

/// Connects to the daemon.
pub(super) fn connect() -> io::Result<UnixStream> {
    socket::connect(&Path::new(PLACE).join("var/daemon-socket/socket"))
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().replace('\n', "; "))
}

/// Why the daemon fails.
fn class() -> Class {
    match has_no_space(Path::new(PLACE)) {
        true => Class::Disk,
        false => Class::Daemon,
    }
}

/// Whether a disk has no space left.
fn has_no_space(directory: &Path) -> bool {
    let probe = directory.join("tmp/space");
    let written = fs::write(&probe, [1; 64 << 10]);
    let _ = fs::remove_file(&probe);
    written.is_err_and(|error| is_full(&error))
}

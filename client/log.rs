//! `guix-client log`: shows build logs, with a pager, and follows those of running builds.
//!
//! A build runs as long as the lock of one of its outputs is held. Its log is in a file of the
//! daemon, which may be compressed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bzip2::read::MultiBzDecoder;
use clap::Args;
use flate2::read::GzDecoder;
use formats::StorePath;
use store::Directories;

use crate::daemon::Daemon;
use crate::output;
use crate::plan::read_derivation;

/// How often a file that ends is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Which log, and how to show it.
#[derive(Args)]
pub struct Arguments {
    /// Show what there is, even if the build still runs
    #[arg(long)]
    no_follow: bool,
    /// The derivation, or something that was built from it
    #[arg(value_name = "ITEM")]
    item: OsString,
}

/// Shows the log.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut daemon = Daemon::connect()?;
    let item = daemon.item_behind(&arguments.item)?;
    let log = Log::find(&mut daemon, &item)?;
    let outputs = match read_derivation(&log.derivation, &daemon.directories.store) {
        Ok(derivation) => derivation.output_paths().cloned().collect(),
        Err(_) => daemon
            .connection
            .query_derivation_outputs(&log.derivation)?,
    };
    let is_running = || outputs.iter().any(is_locked);
    let follow = !arguments.no_follow && is_running();
    let contents = log.open(|| follow && is_running())?;
    let is_whole = match follow {
        true => {
            // `guix-client log … | head' must not wait for a builder that prints nothing.
            output::end_with_reader_of(io::stdout());
            copy(contents, &mut output::stdout())?
        }
        false => page(contents)?,
    };
    if follow {
        let valid = daemon.connection.query_valid_paths(outputs.clone())?;
        let text = match valid == outputs {
            true => "has been built",
            false => "was not built",
        };
        output::info("log", &format!("`{}' {text}", log.derivation));
    } else if !is_whole && !is_running() {
        output::warning("log", "the log ends early: the daemon was killed, perhaps");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a daemon builds this output.
pub fn is_locked(output: &StorePath) -> bool {
    let lock = format!("{output}.lock");
    system::lock::has_lock(Path::new(&lock)).unwrap_or(false)
}

/// A log file.
pub struct Log {
    /// What was built.
    pub derivation: StorePath,
    /// The file's name.
    pub file: PathBuf,
}

/// That something is no file name of a derivation.
pub struct BadName;

impl Log {
    /// The log of a derivation, or of an item that was built here.
    pub fn find(daemon: &mut Daemon, path: &StorePath) -> Result<Log> {
        let derivations = match path.is_derivation() {
            true => BTreeSet::from([path.clone()]),
            false => daemon.connection.query_valid_derivers(path)?,
        };
        let logs = derivations
            .into_iter()
            .filter_map(|derivation| Log::of_derivation(&daemon.directories, derivation));
        let mut logs: Vec<Log> = logs.collect();
        match (logs.pop(), daemon.is_local) {
            (Some(log), _) => Ok(log),
            (None, true) => bail!("no build log for '{path}'"),
            (None, false) => {
                bail!("no build log for '{path}': logs are on the host of the daemon")
            }
        }
    }

    /// The log of a derivation that was built by the daemon with these directories, or is being built.
    pub fn of_derivation(directories: &Directories, derivation: StorePath) -> Option<Log> {
        let file = newest_log(&directories.log.join("drvs"), derivation.base_name())?;
        Some(Log { derivation, file })
    }

    /// The same, if this is a derivation's file name: nothing else finds a log.
    pub fn of_name(directories: &Directories, name: &str) -> Result<Option<Log>, BadName> {
        let derivation = directories.store.join(name).map_err(|_| BadName)?;
        match derivation.is_derivation() && derivation.is_well_formed() {
            true => Ok(Log::of_derivation(directories, derivation)),
            false => Err(BadName),
        }
    }

    /// Its contents, decompressed. At the end of the file, a reader waits for more as long as
    /// `goes_on` says so.
    fn open<'a>(&self, goes_on: impl Fn() -> bool + 'a) -> Result<Box<dyn Read + 'a>> {
        Ok(self.open_end(u64::MAX, |_| Ok(()), goes_on)?.reader)
    }

    /// The same from close to the end on, where that can be done: of a file that isn't compressed, only so many
    /// bytes are read of what is there. `check` is asked before each read of the file, below the decompressor, which may
    /// read much before it says something: it is told whether all has been read that was there at first, and its
    /// error ends the reading.
    pub fn open_end<'a>(
        &self,
        bytes: u64,
        check: impl Fn(bool) -> io::Result<()> + 'a,
        goes_on: impl Fn() -> bool + 'a,
    ) -> Result<Contents<'a>> {
        let doing = || format!("reading the log `{}'", self.file.display());
        let mut options = File::options();
        let mut file = options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK) // nor does opening a pipe wait
            .open(&self.file)
            .with_context(doing)?;
        let metadata = file.metadata().with_context(doing)?;
        if !metadata.is_file() {
            bail!("`{}' is not a regular file", self.file.display());
        }
        let compression = self.file.extension().and_then(|name| name.to_str());
        let surplus = metadata.len().saturating_sub(bytes);
        let is_cut = surplus > 0 && !matches!(compression, Some("gz" | "bz2"));
        if is_cut {
            file.seek(io::SeekFrom::Start(surplus))
                .with_context(doing)?;
        }
        let file = BufReader::new(Growing {
            file,
            old: match is_cut {
                true => bytes,
                false => metadata.len(),
            },
            check,
            goes_on,
        });
        let reader: Box<dyn Read + 'a> = match compression {
            Some("gz") => Box::new(GzDecoder::new(file)),
            Some("bz2") => Box::new(MultiBzDecoder::new(file)),
            _ => Box::new(file),
        };
        Ok(Contents { reader, is_cut })
    }
}

/// What a log says.
pub struct Contents<'a> {
    /// Reads it.
    pub reader: Box<dyn Read + 'a>,
    /// Whether its beginning is left out.
    pub is_cut: bool,
}

/// The log of a derivation. The daemon's compression may have changed since an older build.
fn newest_log(directory: &Path, derivation: &str) -> Option<PathBuf> {
    let (start, rest) = derivation.split_at_checked(2)?;
    let files =
        ["", ".gz", ".bz2"].map(|suffix| directory.join(start).join(format!("{rest}{suffix}")));
    let dated = files.into_iter().filter_map(|file| {
        let modified = fs::symlink_metadata(&file).ok()?.modified().ok()?;
        Some((modified, file))
    });
    dated.max().map(|(_, file)| file)
}

/// A file that a daemon may still write to.
struct Growing<C, F> {
    file: File,
    /// How many bytes are left of those that were there at first.
    old: u64,
    check: C,
    goes_on: F,
}

impl<C: Fn(bool) -> io::Result<()>, F: Fn() -> bool> Read for Growing<C, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            (self.check)(self.old == 0)?;
            let count = self.file.read(buffer)?;
            if count > 0 {
                self.old = self.old.saturating_sub(count as u64);
                return Ok(count);
            }
            if !(self.goes_on)() {
                // What was written before the end is not missed.
                return self.file.read(buffer);
            }
            // A build that starts again begins its log anew.
            if self.file.metadata()?.len() < self.file.stream_position()? {
                return Ok(0);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Copies a log. Returns whether it was whole: the end of a compressed one is missing while a
/// build runs, or after a daemon was killed.
fn copy(mut contents: impl Read, out: &mut dyn Write) -> Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match contents.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading the log"),
        };
        out.write_all(&buffer[..count])?;
        out.flush()?;
    }
}

/// Shows a log in the user's pager if standard output is a terminal.
fn page(contents: impl Read) -> Result<bool> {
    let Some(mut pager) = start_pager() else {
        return copy(contents, &mut output::stdout());
    };
    let copied = match &mut pager.stdin {
        Some(input) => copy(contents, input),
        None => Ok(true),
    };
    // The pager reads to the end of its input.
    drop(pager.stdin.take());
    pager.wait().context("waiting for the pager")?;
    match copied {
        // The user has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(true),
        copied => copied,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The pager that `PAGER` names, by default `less`; none if standard output is no terminal.
fn start_pager() -> Option<Child> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let named = std::env::var_os("PAGER");
    let mut command = match &named {
        Some(words) if words.is_empty() || words == "cat" => return None,
        Some(words) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(words);
            shell
        }
        None => Command::new("less"),
    };
    if std::env::var_os("LESS").is_none() {
        // Short logs need no pager; colors are shown.
        command.env("LESS", "FRX");
    }
    // Without less, the log is shown as it is.
    command.stdin(Stdio::piped()).spawn().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_log_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let name = "0mgxsakkancy2iry6pj8hwcmlbmjbamn-x.drv";
        let found = || newest_log(directory.path(), name);
        assert_eq!(found(), None);
        fs::create_dir(directory.path().join("0m")).unwrap();
        for (suffix, age) in [(".gz", 2), ("", 1), (".bz2", 3)] {
            let file = directory.path().join(format!("0m/{}{suffix}", &name[2..]));
            let time = std::time::SystemTime::now() - Duration::from_secs(age);
            File::create(file).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(found(), Some(directory.path().join("0m").join(&name[2..])));
    }
}

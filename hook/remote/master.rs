//! The shared connections to a machine: `ssh` in the background, with a control socket for
//! sessions and the local end of the daemon's socket. They outlive the hook that made them, so
//! the next one connects without a handshake. A dead one is noticed and replaced; a lock sees to
//! it that of many hooks one makes it.
//!
//! Each has sockets of its own; symbolic links, `STEM.N` and `STEM.N.d`, lead to those in use. So
//! one that doesn't answer can be left alone, with the builds that perhaps still go over it.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use system::lock::{LockFile, Mode};
use system::{pipe, socket};

use super::link::Link;
use super::{Error, Obstacle};

/// Connections per machine, at most.
pub(super) const MASTERS: u32 = 64;

/// How long the first command may take.
const COMMAND: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Makes sure that a connection stands. Returns whether it was made just now.
pub(super) fn ensure(link: &Link, number: u32, deadline: Instant) -> Result<bool, Error> {
    if is_alive(link, number) {
        return Ok(false);
    }
    let local = |source| Error::Local {
        doing: format!("preparing the connection to '{}'", link.name()),
        source,
    };
    let lock = LockFile::open(link.master_file(number, ".lock")).map_err(local)?;
    let late = || Instant::now() >= deadline;
    if !lock.lock_unless(Mode::Exclusive, late).map_err(local)? {
        return Err(timed_out(link, Duration::ZERO));
    }
    if is_alive(link, number) {
        return Ok(false); // made by whom we waited for
    }
    sweep(link, number).map_err(local)?;
    abandon(link, number);
    let _ = fs::remove_file(link.log(number));
    if number == 0 {
        let _ = fs::remove_file(link.file("distinct"));
    }
    link.write_host_key().map_err(local)?;
    start(link, number, deadline)?;
    Ok(true)
}

/// Whether its control socket is served. (The network behind may be gone.)
fn is_alive(link: &Link, number: u32) -> bool {
    socket::connect(&link.master_file(number, "")).is_ok()
}

fn start(link: &Link, number: u32, deadline: Instant) -> Result<(), Error> {
    let began = Instant::now();
    let left = deadline.saturating_duration_since(began);
    let local = |source| Error::Local {
        doing: "starting ssh".to_owned(),
        source,
    };
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(link.log(number))
        .map_err(local)?;
    // None of our descriptors may stay open in the background: neither the hook's standard
    // output and log, which its daemon reads to their end, nor its requests.
    let control = link.new_control(number);
    let mut child = link
        .master(number, &control, left.as_secs())?
        .fd(pipe::null().map_err(local)?, 0)
        .fd(pipe::null().map_err(local)?, 1)
        .fd(log, 2)
        .spawn()
        .map_err(local)?;
    // It ends when the connection stands and the command has run; the one that goes on is its
    // child. An account that runs another command instead, for ever, is waited for a little.
    let stands = || link.directory.join(&control).exists();
    let mut stood = None;
    let status = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let status = child.wait_timeout(left.min(POLL)).map_err(local)?;
        if stood.is_none() && stands() {
            stood = Some(Instant::now());
        }
        let enough = stood.is_some_and(|stood| stood.elapsed() > COMMAND);
        if status.is_some() || enough || left.is_zero() {
            break status;
        }
    };
    match status {
        // Whether the command could be run is another matter.
        _ if matches!(socket::is_alive(&link.directory.join(&control)), Ok(true)) => {
            if number == 0 {
                symlink(format!("{control}.d"), link.daemon()).map_err(local)?;
            }
            symlink(control, link.master_file(number, "")).map_err(local)
        }
        Some(_) => {
            let said = log_since(link, number, 0);
            let obstacle = obstacle(&said);
            Err(Error::Ssh {
                machine: link.name().to_owned(),
                said: match obstacle {
                    // ssh tells people to edit a file of ours.
                    Obstacle::HostKey => fingerprint(&said),
                    _ => digest(&said),
                },
                obstacle,
            })
        }
        None => Err(timed_out(link, began.elapsed())),
    }
}

fn timed_out(link: &Link, after: Duration) -> Error {
    Error::Ssh {
        machine: link.name().to_owned(),
        obstacle: Obstacle::TimedOut(after.as_secs_f64().round() as u64),
        said: String::new(),
    }
}

/// Ends a connection, whatever state it is in.
pub(super) fn end(link: &Link, number: u32) -> io::Result<()> {
    if is_alive(link, number) {
        let control = fs::read_link(link.master_file(number, ""))?;
        let mut child = link
            .exit(number)
            .fd(pipe::null()?, 0)
            .fd(pipe::null()?, 1)
            .fd(pipe::null()?, 2)
            .spawn()?;
        child.wait_timeout(Duration::from_secs(3))?;
        // ssh removes its control socket, but not the local end of the daemon's.
        let mut daemon = control.into_os_string();
        daemon.push(".d");
        let _ = fs::remove_file(link.directory.join(daemon));
    }
    abandon(link, number);
    Ok(())
}

/// Removes the sockets that dead connections left. Those of a living one are its own affair.
fn sweep(link: &Link, number: u32) -> io::Result<()> {
    let prefix = link.control_prefix(number);
    for entry in fs::read_dir(&link.directory)? {
        let entry = entry?;
        let ours = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        if ours && matches!(socket::is_alive(&entry.path()), Ok(false)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Leaves a connection alone: nobody uses it for anything new.
pub(super) fn abandon(link: &Link, number: u32) {
    for suffix in ["", ".d"] {
        let _ = fs::remove_file(link.master_file(number, suffix));
    }
}

/// Ends all connections to the machine.
pub(super) fn end_all(link: &Link) -> io::Result<()> {
    for number in 0..MASTERS {
        if fs::symlink_metadata(link.master_file(number, "")).is_ok() {
            end(link, number)?;
        }
    }
    Ok(())
}

/// How long the log is by now.
pub(super) fn log_length(link: &Link, number: u32) -> u64 {
    fs::metadata(link.log(number)).map_or(0, |metadata| metadata.len())
}

/// What ssh has logged since.
pub(super) fn log_since(link: &Link, number: u32, start: u64) -> String {
    read_from(&link.log(number), start).unwrap_or_default()
}

fn read_from(file: &Path, start: u64) -> io::Result<String> {
    const MOST: u64 = 64 << 10;
    let mut file = fs::File::open(file)?;
    file.seek(io::SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What ssh's words mean.
fn obstacle(said: &str) -> Obstacle {
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if says(&["Could not resolve hostname"]) {
        Obstacle::Name
    } else if says(&["Host key verification failed", "no matching host key"]) {
        Obstacle::HostKey
    } else if says(&["Permission denied", "Too many authentication failures"]) {
        Obstacle::Login
    } else if says(&[
        "Connection refused",
        "Connection timed out",
        "Operation timed out",
        "No route to host",
        "unreachable",
        "Connection reset",
        "Connection closed",
        "Connection to",
    ]) {
        Obstacle::Unreachable
    } else {
        Obstacle::Other
    }
}

/// The fingerprint of the key that the machine has instead.
fn fingerprint(said: &str) -> String {
    let word = said
        .split_whitespace()
        .find(|word| word.starts_with("SHA256:"));
    word.map_or_else(
        || digest(said),
        |word| format!("it has {}", word.trim_end_matches('.')),
    )
}

/// What ssh printed, on one line, without its decorations.
pub(super) fn digest(said: &str) -> String {
    const MOST: usize = 600;
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("@@"))
        .collect();
    // The reason comes last.
    let text = lines[lines.len().saturating_sub(6)..].join("; ");
    let skip = text.chars().count().saturating_sub(MOST);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_ssh() {
        for (said, expected) in [
            (
                "ssh: Could not resolve hostname nowhere: Name or service not known",
                Obstacle::Name,
            ),
            (
                "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                Obstacle::HostKey,
            ),
            ("guix@host: Permission denied (publickey).", Obstacle::Login),
            (
                "ssh: connect to host 127.0.0.1 port 1: Connection refused",
                Obstacle::Unreachable,
            ),
            ("Bad configuration option: x", Obstacle::Other),
        ] {
            assert_eq!(obstacle(said), expected);
        }
    }

    #[test]
    fn the_digest_is_short() {
        assert_eq!(digest("@@@@@@\r\n\r\na\r\nb\n"), "a; b");
        assert_eq!(digest(&"x".repeat(10_000)).len(), 600);
    }
}

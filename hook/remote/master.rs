//! The shared connections to a machine, which `ssh_config(5)` calls masters (`ControlMaster`):
//! `ssh` in the background, with a control socket for sessions and the local end of the daemon's
//! socket. They outlive the hook that opened them, so the next hook needs no SSH handshake. A dead
//! connection is detected and replaced; a lock ensures that only one of many hooks does so.
//!
//! Each connection has its own sockets; symbolic links, `STEM.N` and `STEM.N.d`, point to those in
//! use. So a connection that does not respond can be abandoned without ending it, since builds may
//! still depend on it.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use system::lock::{LockFile, Mode};
use system::{pipe, socket};

use super::destination::Destination;
use super::error::{Error, KeyFault, SshFailure};

/// The maximum number of connections per machine.
pub(super) const MASTERS: u32 = 64;

/// The timeout of the first command.
const FIRST_COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum size of ssh's log of a connection that is being started, in bytes.
const LOG_LIMIT: u64 = 4 << 20;
/// How often it is checked whether a connection that is being started is open. (ssh tells nobody;
/// only its control socket appears.)
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Ensures that a connection is open. Returns whether it is new.
pub(super) fn ensure(
    destination: &Destination,
    number: u32,
    deadline: Instant,
) -> Result<bool, Error> {
    if is_alive(destination, number) {
        return Ok(false);
    }
    let local = |source| Error::Local {
        doing: format!("preparing the connection to '{}'", destination.name()),
        source,
    };
    let lock = LockFile::open(destination.master_file(number, ".lock")).map_err(local)?;
    let late = || Instant::now() >= deadline;
    if !lock.lock_unless(Mode::Exclusive, late).map_err(local)? {
        return Err(timed_out(destination, Duration::ZERO));
    }
    if is_alive(destination, number) {
        return Ok(false); // made by the hook that had the lock
    }
    remove_dead_sockets(destination, number).map_err(local)?;
    abandon(destination, number);
    let _ = fs::remove_file(destination.log(number));
    if number == 0 {
        let _ = fs::remove_file(destination.file("distinct"));
        let _ = fs::remove_file(destination.session_limit());
    }
    destination.write_host_key().map_err(local)?;
    start(destination, number, deadline)?;
    Ok(true)
}

/// Whether a process serves its control socket. (The network may still be down.)
fn is_alive(destination: &Destination, number: u32) -> bool {
    socket::connect(&destination.master_file(number, "")).is_ok()
}

fn start(destination: &Destination, number: u32, deadline: Instant) -> Result<(), Error> {
    let began = Instant::now();
    let left = deadline.saturating_duration_since(began);
    let local = |source| Error::Local {
        doing: "starting ssh".to_owned(),
        source,
    };
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(destination.log(number))
        .map_err(local)?;
    // The background process must not inherit any of our descriptors: the daemon reads the hook's
    // standard output and log to end of file, and standard input contains its requests.
    let control = destination.new_control(number);
    let mut child = destination
        .master(number, &control, left.as_secs())?
        .fd(pipe::null().map_err(local)?, 0)
        .fd(pipe::null().map_err(local)?, 1)
        .fd(log, 2)
        .spawn()
        .map_err(local)?;
    // ssh exits when the connection is open and the command has run; its child stays in the
    // background. If the account is forced to run another command, which may never end, we wait
    // only a little after the connection has opened.
    // A server may send greetings without end, which ssh logs.
    let floods = || log_length(destination, number) > LOG_LIMIT;
    let is_open = || destination.ssh_directory.join(&control).exists();
    let mut open_since = None;
    let status = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let status = child.wait_timeout(left.min(POLL_INTERVAL)).map_err(local)?;
        if open_since.is_none() && is_open() {
            open_since = Some(Instant::now());
        }
        let timed_out =
            open_since.is_some_and(|since: Instant| since.elapsed() > FIRST_COMMAND_TIMEOUT);
        if status.is_some() || timed_out || left.is_zero() || floods() {
            break status;
        }
    };
    match status {
        _ if floods() => Err(Error::Ssh {
            machine: destination.name().to_owned(),
            failure: SshFailure::Other,
            stderr: "its server greets without end".to_owned(),
        }),
        // The connection is open, even if the command could not be run.
        _ if matches!(
            socket::is_alive(&destination.ssh_directory.join(&control)),
            Ok(true)
        ) =>
        {
            if number == 0 {
                symlink(format!("{control}.d"), destination.daemon()).map_err(local)?;
            }
            symlink(control, destination.master_file(number, "")).map_err(local)
        }
        Some(_) => {
            let stderr = log_since(destination, number, 0);
            let failure = match (classify(&stderr), destination.login_key()) {
                (SshFailure::Login, Some(key)) => match KeyFault::find(&key, &stderr) {
                    Some(fault) => SshFailure::UnusableKey(key.display().to_string(), fault),
                    None => SshFailure::Login,
                },
                (failure, _) => failure,
            };
            Err(Error::Ssh {
                machine: destination.name().to_owned(),
                stderr: match failure {
                    // ssh's own message tells the user to edit a file that is ours.
                    SshFailure::HostKey => fingerprint(&stderr),
                    _ => summary(&stderr),
                },
                failure,
            })
        }
        None => Err(timed_out(destination, began.elapsed())),
    }
}

fn timed_out(destination: &Destination, after: Duration) -> Error {
    Error::Ssh {
        machine: destination.name().to_owned(),
        failure: SshFailure::TimedOut(after.as_secs_f64().round() as u64),
        stderr: String::new(),
    }
}

/// Ends a connection, whatever its state.
fn end(destination: &Destination, number: u32) -> io::Result<()> {
    if is_alive(destination, number) {
        let control = fs::read_link(destination.master_file(number, ""))?;
        let mut child = destination
            .exit(number)
            .fd(pipe::null()?, 0)
            .fd(pipe::null()?, 1)
            .fd(pipe::null()?, 2)
            .spawn()?;
        child.wait_timeout(Duration::from_secs(3))?;
        // ssh removes its control socket, but not the local end of the daemon's.
        let mut daemon = control.into_os_string();
        daemon.push(".d");
        let _ = fs::remove_file(destination.ssh_directory.join(daemon));
    }
    abandon(destination, number);
    Ok(())
}

/// Removes the sockets of dead connections, but not those of live ones.
fn remove_dead_sockets(destination: &Destination, number: u32) -> io::Result<()> {
    let prefix = destination.control_prefix(number);
    for entry in fs::read_dir(&destination.ssh_directory)? {
        let entry = entry?;
        let ours = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        if ours && matches!(socket::is_alive(&entry.path()), Ok(false)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Abandons a connection: it is no longer used, but not ended.
pub(super) fn abandon(destination: &Destination, number: u32) {
    for suffix in ["", ".d"] {
        let _ = fs::remove_file(destination.master_file(number, suffix));
    }
}

/// Gives up a connection: it is not used for anything new, and ends when what uses it has ended.
pub(super) fn give_up(destination: &Destination, number: u32) {
    let control = fs::read_link(destination.master_file(number, ""));
    abandon(destination, number);
    let Ok(control) = control else {
        return;
    };
    let stop = || -> io::Result<()> {
        let mut child = destination
            .stop(&control)
            .fd(pipe::null()?, 0)
            .fd(pipe::null()?, 1)
            .fd(pipe::null()?, 2)
            .spawn()?;
        child.wait_timeout(Duration::from_secs(3)).map(drop)
    };
    // One that cannot be told to end does so ten minutes after its last use.
    let _ = stop();
    let mut daemon = control.into_os_string();
    daemon.push(".d");
    let _ = fs::remove_file(destination.ssh_directory.join(daemon));
}

/// Gives up all connections to the machine.
pub(super) fn give_up_all(destination: &Destination) {
    for number in 0..MASTERS {
        if fs::symlink_metadata(destination.master_file(number, "")).is_ok() {
            give_up(destination, number);
        }
    }
}

/// Ends all connections to the machine.
pub(super) fn end_all(destination: &Destination) -> io::Result<()> {
    for number in 0..MASTERS {
        if fs::symlink_metadata(destination.master_file(number, "")).is_ok() {
            end(destination, number)?;
        }
    }
    Ok(())
}

/// The current length of the log.
pub(super) fn log_length(destination: &Destination, number: u32) -> u64 {
    fs::metadata(destination.log(number)).map_or(0, |metadata| metadata.len())
}

/// What ssh has logged since the log had length `start`.
pub(super) fn log_since(destination: &Destination, number: u32, start: u64) -> String {
    read_from(&destination.log(number), start).unwrap_or_default()
}

fn read_from(file: &Path, start: u64) -> io::Result<String> {
    const MOST: u64 = 64 << 10;
    let mut file = fs::File::open(file)?;
    file.seek(io::SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The kind of failure according to ssh's messages.
fn classify(stderr: &str) -> SshFailure {
    let says = |words: &[&str]| words.iter().any(|words| stderr.contains(words));
    if says(&["Could not resolve hostname"]) {
        SshFailure::Name
    } else if says(&["Host key verification failed", "no matching host key"]) {
        SshFailure::HostKey
    } else if says(&["Permission denied", "Too many authentication failures"]) {
        SshFailure::Login
    } else if says(&["Connection refused"]) {
        SshFailure::Refused
    } else if says(&["Connection reset", "Connection closed"]) {
        SshFailure::Closed
    } else if says(&[
        "Connection timed out",
        "Operation timed out",
        "No route to host",
        "unreachable",
        "Connection to",
    ]) {
        SshFailure::Unreachable
    } else {
        SshFailure::Other
    }
}

/// The fingerprint of the host key that the machine presented.
fn fingerprint(stderr: &str) -> String {
    let word = stderr
        .split_whitespace()
        .find(|word| word.starts_with("SHA256:"));
    word.map_or_else(
        || summary(stderr),
        |word| format!("it has {}", word.trim_end_matches('.')),
    )
}

/// The last lines that ssh printed, joined, without its decorations.
pub(super) fn summary(stderr: &str) -> String {
    const MOST: usize = 600;
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("@@"))
        .collect();
    // The reason is in the last lines.
    let text = lines[lines.len().saturating_sub(6)..].join("; ");
    let skip = text.chars().count().saturating_sub(MOST);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_ssh_are_classified() {
        for (stderr, expected) in [
            (
                "ssh: Could not resolve hostname nowhere: Name or service not known",
                SshFailure::Name,
            ),
            (
                "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                SshFailure::HostKey,
            ),
            (
                "guix@host: Permission denied (publickey).",
                SshFailure::Login,
            ),
            (
                "ssh: connect to host 127.0.0.1 port 1: Connection refused",
                SshFailure::Refused,
            ),
            (
                "ssh: connect to host 10.0.0.1 port 22: No route to host",
                SshFailure::Unreachable,
            ),
            (
                "kex_exchange_identification: read: Connection reset by peer",
                SshFailure::Closed,
            ),
            ("Bad configuration option: x", SshFailure::Other),
        ] {
            assert_eq!(classify(stderr), expected);
        }
    }

    #[test]
    fn the_summary_is_short() {
        assert_eq!(summary("@@@@@@\r\n\r\na\r\nb\n"), "a; b");
        assert_eq!(summary(&"x".repeat(10_000)).len(), 600);
    }
}

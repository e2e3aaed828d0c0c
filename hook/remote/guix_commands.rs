//! Guix's commands on a machine: how they are started, and `guix archive`, which is used by both
//! transports: always by `commands`, and by `socket` if archives are to be compressed.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use formats::StorePath;

use super::archive_stream;
use super::destination::Destination;
use super::error::Error;
use super::remote_command::{self, RemoteCommand};
use super::shell::quote;

/// The timeout for a simple query. (On a small machine, Guile alone needs some time.)
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// How long nothing may move while items are sent, which the machine unpacks and hashes.
pub(super) const TRANSFER_IDLE_TIMEOUT: Duration = Duration::from_secs(900);

/// Shell code that sets the environment of Guix's commands. A value that is set on the machine
/// takes precedence, as for Guix's own hook.
pub(super) fn environment(destination: &Destination) -> String {
    let socket = quote(&destination.machine.daemon_socket);
    format!(
        "GUIX_DAEMON_SOCKET=${{GUIX_DAEMON_SOCKET:-{socket}}}; export GUIX_DAEMON_SOCKET; \
         LC_ALL=C; export LC_ALL;"
    )
}

/// The `guix` program there, as a shell word.
pub(super) fn guix(destination: &Destination) -> String {
    quote(destination.machine.program.as_deref().unwrap_or("guix"))
}

/// The state directory to which the daemon's socket belongs.
pub(super) fn state_directory(destination: &Destination) -> &str {
    let socket = &destination.machine.daemon_socket;
    let is_usual = socket.ends_with("/daemon-socket/socket");
    Path::new(socket)
        .ancestors()
        .nth(2)
        .filter(|_| is_usual)
        .and_then(Path::to_str)
        .unwrap_or("/var/guix")
}

/// Starts a shell script that runs Guix's commands.
pub(super) fn start(
    destination: &Destination,
    doing: &str,
    script: &str,
    with_input: bool,
) -> Result<RemoteCommand, Error> {
    let script = format!("{} {script}", environment(destination));
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    RemoteCommand::start(destination, doing, &script, with_input, deadline)
}

/// Runs a shell script that reads `input` and has to succeed. Returns its standard output, which is
/// not much longer than `input`.
pub(super) fn run(
    destination: &Destination,
    doing: &str,
    script: &str,
    input: &[u8],
) -> Result<Vec<u8>, Error> {
    let script = format!("{} {script}", environment(destination));
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let most = input.len() as u64 + (64 << 10);
    remote_command::run(destination, doing, &script, input, most, deadline)?
        .if_successful(destination, doing)
}

/// Sends an export stream to `guix archive`, compressed if the machine's entry requests that.
pub(super) fn import(destination: &Destination, archive: &mut dyn Read) -> Result<(), Error> {
    let doing = "sending store items";
    let guix = guix(destination);
    let level = destination.machine.transfer_compression;
    let script = match level {
        Some(_) => format!("zstd -dc | {guix} archive --import"),
        None => format!("exec {guix} archive --import"),
    };
    let mut command = start(destination, doing, &script, true)?;
    let sent = archive_stream::send(&mut command, archive, level, TRANSFER_IDLE_TIMEOUT);
    match sent {
        // If the command ended early, its own message explains more.
        Ok(()) | Err(Error::Lost { .. }) => {}
        Err(error) => return Err(error),
    }
    let (code, stderr) = command.wait(Instant::now() + TRANSFER_IDLE_TIMEOUT)?;
    if code != 0 {
        return Err(remote_command::failure(
            destination.name(),
            doing,
            code,
            &stderr,
        ));
    }
    sent
}

/// Makes `guix archive` write an export stream, compressed if the machine's entry requests that.
pub(super) fn export(
    destination: &Destination,
    paths: &[StorePath],
    sink: &mut dyn Write,
) -> Result<(), Error> {
    let doing = "retrieving store items";
    let level = destination.machine.transfer_compression;
    let mut archive = format!("{} archive --export", guix(destination));
    for path in paths {
        archive.push(' ');
        archive += &quote(path.as_str());
    }
    // A pipeline's exit status is that of its last command, but here both matter.
    let script = match level {
        Some(level) => format!(
            "exec 3>&1; s=$({{ {{ {archive}; echo $? >&4; }} | zstd -c -{level} >&3; }} 4>&1); \
             exit $s"
        ),
        None => format!("exec {archive}"),
    };
    let mut command = start(destination, doing, &script, false)?;
    let is_complete =
        archive_stream::receive(&mut command, sink, level.is_some(), TRANSFER_IDLE_TIMEOUT)?;
    let (code, stderr) = command.wait(Instant::now() + ANSWER_TIMEOUT)?;
    if code != 0 {
        return Err(remote_command::failure(
            destination.name(),
            doing,
            code,
            &stderr,
        ));
    }
    if !is_complete {
        return Err(Error::Lost {
            machine: destination.name().to_owned(),
            doing: doing.to_owned(),
            reason: "the archive is incomplete".to_owned(),
        });
    }
    Ok(())
}

/// Store items as the standard input of Guix's commands, one per line.
pub(super) fn lines(paths: &[StorePath]) -> String {
    let mut text = String::new();
    for path in paths {
        text += path.as_str();
        text.push('\n');
    }
    text
}

//! The `commands` transport, as Guix did it in 2014: `guix archive` and `guix build` on the build
//! machine, where sshd forbids forwarding. `guix-client` serves as well as `guix`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use formats::StorePath;
use protocol::frames::status;

use super::build_output::{BuildOutput, Ending};
use super::destination::Destination;
use super::error::Error;
use super::guix_commands::{self, ANSWER_TIMEOUT, environment, guix, lines};
use super::root_links::{self, RootLinks};
use super::shell::quote;
use super::transport::{RemoteBuild, Transport};
use super::{master, probe, remote_command};

/// "No timeout", small enough to be added to the current time.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86400);
/// How many bytes of the build's output are read at a time.
const BUFFER_SIZE: usize = 128 << 10;

/// A machine on which Guix's commands are run.
pub(super) struct CommandsTransport {
    destination: Destination,
    /// Protects items on the machine.
    roots: RootLinks,
}

/// Checks that `guix` and its daemon work on the machine, and finds a directory for links.
pub(super) fn connect(
    destination: &Destination,
    deadline: Instant,
) -> Result<CommandsTransport, Error> {
    let doing = "connecting to its build daemon";
    let our_store = &destination.directories.store;
    let store = quote(our_store.as_str());
    let prefix = root_links::prefix(&destination.directories);
    let script = format!(
        "{environment} echo store $(cat /proc/sys/kernel/random/boot_id) $(stat -L -c %d:%i {store}); \
         {guix} archive --missing </dev/null >/dev/null || exit $?; {find}; \
         echo roots \"$d\"; [ -n \"$d\" ] && ls \"$d\" | sed -n {select}; exit 0",
        environment = environment(destination),
        guix = guix(destination),
        find = root_links::find_parent(guix_commands::state_directory(destination)),
        select = quote(&format!("s/^{prefix}/old &/p")),
    );
    let reply = remote_command::run(destination, doing, &script, b"", 1 << 20, deadline)?;
    if reply.code != 0 {
        let reason = match master::summary(&reply.stderr) {
            summary if summary.is_empty() => format!("exit code {}", reply.code),
            summary => summary,
        };
        let machine = destination.name().to_owned();
        return Err(Error::NoDaemon { machine, reason });
    }
    let text = String::from_utf8_lossy(&reply.stdout);
    let lines = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(word, rest)| (word, rest.trim()));
    let line = |wanted| lines.clone().find(|(word, _)| *word == wanted);
    if store_identity(our_store).is_some_and(|ours| line("store") == Some(("store", &ours))) {
        return Err(Error::SameStore {
            machine: destination.name().to_owned(),
            store: our_store.to_string(),
        });
    }
    let parent = match line("roots") {
        Some((_, directory)) if directory.starts_with('/') => directory,
        _ => {
            return Err(Error::Refused {
                machine: destination.name().to_owned(),
                doing: "finding a place for GC roots".to_owned(),
                message: format!(
                    "'{}' can write to none of the directories of GC roots",
                    destination.machine.user
                ),
            });
        }
    };
    let old = lines.filter_map(|(word, name)| (word == "old").then_some(name));
    Ok(CommandsTransport {
        destination: destination.clone(),
        roots: RootLinks::new(destination, parent, old),
    })
}

/// Identifies this host's store among all stores: `BOOT-ID DEVICE:INODE`.
fn store_identity(store: &formats::StoreDir) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let metadata = fs::metadata(store.as_path()).ok()?;
    Some(format!(
        "{} {}:{}",
        boot.trim(),
        metadata.dev(),
        metadata.ino()
    ))
}

impl CommandsTransport {
    /// The error of a failed `guix build` on the machine.
    fn build_error(&self, derivation: &StorePath, code: i32, ending: Ending) -> Error {
        let machine = self.destination.name().to_owned();
        let words = |line: String| match line.split_once(" error: ") {
            Some((_, words)) => words.trim().to_owned(),
            None => line.trim().to_owned(),
        };
        let last_line = ending.last_line.map(words);
        let message = last_line.unwrap_or_else(|| format!("exit code {code}"));
        let remark = ending.remark;
        let is_late = remark
            .as_ref()
            .is_some_and(|remark| remark.contains(" timed out after "));
        let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
        let status = match code {
            100 => status::BUILD_FAILED,
            101 => status::TIMED_OUT,
            1 if is_late => status::TIMED_OUT,
            // Guix's `guix build' has this exit code for all failures.
            1 if !ending.is_framed && (remark.is_some() || says(&["build of `"])) => {
                status::BUILD_FAILED
            }
            1 if says(&["failed to connect to", "Connection refused"]) => {
                return Error::NoDaemon {
                    machine,
                    reason: message,
                };
            }
            1 => status::FAILURE,
            // Not found, not executable, killed: not an exit status of `guix build'.
            _ => {
                let doing = format!("building '{derivation}'");
                return remote_command::failure(&machine, &doing, code, &message);
            }
        };
        let (said, says_full) = ((status, message), ending.disk_full);
        let is_full = || probe::is_full(&self.destination);
        Error::of_build(&machine, derivation, said, remark, says_full, is_full)
    }
}

impl Transport for CommandsTransport {
    fn kind(&self) -> &'static str {
        "commands"
    }

    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        self.roots.add(paths)
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "asking what is missing";
        let script = format!("exec {} archive --missing", guix(&self.destination));
        let input = lines(paths);
        let output = guix_commands::run(&self.destination, doing, &script, input.as_bytes())?;
        let mut missing = BTreeSet::new();
        for line in output.split(|&byte| byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let path = self.destination.directories.store.parse(line);
            missing.insert(path.map_err(|error| Error::Lost {
                machine: self.destination.name().to_owned(),
                doing: doing.to_owned(),
                reason: error.to_string(),
            })?);
        }
        Ok(paths
            .iter()
            .filter(|path| missing.contains(*path))
            .cloned()
            .collect())
    }

    fn import(&mut self, archive: &mut dyn Read) -> Result<(), Error> {
        guix_commands::import(&self.destination, archive)
    }

    fn build(&mut self, build: RemoteBuild<'_>, log: &mut dyn Write) -> Result<(), Error> {
        let (derivation, limits) = (build.derivation, build.limits);
        if let Some(inline) = build.inline_archive {
            self.import(&mut inline.archive.as_slice())?;
        }
        if self.roots.is_empty() {
            self.protect(std::slice::from_ref(derivation))?;
        }
        let doing = format!("building '{derivation}'");
        let roots = quote(self.roots.directory());
        let cores = match self.destination.machine.cores {
            Some(cores) => format!("--cores={cores} "),
            None => String::new(),
        };
        let secret = format!("{:032x}", rand::random::<u128>());
        // Its standard input is closed when this process ends: then nobody wants the build any
        // more.
        let script = format!(
            "exec 3<&0; \
             {variable} {guix} build -r {roots}/result --no-offload --fallback {cores}--max-silent-time={} \
             --timeout={} {drv} </dev/null 3<&- 2>&1 >/dev/null & b=$!; \
             {{ cat <&3; kill $b; }} >/dev/null 2>&1 & w=$!; exec 3<&-; \
             wait $b; s=$?; kill $w 2>/dev/null; exit $s",
            limits.max_silent_time,
            limits.timeout,
            variable = BuildOutput::variable(&secret),
            guix = guix(&self.destination),
            drv = quote(derivation.as_str()),
        );
        let mut command = guix_commands::start(&self.destination, &doing, &script, true)?;
        let deadline = limits
            .deadline()
            .unwrap_or_else(|| Instant::now() + FOREVER);
        let mut buffer = vec![0; BUFFER_SIZE];
        let write_error = |source| Error::Local {
            doing: "writing the build log".to_owned(),
            source,
        };
        let mut output = BuildOutput::new(log, derivation.as_str(), &secret);
        loop {
            let count = command.read(&mut buffer, deadline)?;
            if count == 0 {
                break;
            }
            output.write(&buffer[..count]).map_err(write_error)?;
        }
        let (code, stderr) = command.wait(Instant::now() + ANSWER_TIMEOUT)?;
        let ending = output.finish(&stderr).map_err(write_error)?;
        match code {
            0 => Ok(()),
            code => Err(self.build_error(derivation, code, ending)),
        }
    }

    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
        guix_commands::export(&self.destination, paths, sink)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.roots.remove(ANSWER_TIMEOUT)
    }
}

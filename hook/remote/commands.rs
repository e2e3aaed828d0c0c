//! The `commands` transport, as in 2014: `guix archive` and `guix build` on the build machine,
//! for those whose sshd forbids forwarding. `guix-client` serves as well as `guix`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use formats::StorePath;
use protocol::frames::status;

use super::link::Link;
use super::log::CommandLog;
use super::session::{self, Session, quote};
use super::{Error, Order, Transport, master, probe, roots};

/// How long simple questions may take. (Guile alone takes its time on a small machine.)
const ANSWER: Duration = Duration::from_secs(180);
/// How long nothing may move while items are sent.
const TRANSFER: Duration = Duration::from_secs(900);
/// What a build gets on top of its own limit: it may have to wait for others there.
const BUILD_GRACE: Duration = Duration::from_secs(600);
/// "For ever", in a form that can be added to the time.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86400);
/// What the answer to the first command begins with: shells' start-up files may print before.
const READY: &str = "guix-offload-ready";
/// How much is moved at a time.
const BUFFER: usize = 128 << 10;
/// What shells' start-up files may print before an answer.
const MOST_ANSWERED: usize = 64 << 10;
/// What is kept of a build log, to see why the build failed.
const TAIL: usize = 8 << 10;

/// A machine on which Guix's commands can be run.
pub(super) struct Commands {
    link: Link,
    /// Where the links are that protect items there.
    roots: String,
    /// Directories of links that dead hooks left.
    stale: Vec<String>,
    /// The command there that removes the links when we end, however we end.
    keeper: Option<Session>,
}

/// Asks whether `guix` and its daemon work there, and where links can be put.
pub(super) fn connect(link: &Link, deadline: Instant) -> Result<Commands, Error> {
    let doing = "connecting to its build daemon";
    let store = quote(link.home.store.as_str());
    let prefix = roots::prefix(&link.home);
    let script = format!(
        "{environment} echo {READY}; \
         echo store $(cat /proc/sys/kernel/random/boot_id) $(stat -L -c %d:%i {store}); \
         {guix} archive --missing </dev/null >/dev/null || exit $?; {find}; \
         echo roots \"$d\"; [ -n \"$d\" ] && ls \"$d\" | sed -n {select}; exit 0",
        environment = environment(link),
        guix = guix(link),
        find = roots::find_directory(state(link)),
        select = quote(&format!("s/^{prefix}/old &/p")),
    );
    let reply = session::run(link, doing, &script, b"", 1 << 20, deadline)?;
    if reply.code != 0 {
        let reason = match master::digest(&reply.said) {
            said if said.is_empty() => format!("exit code {}", reply.code),
            said => said,
        };
        let machine = link.name().to_owned();
        return Err(Error::NoDaemon { machine, reason });
    }
    let text = String::from_utf8_lossy(&reply.output);
    let (_, text) = text.split_once(READY).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(word, rest)| (word, rest.trim()));
    let line = |wanted| lines.clone().find(|(word, _)| *word == wanted);
    if this_store(&link.home.store).is_some_and(|ours| line("store") == Some(("store", &ours))) {
        return Err(Error::SameStore {
            machine: link.name().to_owned(),
            store: link.home.store.to_string(),
        });
    }
    let directory = match line("roots") {
        Some((_, directory)) if directory.starts_with('/') => directory.to_owned(),
        _ => {
            return Err(Error::Refused {
                machine: link.name().to_owned(),
                doing: "finding a place for GC roots".to_owned(),
                message: format!(
                    "'{}' can write to none of the directories of GC roots",
                    link.machine.user
                ),
            });
        }
    };
    let old = lines.filter_map(|(word, name)| (word == "old").then_some(name));
    Ok(Commands {
        link: link.clone(),
        stale: roots::stale(&prefix, old)
            .iter()
            .map(|name| format!("{directory}/{name}"))
            .collect(),
        roots: format!("{directory}/{}", roots::name(&prefix)),
        keeper: None,
    })
}

/// What tells this host's store from all others: `BOOT-ID DEVICE:INODE`.
fn this_store(store: &formats::StoreDir) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let metadata = fs::metadata(store.as_path()).ok()?;
    Some(format!(
        "{} {}:{}",
        boot.trim(),
        metadata.dev(),
        metadata.ino()
    ))
}

/// The environment there wins, as it does for Guix's own hook.
fn environment(link: &Link) -> String {
    let socket = quote(&link.machine.daemon_socket);
    format!(
        "GUIX_DAEMON_SOCKET=${{GUIX_DAEMON_SOCKET:-{socket}}}; export GUIX_DAEMON_SOCKET; \
         LC_ALL=C; export LC_ALL;"
    )
}

fn guix(link: &Link) -> String {
    quote(link.machine.program.as_deref().unwrap_or("guix"))
}

/// The state directory that goes with the daemon's socket.
fn state(link: &Link) -> &str {
    let socket = Path::new(&link.machine.daemon_socket);
    let usual = link
        .machine
        .daemon_socket
        .ends_with("/daemon-socket/socket");
    socket
        .ancestors()
        .nth(2)
        .filter(|_| usual)
        .and_then(Path::to_str)
        .unwrap_or("/var/guix")
}

impl Commands {
    fn run(&self, doing: &str, command: &str, input: &[u8]) -> Result<Vec<u8>, Error> {
        let script = format!("{} {command}", environment(&self.link));
        let deadline = Instant::now() + ANSWER;
        // It answers with at most what it is told.
        let most = input.len() as u64 + (64 << 10);
        session::run(&self.link, doing, &script, input, most, deadline)?.success(&self.link, doing)
    }

    /// Starts the keeper of our links, and has it make the first ones.
    fn keep(&mut self, paths: &[StorePath]) -> Result<Session, Error> {
        let doing = "making GC roots";
        let mut script = String::new();
        for stale in std::mem::take(&mut self.stale) {
            script += &format!("rm -rf {}; ", quote(&stale));
        }
        let roots = quote(&self.roots);
        // An empty line ends the list. The end of its standard input is ours.
        script += &format!(
            "trap '' PIPE HUP; mkdir -p {roots} && sed '/^$/q' | {link} && echo {READY} \
             && cat >/dev/null; s=$?; rm -rf {roots}; exit $s",
            link = self.link_command(),
        );
        let deadline = Instant::now() + ANSWER;
        let mut keeper = Session::start(&self.link, doing, &script, true, deadline)?;
        let mut input = keeper.input.take();
        let list = lines(paths) + "\n";
        let written = input.as_mut().map(|input| input.write_all(list.as_bytes()));
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(format!("{READY}\n").as_bytes()) && answer.len() < MOST_ANSWERED {
            match keeper.read(&mut buffer, deadline)? {
                0 => break,
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        if written.is_some_and(|written| written.is_ok())
            && answer.ends_with(format!("{READY}\n").as_bytes())
        {
            keeper.input = input;
            return Ok(keeper);
        }
        drop(input);
        let (code, said) = keeper.wait(deadline)?;
        Err(session::refusal(self.link.name(), doing, code, &said))
    }

    /// The command that makes links to the items on its standard input.
    fn link_command(&self) -> String {
        let script = format!("cd {} && ln -sf -- \"$@\" .", quote(&self.roots));
        format!("xargs -n 200 sh -c {} sh", quote(&script))
    }

    fn remove_roots(&mut self, patience: Duration) -> Result<(), Error> {
        let Some(keeper) = self.keeper.take() else {
            return Ok(());
        };
        let (code, said) = keeper.wait(Instant::now() + patience)?;
        match code {
            0 => Ok(()),
            code => Err(session::refusal(
                self.link.name(),
                "removing GC roots",
                code,
                &said,
            )),
        }
    }

    /// Why `guix build` failed there; its last words are `tail`.
    fn build_error(&self, derivation: &StorePath, code: i32, tail: &[u8]) -> Error {
        let text = String::from_utf8_lossy(tail);
        let machine = self.link.name().to_owned();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        let words = |line: &str| {
            let (_, words) = line.split_once(" error: ").unwrap_or(("", line));
            words.trim().to_owned()
        };
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let mut message = last.map_or_else(|| format!("exit code {code}"), words);
        let remark = text
            .lines()
            .rev()
            .find(|line| line.starts_with("builder for `") || line.contains(" timed out after "));
        if let Some(remark) = remark.filter(|remark| *remark != message) {
            message += &format!(" ({remark})");
        }
        let status = match code {
            100 => status::BUILD_FAILED,
            101 => status::TIMED_OUT,
            1 if says(&[" timed out after "]) => status::TIMED_OUT,
            1 if says(&["builder for `", "build of `"]) => status::BUILD_FAILED,
            1 if says(&["failed to connect to", "Connection refused"]) => {
                return Error::NoDaemon {
                    machine,
                    reason: message,
                };
            }
            1 => status::FAILURE,
            // Not found, not executable, killed: not what `guix build' ends with.
            _ => {
                let doing = format!("building '{derivation}'");
                return session::refusal(&machine, &doing, code, &message);
            }
        };
        let full = says(&["may have been caused by lack of free disk space"])
            || probe::is_full(&self.link);
        Error::of_build(&machine, derivation, status, message, full)
    }
}

impl Transport for Commands {
    fn kind(&self) -> &'static str {
        "commands"
    }

    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        if paths.is_empty() {
            return Ok(());
        }
        match self.keeper {
            Some(_) => {
                let script = self.link_command();
                self.run("making GC roots", &script, lines(paths).as_bytes())?;
            }
            None => self.keeper = Some(self.keep(paths)?),
        }
        Ok(())
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "asking what is missing";
        let command = format!("exec {} archive --missing", guix(&self.link));
        let output = self.run(doing, &command, lines(paths).as_bytes())?;
        let mut missing = BTreeSet::new();
        for line in output.split(|&byte| byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let path = self.link.home.store.parse(line);
            missing.insert(path.map_err(|error| Error::Lost {
                machine: self.link.name().to_owned(),
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
        import(&self.link, archive)
    }

    fn build(&mut self, order: Order<'_>, log: &mut dyn Write) -> Result<(), Error> {
        let (derivation, limits) = (order.derivation, order.limits);
        if let Some(parcel) = order.parcel {
            self.import(&mut parcel.archive.as_slice())?;
        }
        if self.keeper.is_none() {
            self.protect(std::slice::from_ref(derivation))?;
        }
        let doing = format!("building '{derivation}'");
        let roots = quote(&self.roots);
        let cores = match self.link.machine.cores {
            Some(cores) => format!("--cores={cores} "),
            None => String::new(),
        };
        // Its standard input ends when we do: then nobody wants the build any more.
        let command = format!(
            "exec 3<&0; \
             {guix} build -r {roots}/result --no-offload --fallback {cores}--max-silent-time={} \
             --timeout={} {drv} </dev/null 3<&- 2>&1 >/dev/null & b=$!; \
             {{ cat <&3; kill $b; }} >/dev/null 2>&1 & w=$!; exec 3<&-; \
             wait $b; s=$?; kill $w 2>/dev/null; exit $s",
            limits.max_silent_time,
            limits.timeout,
            guix = guix(&self.link),
            drv = quote(derivation.as_str()),
        );
        let mut session = start(&self.link, &doing, &command, true)?;
        let patience = match limits.timeout {
            0 => FOREVER,
            seconds => Duration::from_secs(seconds.min(FOREVER.as_secs())) + BUILD_GRACE,
        };
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; BUFFER];
        let mut tail: Vec<u8> = Vec::new();
        let unwritten = |source| Error::Local {
            doing: "writing the build log".to_owned(),
            source,
        };
        let mut log = CommandLog::new(log, derivation.as_str());
        loop {
            let count = session.read(&mut buffer, deadline)?;
            if count == 0 {
                break;
            }
            log.write(&buffer[..count]).map_err(unwritten)?;
            tail.extend_from_slice(&buffer[..count]);
            let surplus = tail.len().saturating_sub(TAIL);
            tail.drain(..surplus);
        }
        log.finish().map_err(unwritten)?;
        let (code, said) = session.wait(Instant::now() + ANSWER)?;
        if code == 0 {
            return Ok(());
        }
        tail.extend_from_slice(said.as_bytes());
        Err(self.build_error(derivation, code, &tail))
    }

    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
        export(&self.link, paths, sink)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.remove_roots(ANSWER)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // What can't be removed now is recognised by the next hook that comes along.
        let _ = self.remove_roots(Duration::from_secs(5));
    }
}

fn start(link: &Link, doing: &str, command: &str, with_input: bool) -> Result<Session, Error> {
    let script = format!("{} {command}", environment(link));
    let deadline = Instant::now() + ANSWER;
    Session::start(link, doing, &script, with_input, deadline)
}

/// Sends an export stream to `guix archive`, compressed if the machine's entry says so.
pub(super) fn import(link: &Link, archive: &mut dyn Read) -> Result<(), Error> {
    let doing = "sending store items";
    let guix = guix(link);
    let level = link.machine.transfer_compression;
    let mut session = match level {
        Some(_) => start(
            link,
            doing,
            &format!("zstd -dc | {guix} archive --import"),
            true,
        ),
        None => start(link, doing, &format!("exec {guix} archive --import"), true),
    }?;
    let sent = session.send(archive, level, TRANSFER);
    match sent {
        // It has more to say about that than we.
        Ok(()) | Err(Error::Lost { .. }) => {}
        Err(error) => return Err(error),
    }
    let (code, said) = session.wait(Instant::now() + TRANSFER)?;
    if code != 0 {
        return Err(session::refusal(link.name(), doing, code, &said));
    }
    sent
}

/// Has `guix archive` write an export stream, compressed if the machine's entry says so.
pub(super) fn export(link: &Link, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
    let doing = "retrieving store items";
    let level = link.machine.transfer_compression;
    let mut command = format!("{} archive --export", guix(link));
    for path in paths {
        command.push(' ');
        command += &quote(path.as_str());
    }
    // The status of a pipeline is that of its last command: both matter.
    let command = match level {
        Some(level) => format!(
            "exec 3>&1; s=$({{ {{ {command}; echo $? >&4; }} | zstd -c -{level} >&3; }} 4>&1); \
             exit $s"
        ),
        None => format!("exec {command}"),
    };
    let mut session = start(link, doing, &command, false)?;
    let ended = session.receive(sink, level.is_some(), TRANSFER)?;
    let (code, said) = session.wait(Instant::now() + ANSWER)?;
    if code != 0 {
        return Err(session::refusal(link.name(), doing, code, &said));
    }
    if !ended {
        return Err(Error::Lost {
            machine: link.name().to_owned(),
            doing: doing.to_owned(),
            reason: "the archive is incomplete".to_owned(),
        });
    }
    Ok(())
}

fn lines(paths: &[StorePath]) -> String {
    let mut text = String::new();
    for path in paths {
        text += path.as_str();
        text.push('\n');
    }
    text
}

//! A worker as a keeper sees it: a command, and what goes through its standard input and output.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hook::frames::{
    Failure, FrameError, FrameReader, FrameWriter, KeeperHello, Kind, Link, Received, Settings,
    Status, WorkerHello, decode, encode,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::client::Options;

use crate::farm::{DAEMON, HOOK};
use crate::harness::derivations::Client;
use crate::harness::users::BuildUsers;
use crate::harness::{Site, TEST_TIMEOUT, eventually, wait_for};

/// The store on the nodes.
pub const STORE: &str = "/gnu/store";

/// A node: programs and a directory for workers, and a user who isn't root if there is one.
pub struct Node {
    pub site: Site,
    users: Option<BuildUsers>,
    /// The worker's program, with the daemon beside it.
    worker: PathBuf,
}

impl Node {
    /// With an ordinary user, where the test runs as root.
    pub fn new() -> Node {
        Node::of(BuildUsers::claim())
    }

    /// With the user of the test.
    pub fn of_this_user() -> Node {
        Node::of(None)
    }

    fn of(users: Option<BuildUsers>) -> Node {
        let site = Site::new();
        let daemon = site.for_everybody(DAEMON);
        let worker = daemon.with_file_name("guix-offload");
        assert!(Path::new(HOOK).exists() && worker.exists());
        let node = Node {
            site,
            users,
            worker,
        };
        fs::create_dir(node.scratch()).unwrap();
        if let Some(users) = &node.users {
            chown(node.scratch(), Some(users.uids[0]), Some(users.gid)).unwrap();
        }
        node
    }

    /// Where workers make their directories.
    pub fn scratch(&self) -> PathBuf {
        self.site.path("node")
    }

    /// The command that runs a worker.
    pub fn command(&self, options: &[&str]) -> Command {
        let scratch = format!("--directory={}", self.scratch().display());
        let mut command = self.as_user(&self.worker);
        command.arg("worker").args(options);
        if !options.iter().any(|option| option.starts_with("--socket")) {
            command.arg(scratch);
        }
        command
    }

    /// A command of the node's user.
    pub fn as_user(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.users {
            None => Command::new(program.as_ref()),
            Some(users) => {
                let mut command = Command::new("setpriv");
                let (uid, gid) = (users.uids[0], users.gid);
                command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
                command.arg("--clear-groups").arg(program.as_ref());
                command
            }
        };
        command.current_dir("/").env_remove("SLURM_JOB_ID");
        command
    }

    /// The command that runs a worker with exactly these options.
    pub fn as_user_with(&self, options: &[&str]) -> Command {
        let mut command = self.as_user(&self.worker);
        command.arg("worker").args(options);
        command
    }

    /// A script that starts the worker, whose command is in `"$@"`.
    pub fn script(&self, script: &str) -> Command {
        let mut command = self.as_user("/bin/sh");
        command.args(["-c", script, "sh"]).arg(&self.worker);
        command.arg("worker");
        command.arg(format!("--directory={}", self.scratch().display()));
        command
    }

    /// The worker's program.
    pub fn worker(&self) -> &Path {
        &self.worker
    }

    /// The processes that see a worker's directory of this node mounted: those of its workers.
    pub fn processes(&self) -> Vec<i32> {
        let marker = format!("{}/guix-worker-", self.scratch().display());
        let marker = marker.strip_prefix('/').unwrap().to_owned();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                mounts.is_ok_and(|mounts| mounts.contains(&marker))
                    || String::from_utf8_lossy(&command)
                        .contains(&format!("--directory={}", self.scratch().display()))
            })
            .collect()
    }

    /// Requires that nothing is left of any worker.
    #[track_caller]
    pub fn has_nothing_left(&self) {
        self.has_no_processes();
        let left = || fs::read_dir(self.scratch()).unwrap().count();
        assert!(eventually(|| left() == 0), "{:?}", self.left());
    }

    /// Requires that no process is left of any worker.
    #[track_caller]
    pub fn has_no_processes(&self) {
        assert!(
            eventually(|| self.processes().is_empty()),
            "{:?}",
            self.processes()
        );
    }

    /// The directories of workers that are there.
    pub fn left(&self) -> Vec<PathBuf> {
        let workers = fs::read_dir(self.scratch()).unwrap().flatten();
        let within = workers
            .filter_map(|entry| fs::read_dir(entry.path()).ok())
            .flatten();
        within
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_none() && path.is_dir())
            .collect()
    }

    /// Who the node's user is.
    pub fn uid(&self) -> u32 {
        fs::metadata(self.scratch()).unwrap().uid()
    }
}

/// A worker that runs.
pub struct Job {
    pub child: Child,
    pub hello: WorkerHello,
    /// What was printed before its greeting.
    pub before: String,
    pub link: Link,
    events: Receiver<Event>,
    errors: PathBuf,
    input: File,
}

/// What comes from a worker.
#[derive(Debug)]
pub enum Event {
    Frame(Received),
    /// The stream has ended.
    End,
}

/// Why there is no job.
#[derive(Debug)]
pub enum NoJob {
    Failure(Failure),
    Stream(Option<FrameError>),
}

/// What tests want of workers: quick heartbeats.
pub fn wishes() -> KeeperHello {
    KeeperHello {
        pool: "test".to_owned(),
        heartbeat_ms: 100,
        ..KeeperHello::default()
    }
}

impl Job {
    /// Starts a worker that must be able to serve.
    #[track_caller]
    pub fn start(node: &Node, options: &[&str]) -> Job {
        Job::run(node, node.command(options), &wishes())
    }

    /// The same by any command, with these wishes.
    #[track_caller]
    pub fn run(node: &Node, command: Command, hello: &KeeperHello) -> Job {
        match Job::attempt(node, command, hello) {
            Ok(job) => job,
            Err((no_job, said)) => panic!("{no_job:?}; it said: {said}"),
        }
    }

    /// The same for a worker that must fail; returns why, and what it has printed.
    #[track_caller]
    pub fn fails(node: &Node, command: Command, hello: &KeeperHello) -> (NoJob, String) {
        match Job::attempt(node, command, hello) {
            Ok(job) => panic!("it serves: {:?}", job.hello),
            Err(failed) => failed,
        }
    }

    fn attempt(
        node: &Node,
        mut command: Command,
        hello: &KeeperHello,
    ) -> Result<Job, (NoJob, String)> {
        let errors = node
            .site
            .path(format!("errors-{:x}", rand::random::<u32>()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let said = || fs::read_to_string(&errors).unwrap();
        let input = child.stdin.take().unwrap();
        let (sender, receiver) = channel();
        let mut reader = FrameReader::new(child.stdout.take().unwrap());
        let end = |child: &mut Child, why| {
            let _ = child.kill();
            child.wait().unwrap();
            Err((why, said()))
        };
        let before = match reader.greeting() {
            Ok(greeting) => greeting.before,
            Err(error) => return end(&mut child, NoJob::Stream(Some(error))),
        };
        let input = file(input);
        let mut writer: FrameWriter<Box<dyn Write + Send>> =
            FrameWriter::new(Box::new(input.try_clone().unwrap()));
        // It may have refused already.
        let _ = writer.greet();
        let _ = writer.write(Kind::Hello, 0, &encode(hello));
        writer.compress().unwrap();
        let settings = Settings {
            heartbeat: Duration::from_millis(hello.heartbeat_ms),
            channels: 8,
            status: Box::new(Status::default),
        };
        let link = Link::start(writer, settings).unwrap();
        let hello = loop {
            let frame = match reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return end(&mut child, NoJob::Stream(None)),
                Err(error) => return end(&mut child, NoJob::Stream(Some(error))),
            };
            match link.receive(&frame).unwrap() {
                Received::Hello => break decode::<WorkerHello>(&frame).unwrap(),
                // Its own end is waited for: it has something to remove.
                Received::Failure(failure) => {
                    child.wait().unwrap();
                    return end(&mut child, NoJob::Failure(failure));
                }
                _ => {}
            }
        };
        let also = link.clone();
        std::thread::spawn(move || {
            while let Ok(Some(frame)) = reader.next() {
                match also.receive(&frame) {
                    Ok(Received::Done) => {}
                    Ok(received) => {
                        let _ = sender.send(Event::Frame(received));
                    }
                    // It answers in a channel that only the test knows.
                    Err(_) => {}
                }
            }
            also.abandon();
            let _ = sender.send(Event::End);
        });
        Ok(Job {
            child,
            hello,
            before,
            link,
            events: receiver,
            errors,
            input,
        })
    }

    /// A client of its daemon, with busybox in the store.
    pub fn client(&self) -> Client {
        Client::over(self.connect(), &self.hello.store, &Options::default())
    }

    /// A connection to its daemon.
    pub fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        ours.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        self.link.open(theirs).unwrap();
        ours
    }

    /// What it has printed as errors.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) {
        let _ = (&self.input).write_all(bytes);
    }

    /// Waits for something that it sends.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if wanted(&event) => return event,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("it does not come: {}", self.said()),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended: {}", self.said()),
            }
        }
    }

    /// Waits for why it ends.
    #[track_caller]
    pub fn failure(&self) -> Failure {
        match self.wait_for(|event| matches!(event, Event::Frame(Received::Failure(_)))) {
            Event::Frame(Received::Failure(failure)) => failure,
            _ => unreachable!(),
        }
    }

    /// Sends a signal to its first process.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its exit status.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        match wait_for(&mut self.child, TEST_TIMEOUT) {
            Some(status) => status,
            None => panic!("it does not end: {}", self.said()),
        }
    }

    /// Ends it as a keeper does.
    #[track_caller]
    pub fn end(mut self) {
        self.link.send(Kind::Bye, 0, b"").unwrap();
        self.wait_for(|event| matches!(event, Event::Frame(Received::Bye)));
        assert!(self.wait().success(), "{}", self.said());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the worker said:\n{}---", self.said());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // It removes its directory.
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn file(input: ChildStdin) -> File {
    std::os::fd::OwnedFd::from(input).into()
}

/// Writes a script that anybody can execute.
pub fn executable(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

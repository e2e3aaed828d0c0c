//! Namespaces, the processes in them, and programs that run there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// Shell code for new networks. TCP takes losses as everywhere, whatever this host's does.
pub const START_NETWORK: &str =
    "ip link set lo up; echo reno >/proc/sys/net/ipv4/tcp_congestion_control";

/// Shell code that shows the accounts of a directory, which may be a variable of the shell.
pub fn show_accounts(directory: &str) -> String {
    // Nothing can be mounted on a file that is deleted, as that of a test's build users is.
    format!(
        "for file in passwd group; do umount --lazy /etc/$file 2>/dev/null || :
            mount --bind \"{directory}/$file\" /etc/$file; done"
    )
}

/// Namespaces, held by a shell that ends when its standard input does: with us, at the latest.
pub struct Namespaces {
    /// The program that made them; its end is the end of the first process in them.
    pub child: Child,
    _input: ChildStdin,
    /// The first process in them.
    pub pid: i32,
}

impl Namespaces {
    /// Makes them and has the shell run `script` there first.
    pub fn new(options: &[&str], script: &str, words: &[&str]) -> Namespaces {
        let script = format!("set -e; mount --make-rprivate /; {script}; echo up; read -r x");
        let mut child = Command::new("unshare")
            .args(options)
            .args(["--mount", "--uts", "--net", "bash", "-c", &script, "bash"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n", "cannot set up namespaces");
        let mut pid = child.id() as i32;
        if options.contains(&"--fork") {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            pid = children.trim().parse().unwrap();
        }
        Namespaces {
            child,
            _input: input,
            pid,
        }
    }

    /// Makes a command one that runs there.
    pub fn enter(&self, command: &Command, kinds: &[&str]) -> Command {
        let mut entered = Command::new("nsenter");
        entered
            .args(["--target", &self.pid.to_string()])
            .args(kinds)
            .arg("--");
        entered.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered
    }

    /// A socket that listens there, at this port of its loopback device; it doesn't wait for connections.
    pub fn listen(&self, port: u16) -> TcpListener {
        let network = File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        // On a thread, which has namespaces of its own.
        let listening = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        listening.join().unwrap()
    }

    /// The processes there; of those in namespaces further down, only those of the same `kind`.
    pub fn processes(&self, kind: &str) -> Vec<Process> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let wanted = namespace(self.pid);
        processes()
            .into_iter()
            .filter(|process| namespace(process.pid) == wanted)
            .collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number, as seen from here.
    pub pid: i32,
    /// Its program and arguments, with blanks between.
    pub line: String,
}

impl Process {
    /// Ends it without asking. It may have ended by itself.
    pub fn kill(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }

    /// Stops it. It may have ended by itself.
    pub fn stop(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP);
    }

    /// What its program is called.
    pub fn name(&self) -> &str {
        let program = self.line.split([' ', ':']).next().unwrap_or("");
        program.rsplit('/').next().unwrap_or(program)
    }
}

/// All processes that have not ended.
pub fn processes() -> Vec<Process> {
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        // One that has ended, and was not waited for, has none.
        let text = String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .trim()
            .to_owned();
        (!text.is_empty()).then_some(Process { pid, line: text })
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(read)
        .collect()
}

/// Whether a program succeeds, and what it prints.
pub fn output(mut command: Command, input: &[u8]) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    // It may not want to read.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input);
    let output = child.wait_with_output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

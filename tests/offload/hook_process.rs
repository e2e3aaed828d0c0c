//! A hook that the test runs itself: requests are sent as lines, as a daemon writes them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use formats::StorePath;

use crate::farm::{Farm, HOOK, SYSTEM};
use crate::harness::TEST_TIMEOUT;
use crate::harness::derivations::Drv;

/// A running hook, which is killed on drop.
pub struct HookProcess {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Its standard output and standard error, as far as they have been read.
    pub output: String,
    log: PathBuf,
}

impl HookProcess {
    /// Starts it without limits.
    pub fn start(farm: &Farm) -> HookProcess {
        HookProcess::with(farm, &[SYSTEM, "0", "1", "0"])
    }

    /// Starts it with these arguments.
    pub fn with(farm: &Farm, words: &[&str]) -> HookProcess {
        HookProcess::running(farm, HOOK, words)
    }

    /// Starts a program that executes it.
    pub fn running(farm: &Farm, program: &str, words: &[&str]) -> HookProcess {
        let log = farm.site.path(format!("log-{:x}", rand::random::<u32>()));
        File::create(&log).unwrap();
        let script = "log=$1; shift; exec \"$@\" 2>&1 4>>\"$log\"";
        let mut command = farm.site.command("sh");
        command
            .args(["-c", script, "sh"])
            .arg(&log)
            .arg(program)
            .args(words);
        let mut child = farm
            .on_head(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        HookProcess {
            input: child.stdin.take(),
            child,
            lines,
            output: String::new(),
            log,
        }
    }

    /// Writes bytes; the hook may have ended.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.input.as_mut().unwrap().write_all(bytes.as_ref());
    }

    /// Closes its standard input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Waits for a line of output with this beginning. Returns the rest of it.
    #[track_caller]
    pub fn wait_for_line(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.output += &format!("{line}\n");
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.to_owned();
                    }
                }
                Err(error) => panic!("no `{beginning}' ({error}): {}", self.output),
            }
        }
    }

    /// Whether its output so far contains a text.
    pub fn has_said(&mut self, text: &str) -> bool {
        for line in self.lines.try_iter() {
            self.output += &format!("{line}\n");
        }
        self.output.contains(text)
    }

    /// Its reply.
    #[track_caller]
    pub fn reply(&mut self) -> String {
        self.wait_for_line("# ")
    }

    /// Asks about a derivation without features for this system that can't be built locally now;
    /// returns the reply.
    #[track_caller]
    pub fn ask(&mut self, drv: &Drv) -> String {
        self.send(format!("0 {SYSTEM} {} \n", drv.path));
        self.reply()
    }

    /// Writes the two lines of paths: the inputs and the outputs.
    pub fn send_paths(&mut self, inputs: &[&StorePath], outputs: &[&StorePath]) {
        let line = |paths: &[&StorePath]| -> String {
            paths.iter().map(|path| format!("{path} ")).collect()
        };
        self.send(format!("{}\n{}\n", line(inputs), line(outputs)));
        self.close();
    }

    /// Waits for it to exit; returns its exit status.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        self.close();
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => self.output += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().code(),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => panic!("the hook does not end: {}", self.output),
            }
        }
    }

    /// The build log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for HookProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The output of a remote build command. `guix-client build` prints what its daemon sends, in which
//! builder output is marked, after a line that only it can know ([`BuildOutput::variable`]). Guix's
//! `guix build` mixes builder output with its own messages.

use std::io::{self, Write};

use super::command_log::CommandLog;
use super::daemon_log::DaemonLog;

/// The environment variable that makes `guix-client build` mark builder output.
const VARIABLE: &str = "GUIX_OFFLOAD_FRAMES";
/// The beginning of the line that `guix-client build` then prints first. The variable's value
/// follows.
const FRAMES: &str = "guix-offload-frames";
/// How many bytes are kept of the end of unmarked output, to find out why the build failed.
const TAIL: usize = 8 << 10;

/// Separates builder output, which goes to the hook's log, from the rest.
pub(super) struct BuildOutput<'a> {
    derivation: &'a str,
    /// The first line if builder output is marked.
    mark: Vec<u8>,
    state: State<'a>,
}

enum State<'a> {
    /// The first line is not complete yet.
    Undecided(&'a mut dyn Write, Vec<u8>),
    /// Builder output is marked.
    Framed(DaemonLog<'a>),
    /// Builder output is not marked. The end of the output is kept.
    Plain(CommandLog<'a>, Vec<u8>),
    /// Writing the log failed.
    Failed,
}

/// What is known when the command has ended.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ending {
    /// The last line that isn't builder output, as far as that is known.
    pub last_line: Option<String>,
    /// A line about why the build failed; it may be builder output.
    pub remark: Option<String>,
    /// Whether the remote daemon reported that a disk was full.
    pub disk_full: bool,
    /// Whether builder output is marked: then the command is `guix-client`, whose exit code is the
    /// status of its daemon.
    pub is_framed: bool,
}

impl<'a> BuildOutput<'a> {
    /// For the build of `derivation`; its builder's output is written to `out`. `secret` is a word
    /// that no builder knows.
    pub fn new(out: &'a mut dyn Write, derivation: &'a str, secret: &str) -> BuildOutput<'a> {
        BuildOutput {
            derivation,
            mark: format!("{FRAMES} {secret}\n").into_bytes(),
            state: State::Undecided(out, Vec::new()),
        }
    }

    /// Shell words that set the variable.
    pub fn variable(secret: &str) -> String {
        format!("{VARIABLE}={secret}")
    }

    /// Processes the next bytes.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if let State::Undecided(_, held) = &mut self.state {
            held.extend_from_slice(text);
            let same = held.iter().zip(&self.mark).all(|(ours, mark)| ours == mark);
            if same && held.len() < self.mark.len() {
                return Ok(());
            }
            return self.decide(same);
        }
        match &mut self.state {
            State::Framed(log) => {
                log.write(text);
                log.write_error.take().map_or(Ok(()), Err)
            }
            State::Plain(log, tail) => {
                tail.extend_from_slice(text);
                tail.drain(..tail.len().saturating_sub(TAIL));
                log.write(text)
            }
            State::Undecided(..) | State::Failed => Ok(()),
        }
    }

    /// Chooses how to read the output, and processes what was held back.
    fn decide(&mut self, is_framed: bool) -> io::Result<()> {
        let State::Undecided(out, held) = std::mem::replace(&mut self.state, State::Failed) else {
            return Ok(());
        };
        if is_framed {
            self.state = State::Framed(DaemonLog::new(out, self.derivation, true));
            return self.write(&held[self.mark.len()..]);
        }
        self.state = State::Plain(CommandLog::new(out, self.derivation), Vec::new());
        self.write(&held)
    }

    /// Writes held-back output, and returns what is known about the build. `stderr` is the
    /// command's standard error.
    pub fn finish(mut self, stderr: &str) -> io::Result<Ending> {
        if let State::Undecided(..) = self.state {
            self.decide(false)?;
        }
        match self.state {
            State::Framed(log) => Ok(Ending {
                last_line: log.last_line,
                remark: log.remark,
                disk_full: log.disk_full,
                is_framed: true,
            }),
            State::Plain(log, mut tail) => {
                log.finish()?;
                tail.extend_from_slice(stderr.as_bytes());
                let text = String::from_utf8_lossy(&tail);
                let last = |is_wanted: &dyn Fn(&str) -> bool| {
                    let line = text.lines().rev().find(|line| is_wanted(line));
                    line.map(str::to_owned)
                };
                Ok(Ending {
                    last_line: last(&|line| !line.trim().is_empty()),
                    remark: last(&|line| {
                        line.starts_with("builder for `") || line.contains(" timed out after ")
                    }),
                    disk_full: false,
                    is_framed: false,
                })
            }
            State::Undecided(..) | State::Failed => Ok(Ending::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "note: build failure may have been caused by lack of free disk space\n";
    const ENDED: &str = "builder for `/x.drv' failed with exit code 1";
    const ERROR: &str = "guix-client build: error: build of `/x.drv' failed\n";

    /// Returns the builder's output and the ending, which are the same however the text is split.
    fn read(text: &str) -> (String, Ending) {
        let mut results = (1..=text.len()).map(|size| {
            let mut out = Vec::new();
            let mut output = BuildOutput::new(&mut out, "/x.drv", "secret");
            for piece in text.as_bytes().chunks(size) {
                output.write(piece).unwrap();
            }
            let ending = output.finish("").unwrap();
            (String::from_utf8(out).unwrap(), ending)
        });
        let first = results.next().unwrap();
        results.for_each(|result| assert_eq!(result, first));
        first
    }

    #[test]
    fn a_note_is_believed_after_the_secret_word_only() {
        let framed = format!("@ build-log 1 3\nab\n{NOTE}{ENDED}\n{ERROR}");
        let (out, ending) = read(&format!("guix-offload-frames secret\n{framed}"));
        assert_eq!(out, "ab\n");
        assert!(ending.disk_full);
        assert_eq!(ending.last_line.as_deref(), Some(ERROR.trim()));
        assert_eq!(ending.remark.as_deref(), Some(ENDED));
        let (out, ending) = read(&format!("guix-offload-frames guessed\n{NOTE}{ERROR}"));
        assert_eq!(out, format!("guix-offload-frames guessed\n{NOTE}"));
        assert!(!ending.disk_full);
        assert_eq!(ending.last_line.as_deref(), Some(ERROR.trim()));
    }

    #[test]
    fn a_builder_cannot_mark_its_own_output() {
        let text = format!(
            "guix-offload-frames secret\n@ build-log 1 {}\n{NOTE}",
            NOTE.len()
        );
        let (out, ending) = read(&text);
        assert_eq!(out, NOTE);
        assert!(!ending.disk_full && ending.last_line.is_none());
        assert_eq!(read("guix-off").0, "guix-off");
    }
}

//! A program on a pseudo-terminal, and what a terminal shows of what it has written.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

use super::{TEST_TIMEOUT, wait_for};

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    size: (u16, u16),
    /// Everything that it has written.
    pub text: String,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A shell line, run by a shell with job control that has the terminal of [`Terminal::start`] to itself.
pub fn with_job_control(command: &mut Command, line: &str) {
    command.args(["--ctty", "bash", "-mc", line]);
}

impl Terminal {
    /// Starts a program, whose standard streams are a new terminal of this size.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Terminal {
        // In the background, a shell has its commands ignore it, and they have theirs: nothing that is typed
        // would interrupt them.
        // SAFETY: SIG_DFL runs no code.
        unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.unwrap();
        let terminal = openpty(Some(&size(columns, rows)), None).unwrap();
        // Whoever has it too would keep it from hanging up.
        fcntl(&terminal.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let slave = File::from(terminal.slave);
        command
            .env("TERM", "xterm")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let child = command.spawn().unwrap();
        // Our copies of the terminal are in it.
        drop(command);
        let master = File::from(terminal.master);
        let mut reader = master.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            // It ends with an error when nobody has the terminal any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        Terminal {
            child,
            master,
            output,
            size: (columns, rows),
            text: String::new(),
        }
    }

    /// Waits until this is true of everything that it has written.
    #[track_caller]
    pub fn read_until(&mut self, what: &str, is_right: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !is_right(&self.text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.text += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("no {what} ({error}): {:?}", self.text),
            }
        }
    }

    /// Waits until this is true of what the terminal shows; returns that.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is_right: impl Fn(&Screen) -> bool) -> Screen {
        let size = self.size;
        self.read_until(what, |text| is_right(&Screen::showing(text, size)));
        self.screen()
    }

    /// What the terminal shows.
    pub fn screen(&self) -> Screen {
        Screen::showing(&self.text, self.size)
    }

    /// Types something.
    pub fn type_in(&mut self, text: &[u8]) {
        self.master.write_all(text).unwrap();
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Changes its size. What it shows is only known if it is cleared then.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let words = ["cols", &columns.to_string(), "rows", &rows.to_string()].map(str::to_owned);
        let mut stty = Command::new("stty");
        let stty = stty.args(words).stdin(self.master.try_clone().unwrap());
        assert!(stty.status().unwrap().success());
        self.size = (columns, rows);
    }

    /// Waits for its end; returns how it has ended, and everything that it has written.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = wait_for(&mut self.child, 2 * TEST_TIMEOUT);
        let status = status.unwrap_or_else(|| panic!("it does not end: {:?}", self.text));
        // The reader ends when nobody has the terminal any more.
        for bytes in self.output.iter() {
            self.text += &String::from_utf8_lossy(&bytes);
        }
        (status, std::mem::take(&mut self.text))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal hangs up on the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows, and the lines above that have left it.
#[derive(Debug)]
pub struct Screen {
    /// All lines from the first one on.
    pub lines: Vec<String>,
    /// Whether lines are divided that are too long.
    pub wraps: bool,
}

impl Screen {
    /// Obeys the control sequences that our programs send (ECMA-48), and panics at others.
    pub fn showing(text: &str, (columns, rows): (u16, u16)) -> Screen {
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        let mut lines: Vec<Vec<char>> = vec![Vec::new()];
        let (mut row, mut column, mut wraps) = (0, 0, true);
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\r' => column = 0,
                '\n' => row += 1,
                '\x1b' => {
                    let end = rest.find(|c: char| c.is_ascii_alphabetic());
                    // The rest of it has not come yet.
                    let Some(end) = end else { break };
                    match &rest[..=end] {
                        "[K" => lines[row].truncate(column),
                        "[J" => {
                            lines.truncate(row + 1);
                            lines[row].truncate(column);
                        }
                        "[?7l" => wraps = false,
                        "[?7h" => wraps = true,
                        "[?2026h" | "[?2026l" => {}
                        up if up.ends_with('A') => {
                            let count: usize = up[1..end].parse().unwrap();
                            // No further than to the first row that is on the screen.
                            row = row
                                .saturating_sub(count)
                                .max(lines.len().saturating_sub(rows));
                        }
                        color if color.starts_with('[') && color.ends_with('m') => {}
                        other => panic!("unknown sequence {other:?}"),
                    }
                    rest = &rest[end + 1..];
                }
                c => {
                    if column == columns && wraps {
                        (row, column) = (row + 1, 0);
                    }
                    if row == lines.len() {
                        lines.push(Vec::new());
                    }
                    column = column.min(columns - 1);
                    let line = &mut lines[row];
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = c;
                    column += 1;
                }
            }
            if row == lines.len() {
                lines.push(Vec::new());
            }
        }
        let lines = lines.into_iter().map(String::from_iter).collect();
        Screen { lines, wraps }
    }

    /// Whether a line begins with this.
    pub fn has_line(&self, beginning: &str) -> bool {
        self.lines.iter().any(|line| line.starts_with(beginning))
    }

    /// The last line.
    pub fn last(&self) -> &str {
        self.lines.last().map_or("", |line| line.as_str())
    }

    /// The lines after the last one that begins with this.
    #[track_caller]
    pub fn after(&self, beginning: &str) -> &[String] {
        let at = self
            .lines
            .iter()
            .rposition(|line| line.starts_with(beginning));
        let at = at.unwrap_or_else(|| panic!("no {beginning:?}: {self:#?}"));
        &self.lines[at + 1..]
    }
}

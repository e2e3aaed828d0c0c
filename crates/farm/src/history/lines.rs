//! The rows that a hook tells its daemon, through a pipe (`doc/spec/history.md`, section 4).
//!
//! A hook process lives for one build: to open the database takes it longer than all the rest of its row.
//! The daemon has it open.

use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;

use serde::{Deserialize, Serialize};
use system::pipe;

use super::record::{Attempt, MachineState};

const VARIABLE: &str = "GUIX_OFFLOAD_ROWS";
/// The longest line. A pipe takes it whole, or not at all (`PIPE_BUF`).
const LONGEST: usize = 4096;

/// A row that a hook tells its daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How an attempt ended.
    Attempt(Attempt),
    /// The state of a machine.
    State(MachineState),
}

/// The hook's end of the pipe.
#[derive(Debug)]
pub struct Pipe(File);

impl Pipe {
    /// The environment variable by which a daemon tells a hook the descriptor's number.
    pub const VARIABLE: &str = VARIABLE;
    /// The number that our daemon gives it.
    pub const DESCRIPTOR: RawFd = 5;

    /// The pipe of this hook; nothing under another daemon. To be called before this process opens anything,
    /// which could get the same number.
    pub fn from_environment() -> Option<Pipe> {
        let number = std::env::var(Pipe::VARIABLE).ok()?.parse().ok()?;
        let pipe =
            (number > libc::STDERR_FILENO).then(|| pipe::inherited(number).ok().flatten())??;
        let pipe = File::from(pipe);
        let is_pipe = pipe.metadata().is_ok_and(|data| data.file_type().is_fifo());
        // A daemon that does not read must not hold up a build.
        (is_pipe && pipe::set_nonblocking(&pipe, true).is_ok()).then(|| Pipe::new(pipe))
    }

    /// A pipe of which this is the end for writing, which must not block.
    pub fn new(pipe: File) -> Pipe {
        Pipe(pipe)
    }

    /// Tells the daemon a row; returns false if it won't get it.
    pub fn tell(&self, line: &Line) -> bool {
        // What is no number has no form there.
        let (Line::Attempt(Attempt { speed: number, .. })
        | Line::State(MachineState { load: number, .. })) = line;
        let (true, Ok(mut text)) = (number.is_finite(), serde_json::to_vec(line)) else {
            return false;
        };
        text.push(b'\n');
        // What the pipe has no room for, it doesn't take a part of.
        text.len() <= LONGEST
            && (&self.0)
                .write(&text)
                .is_ok_and(|count| count == text.len())
    }
}

/// Reads lines in the pieces in which they come.
///
/// ```
/// use farm::history::{Line, Lines};
///
/// let mut lines = Lines::default();
/// let text = br#"{"state":{"time":1,"machine":"build-1:22","state":"ready","reason":"","load":0.5,
///     "cores":4,"free_bytes":1000,"slots":2}}"#;
/// let text = [&text.map(|byte| if byte == b'\n' { b' ' } else { byte })[..], b"\n"].concat();
/// let (first, second) = text.split_at(30);
/// assert_eq!(lines.read(first), []);
/// let [Line::State(state)] = &lines.read(second)[..] else { panic!("there is a state") };
/// assert_eq!(state.slots, 2);
/// ```
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line.
    held: Vec<u8>,
    /// Whether the beginning was thrown away, because there was too much.
    is_too_long: bool,
}

impl Lines {
    /// The lines that this piece completes. What is no row is left out.
    pub fn read(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.held.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.held);
                if !std::mem::take(&mut self.is_too_long) {
                    lines.extend(serde_json::from_slice::<Line>(&line).ok());
                }
            } else if self.held.len() > LONGEST {
                self.held.clear();
                self.is_too_long = true;
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::record::State;
    use super::*;

    fn state(reason: &str) -> Line {
        Line::State(MachineState {
            time: 1,
            machine: "build-1:22".to_owned(),
            state: State::SetAside,
            reason: reason.to_owned(),
            load: 0.1,
            cores: 2,
            free_bytes: u64::MAX,
            slots: 3,
        })
    }

    /// A pipe as a daemon makes it.
    fn pipe() -> (File, Pipe) {
        let (reading, writing) = pipe::pipe().unwrap();
        for end in [&reading, &writing] {
            pipe::set_nonblocking(end, true).unwrap();
        }
        (reading.into(), Pipe::new(writing.into()))
    }

    fn read(reading: &mut File, size: usize) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut buffer = vec![0; size];
        while let Ok(count @ 1..) = reading.read(&mut buffer) {
            all.extend(lines.read(&buffer[..count]));
        }
        all
    }

    #[test]
    fn a_row_is_told_whole_or_not_at_all() {
        let (mut reading, pipe) = pipe();
        let reason = "l'eau\n\u{1b}".repeat(100);
        let told = std::iter::from_fn(|| pipe.tell(&state(&reason)).then_some(())).count();
        assert!(told > 10, "{told}");
        assert_eq!(read(&mut reading, 1000), vec![state(&reason); told]);
        assert!(pipe.tell(&state("once more")));
        // What is too long, or cannot be written, is left to who has it.
        assert!(!pipe.tell(&state(&"x".repeat(LONGEST))));
        let Line::State(mut infinite) = state("") else {
            unreachable!()
        };
        infinite.load = f64::NAN;
        assert!(!pipe.tell(&Line::State(infinite)));
        assert_eq!(read(&mut reading, 7), [state("once more")]);
        drop(reading);
        assert!(!pipe.tell(&state("nobody reads")));
    }

    #[test]
    fn what_is_no_row_costs_no_others() {
        let mut lines = Lines::default();
        let good = [&serde_json::to_vec(&state("good")).unwrap()[..], b"\n"].concat();
        let mut bad = b"{\n\xff\0\n\n".to_vec();
        bad.extend(vec![b'['; 10 * LONGEST]);
        bad.push(b'\n');
        let all = [&bad[..], &good, &bad, &good].concat();
        let pieces = all.chunks(1000);
        let read: Vec<Line> = pieces.flat_map(|piece| lines.read(piece)).collect();
        assert_eq!(read, [state("good"), state("good")]);
        assert!(lines.held.len() <= LONGEST + 1000);
    }
}

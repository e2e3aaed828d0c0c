//! `offload status --watch`: the status again and again, until interrupted.
//!
//! On a terminal it fills the screen and follows its size. What is in files (slots, drained machines) is looked
//! at each time. Machines are asked in another thread, so that one that is slow delays nothing, and only so
//! many each second, so that a thousand of them are no load; those first whose last answer is oldest.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use store::Directories;
use system::signal::{self, Signal};
use system::terminal;

use super::machine_status::{self, MachineStatus};
use super::screen;
use crate::directories::HookDirectories;
use crate::machines::Machine;
use crate::selection::Selection;

/// How many machines are asked each second, at most.
const ASKED_PER_SECOND: u64 = 5;
/// How long an answer is new enough.
const FRESH: Duration = Duration::from_secs(10);

/// Shows the status every `seconds` on standard output, which is a terminal that understands control sequences.
pub fn on_screen(
    daemon_directories: &Directories,
    selection: &Selection,
    seconds: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let directories = HookDirectories::new(daemon_directories).context("looking up our user")?;
    // What is wrong from the start is said as usual.
    selection.load(&directories)?;
    signal::block(&terminal::SIGNALS)?;
    let asker = Asker::start(&directories);
    let mut screen = Screen::new(out)?;
    let mut answers = HashMap::new();
    loop {
        let next = Instant::now() + Duration::from_secs(seconds);
        for answer in asker.answers.try_iter() {
            answers.insert(
                format!("{}:{}", answer.name, answer.port),
                Answer::new(answer),
            );
        }
        let shown = look(&directories, selection, &mut answers, &asker, seconds);
        let (machines, notices) = match shown {
            Ok(shown) => shown,
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        loop {
            let (columns, rows) = terminal::size(&io::stdout()).unwrap_or(terminal::SIZE);
            screen.draw(&screen::lines(
                &machines,
                &notices,
                columns.into(),
                rows.into(),
            ))?;
            let left = next.saturating_duration_since(Instant::now());
            match signal::wait_for_timeout(&terminal::SIGNALS, left)? {
                None => break,
                Some(Signal::SIGWINCH | Signal::SIGCONT) => {}
                Some(signal) => {
                    screen.give_back()?;
                    signal::act_on(signal)?;
                    screen.take()?;
                }
            }
        }
    }
}

/// What a machine has answered.
struct Answer {
    status: MachineStatus,
    at: Instant,
}

impl Answer {
    fn new(status: MachineStatus) -> Answer {
        Answer {
            status,
            at: Instant::now(),
        }
    }
}

/// Looks at all machines, and has some of them asked. Returns also what is to be said about the machine files.
fn look(
    directories: &HookDirectories,
    selection: &Selection,
    answers: &mut HashMap<String, Answer>,
    asker: &Asker,
    seconds: u64,
) -> Result<(Vec<MachineStatus>, Vec<String>)> {
    let list = selection.load_quietly(directories)?;
    let listed: HashSet<String> = list.keys().collect();
    answers.retain(|key, _| listed.contains(key));
    let mut due: Vec<(Option<Instant>, &Machine)> = list
        .machines
        .iter()
        .filter(|machine| machine.pool.is_none())
        .map(|machine| (answers.get(&machine.key()).map(|answer| answer.at), machine))
        .filter(|(at, _)| at.is_none_or(|at| at.elapsed() >= FRESH))
        .collect();
    due.sort_by_key(|(at, _)| *at);
    let most = usize::try_from(seconds.saturating_mul(ASKED_PER_SECOND)).unwrap_or(usize::MAX);
    asker.ask(
        due.into_iter()
            .take(most)
            .map(|(_, machine)| machine.clone()),
    );
    let status = |key: &str| answers.get(key).map(|answer| &answer.status);
    let machines = machine_status::look(&list.machines, directories, status)?;
    let notices = list.complaints().map(ToString::to_string).collect();
    Ok((machines, notices))
}

/// The thread that asks machines.
struct Asker {
    questions: Sender<Vec<Machine>>,
    answers: Receiver<MachineStatus>,
    /// Readable while it is idle.
    idle: Receiver<()>,
}

impl Asker {
    fn start(directories: &HookDirectories) -> Asker {
        let (questions, asked) = channel::<Vec<Machine>>();
        let (sender, answers) = channel();
        let (is_idle, idle) = channel();
        let directories = directories.clone();
        std::thread::spawn(move || {
            let _ = is_idle.send(());
            for machines in asked {
                // One that fails here fails in the next look, which says so.
                let statuses = machine_status::gather(&machines, &directories);
                for status in statuses.unwrap_or_default() {
                    let _ = sender.send(status);
                }
                if is_idle.send(()).is_err() {
                    return;
                }
            }
        });
        Asker {
            questions,
            answers,
            idle,
        }
    }

    /// Has machines asked, unless it is still asking others.
    fn ask(&self, machines: impl Iterator<Item = Machine>) {
        let machines: Vec<Machine> = machines.collect();
        if !machines.is_empty() && self.idle.try_recv().is_ok() {
            let _ = self.questions.send(machines);
        }
    }
}

/// The terminal's alternate screen, which is given back at the end.
struct Screen<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Screen<'a> {
    fn new(out: &'a mut dyn Write) -> io::Result<Screen<'a>> {
        let mut screen = Screen { out };
        screen.take()?;
        Ok(screen)
    }

    /// The alternate screen, without a cursor and without lines that go on in the next one.
    fn take(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        self.out.flush()
    }

    fn give_back(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l")?;
        self.out.flush()
    }

    /// Draws over what is there, so that nothing flickers.
    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let text = lines.join("\x1b[K\r\n");
        write!(self.out, "\x1b[H{text}\x1b[K\x1b[J")?;
        self.out.flush()
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.give_back();
    }
}

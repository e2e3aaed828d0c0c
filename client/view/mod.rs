//! What `guix-client build` shows below the log, on a terminal: what runs where and for how long, what waits,
//! and how much is done.
//!
//! The log goes on scrolling above, and is in the terminal's history as if nothing were below it. A thread
//! draws, twenty times a second at most however much is printed, and once a second if nothing is; whoever
//! reads the log only leaves lines for it. Another thread waits for signals: those that end or stop the program
//! remove what is drawn first. A third one asks the daemon what its log does not tell (`told.rs`).

mod activity;
mod block;
mod log_text;
mod rows;
mod styled;
mod told;
mod words;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use formats::StorePath;
use protocol::trace::Trace;
use system::signal::{self, Signal};
use system::sync::{Condvar, Mutex};
use system::terminal;

pub use activity::Expected;
pub use words::clock_of;

use crate::output;
use activity::Activity;
use block::Block;
use rows::Size;
use styled::Line;
use told::Told;

/// How long nothing is drawn for builds that take no longer.
const DELAY: Duration = Duration::from_millis(500);
/// How often it is drawn if nothing but the time changes.
const TICK: Duration = Duration::from_secs(1);
/// The time between two drawings.
const FRAME: Duration = Duration::from_millis(50);
/// How much of the log waits for the next drawing, in bytes.
const MAX_LOG: usize = 64 << 10;
/// The longest line that waits for its end, in bytes.
const MAX_LINE: usize = 8192;
/// How long fewer rows must do before fewer are taken: otherwise they would jump up and down.
const HOLD: Duration = Duration::from_secs(3);
/// How long a terminal that takes nothing keeps a signal from ending the program.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rows below a log on standard error, which is a terminal that understands control sequences.
pub struct View {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// How often the program was stopped or went on: odd while it is being stopped. Only the thread of the
    /// signals changes it, which must not wait for the state: whoever waits for the terminal has that locked.
    stops: Arc<AtomicU64>,
}

struct State {
    activity: Activity,
    told: Option<Told>,
    /// Whole lines that are to be written.
    log: Vec<u8>,
    /// The beginning of the next one.
    open: Vec<u8>,
    block: Block,
    /// How many rows were last drawn, and when so many were last needed.
    height: (usize, Instant),
    out: Box<dyn Write + Send>,
    has_colors: bool,
    /// Whether there is something to draw but the time.
    is_changed: bool,
    /// Whether the thread that draws waits.
    is_waiting: bool,
    /// The same as [`Shared::stops`].
    stops: Arc<AtomicU64>,
    is_ended: bool,
}

impl View {
    /// Shows what a request for `targets` does, of which this is expected.
    pub fn start(expected: Expected, targets: &[StorePath], has_colors: bool) -> io::Result<View> {
        let out = Box::new(output::stderr());
        let activity = Activity::expecting(expected);
        let shared = Arc::new(Shared::new(activity, out, has_colors));
        signal::block(&terminal::SIGNALS)?;
        let drawn = shared.clone();
        let drawing = thread::Builder::new().name("drawing".into());
        drawing.spawn(move || drawn.draw_until_end())?;
        let watched = shared.clone();
        let signals = thread::Builder::new().name("signals".into());
        signals.spawn(move || watched.act_on_signals())?;
        let (ending, telling) = (shared.clone(), shared.clone());
        told::ask(
            targets,
            move |time| ending.is_running_after(time),
            move |told| telling.set_told(told),
        );
        Ok(View { shared })
    }

    /// Writes a part of the log.
    pub fn print(&self, text: &[u8]) {
        let mut state = self.shared.state.lock();
        state.add(text);
        if state.log.len() > MAX_LOG {
            state.draw();
        }
        self.shared.has_changed(&mut state);
    }

    /// Something has happened; `builder` is the derivation whose builder, or hook, has reported it.
    pub fn happened(&self, trace: &Trace<'_>, builder: Option<&str>) {
        let mut state = self.shared.state.lock();
        state.activity.happened(trace, builder);
        self.shared.has_changed(&mut state);
    }

    /// Writes the rest of the log, and removes what is below it.
    pub fn finish(&self) {
        let mut state = self.shared.state.lock();
        if !state.is_ended {
            state.close_line();
            state.is_ended = true;
            state.draw();
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn new(activity: Activity, out: Box<dyn Write + Send>, has_colors: bool) -> Shared {
        let stops = Arc::new(AtomicU64::new(0));
        Shared {
            state: Mutex::new(State {
                activity,
                told: None,
                log: Vec::new(),
                open: Vec::new(),
                block: Block::default(),
                height: (0, Instant::now()),
                out,
                has_colors,
                is_changed: false,
                is_waiting: false,
                stops: stops.clone(),
                is_ended: false,
            }),
            changed: Condvar::new(),
            stops,
        }
    }

    fn has_changed(&self, state: &mut State) {
        state.is_changed = true;
        if state.is_waiting {
            self.changed.notify_all();
        }
    }

    fn draw_until_end(&self) {
        let mut state = self.state.lock();
        while !state.is_ended {
            if !state.is_changed {
                let age = state.activity.begun.elapsed();
                let rest = DELAY.checked_sub(age).filter(|rest| !rest.is_zero());
                state.is_waiting = true;
                state = self.changed.wait_timeout(state, rest.unwrap_or(TICK));
                state.is_waiting = false;
            }
            if state.is_ended {
                return;
            }
            state.draw();
            drop(state);
            thread::sleep(FRAME);
            state = self.state.lock();
        }
    }

    /// Waits for so long; returns whether the view has not ended.
    fn is_running_after(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.state.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.is_ended || left.is_zero() {
                return !state.is_ended;
            }
            state = self.changed.wait_timeout(state, left);
        }
    }

    fn set_told(&self, told: Told) {
        let mut state = self.state.lock();
        state.told = Some(told);
        self.has_changed(&mut state);
    }

    fn act_on_signals(self: &Arc<Self>) {
        let mut clearing = None;
        loop {
            match signal::wait_for(&terminal::SIGNALS) {
                Err(_) => return,
                Ok(Signal::SIGWINCH | Signal::SIGCONT) => {}
                Ok(signal) => {
                    self.give_back(&mut clearing);
                    if signal::act_on(signal).is_err() {
                        return;
                    }
                }
            }
            self.go_on();
        }
    }

    /// Removes what is drawn, unless the terminal takes nothing: then a thread goes on waiting for it, of
    /// which `clearing` tells the next call.
    fn give_back(self: &Arc<Self>, clearing: &mut Option<Receiver<u64>>) {
        let stop = (self.stops.load(Ordering::SeqCst) + 1) | 1;
        self.stops.store(stop, Ordering::SeqCst);
        loop {
            let done = clearing.take().unwrap_or_else(|| self.draw_aside());
            match done.recv_timeout(PATIENCE) {
                // What was drawn after an earlier stop, this one finds again.
                Ok(drawn) if drawn != stop => {}
                Err(RecvTimeoutError::Timeout) => return *clearing = Some(done),
                _ => return,
            }
        }
    }

    /// Draws in a thread, which tells how often the program had been stopped or gone on by then.
    fn draw_aside(self: &Arc<Self>) -> Receiver<u64> {
        let (done, is_done) = channel();
        let shared = self.clone();
        thread::spawn(move || {
            let mut state = shared.state.lock();
            let stops = shared.stops.load(Ordering::SeqCst);
            state.draw();
            let _ = done.send(stops);
        });
        is_done
    }

    /// The program is not being stopped any more, or the terminal has another size.
    fn go_on(&self) {
        let even = (self.stops.load(Ordering::SeqCst) + 1) & !1;
        self.stops.store(even, Ordering::SeqCst);
        // Signals don't wait for the terminal. Whoever has the lock draws, or it is drawn at the next tick.
        if let Some(mut state) = self.state.try_lock() {
            self.has_changed(&mut state);
        }
    }
}

impl State {
    fn add(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            self.open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.open.len() > MAX_LINE {
                self.close_line();
            }
        }
    }

    fn close_line(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let line = self.open.strip_suffix(b"\n").unwrap_or(&self.open);
        self.log.extend(log_text::shown(line));
        self.log.push(b'\n');
        self.open.clear();
    }

    /// Writes what there is of the log, and draws what is below it.
    fn draw(&mut self) {
        let (columns, rows) = terminal::size(&io::stderr()).unwrap_or(terminal::SIZE);
        let size = Size {
            columns: columns.into(),
            rows: rows.into(),
        };
        let lines = self.lines(size);
        let frame = self
            .block
            .frame(&self.log, &lines, size.columns, self.has_colors);
        self.log.clear();
        self.is_changed = false;
        // `output` handles errors of standard error.
        let _ = self.out.write_all(&frame);
    }

    fn lines(&mut self, size: Size) -> Vec<Line> {
        let now = Instant::now();
        let is_stopped = self.stops.load(Ordering::SeqCst) % 2 == 1;
        if self.is_ended || is_stopped || self.activity.begun.elapsed() < DELAY {
            return Vec::new();
        }
        let open = log_text::plain(&self.open);
        let mut lines = rows::rows(&self.activity, self.told.as_ref(), &open, now, size);
        let (height, needed) = self.height;
        let kept = height.min(rows::most(size));
        if lines.len() < kept && now.saturating_duration_since(needed) < HOLD {
            let at = usize::from(!open.is_empty());
            let missing = kept - lines.len();
            lines.splice(at..at, std::iter::repeat_n(Line::default(), missing));
        } else {
            self.height = (lines.len(), now);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    /// A terminal that says when it is first written to, and takes nothing until the other sender is dropped.
    struct Stuck(Sender<()>, Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_that_took_nothing_when_the_program_was_stopped_is_drawn_on_later() {
        let ((begun, has_begun), (stuck, waits)) = (channel(), channel());
        let mut activity = Activity::expecting(Expected::default());
        activity.begun -= DELAY;
        let shared = Arc::new(Shared::new(activity, Box::new(Stuck(begun, waits)), false));
        let drawing = shared.clone();
        let drawing = thread::spawn(move || {
            drawing.state.lock().draw();
        });
        has_begun.recv().unwrap();
        let mut clearing = None;
        for _ in 0..2 {
            shared.give_back(&mut clearing);
            // The drawing thread, this one, and a single one that waits.
            assert_eq!(Arc::strong_count(&shared), 3);
            shared.go_on();
        }
        drop(stuck);
        drawing.join().unwrap();
        clearing.unwrap().recv().unwrap();
        let size = Size {
            columns: 80,
            rows: 24,
        };
        assert!(!shared.state.lock().lines(size).is_empty());
        shared.give_back(&mut None);
        assert!(shared.state.lock().lines(size).is_empty());
    }
}

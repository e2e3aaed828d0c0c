//! One question, or one item that is fetched: what is said meanwhile, timeouts, and cancellation.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bstr::ByteSlice;
use protocol::helper_filter::HelperFilter;

use super::error::Error;
use super::renamer::Renamer;
use super::timeouts::Timeouts;
use crate::activity::Activity;
use crate::cancel::{CancelEvent, CancellationToken};
use substitutes::{Server, Stop, Waiter};

/// A longer line of the log, in bytes, is forwarded in pieces.
const LOG_LINE_LIMIT: usize = 1 << 20;

/// One question, or one item that is fetched.
pub struct Conversation<'a> {
    log: &'a mut dyn FnMut(&[u8]),
    prefix_lines: bool,
    /// Filters the log, unless lines are prefixed.
    filter: HelperFilter,
    /// The beginning of a line of the log, if lines are prefixed.
    partial_line: Vec<u8>,
    names: Option<Renamer>,
    cancel: &'a CancellationToken,
    cancelled: CancelEvent,
    timeouts: Timeouts,
    started: Instant,
    activity: Arc<Activity>,
}

impl<'a> Conversation<'a> {
    /// A conversation that `cancel` cancels. The agent's log is passed to `log`.
    pub fn new(
        log: &'a mut dyn FnMut(&[u8]),
        cancel: &'a CancellationToken,
    ) -> Result<Conversation<'a>, Error> {
        Ok(Conversation {
            log,
            prefix_lines: false,
            filter: HelperFilter::default(),
            partial_line: Vec::new(),
            names: None,
            cancel,
            cancelled: CancelEvent::new(cancel)?,
            timeouts: Timeouts::default(),
            started: Instant::now(),
            activity: Arc::default(),
        })
    }

    /// Sets how long the agent may be silent, and how long the conversation may take.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Conversation<'a> {
        self.timeouts = timeouts;
        self
    }

    /// Whoever has `activity` learns when something happens.
    pub fn with_activity(mut self, activity: Arc<Activity>) -> Conversation<'a> {
        activity.note();
        self.activity = activity;
        self
    }

    /// Forwards the log in whole lines, each prefixed with `substitute: `, as Guix does for
    /// queries.
    pub fn with_prefixed_lines(mut self) -> Conversation<'a> {
        self.prefix_lines = true;
        self
    }

    /// Has `place`, where the log names it, shown as `path`: the item that is fetched to there.
    pub fn show_as(&mut self, place: &Path, path: &Path) {
        self.names = Some(Renamer::new(place, path));
    }

    /// Forwards a piece of the agent's log.
    pub(super) fn forward(&mut self, text: &[u8]) {
        match &mut self.names {
            Some(names) => {
                let text = names.rename(text);
                self.pass_on(&text);
            }
            None => self.pass_on(text),
        }
    }

    fn pass_on(&mut self, text: &[u8]) {
        if !self.prefix_lines {
            let text = self.filter.filter(text);
            if !text.is_empty() {
                (self.log)(&text);
            }
            return;
        }
        self.partial_line.extend_from_slice(text);
        while let Some(end) = self.partial_line.find_byteset(b"\n\r") {
            let rest = self.partial_line.split_off(end + 1);
            let line = std::mem::replace(&mut self.partial_line, rest);
            (self.log)(&HelperFilter::whole(
                &[b"substitute: ", line.as_slice()].concat(),
            ));
        }
        if self.partial_line.len() > LOG_LINE_LIMIT {
            self.flush();
        }
    }

    /// Forwards the end of the log, which may have no line end.
    pub(super) fn flush(&mut self) {
        if let Some(names) = &mut self.names {
            let rest = names.finish();
            self.pass_on(&rest);
        }
        if !self.partial_line.is_empty() {
            let line = std::mem::take(&mut self.partial_line);
            let line = [b"substitute: ", line.as_slice(), b"\n"].concat();
            (self.log)(&HelperFilter::whole(&line));
        }
        let held = self.filter.finish();
        if !held.is_empty() {
            (self.log)(&held);
        }
    }
}

impl Waiter for Conversation<'_> {
    fn time_left(&self) -> Result<Option<Duration>, Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        self.timeouts
            .left(self.activity.silence(), self.started.elapsed())
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.cancelled.as_fd()
    }

    fn note_activity(&mut self) {
        self.activity.note();
    }

    fn note_received(&mut self, bytes: u64) {
        self.activity.note_received(bytes);
    }

    fn note_server(&mut self, server: &Arc<Server>) {
        self.activity.note_server(server);
    }

    fn say(&mut self, text: &str) {
        self.forward(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(prefix_lines: bool, pieces: &[&str]) -> Vec<String> {
        let mut heard = Vec::new();
        let mut log = |text: &[u8]| heard.push(String::from_utf8(text.to_owned()).unwrap());
        let cancel = CancellationToken::new();
        let mut conversation = Conversation::new(&mut log, &cancel).unwrap();
        conversation.prefix_lines = prefix_lines;
        for piece in pieces {
            conversation.forward(piece.as_bytes());
        }
        conversation.flush();
        drop(conversation);
        heard
    }

    #[test]
    fn lines_are_prefixed_when_they_are_whole() {
        assert_eq!(forwarded(false, &["a\nb", "", "c"]), ["a\nb", "c"]);
        assert_eq!(
            forwarded(true, &["a\nb", "", "c\rd"]),
            ["substitute: a\n", "substitute: bc\r", "substitute: d\n"]
        );
    }

    #[test]
    fn the_nearest_timeout_counts() {
        let mut log = |_: &[u8]| {};
        let cancel = CancellationToken::new();
        let second = Duration::from_secs(1);
        let mut conversation = Conversation::new(&mut log, &cancel).unwrap();
        assert_eq!(conversation.time_left().unwrap(), None);
        let (silence, total) = (10, 100);
        conversation = conversation.with_timeouts(Timeouts { silence, total });
        assert!(conversation.time_left().unwrap().unwrap() <= 10 * second);
        conversation.activity.pass(10 * second);
        assert!(matches!(
            conversation.time_left(),
            Err(Stop::SilenceTimeout(10))
        ));
        conversation.note_activity();
        conversation.started -= 100 * second;
        assert!(matches!(
            conversation.time_left(),
            Err(Stop::TotalTimeout(100))
        ));
        cancel.cancel();
        assert!(matches!(conversation.time_left(), Err(Stop::Interrupted)));
    }
}

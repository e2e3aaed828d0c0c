//! One item that is fetched: from which source, how far, and what to do when that fails.
//!
//! A transfer fills a stream, which a decoder on a thread of its own empties into the pipe. If the
//! transfer breaks off, another one continues the same stream where the server can do that. If not, a
//! new stream and a new decoder begin with the same or the next source, and leave out what was
//! written.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use substitutes::Compression;
use substitutes::network::{
    ErrorKind, Event, NetworkError, ROUNDS_LIMIT, RequestId, User, is_busy,
};

use super::address::server;
use super::budget::{Budget, Claim};
use super::decode::{self, Input};
use super::engine::{Ended, Engine, Token};
use super::link::Link;
use super::notes::NoteSender;
use super::outcome::Outcome;
use super::output::{Output, OutputError};
use super::rests::{MAX_ATTEMPTS, Rests};
use super::stream::Stream;
use super::transfer::{
    Patience, Sink, Tally, ask_for_rest, delivers, described, failure, has_answer, prepare,
    redirection,
};

/// How often progress is reported at most.
const PROGRESS: Duration = Duration::from_millis(200);
/// How often a transfer is continued without getting on by [`STRIDE`].
const FRUITLESS: u32 = 3;
/// What counts as getting on, in bytes.
const STRIDE: u64 = 64 << 10;
/// The pause before a transfer is continued again although it didn't get on; it doubles each time.
const PAUSE: Duration = Duration::from_millis(250);

/// Where the contents can be had.
pub enum Place {
    Url {
        url: String,
        compression: Compression,
    },
    File {
        /// `None` once it was read.
        file: Option<OwnedFd>,
        compression: Compression,
    },
}

/// What a job works with.
pub struct Tools<'a> {
    pub engine: &'a mut Engine,
    pub link: &'a mut Link,
    pub notes: &'a NoteSender,
    pub rests: &'a mut Rests,
    pub budget: &'a Arc<Budget>,
}

/// An item that is fetched.
pub struct Job {
    id: RequestId,
    user: User,
    places: Vec<Place>,
    patience: Duration,
    output: Option<Arc<Output>>,

    /// The index of the place.
    at: usize,
    /// How many times all places were tried, or one began anew, and how much was written when all places
    /// were begun with last.
    rounds: usize,
    written_before: u64,

    /// The address of the transfer, after redirections.
    url: String,
    redirections: u32,
    /// How often the server was busy.
    busy: u32,
    transfer: Option<Token>,
    tally: Rc<RefCell<Tally>>,
    /// How often the transfer was continued, and how much was received then.
    fruitless: u32,
    received_before: u64,
    /// When it is to be continued.
    resume_at: Option<Instant>,

    decoder: Option<Decoder>,
    decoders: u32,
    /// What comes when the decoder has ended because its stream was abandoned.
    then: Option<Step>,

    total: Option<u64>,
    reported: (u64, Instant),
}

/// What decompresses now.
struct Decoder {
    number: u32,
    stream: Arc<Stream>,
    /// Its memory.
    claim: Arc<Claim>,
    /// Whether its thread was started.
    is_running: bool,
}

impl Decoder {
    /// Has its thread end soon.
    fn abandon(&self) {
        self.stream.abandon();
        self.claim.abandon();
    }
}

/// What a job does next.
enum Step {
    /// Start with the current place.
    Begin,
    /// The current place has failed: go on with the next one.
    Next(NetworkError),
}

impl Job {
    /// A job for a request of a user; an error if its pipe can't be used.
    pub fn new(
        id: RequestId,
        user: User,
        places: Vec<Place>,
        pipe: OwnedFd,
        size: u64,
        patience: Duration,
    ) -> Result<Job, NetworkError> {
        let output = Output::new(pipe, size).map_err(|error| {
            NetworkError::new(ErrorKind::Output, format!("cannot use the pipe: {error}"))
        })?;
        Ok(Job {
            id,
            user,
            places,
            patience,
            output: Some(Arc::new(output)),
            at: 0,
            rounds: 0,
            written_before: 0,
            url: String::new(),
            redirections: 0,
            busy: 0,
            transfer: None,
            tally: Rc::default(),
            fruitless: 0,
            received_before: 0,
            resume_at: None,
            decoder: None,
            decoders: 0,
            then: None,
            total: None,
            reported: (0, Instant::now()),
        })
    }

    /// The transfer that runs.
    pub fn transfer(&self) -> Option<Token> {
        self.transfer
    }

    /// Begins with the first place.
    pub fn begin(&mut self, tools: &mut Tools<'_>) {
        self.go(Step::Begin, tools);
    }

    /// Whether it has ended, and the last event was sent.
    pub fn has_ended(&self) -> bool {
        self.output.is_none()
    }

    /// Gives it up: nothing more is written, and the pipe is closed soon.
    pub fn cancel(&mut self, engine: &mut Engine) {
        self.close();
        if let Some(token) = self.transfer.take() {
            engine.stop(token);
        }
    }

    /// Drops the pipe, which is closed when a decoder that may still run has ended, too.
    fn close(&mut self) {
        if let Some(output) = self.output.take() {
            output.cancel();
        }
        if let Some(decoder) = self.decoder.take() {
            decoder.abandon();
        }
    }

    fn end(&mut self, event: Event, tools: &mut Tools<'_>) {
        self.close();
        tools.link.reply(self.id, event);
    }

    fn go(&mut self, mut step: Step, tools: &mut Tools<'_>) {
        while !self.has_ended() {
            step = match step {
                Step::Begin => match self.try_place(tools) {
                    Ok(()) => return,
                    Err(error) => Step::Next(error),
                },
                Step::Next(error) => {
                    self.turn_to_next(error, tools);
                    Step::Begin
                }
            };
        }
    }

    /// Turns to the next place; without one, the job has failed.
    fn turn_to_next(&mut self, error: NetworkError, tools: &mut Tools<'_>) {
        let written = self.output.as_ref().map_or(0, |output| output.written());
        let mut next = self.at + 1;
        // A server that says nothing says as little of other files.
        if error.is_unreachable() || error.kind() == ErrorKind::Timeout {
            next += self.others_at_server();
        }
        if next == self.places.len() && written > self.written_before && self.begin_round() {
            self.written_before = written;
            next = 0;
        }
        if next == self.places.len() {
            return self.end(Event::Failed(error), tools);
        }
        let source = std::mem::replace(&mut self.at, next);
        tools
            .link
            .reply(self.id, Event::SourceFailed { source, error });
    }

    /// Whether there may be one more round, which begins.
    fn begin_round(&mut self) -> bool {
        let may_begin = self.rounds + 1 < ROUNDS_LIMIT;
        self.rounds += usize::from(may_begin);
        may_begin
    }

    /// Starts with the current place.
    fn try_place(&mut self, tools: &mut Tools<'_>) -> Result<(), NetworkError> {
        self.tally = Rc::default();
        (self.redirections, self.busy) = (0, 0);
        (self.fruitless, self.received_before) = (0, 0);
        self.total = None;
        self.decoders += 1;
        self.decoder = Some(Decoder {
            number: self.decoders,
            stream: Arc::default(),
            claim: tools.budget.claim(self.user),
            is_running: false,
        });
        let result = match &mut self.places[self.at] {
            Place::Url { url, .. } => {
                self.url.clone_from(url);
                self.start_when_rested(tools)
            }
            Place::File { file, .. } => match file.take() {
                Some(file) => self.read_file(file, tools),
                None => Err(NetworkError::new(
                    ErrorKind::Interrupted,
                    "the file was read to its end",
                )),
            },
        };
        result.inspect_err(|_| self.decoder = None)
    }

    fn read_file(&mut self, file: OwnedFd, tools: &mut Tools<'_>) -> Result<(), NetworkError> {
        let file = File::from(file);
        let metadata = file.metadata().ok().filter(|file| file.is_file());
        self.total = metadata.map(|file| file.len());
        self.tally.borrow_mut().received = self.total.unwrap_or_default();
        self.decode(Input::File(file.into()), tools)
    }

    fn decode(&mut self, input: Input, tools: &mut Tools<'_>) -> Result<(), NetworkError> {
        let (Some(decoder), Some(output)) = (&mut self.decoder, &self.output) else {
            return Ok(());
        };
        let (Place::Url { compression, .. } | Place::File { compression, .. }) =
            &self.places[self.at];
        let notes = tools.notes.clone();
        let started = decode::start(
            self.id,
            decoder.number,
            input,
            *compression,
            output.clone(),
            decoder.claim.clone(),
            notes,
        );
        started.map_err(|error| {
            let text = format!("cannot start a thread: {error}");
            NetworkError::new(ErrorKind::Refused, text)
        })?;
        decoder.is_running = true;
        tools.link.reply(
            self.id,
            Event::Started {
                source: self.at,
                total: self.total,
            },
        );
        Ok(())
    }

    /// Starts a transfer, after the server's rest if it was busy a moment ago.
    fn start_when_rested(&mut self, tools: &mut Tools<'_>) -> Result<(), NetworkError> {
        let server = server(&self.url)?;
        let Some(until) = tools.rests.until(&server, Instant::now()) else {
            return self.start_transfer(tools);
        };
        if self.has_other_server(&server) {
            let text = "the server is busy";
            return Err(described(ErrorKind::Status(503), &self.url, text));
        }
        self.resume_at = Some(until);
        Ok(())
    }

    /// How many places that follow are at the same server as the current one, which has delivered nothing.
    fn others_at_server(&self) -> usize {
        let at_server = |place: &Place| match place {
            Place::Url { url, .. } => server(url).ok(),
            Place::File { .. } => None,
        };
        let current = at_server(&self.places[self.at]);
        // Behind a redirection, another one was silent.
        if current.is_none() || current != server(&self.url).ok() {
            return 0;
        }
        let following = self.places[self.at + 1..].iter();
        let same = following.take_while(|place| at_server(place) == current);
        same.count()
    }

    /// Whether one of the places after the current one is not at this server.
    fn has_other_server(&self, name: &str) -> bool {
        self.places[self.at + 1..].iter().any(|place| match place {
            Place::Url { url, .. } => server(url).is_ok_and(|other| other != name),
            Place::File { .. } => true,
        })
    }

    /// The server is busy: leaves it alone, and asks once more afterwards. `false` if that would take
    /// too long, or another server has the same.
    fn wait_for_server(&mut self, retry_after: Option<u64>, tools: &mut Tools<'_>) -> bool {
        let Ok(server) = server(&self.url) else {
            return false;
        };
        self.busy += 1;
        let now = Instant::now();
        let rests = tools.rests.add(&server, retry_after, self.busy, now);
        let waits = rests && self.busy < MAX_ATTEMPTS && !self.has_other_server(&server);
        if waits {
            self.resume_at = Some(tools.rests.until(&server, now).unwrap_or(now));
        }
        waits
    }

    /// Starts a transfer from where the last one broke off.
    fn start_transfer(&mut self, tools: &mut Tools<'_>) -> Result<(), NetworkError> {
        server(&self.url)?;
        let Some(decoder) = &self.decoder else {
            return Ok(());
        };
        let (from, validator) = {
            let mut tally = self.tally.borrow_mut();
            tally.is_accepted = false;
            (tally.received, tally.head.validator.clone())
        };
        let sink = Sink::Stream {
            stream: decoder.stream.clone(),
            from,
            tally: self.tally.clone(),
        };
        let easy = prepare(&self.url, sink, Patience::Silence(self.patience));
        let easy = easy.and_then(|mut easy| {
            if from > 0 {
                ask_for_rest(&mut easy, from, &validator.unwrap_or_default())?;
            }
            Ok(easy)
        });
        self.transfer = Some(tools.engine.start(easy)?);
        Ok(())
    }

    /// Reports progress, starts a decoder when the first bytes have come, and continues what was
    /// interrupted. Returns when this is to be called again at the latest.
    pub fn tend(&mut self, tools: &mut Tools<'_>) -> Option<Instant> {
        let (received, is_accepted) = {
            let tally = self.tally.borrow();
            (tally.received, tally.is_accepted)
        };
        if is_accepted && self.decoder.as_ref().is_some_and(|it| !it.is_running) {
            self.accept(tools);
        }
        if self.resume_at.is_some_and(|at| at <= Instant::now()) {
            self.resume_at = None;
            if let Err(error) = self.start_transfer(tools) {
                self.fail(error, tools);
            }
        }
        if self.has_ended() || self.decoder.as_ref().is_none_or(|it| !it.is_running) {
            return self.resume_at;
        }
        let (reported, when) = self.reported;
        let next = (received != reported).then_some(when + PROGRESS);
        if next.is_some_and(|next| next <= Instant::now()) {
            self.reported = (received, Instant::now());
            let progress = Event::Progress {
                done: received,
                total: self.total,
            };
            tools.link.reply(self.id, progress);
            return self.resume_at;
        }
        next.into_iter().chain(self.resume_at).min()
    }

    /// The server delivers: starts to decompress.
    fn accept(&mut self, tools: &mut Tools<'_>) {
        let Some(decoder) = &self.decoder else { return };
        let stream = decoder.stream.clone();
        self.total = self.tally.borrow().head.length;
        if let Err(error) = self.decode(Input::Stream(stream), tools) {
            self.end(Event::Failed(error), tools);
            if let Some(token) = self.transfer.take() {
                tools.engine.stop(token);
            }
        }
    }

    /// The transfer has ended.
    pub fn transfer_ended(&mut self, ended: Ended, tools: &mut Tools<'_>) {
        self.transfer = None;
        let Some(decoder) = &self.decoder else { return };
        let head = &ended.easy.get_ref().head;
        let (status, retry_after) = (head.status, head.retry_after(SystemTime::now()));
        let mut tally = self.tally.borrow_mut();
        let from = tally.received;
        if !tally.is_accepted && ended.result.is_ok() && delivers(head, from) {
            // The body is empty.
            tally.is_accepted = true;
            tally.head = head.clone();
        }
        let is_accepted = tally.is_accepted;
        let is_whole = tally.head.length.is_some() && tally.received == self.whole(&tally, from);
        drop(tally);
        match &ended.result {
            Ok(()) if is_accepted => {
                decoder.stream.finish();
                if !decoder.is_running {
                    self.accept(tools);
                }
            }
            Err(_) if is_accepted && is_whole => decoder.stream.finish(),
            Err(error) if !is_accepted && has_answer(error, &ended.easy) => {
                // It was ended because nobody wants its body, which is long.
                self.refused(status, retry_after, from, tools);
            }
            Err(error) if is_accepted || from > 0 => {
                let error = failure(error, &ended.easy, &self.url);
                self.interrupted(error, tools);
            }
            Err(error) => {
                let error = failure(error, &ended.easy, &self.url);
                self.fail(error, tools);
            }
            Ok(()) => match redirection(&ended.easy, &self.url, &mut self.redirections) {
                Some(Ok(url)) => {
                    self.url = url;
                    if let Err(error) = self.start_transfer(tools) {
                        self.fail(error, tools);
                    }
                }
                Some(Err(error)) => self.fail(error, tools),
                None => self.refused(status, retry_after, from, tools),
            },
        }
    }

    /// How many bytes of the body there are, as the header of the last transfer says.
    fn whole(&self, tally: &Tally, from: u64) -> u64 {
        let length = tally.head.length.unwrap_or_default();
        match tally.head.range_start {
            Some(start) if from > 0 => start.saturating_add(length),
            _ => length,
        }
    }

    /// The server answers something else.
    fn refused(&mut self, status: u32, retry_after: Option<u64>, from: u64, tools: &mut Tools<'_>) {
        if from > 0 && matches!(status, 200 | 206 | 416) {
            // It has another body now, or doesn't continue any: from the beginning.
            if self.begin_round() {
                return self.abandon(Step::Begin, tools);
            }
            let text = "it breaks off, and the rest can't be had";
            let error = described(ErrorKind::Interrupted, &self.url, text);
            return self.fail(error, tools);
        }
        if is_busy(status) && self.wait_for_server(retry_after, tools) {
            return;
        }
        let text = format!("the server answers with status {status}");
        let error = described(ErrorKind::Status(status), &self.url, &text);
        self.fail(error, tools);
    }

    /// The transfer broke off.
    fn interrupted(&mut self, error: NetworkError, tools: &mut Tools<'_>) {
        let received = self.tally.borrow().received;
        if received >= self.received_before + STRIDE {
            (self.fruitless, self.received_before) = (0, received);
        } else {
            self.fruitless += 1;
        }
        let is_resumable = received > 0 && self.tally.borrow().head.is_resumable();
        if is_resumable && self.fruitless <= FRUITLESS {
            let pause = match self.fruitless {
                0 => Duration::ZERO,
                count => PAUSE * (1 << count),
            };
            self.resume_at = Some(Instant::now() + pause);
            if let Place::Url { url, .. } = &self.places[self.at] {
                self.url.clone_from(url);
                self.redirections = 0;
            }
        } else {
            self.fail(error, tools);
        }
    }

    /// The current place has failed.
    fn fail(&mut self, error: NetworkError, tools: &mut Tools<'_>) {
        self.abandon(Step::Next(error), tools);
    }

    /// Does something else, once the decoder has ended.
    fn abandon(&mut self, step: Step, tools: &mut Tools<'_>) {
        match &self.decoder {
            Some(decoder) if decoder.is_running => {
                decoder.abandon();
                self.then = Some(step);
            }
            _ => {
                self.decoder = None;
                self.go(step, tools);
            }
        }
    }

    /// There is room again for what the transfer brings.
    pub fn has_room(&mut self, decoder: u32, engine: &mut Engine) {
        if self.decoder.as_ref().is_some_and(|it| it.number == decoder) {
            if let Some(token) = self.transfer {
                engine.unpause(token);
            }
        }
    }

    /// A decoder has ended.
    pub fn decoder_ended(&mut self, decoder: u32, outcome: Outcome, tools: &mut Tools<'_>) {
        if self.decoder.as_ref().is_none_or(|it| it.number != decoder) {
            return;
        }
        let waited = self.decoder.take().map_or(0, |it| it.stream.waited());
        self.resume_at = None;
        let transfer = self.transfer.take();
        let then = self.then.take();
        if let Outcome::Complete = outcome {
            if let Some(token) = transfer {
                tools.engine.drain(token);
            }
            let finished = Event::Finished {
                source: self.at,
                received: self.tally.borrow().received,
                waited,
            };
            return self.end(finished, tools);
        }
        if let Some(token) = transfer {
            tools.engine.stop(token);
        }
        let name = match &self.places[self.at] {
            Place::Url { .. } => self.url.as_str(),
            Place::File { .. } => "a file",
        };
        let error = match (outcome, then) {
            (Outcome::Output(OutputError::Pipe(error)), _) => {
                let text = format!("cannot write to the pipe: {error}");
                let error = NetworkError::new(ErrorKind::Output, text);
                return self.end(Event::Failed(error), tools);
            }
            (_, Some(step)) => return self.go(step, tools),
            (Outcome::Corrupt(error), None) => {
                let text = format!("cannot decompress: {error}");
                described(ErrorKind::Corrupt, name, &text)
            }
            (Outcome::Unreadable(error), None) => {
                let text = format!("cannot read it: {error}");
                described(ErrorKind::Interrupted, name, &text)
            }
            (_, None) => described(ErrorKind::Interrupted, name, "it ends too early"),
        };
        self.go(Step::Next(error), tools);
    }
}

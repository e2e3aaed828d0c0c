//! The keeper of a slot: a process that runs the command of one job, and lets hooks connect to the
//! worker at its end. It ends with the job.
//!
//! Its standard input is a socket, on which the hook that has started it first sends the plan; that
//! hook is its first client.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use system::clock::unix_time;
use system::lock::{LockFile, Mode};
use system::poll::{PollFd, PollFlags, is_ready, poll};

use super::clients;
use super::events::{Event, Events, StreamEnd};
use super::failure::{Failure, FailureKind, last_lines};
use super::job::{self, Job};
use super::messages::{self, Reply, Request, Worker};
use super::plan::Plan;
use super::record::{Record, State};
use super::scheduler_command;
use super::worker_stream;
use crate::frames::{Kind, Link};
use crate::stderr_line;

/// How long the hook may take to say what the keeper is for.
const PLAN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long another keeper may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker that has greeted may take to get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a worker may take to end when it is asked to.
const BYE_TIMEOUT: Duration = Duration::from_secs(20);
/// After which time the scheduler is first asked why a job waits, and how often at last.
const FIRST_QUESTION: Duration = Duration::from_millis(500);
const QUESTION_INTERVAL: Duration = Duration::from_secs(15);
/// How long the scheduler may take to answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How often is looked whether the worker is idle.
const TICK: Duration = Duration::from_millis(500);

/// Runs the keeper; returns the exit code.
pub fn run() -> Result<u8> {
    let stream = system::pipe::inherited(0)?.context("standard input is closed")?;
    let stream = UnixStream::from(stream);
    let deadline = Some(Instant::now() + PLAN_TIMEOUT);
    let plan: Plan = messages::read(&stream, deadline)?.context("the hook is gone")?;
    let lock = LockFile::open(plan.file("keeper")).context("opening the keeper's lock")?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    if !lock.lock_unless(Mode::Exclusive, || Instant::now() > deadline)? {
        let text = "the last job of this slot does not end";
        let reply = Reply::Failed(Failure::new(FailureKind::Busy, text));
        messages::write(&stream, &reply)?;
        return Ok(1);
    }
    if let Some(record) = Record::load(&plan.directory, plan.slot) {
        if record.is_open() {
            job::cancel_orphan(&record);
        }
    }
    let events = Arc::new(Events::new()?);
    let mut keeper = Keeper::new(plan, stream, events)?;
    let end = keeper.start().and_then(|()| keeper.keep());
    keeper.end(end);
    drop(lock);
    Ok(0)
}

/// Why a keeper ends, if nothing has failed.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    /// Nobody wants the job.
    Unwanted,
    /// The next build needs another one.
    Unfit,
    /// It was idle.
    Idle,
}

struct Keeper {
    plan: Plan,
    events: Arc<Events>,
    record: Record,
    job: Option<Job>,
    link: Option<Link>,
    /// Since when the worker gets ready, once it has greeted.
    greeted: Option<Instant>,
    worker: Option<Worker>,
    /// Since when the worker answers.
    ready: Instant,
    /// When the record was written last.
    saved: Instant,
    /// The hooks that wait for it.
    waiting: Vec<UnixStream>,
    /// A hook that needs another job.
    turned_away: Option<UnixStream>,
    /// Since when nobody uses it.
    idle: Option<Instant>,
    is_pending: Arc<AtomicBool>,
}

impl Keeper {
    fn new(plan: Plan, first: UnixStream, events: Arc<Events>) -> Result<Keeper> {
        let record = Record {
            job: plan.job.clone(),
            cancel: plan.cancel.clone(),
            run_as: plan.run_as.clone(),
            keeper: std::process::id(),
            since: unix_time(),
            state: State::Pending {
                reason: String::new(),
            },
        };
        Ok(Keeper {
            plan,
            events,
            record,
            job: None,
            link: None,
            greeted: None,
            worker: None,
            ready: Instant::now(),
            saved: Instant::now(),
            waiting: vec![first],
            turned_away: None,
            idle: None,
            is_pending: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Writes down what is about to happen, and starts the command.
    fn start(&mut self) -> Result<(), Failure> {
        self.save()
            .map_err(|error| Failure::local("writing down a job", &error))?;
        clients::listen(&self.plan.file("socket"), &self.events)
            .map_err(|error| Failure::local("listening for hooks", &error))?;
        let (job, input, output) = Job::start(&self.plan)
            .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        self.job = Some(job);
        let hello = self.plan.hello.clone();
        worker_stream::read_on_thread(input, output, hello, self.events.clone())
            .and_then(|()| self.ask_why_it_waits())
            .map_err(|error| Failure::local("starting a thread", &error))
    }

    /// Asks the scheduler now and then, on another thread, as long as the job waits.
    fn ask_why_it_waits(&self) -> io::Result<()> {
        let (words, run_as) = (self.plan.pending.clone(), self.plan.run_as.clone());
        if words.is_empty() {
            return Ok(());
        }
        let (events, is_pending) = (self.events.clone(), self.is_pending.clone());
        let hopeless = self.plan.signs.hopeless.clone();
        let ask = move || {
            let mut interval = FIRST_QUESTION;
            std::thread::sleep(interval);
            while is_pending.load(Ordering::Relaxed) {
                // A scheduler that does not answer now may do so later.
                let answer = scheduler_command::output(&words, run_as.as_deref(), QUESTION_TIMEOUT);
                let answer = answer.unwrap_or_default();
                let reason = answer.lines().next().unwrap_or("").trim();
                let never = hopeless.iter().find(|(sign, _)| reason.contains(sign));
                events.push(Event::Reason(match never {
                    Some((_, meaning)) => {
                        let text = format!("the job would wait for ever: {reason} ({meaning})");
                        Err(Failure::new(FailureKind::Rejected, text))
                    }
                    None => Ok(reason.to_owned()),
                }));
                std::thread::sleep(interval);
                // At first, a scheduler may not have looked at the job yet.
                interval = (2 * interval).min(QUESTION_INTERVAL);
            }
        };
        let thread = std::thread::Builder::new().name("pending".into());
        thread.spawn(ask).map(drop)
    }

    /// Serves hooks until the job ends, or is to.
    fn keep(&mut self) -> Result<Reason, Failure> {
        loop {
            self.wait();
            // However many come meanwhile: a worker that never stops talking may be one to give up.
            for event in self.events.take() {
                if let Some(reason) = self.handle(event)? {
                    return Ok(reason);
                }
            }
            if let Some(reason) = self.look()? {
                return Ok(reason);
            }
        }
    }

    /// Waits for an event, or for a waiting hook to go away.
    fn wait(&mut self) {
        let hooks = self.waiting.iter().map(AsFd::as_fd);
        let fds = std::iter::once(self.events.as_fd()).chain(hooks);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let tick = match self.plan.idle {
            0 => TICK / 5,
            _ => TICK,
        };
        if poll(&mut fds, Some(tick)).is_err() {
            std::thread::sleep(tick);
        }
        // Hooks say nothing while they wait: one that can be read from is gone.
        let gone: Vec<bool> = fds[1..].iter().map(is_ready).collect();
        drop(fds);
        let mut gone = gone.into_iter();
        self.waiting.retain(|_| !gone.next().unwrap_or(false));
    }

    fn handle(&mut self, event: Event) -> Result<Option<Reason>, Failure> {
        match event {
            Event::Client(stream, request) => return Ok(self.client(stream, &request)),
            Event::Reason(reason) if self.greeted.is_none() => self.waits(reason?),
            // The scheduler was asked before the worker greeted.
            Event::Reason(_) => {}
            Event::Greeted(link) => {
                self.link = Some(link);
                self.greeted = Some(Instant::now());
            }
            Event::Ready(hello) => {
                self.ready = Instant::now();
                self.is_pending.store(false, Ordering::Relaxed);
                self.worker = Some(Worker {
                    host: hello.host,
                    job: hello.job,
                    system: hello.system,
                    cores: hello.cores,
                    memory: hello.memory,
                    load: hello.status.load,
                    free: hello.status.free,
                    is_new: true,
                    key: hello.key,
                });
                self.runs(unix_time());
                for stream in std::mem::take(&mut self.waiting) {
                    self.connect(stream);
                }
            }
            Event::Status(status) => {
                if let Some(worker) = &mut self.worker {
                    (worker.load, worker.free) = (status.load, status.free);
                    let heartbeat = Duration::from_millis(self.plan.hello.heartbeat_ms);
                    if self.saved.elapsed() >= heartbeat {
                        let since = self.ready.elapsed().as_secs();
                        self.runs(unix_time().saturating_sub(since));
                    }
                }
            }
            Event::Ended(end) => return Err(self.why(end)),
        }
        Ok(None)
    }

    /// Answers a hook.
    fn client(&mut self, stream: UnixStream, request: &Request) -> Option<Reason> {
        let seconds = match self.worker {
            Some(_) => self.ready.elapsed().as_secs(),
            None => 0,
        };
        match request {
            Request::Build(needs) if !self.plan.will_do(needs, seconds) => {
                self.turned_away = Some(stream);
                return Some(Reason::Unfit);
            }
            Request::Vitals => {
                if let Some(worker) = &self.worker {
                    let _ = messages::write(&stream, &Reply::Ready(worker.clone()));
                }
            }
            Request::Build(_) | Request::Again if self.worker.is_some() => self.connect(stream),
            Request::Build(_) | Request::Again => self.waiting.push(stream),
        }
        None
    }

    /// Gives a hook its connection to the worker's daemon.
    fn connect(&mut self, stream: UnixStream) {
        let (Some(link), Some(worker)) = (&self.link, &mut self.worker) else {
            return;
        };
        self.idle = None;
        // A hook that is gone needs none, and one that gets none sees the end of its stream.
        if messages::write(&stream, &Reply::Ready(worker.clone())).is_ok() {
            worker.is_new = false;
            if let Err(error) = link.open(stream) {
                stderr_line!("cannot connect a hook to the worker: {error}");
            }
        }
    }

    /// Tells the hooks why they wait.
    fn waits(&mut self, reason: String) {
        if self.worker.is_some() {
            return;
        }
        for stream in &self.waiting {
            let reason = reason.clone();
            let _ = messages::write(stream, &Reply::Pending { reason });
        }
        self.record.state = State::Pending { reason };
        let _ = self.save();
    }

    /// Writes down that the job runs.
    fn runs(&mut self, since: u64) {
        if let Some(worker) = &self.worker {
            self.record.state = State::Running {
                host: worker.host.clone(),
                id: worker.job.clone(),
                since,
                load: worker.load,
                free: worker.free,
            };
            let _ = self.save();
        }
    }

    fn save(&mut self) -> io::Result<()> {
        self.saved = Instant::now();
        self.record.save(&self.plan.directory, self.plan.slot)
    }

    /// Whether it is time to end.
    fn look(&mut self) -> Result<Option<Reason>, Failure> {
        let lost = Duration::from_millis(self.plan.hello.lost_ms);
        let (silence, blocked) = match &self.link {
            Some(link) => (link.silence(), link.blocked()),
            None => Default::default(),
        };
        let text = if silence > lost {
            let seconds = silence.as_secs();
            Some(format!("nothing was heard of the worker for {seconds} s"))
        } else if blocked > lost {
            let seconds = blocked.as_secs();
            Some(format!("the worker has read nothing for {seconds} s"))
        } else {
            None
        };
        if let Some(text) = text {
            let text = with_errors(text, &self.last_words());
            return Err(Failure::new(FailureKind::Lost, text));
        }
        if self.worker.is_none() {
            let late = |since: Instant| since.elapsed() > READY_TIMEOUT;
            if self.greeted.is_some_and(late) {
                let text = "the worker has greeted, and does not get ready";
                return Err(Failure::new(FailureKind::NoWorker, text));
            }
            let unwanted = self.waiting.is_empty();
            return Ok(unwanted.then_some(Reason::Unwanted));
        }
        if self.link.as_ref().is_some_and(|link| link.channels() > 0) {
            self.idle = None;
            return Ok(None);
        }
        let since = *self.idle.get_or_insert_with(Instant::now);
        let is_over = since.elapsed().as_secs() >= self.plan.idle;
        Ok(is_over.then_some(Reason::Idle))
    }

    /// Why the stream of the worker has ended. Its exit status tells nothing: that of a node which
    /// fails is 0.
    fn why(&mut self, end: StreamEnd) -> Failure {
        let errors = self.last_words();
        let known = Failure::known(&self.plan.signs, &errors);
        match end {
            StreamEnd::NoWorker(failure) if failure.kind == FailureKind::NoWorker => failure,
            StreamEnd::NoWorker(failure) => known.unwrap_or_else(|| match last_lines(&errors) {
                errors if errors.is_empty() => failure,
                errors => Failure::new(failure.kind, errors),
            }),
            StreamEnd::Failed(failure) => match known {
                Some(known) if failure.kind == FailureKind::Lost => known,
                _ => failure,
            },
            StreamEnd::Bye | StreamEnd::Cut => known.unwrap_or_else(|| {
                let text = "the job has ended".to_owned();
                Failure::new(FailureKind::Lost, with_errors(text, &errors))
            }),
        }
    }

    /// What the command has printed as errors, once it has had a moment to end.
    fn last_words(&self) -> String {
        self.job.as_ref().map(Job::last_words).unwrap_or_default()
    }

    /// Ends the job and tells everybody.
    fn end(mut self, end: Result<Reason, Failure>) {
        self.is_pending.store(false, Ordering::Relaxed);
        // From now on, hooks start another keeper, which waits for our lock.
        let _ = std::fs::remove_file(self.plan.file("socket"));
        if end.is_ok() {
            self.say_bye();
        }
        let failure = end.err();
        // A hook that loses its connection looks there for the reason.
        self.record.state = State::Ending {
            failure: failure.clone(),
        };
        let _ = self.save();
        if let Some(link) = &self.link {
            link.abandon();
        }
        for stream in &self.waiting {
            if let Some(failure) = &failure {
                let _ = messages::write(stream, &Reply::Failed(failure.clone()));
            }
        }
        if let Some(stream) = &self.turned_away {
            let _ = messages::write(stream, &Reply::Unfit);
        }
        // What could not be cancelled, the next keeper cancels.
        if self.job.take().is_none_or(Job::end) {
            self.record.state = State::Ended { failure };
            let _ = self.save();
        }
    }

    /// Asks the worker to end, and gives it some time.
    fn say_bye(&self) {
        let (Some(link), Some(job)) = (self.link.clone(), &self.job) else {
            return;
        };
        // Nothing may wait for a worker that does not read.
        let bye = move || drop(link.send(Kind::Bye, 0, b""));
        if std::thread::Builder::new().spawn(bye).is_ok() {
            job.wait(BYE_TIMEOUT);
        }
    }
}

/// A reason, with the last of a command's errors, if there are any.
fn with_errors(text: String, errors: &str) -> String {
    match last_lines(errors) {
        errors if errors.is_empty() => text,
        errors => format!("{text}: {errors}"),
    }
}

//! The hook's side: a connection to the worker of a slot, through its keeper, which is started if there
//! is none.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use system::socket;

use super::failure::{Failure, FailureKind};
use super::messages::{self, Reply, Request, Worker};
use super::plan::Plan;
use super::program;
use super::record::{self, Record};

/// How often a keeper is started or met again that ends just then.
const ATTEMPTS: u32 = 4;
/// How often the hook says that it still waits.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest wait that is worth a message.
const FIRST_REPORT: Duration = Duration::from_secs(2);
/// How long a keeper may take to find out why it has lost its worker, and how often the hook looks.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(10);
const VERDICT_INTERVAL: Duration = Duration::from_millis(20);
/// How long a keeper may take to answer what it knows already.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives why and how long the build has to wait.
pub type Report<'a> = dyn FnMut(&str, Duration) + 'a;

/// What is said of a build that waits for a job.
pub fn waiting(pool: &str, reason: &str, waited: Duration) -> String {
    let reason = match reason {
        "" => "no reason is known",
        reason => reason,
    };
    format!(
        "waiting for a job of '{pool}' ({} s): {reason}",
        waited.as_secs()
    )
}

/// Connects to the daemon of the slot's worker. The caller holds the slot. Dropping the stream before
/// the worker answers cancels the job.
pub fn connect(
    plan: &Plan,
    deadline: Option<Instant>,
    report: &mut Report<'_>,
) -> Result<(UnixStream, Worker), Failure> {
    let failed = |error: io::Error| Failure::local("talking to a keeper", &error);
    for _ in 0..ATTEMPTS {
        let stream = match existing(plan, &Request::Build(plan.needs.clone())) {
            Some(stream) => stream,
            None => start(plan).map_err(|error| Failure::local("starting a keeper", &error))?,
        };
        match wait(&stream, deadline, report).map_err(failed)? {
            Some(Reply::Ready(worker)) => return Ok((stream, worker)),
            Some(Reply::Failed(failure)) => return Err(failure),
            // Its keeper ends; the next one waits for that.
            Some(Reply::Unfit | Reply::Pending { .. }) | None => {}
        }
    }
    Err(Failure::new(
        FailureKind::Lost,
        "its keepers end without a word",
    ))
}

/// Connects to the same worker again.
pub fn again(plan: &Plan, deadline: Instant) -> Result<UnixStream, Failure> {
    let lost = || Failure::new(FailureKind::Lost, "its keeper is gone");
    let stream = existing(plan, &Request::Again).ok_or_else(lost)?;
    match messages::read(&stream, Some(deadline)) {
        Ok(Some(Reply::Ready(_))) => Ok(stream),
        _ => Err(lost()),
    }
}

/// What the keeper of the slot knows about its worker, if that answers.
pub fn vitals(plan: &Plan) -> Option<Worker> {
    let stream = existing(plan, &Request::Vitals)?;
    match messages::read(&stream, Some(Instant::now() + ANSWER_TIMEOUT)) {
        Ok(Some(Reply::Ready(worker))) => Some(worker),
        _ => None,
    }
}

/// Why the worker of the slot was lost, if its keeper finds out, which may be after a connection has
/// ended.
pub fn last_failure(plan: &Plan) -> Option<Failure> {
    let deadline = Instant::now() + VERDICT_TIMEOUT;
    loop {
        // In this order: a keeper writes the reason before it ends.
        let is_kept = record::is_kept(&plan.directory, plan.slot);
        let record = Record::load(&plan.directory, plan.slot)?;
        let is_open = is_kept && record.is_open() && Instant::now() < deadline;
        if record.failure().is_some() || !is_open {
            return record.failure().cloned();
        }
        std::thread::sleep(VERDICT_INTERVAL);
    }
}

/// A connection to a keeper that runs.
fn existing(plan: &Plan, request: &Request) -> Option<UnixStream> {
    let stream = socket::connect(&plan.file("socket")).ok()?;
    let ours = system::ids::effective_uid();
    let is_ours = socket::peer(&stream).is_ok_and(|peer| peer.uid == ours);
    (is_ours && messages::write(&stream, request).is_ok()).then_some(stream)
}

/// Starts a keeper.
fn start(plan: &Plan) -> io::Result<UnixStream> {
    let log = File::create(plan.file("log"))?;
    let stream = program::start("keeper", log.try_clone()?.into(), log.into())?;
    messages::write(&stream, plan)?;
    Ok(stream)
}

/// Waits for the keeper's last word, and reports now and then that it waits.
fn wait(
    stream: &UnixStream,
    deadline: Option<Instant>,
    report: &mut Report<'_>,
) -> io::Result<Option<Reply>> {
    let began = Instant::now();
    let mut next = began + FIRST_REPORT;
    let (mut last, mut line) = (String::new(), Vec::new());
    loop {
        let until = deadline.map_or(next, |deadline| deadline.min(next));
        match messages::read_on(stream, Some(until), &mut line) {
            Ok(Some(Reply::Pending { reason })) => {
                if reason != last {
                    last = reason;
                    report(&last, began.elapsed());
                    next = Instant::now() + REPORT_INTERVAL;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    let text = match last.as_str() {
                        "" => "there is still no job".to_owned(),
                        reason => format!("there is still no job: {reason}"),
                    };
                    let text = format!("{text} (after {} s)", began.elapsed().as_secs());
                    return Ok(Some(Reply::Failed(Failure::new(FailureKind::Busy, text))));
                }
                report(&last, began.elapsed());
                next = Instant::now() + REPORT_INTERVAL;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::pipe;

    #[test]
    fn a_job_that_does_not_start_in_time_is_given_up_as_busy() {
        let (ours, theirs) = pipe::socket_pair().unwrap();
        let reason = "Priority".to_owned();
        messages::write(&theirs, &Reply::Pending { reason }).unwrap();
        let mut reports = Vec::new();
        let mut report = |reason: &str, _| reports.push(reason.to_owned());
        let deadline = Instant::now() + Duration::from_millis(50);
        let reply = wait(&ours, Some(deadline), &mut report).unwrap();
        let Some(Reply::Failed(failure)) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(failure.kind, FailureKind::Busy);
        assert_eq!(failure.text, "there is still no job: Priority (after 0 s)");
        assert_eq!(reports, ["Priority"]);
    }

    #[test]
    fn a_worker_that_answers_in_time_ends_the_wait() {
        let (ours, theirs) = pipe::socket_pair().unwrap();
        for reason in ["", "Resources", "Resources"] {
            let reason = reason.to_owned();
            messages::write(&theirs, &Reply::Pending { reason }).unwrap();
        }
        messages::write(&theirs, &Reply::Ready(Worker::default())).unwrap();
        let mut reports = Vec::new();
        let mut report = |reason: &str, _| reports.push(reason.to_owned());
        let deadline = Instant::now() + Duration::from_secs(600);
        let reply = wait(&ours, Some(deadline), &mut report).unwrap();
        assert_eq!(reply, Some(Reply::Ready(Worker::default())));
        assert_eq!(reports, ["Resources"], "the same is said once");
    }
}

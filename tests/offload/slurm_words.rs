//! What the hook expects of Slurm's commands, of a real cluster: that the words of its preset run a
//! program whose input and output are clean streams, and that Slurm's messages mean what the preset says.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use hook::machines::{Pool, Scheduler};
use hook::pool::command_line::{Values, expand};
use hook::pool::failure::{Failure, FailureKind};
use hook::pool::templates::Templates;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cluster::{Cluster, NodeKind, UID, USER};
use crate::farm::Farm;
use crate::harness::{TEST_TIMEOUT, eventually};
use crate::namespaces::output;

/// What a job asks for.
struct Job(Values);

/// What the hook knows about Slurm.
fn slurm() -> Templates {
    Templates::of(&Pool {
        scheduler: Some(Scheduler::Slurm),
        ..Pool::default()
    })
}

/// What the hook makes of what Slurm has said.
fn kind(said: &str) -> Option<FailureKind> {
    Failure::known(&slurm().signs, said).map(|failure| failure.kind)
}

/// Whether the hook would wait no longer.
fn is_hopeless(reason: &str) -> bool {
    slurm()
        .signs
        .hopeless
        .iter()
        .any(|(sign, _)| reason.contains(sign))
}

/// A running `srun`, which is killed on drop, with its process group.
struct Srun(Child);

impl Srun {
    fn wait(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Srun {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = Pid::from_raw(self.0.id() as i32);
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

impl Job {
    fn new(name: &str) -> Job {
        Job(Values {
            cores: Some(1),
            minutes: Some(5),
            memory: Some(100),
            job: name.to_owned(),
            user: "root".to_owned(),
            ..Values::default()
        })
    }

    fn option(mut self, word: &str) -> Job {
        self.0.options.push(word.to_owned());
        self
    }

    /// The words that run a program as this job.
    fn words(&self, program: &[&str]) -> Vec<String> {
        let mut values = self.0.clone();
        values.worker = program.iter().map(|word| (*word).to_owned()).collect();
        expand(&slurm().command, &values)
    }

    /// A command of the hook's on the head.
    fn command(&self, farm: &Farm, words: &[String]) -> Command {
        let words = expand(words, &self.0);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        farm.on_head(&command)
    }

    /// Whether it succeeds, and what it prints.
    fn run(&self, farm: &Farm, program: &[&str]) -> (bool, String) {
        output(self.command(farm, &self.words(program)), b"")
    }

    /// The same, as a user who is not root.
    fn run_as_user(&self, farm: &Farm, program: &[&str]) -> (bool, String) {
        output(self.command_of_user(farm, program), b"")
    }

    fn command_of_user(&self, farm: &Farm, program: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={UID}"), format!("--regid={UID}")])
            .arg("--clear-groups")
            .args(self.words(program));
        farm.on_head(&command)
    }

    /// Starts it in a process group of its own.
    fn start(&self, farm: &Farm, program: &[&str]) -> Srun {
        start(self.command(farm, &self.words(program)))
    }

    /// The line about it while it waits.
    fn pending(&self, farm: &Farm) -> String {
        let (succeeded, text) = output(self.command(farm, &slurm().pending), b"");
        assert!(succeeded, "{text}");
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Starts a job, and waits until Slurm says that it waits for this reason.
    #[track_caller]
    fn start_waiting(&self, farm: &Farm, reason: &str, hopeless: bool) -> Srun {
        let child = self.start(farm, &["/bin/true"]);
        let waits = || self.pending(farm).ends_with(&format!(": {reason}"));
        assert!(eventually(waits), "{}", self.pending(farm));
        let line = self.pending(farm);
        assert!(line.starts_with("job "), "{line}");
        assert_eq!(is_hopeless(&line), hopeless, "{line}");
        child
    }

    /// The same, and ends it.
    #[track_caller]
    fn waits_for(&self, farm: &Farm, cluster: &Cluster, reason: &str, hopeless: bool) {
        let mut child = self.start_waiting(farm, reason, hopeless);
        self.cancel(farm);
        child.wait();
        cluster.assert_nothing_left(farm);
    }

    fn cancel(&self, farm: &Farm) {
        let (succeeded, text) = output(self.command(farm, &slurm().cancel), b"");
        assert!(succeeded && text.is_empty(), "{text}");
    }

    /// Runs it, and returns what the hook makes of its messages.
    #[track_caller]
    fn fails(&self, farm: &Farm, program: &[&str]) -> (Option<FailureKind>, String) {
        let (_, said) = self.run(farm, program);
        (kind(&said), said)
    }
}

fn start(mut command: Command) -> Srun {
    use std::os::unix::process::CommandExt;
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Srun(command.spawn().unwrap())
}

#[test]
fn a_job_is_a_clean_stream_and_ends_when_it_is_cancelled() {
    let farm = Farm::with(&[]);
    let cluster = Cluster::start(&farm, &[NodeKind::default(), NodeKind::default()]);
    // Bytes of all kinds, no line, and nothing but what was sent.
    let job = Job::new("echo");
    let mut child = job.start(&farm, &["/bin/cat"]);
    let (mut to, mut from) = (
        child.0.stdin.take().unwrap(),
        child.0.stdout.take().unwrap(),
    );
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        to.write_all(&copy).unwrap();
        to
    });
    let mut came = vec![0; sent.len()];
    from.read_exact(&mut came).unwrap();
    assert!(came == sent, "other bytes came back");
    assert_eq!(cluster.jobs(&farm).len(), 1);
    drop(writer.join().unwrap());
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).unwrap();
    assert_eq!((rest.len(), child.wait()), (0, true));

    // Neither the head's environment nor its directory.
    let script = "pwd; env | grep -v '^SLURM\\|^TMPDIR=' || true; ulimit -n";
    let (succeeded, said) = Job::new("env").run(&farm, &["/bin/sh", "-c", script]);
    assert!(
        succeeded && said.starts_with("/tmp\n") && !said.contains("GUIX"),
        "{said}"
    );

    // Cancelled by its name: while it runs, while it waits, and if there is none.
    let running = Job::new("running");
    let mut child = running.start(&farm, &["/bin/sleep", "1000"]);
    let runs = || {
        cluster
            .jobs(&farm)
            .iter()
            .any(|job| job.starts_with("running RUNNING"))
    };
    assert!(eventually(runs), "{:?}", cluster.jobs(&farm));
    assert_eq!(running.pending(&farm), "");
    running.cancel(&farm);
    child.wait();
    cluster.assert_nothing_left(&farm);
    running.cancel(&farm);

    // As somebody else.
    let (succeeded, said) = Job::new("somebody").run_as_user(&farm, &["/usr/bin/id", "-u"]);
    assert!(succeeded && said == format!("{UID}\n"), "{USER}: {said}");
    cluster.assert_nothing_left(&farm);
}

#[test]
fn the_jobs_of_other_users_are_neither_asked_about_nor_ended() {
    let farm = Farm::with(&[]);
    let cluster = Cluster::start(&farm, &[NodeKind::default()]);
    let job = Job::new("same");
    let jobs = |state: &str| {
        let mut jobs = cluster.jobs(&farm);
        jobs.retain(|job| job.starts_with(&format!("same {state}")));
        jobs.len()
    };
    let mut theirs = start(job.command_of_user(&farm, &["/bin/sleep", "1000"]));
    assert!(
        eventually(|| jobs("RUNNING") == 1),
        "{:?}",
        cluster.jobs(&farm)
    );
    // One that would wait for ever, by which a pool would be refused.
    let mut hopeless = Job::new("same");
    hopeless.0.cores = Some(5);
    let mut waiting = start(hopeless.command_of_user(&farm, &["/bin/true"]));
    assert!(
        eventually(|| jobs("PENDING") == 1),
        "{:?}",
        cluster.jobs(&farm)
    );
    assert_eq!(job.pending(&farm), "");
    job.cancel(&farm);
    assert_eq!((jobs("RUNNING"), jobs("PENDING")), (1, 1));
    let mut of_user = Job::new("same");
    of_user.0.user = USER.to_owned();
    assert!(of_user.pending(&farm).starts_with("job "));
    of_user.cancel(&farm);
    theirs.wait();
    waiting.wait();
    cluster.assert_nothing_left(&farm);
}

#[test]
fn what_slurm_says_when_there_is_no_room() {
    let farm = Farm::with(&[]);
    let cluster = Cluster::start(&farm, &[NodeKind::default()]);
    let mut large = Job::new("large");
    large.0.cores = Some(4);
    let mut child = large.start(&farm, &["/bin/sleep", "1000"]);
    let runs = || {
        cluster
            .jobs(&farm)
            .iter()
            .any(|job| job.starts_with("large RUNNING"))
    };
    assert!(eventually(runs), "{:?}", cluster.jobs(&farm));

    let mut now = Job::new("now");
    now.0.now = true;
    let (meaning, said) = now.fails(&farm, &["/bin/true"]);
    assert_eq!(meaning, Some(FailureKind::Busy), "{said}");
    let mut waits = Job::new("waiting").start_waiting(&farm, "Resources", false);
    let mut waits_too = Job::new("second").start_waiting(&farm, "Priority", false);
    large.cancel(&farm);
    child.wait();
    assert!(waits.wait() && waits_too.wait());
    cluster.assert_nothing_left(&farm);
}

#[test]
fn what_slurm_says_of_requests_that_nothing_can_meet() {
    let farm = Farm::with(&[]);
    let gpu = NodeKind {
        has_gpu: true,
        ..NodeKind::default()
    };
    let mut cluster = Cluster::start(&farm, &[gpu]);
    for option in [
        "--partition=nowhere",
        "--constraint=unheard-of",
        "--gres=gpu:9",
        "--mem=99999999M",
        "--nonsense",
    ] {
        let (meaning, said) = Job::new("wrong")
            .option(option)
            .fails(&farm, &["/bin/true"]);
        // Such words are shown as they are.
        let told = !said.is_empty() && meaning.is_none();
        assert!(told, "{option}: {meaning:?}: {said}");
    }
    let (succeeded, said) = Job::new("gpu")
        .option("--gres=gpu:1")
        .run(&farm, &["/bin/true"]);
    assert!(succeeded, "{said}");
    // The partition of a group that the user is not in.
    let job = Job::new("closed").option("--partition=closed");
    let (succeeded, said) = job.run_as_user(&farm, &["/bin/true"]);
    assert!(!succeeded && kind(&said).is_none(), "{said}");
    assert!(
        said.contains("not permitted to use this partition"),
        "{said}"
    );

    // These wait for ever.
    let mut cores = Job::new("cores");
    cores.0.cores = Some(5);
    cores.waits_for(&farm, &cluster, "PartitionConfig", true);
    let mut time = Job::new("time");
    time.0.minutes = Some(61);
    time.waits_for(&farm, &cluster, "PartitionTimeLimit", true);

    cluster.kill_controller();
    let (meaning, said) = Job::new("nobody").fails(&farm, &["/bin/true"]);
    assert_eq!(meaning, Some(FailureKind::Unreachable), "{said}");
    cluster.start_controller();
    // (It may take jobs that have ended meanwhile for running ones for a while.)
    let (succeeded, said) = Job::new("again").run(&farm, &["/bin/true"]);
    assert!(succeeded, "{said}");
}

#[test]
fn what_slurm_says_when_a_job_does_not_end_well() {
    let farm = Farm::with(&[]);
    let mut cluster = Cluster::start(&farm, &[NodeKind::default(), NodeKind::default()]);
    // Memory that is really used; a shell's variable.
    let script = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); sleep 100";
    let (meaning, said) = Job::new("memory").fails(&farm, &["/bin/sh", "-c", script]);
    assert_eq!(meaning, Some(FailureKind::Exhausted), "{said}");

    // A node that is switched off, and one whose cable is cut. srun says so, and may not end then.
    let job = Job::new("lost").option("--nodelist=node-2");
    for switched_off in [true, false] {
        let mut child = job.start(&farm, &["/bin/sleep", "1000"]);
        let runs = || !cluster.processes(1).is_empty();
        assert!(eventually(runs), "{:?}", cluster.jobs(&farm));
        match switched_off {
            true => cluster.switch_off(1),
            false => cluster.set_cable(1, false),
        }
        let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = lines.map_while(Result::ok);
            sender.send(lines.any(|line| kind(&line) == Some(FailureKind::Lost)))
        });
        let lost = said.recv_timeout(10 * TEST_TIMEOUT);
        drop(child);
        assert_eq!(lost, Ok(true), "srun says nothing of it, or has ended");
        match switched_off {
            true => cluster.switch_on(1),
            false => cluster.set_cable(1, true),
        }
        cluster.wait_until_idle(&farm);
    }
    cluster.assert_nothing_left(&farm);
}

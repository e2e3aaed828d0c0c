//! Every way in which a worker ends: its processes end with it, and its directories are removed, at the
//! latest by the next worker.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hook::frames::{Class, DATA_LIMIT, FrameReader, FrameWriter, Kind, encode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::derivations::{Building, Script, processes_with};
use crate::harness::{TEST_TIMEOUT, eventually, is_ours};
use crate::worker_job::{Job, Node, wishes};

/// A worker with a build that would not end.
struct Busy {
    job: Job,
    _building: Building,
    marker: String,
}

fn busy(node: &Node, job: Job) -> Busy {
    let mut client = job.client();
    let marker = format!("55555.{}", rand::random::<u32>());
    let script = format!("setsid sleep {marker} & echo begun; sleep {marker}");
    let drv = client.write(Script::new("endless", &script));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    assert!(!node.processes().is_empty());
    Busy {
        job,
        _building: building,
        marker,
    }
}

impl Busy {
    /// Requires that nothing runs any more.
    #[track_caller]
    fn has_ended(&mut self, node: &Node) {
        self.job.wait();
        assert!(eventually(|| processes_with(&self.marker).is_empty()));
        node.has_no_processes();
    }
}

/// Requires that the next worker removes what is left, and its own.
#[track_caller]
fn is_swept(node: &Node) {
    let left = node.left();
    assert!(!left.is_empty());
    let job = Job::start(node, &[]);
    for directory in left {
        assert!(eventually(|| !directory.exists()), "{directory:?}");
    }
    job.end();
    node.has_nothing_left();
}

#[test]
fn a_signal_ends_it_with_a_word() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut busy = busy(&node, Job::start(&node, &[]));
        busy.job.signal(signal);
        assert_eq!(busy.job.failure().class, Class::Signal);
        busy.has_ended(&node);
        node.has_nothing_left();
    }
}

#[test]
fn the_end_of_its_input_ends_it() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    // `Job' keeps the input open: what lies in between ends.
    let note = node.scratch().join("pid");
    let script = format!("sh -c 'echo $$ >{0}; exec cat' | \"$@\"", note.display());
    let mut busy = busy(&node, Job::run(&node, node.script(&script), &wishes()));
    let between: i32 = fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    fs::remove_file(note).unwrap();
    kill(Pid::from_raw(between), Signal::SIGTERM).unwrap();
    busy.has_ended(&node);
    node.has_nothing_left();
}

#[test]
fn killed_it_leaves_no_process_and_its_directory_is_swept() {
    if !is_ours() {
        return;
    }
    for node in [Node::new(), Node::of_this_user()] {
        let mut busy = busy(&node, Job::start(&node, &[]));
        busy.job.signal(Signal::SIGKILL);
        assert_eq!(busy.job.wait().signal(), Some(Signal::SIGKILL as i32));
        busy.has_ended(&node);
        is_swept(&node);
    }
}

#[test]
fn if_the_process_that_serves_is_killed_the_other_cleans_up() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let mut busy = busy(&node, Job::start(&node, &[]));
    let first = busy.job.child.id();
    let children = format!("/proc/{first}/task/{first}/children");
    let children = fs::read_to_string(children).unwrap();
    let second: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    busy.has_ended(&node);
    node.has_nothing_left();
}

#[test]
fn if_its_daemon_is_killed_it_says_so() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let mut busy = busy(&node, Job::start(&node, &[]));
    let name = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let daemons = node.processes();
    let daemon = daemons
        .iter()
        .find(|pid| name(pid).starts_with(b"guix-daemon\0"));
    kill(Pid::from_raw(*daemon.unwrap()), Signal::SIGKILL).unwrap();
    let failure = busy.job.failure();
    assert_eq!(failure.class, Class::Daemon);
    assert!(failure.text.contains("signal 9"), "{failure}");
    busy.has_ended(&node);
    node.has_nothing_left();
}

#[test]
fn it_ends_with_its_parent() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    // The input stays open when the shell is killed.
    let script = "\"$@\"; exit 7";
    let mut busy = busy(&node, Job::run(&node, node.script(script), &wishes()));
    busy.job.signal(Signal::SIGKILL);
    busy.has_ended(&node);
    node.has_nothing_left();
}

#[test]
fn silence_ends_it() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let mut hello = wishes();
    // The keeper of this test would only speak after an hour.
    hello.heartbeat_ms = 3_600_000;
    // Within it, the worker starts its daemon.
    hello.lost_ms = 6000;
    let began = Instant::now();
    let mut job = Job::run(&node, node.command(&[]), &hello);
    assert_eq!(job.wait().code(), Some(1));
    assert!(began.elapsed() >= Duration::from_millis(6000));
    assert!(
        job.said().contains("nothing was heard of the head"),
        "{}",
        job.said()
    );
    node.has_nothing_left();
    // And before the first word.
    let mut command = node.command(&["--patience=1"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    node.has_nothing_left();
}

#[test]
fn a_keeper_that_reads_no_more_ends_it() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let mut command = node.command(&[]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut writer = FrameWriter::new(child.stdin.take().unwrap());
    let mut reader = FrameReader::new(child.stdout.take().unwrap());
    reader.greeting().unwrap();
    writer.greet().unwrap();
    writer.write(Kind::Hello, 0, &encode(&wishes())).unwrap();
    while reader.next().unwrap().unwrap().kind != Kind::Hello {}
    drop(reader);
    // It hears that the keeper lives, and can't answer.
    let deadline = Instant::now() + TEST_TIMEOUT;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        let _ = writer.write(Kind::Ping, 0, b"");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    node.has_nothing_left();
}

#[test]
fn heartbeats_go_both_ways() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let mut hello = wishes();
    hello.lost_ms = 2_000;
    let job = Job::run(&node, node.command(&[]), &hello);
    use crate::worker_job::Event;
    use hook::frames::Received;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        let status = job.wait_for(|event| matches!(event, Event::Frame(Received::Status(_))));
        let Event::Frame(Received::Status(status)) = status else {
            unreachable!()
        };
        assert!(status.load.is_some() && status.free.is_some());
    }
    job.end();
}

#[test]
fn what_no_keeper_sends_ends_it_with_a_word() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let frames = |frames: &[(Kind, u16, Vec<u8>)]| {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes);
        for (kind, channel, payload) in frames {
            writer.write(*kind, *channel, payload).unwrap();
        }
        bytes
    };
    let flood = vec![(Kind::Data, 200, vec![7; DATA_LIMIT]); 400];
    let opened: Vec<_> = (1..1000)
        .map(|channel| (Kind::Open, channel, vec![]))
        .collect();
    let garbage: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
    for bytes in [
        garbage,
        frames(&[&[(Kind::Open, 200, vec![])], &flood[..]].concat()),
        frames(&opened),
        frames(&[(Kind::Data, 9, b"hello".to_vec())]),
        frames(&[(Kind::Hello, 0, b"{}".to_vec())]),
        frames(&[(Kind::Credit, 0, vec![0xff; 4])]),
        vec![3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut job = Job::start(&node, &[]);
        job.write(&bytes);
        let failure = job.failure();
        assert_eq!(failure.class, Class::Protocol, "{failure}");
        assert_eq!(job.wait().code(), Some(1));
    }
    node.has_nothing_left();
}

#[test]
fn many_pings_and_channels_take_little_memory() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let job = Job::start(&node, &[]);
    let resident = || {
        let pids = node.processes();
        let worker = |pid: &&i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("worker\0")
        };
        let kib = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        pids.iter()
            .filter(worker)
            .filter_map(kib)
            .max()
            .unwrap_or(0)
    };
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes);
    for _ in 0..100_000 {
        writer.write(Kind::Ping, 0, b"").unwrap();
    }
    job.write(&bytes);
    // Each has its window full of what its daemon can't make sense of.
    let connections: Vec<_> = (0..8).map(|_| job.connect()).collect();
    for connection in &connections {
        let _ = (&*connection).write_all(&vec![b'x'; 4 << 20]);
    }
    assert!(resident() < 64 << 10, "{} KiB", resident());
    drop(connections);
    assert!(eventually(|| job.link.channels() == 0));
    job.end();
    node.has_nothing_left();
}

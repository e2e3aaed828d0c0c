use super::*;
use crate::pipe;
use crate::signal::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

fn output_of(spawn: Spawn) -> String {
    let (reader, writer) = pipe::pipe().unwrap();
    let mut child = spawn.fd(writer, 1).spawn().unwrap();
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn a_program_gets_its_name_arguments_environment_and_directory() {
    let script = r#"echo "$0 $1 $A $(pwd) ${HOME-unset}""#;
    let spawn = Spawn::new("/bin/sh")
        .arg0("shell")
        .args(["-c", script, "zero", "one"]);
    let spawn = spawn
        .env_clear()
        .env("A", "a")
        .env("A", "b")
        .current_dir("/usr");
    assert_eq!(output_of(spawn), "zero one b /usr unset\n");
}

#[test]
fn descriptors_arrive_under_their_numbers_whatever_the_sources_are() {
    // Two files whose numbers are each other's targets, and one whose number is its own target.
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file
    };
    let (a, b, c) = (file("a"), file("b"), file("c"));
    let (na, nb, nc) = (a.as_raw_fd(), b.as_raw_fd(), c.as_raw_fd());
    // Names under /proc, since the shell only accepts single digits.
    let script =
        format!("cat /proc/self/fd/{nb} /proc/self/fd/{na} /proc/self/fd/{nc}; ls /proc/self/fd");
    let spawn = Spawn::new("/bin/sh")
        .args(["-c", &script])
        .fd(a, nb)
        .fd(b, na)
        .fd(c, nc);
    let text = output_of(spawn);
    let mut expected: Vec<i32> = vec![0, 1, 2, na, nb, nc];
    expected.sort_unstable();
    let (content, listing) = text.split_at(3);
    assert_eq!(content, "abc");
    let mut numbers: Vec<i32> = listing
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    // `ls` itself has the directory open, as the first free number.
    let extra = numbers.iter().position(|n| !expected.contains(n)).unwrap();
    numbers.remove(extra);
    assert_eq!(numbers, expected);
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_with_its_name() {
    let error = Spawn::new("/no/such/program").spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    let text = error.to_string();
    assert!(
        text.starts_with("cannot execute `/no/such/program': No such file"),
        "{text}"
    );
    let error = Spawn::new("/bin/true")
        .current_dir("/no/dir")
        .spawn()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot change to directory `/no/dir'"),
        "{error}"
    );
    assert!(Spawn::new("/bin/true").arg("a\0b").spawn().is_err());
}

#[test]
fn signals_are_the_defaults_in_the_program() {
    crate::signal::ignore_broken_pipes().unwrap();
    let text =
        output_of(Spawn::new("/bin/grep").args(["^Sig\\(Blk\\|Ign\\)", "/proc/self/status"]));
    assert_eq!(
        text,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

#[test]
fn dropping_a_child_kills_its_group() {
    let (reader, writer) = pipe::pipe().unwrap();
    let script = "sleep 1000 & echo started; wait";
    let child = Spawn::new("/bin/sh")
        .args(["-c", script])
        .setsid()
        .fd(writer, 1)
        .spawn()
        .unwrap();
    let mut reader = File::from(reader);
    let mut line = [0; 8];
    reader.read_exact(&mut line).unwrap();
    let pid = child.pid();
    drop(child);
    // End of file is only reached when the background process is gone too.
    assert_eq!(reader.read(&mut line).unwrap(), 0);
    assert!(!process_exists(pid));
}

#[test]
fn waiting_can_be_limited_and_repeated() {
    let mut child = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    assert!(
        child
            .wait_timeout(Duration::from_millis(10))
            .unwrap()
            .is_none()
    );
    child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    child.kill_group().unwrap();
}

#[test]
fn a_process_tied_to_its_thread_ends_with_it() {
    let child = std::thread::spawn(|| {
        let spawn = Spawn::new("/bin/sleep")
            .arg("1000")
            .parent_death_signal(Signal::SIGKILL);
        spawn.spawn().unwrap()
    });
    let mut child = child.join().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn spawning_among_busy_threads_does_not_hang() {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                for i in 0..50 {
                    let garbage: Vec<String> = (0..100).map(|n| format!("{n}{i}")).collect();
                    let mut child = Spawn::new("/bin/true").args(garbage).spawn().unwrap();
                    assert!(child.wait().unwrap().success());
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn root_processes_are_never_killed_wholesale() {
    let parent = std::os::unix::process::parent_id();
    assert!(kill_user_from_here(0, parent).is_err());
}

#[test]
fn a_child_can_become_another_user_and_stay_tied_to_its_thread() {
    if crate::ids::effective_uid() != 0 {
        return; // only root can
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let starter = std::thread::spawn(move || {
        let script = "echo $(id -u) $(id -g) $(id -G); exec sleep 1000";
        let (reader, writer) = pipe::pipe().unwrap();
        let spawn = Spawn::new("/bin/sh").args(["-c", script]);
        let spawn = spawn.user(12345, 12346, vec![12346, 12347]);
        let spawn = spawn.parent_death_signal(Signal::SIGTERM);
        let child = spawn.fd(writer, 1).spawn().unwrap();
        let mut line = [0; 24];
        let count = File::from(reader).read(&mut line).unwrap();
        sender.send((child, line[..count].to_vec())).unwrap();
    });
    let (mut child, line) = receiver.recv().unwrap();
    starter.join().unwrap();
    assert_eq!(line, b"12345 12346 12346 12347\n");
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    // Nobody else has changed.
    assert_eq!(crate::ids::effective_uid(), 0);
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let (reader, writer) = pipe::pipe().unwrap();
    let script = "sleep 1000 & echo; trap : TERM; wait; wait";
    let spawn = Spawn::new("/bin/sh").args(["-c", script]).setsid();
    let mut child = spawn.fd(writer, 1).spawn().unwrap();
    let mut reader = File::from(reader);
    assert_eq!(reader.read(&mut [0]).unwrap(), 1);
    child.signal_group(Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_child_that_is_left_to_itself_goes_on() {
    let (reader, writer) = pipe::pipe().unwrap();
    let (command, input) = pipe::pipe().unwrap();
    let spawn = Spawn::new("/bin/cat").setsid().fd(command, 0).fd(writer, 1);
    spawn.spawn().unwrap().leave();
    File::from(input).write_all(b"on").unwrap();
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "on");
}

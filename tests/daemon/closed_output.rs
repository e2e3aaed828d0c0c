//! Standard output and standard error that are closed or full.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use protocol::client::{Connection, Options};

use crate::harness::{Site, eventually, program};
use crate::only_ours;
use crate::support::*;

/// Options that print on standard output and exit.
const PRINTING: [&str; 4] = ["--help", "--version", "--usage", "--check-setup"];

fn full() -> Stdio {
    let full: File = OpenOptions::new().write(true).open("/dev/full").unwrap();
    full.into()
}

/// A pipe without a reader.
fn closed() -> Stdio {
    let (_, writer): (OwnedFd, OwnedFd) = system::pipe::pipe().unwrap();
    writer.into()
}

#[test]
fn a_full_disk_is_an_error() {
    only_ours!();
    let site = Site::new();
    for option in PRINTING {
        let mut command = site.command(program());
        let run = command.arg(option).stdout(full()).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&run.stderr),
            "error: standard output: No space left on device\n",
            "{option}"
        );
        assert_eq!(run.status.code(), Some(1), "{option}");
    }
}

#[test]
fn a_reader_that_is_gone_ends_it_quietly() {
    only_ours!();
    let site = Site::new();
    for option in PRINTING {
        let mut command = site.command(program());
        let run = command.arg(option).stdout(closed()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stderr), "", "{option}");
        let signal = Some(Signal::SIGPIPE as i32);
        assert_eq!(run.status.signal(), signal, "{option}");
    }
}

#[test]
fn an_error_that_cannot_be_written_is_still_an_error() {
    only_ours!();
    let site = Site::new();
    for (options, status) in [(["--rounds=x"], 1), (["--no-such-option"], 64)] {
        for stderr in [full, closed] {
            let mut command = site.command(program());
            let status_now = command.args(options).stderr(stderr()).status().unwrap();
            assert_eq!(status_now.code(), Some(status), "{options:?}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_daemon() {
    only_ours!();
    for stderr in [full, closed] {
        let site = Site::new();
        let mut command = site.command(program());
        command.args(["--debug", "--no-substitutes"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let _daemon = Process(command.stderr(stderr()).spawn().unwrap());
        let serves = || UnixStream::connect(site.socket()).is_ok();
        assert!(eventually(serves));
        let dir = formats::StoreDir::new(site.store().to_str().unwrap()).unwrap();
        for _ in 0..3 {
            // Each causes a message in the log.
            let stream = UnixStream::connect(site.socket()).unwrap();
            let mut client = Connection::over_unix(stream, &dir, &Options::default()).unwrap();
            assert_eq!(client.builtin_builders().unwrap().len(), 2);
        }
    }
}

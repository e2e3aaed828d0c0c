//! `guix-client processes`: the daemon's sessions, their clients, and their processes.
//!
//! Sessions of Guix's own daemon are separate processes, which have the client's process id as an
//! argument. Ours has a thread for each, named `client NUMBER`; the processes of all builds are its
//! children.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::daemon;
use crate::output;

/// How to list them.
#[derive(Args)]
pub struct Arguments {
    /// The output format; recutils is the only one
    #[arg(short, long, value_name = "FORMAT", default_value = "recutils", value_parser = ["recutils"])]
    format: String,
}

/// A process.
struct Process {
    parent: u32,
    command: Vec<String>,
}

/// A client, and the process that serves it.
struct SessionRecord {
    daemon_pid: u32,
    client_pid: u32,
}

/// Prints the sessions as records.
pub fn run(_: Arguments) -> Result<ExitCode> {
    let store = daemon::directories()?.store;
    let processes = processes().context("listing processes in /proc")?;
    let sessions = sessions(&processes);
    if sessions.is_empty() {
        output::info("processes", "no daemon has a client");
    }
    for record in sessions {
        let Some(client) = processes.get(&record.client_pid) else {
            continue;
        };
        output::lines([
            format!("SessionPID: {}", record.daemon_pid),
            format!("ClientPID: {}", record.client_pid),
            format!("ClientCommand: {}", client.command.join(" ")),
        ])?;
        let prefix = format!("{store}/");
        let locks = open_files(record.daemon_pid);
        let held = locks
            .iter()
            .filter(|file| file.starts_with(&prefix) && file.ends_with(".lock"));
        output::lines(held.map(|file| format!("LockHeld: {file}")))?;
        for (pid, process) in &processes {
            if process.parent == record.daemon_pid {
                output::lines([
                    format!("ChildPID: {pid}"),
                    format!("ChildCommand: {}", process.command.join(" ")),
                ])?;
            }
        }
        output::lines([""])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn sessions(processes: &BTreeMap<u32, Process>) -> Vec<SessionRecord> {
    let mut sessions = Vec::new();
    for (&daemon, process) in processes {
        let name = process
            .command
            .first()
            .map(|program| Path::new(program).file_name());
        if name.flatten() != Some("guix-daemon".as_ref()) {
            continue;
        }
        if let Some(client) = process.command.get(1).and_then(|word| word.parse().ok()) {
            sessions.push(SessionRecord {
                daemon_pid: daemon,
                client_pid: client,
            });
            continue;
        }
        let Ok(threads) = fs::read_dir(format!("/proc/{daemon}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let client = name
                .trim_end()
                .strip_prefix("client ")
                .and_then(|pid| pid.parse().ok());
            sessions.extend(client.map(|client| SessionRecord {
                daemon_pid: daemon,
                client_pid: client,
            }));
        }
    }
    sessions
}

/// All processes, except those that end meanwhile.
fn processes() -> Result<BTreeMap<u32, Process>> {
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let (Ok(status), Ok(command)) = (
            fs::read_to_string(entry.path().join("status")),
            fs::read(entry.path().join("cmdline")),
        ) else {
            continue;
        };
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
            .unwrap_or(0);
        let words = command
            .split(|&byte| byte == 0)
            .filter(|word| !word.is_empty());
        let command = words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        processes.insert(pid, Process { parent, command });
    }
    Ok(processes)
}

/// The names of a process's open files; empty for processes of other users.
fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|file| String::from_utf8_lossy(file.as_os_str().as_bytes()).into_owned())
        .collect()
}

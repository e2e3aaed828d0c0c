//! The hook alone: how long a daemon waits for its replies.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::store_path::StorePath;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system::lock::{LockFile, Mode};

use crate::host::Host;
use crate::work::derivation;
use crate::{TEST_TIMEOUT, Task};

/// The tasks.
pub const TASKS: &[Task<Host>] = &[
    Task::new("hook, from its start to `# decline'", decline),
    Task::new("hook, from request to `# decline'", decline_again),
    Task::new("hook, 400 busy machines", busy),
];

fn decline(host: &Host, _: usize) -> Result<Duration> {
    fs::write(host.path("etc/guix/machines.scm"), "(list)\n")?;
    let (drv, _) = derivation(host, &mut host.connect()?, "to-decline", &[])?;
    Ok(ask(host, &drv, 1, "# decline")?[0])
}

fn decline_again(host: &Host, _: usize) -> Result<Duration> {
    fs::write(host.path("etc/guix/machines.scm"), "(list)\n")?;
    let (drv, _) = derivation(host, &mut host.connect()?, "to-decline", &[])?;
    Ok(ask(host, &drv, 2, "# decline")?[1])
}

/// All slots are in use, so no machine is probed.
fn busy(host: &Host, _: usize) -> Result<Duration> {
    const MACHINES: usize = 400;
    let mut machines = "(list\n".to_owned();
    let mut taken = Vec::new();
    for number in 1..=MACHINES {
        let name = format!("machine-{number}.invalid");
        writeln!(
            machines,
            "(build-machine (name \"{name}\") (systems (list \"{}\")) (user \"root\") \
             (host-key \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"))",
            env!("GUIX_SYSTEM")
        )?;
        // The only slot of each machine, in the place where both hooks look for it.
        let directory = host.path(&format!("var/guix/offload/{name}:22"));
        fs::create_dir_all(&directory)?;
        let slot = LockFile::open(directory.join("0"))?;
        if !slot.try_lock(Mode::Exclusive)? {
            bail!("slot of {name} is taken already");
        }
        taken.push(slot);
    }
    machines.push_str(")\n");
    fs::write(host.path("etc/guix/machines.scm"), machines)?;
    let (drv, _) = derivation(host, &mut host.connect()?, "to-postpone", &[])?;
    Ok(ask(host, &drv, 1, "# postpone")?[0])
}

/// Starts the hook and sends it several requests. Returns the times until its replies; the first is
/// measured from the start of the hook.
pub fn ask(host: &Host, drv: &StorePath, times: usize, wanted: &str) -> Result<Vec<Duration>> {
    let (program, arguments) = host.hook().split_first().context("no hook")?;
    // As with a daemon, the hook's reply is on standard output and standard error.
    let (answer, writer) = system::pipe::pipe().context("cannot make a pipe")?;
    let mut begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .args([env!("GUIX_SYSTEM"), "3600", "1", "86400"])
        .envs(host.environment().iter().cloned())
        .stdin(Stdio::piped())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    // A hook that does not reply is killed, which ends its output.
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(TEST_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let mut stdin = child.stdin.take().context("no pipe")?;
    let mut lines = BufReader::new(File::from(answer)).lines();
    let mut said = String::new();
    let mut answered = Vec::new();
    'asking: while answered.len() < times {
        writeln!(stdin, "1 {} {drv} ", env!("GUIX_SYSTEM"))?;
        for line in lines.by_ref() {
            let line = line?;
            if line.starts_with(wanted) {
                answered.push(begun.elapsed());
                begun = Instant::now();
                continue 'asking;
            }
            said.push_str(&line);
            said.push('\n');
        }
        break;
    }
    drop(done);
    let _ = watch.join();
    drop(stdin);
    let _ = child.kill();
    child.wait()?;
    if answered.len() < times {
        bail!("{} did not say `{wanted}', but: {said}", program.display());
    }
    Ok(answered)
}

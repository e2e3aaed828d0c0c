//! Symbolic links that protect items on a build machine from garbage collection, if no connection
//! to its daemon can do that.
//!
//! They are in a separate directory, below the machine's GC roots, or below our user's profiles if
//! only that directory is writable. Its name, `offload-HOST-TAG-PID-NUMBER`, identifies its
//! creator: the directories of this host's dead processes are removed. A command that runs on the
//! machine for as long as the links are needed removes them when it ends, for whatever reason.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use formats::{Hash, StorePath};
use system::process::process_exists;

use super::destination::Destination;
use super::error::Error;
use super::guix_commands::{self, ANSWER_TIMEOUT, lines};
use super::remote_command::{self, RemoteCommand};
use super::shell::quote;
use crate::directories::HookDirectories;

/// The line that reports that the links exist.
const READY: &str = "guix-offload-linked";
/// The most bytes that the command may print.
const OUTPUT_LIMIT: usize = 64 << 10;
/// How long a hook that ends early waits for the removal of its links.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of this process's next directory of links.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One hook's links on one machine.
pub(super) struct RootLinks {
    destination: Destination,
    /// The directory that they are in.
    directory: String,
    /// Directories of links that dead hooks left behind; the first command removes them.
    stale: Vec<String>,
    /// The command on the machine that removes the links when its standard input is closed.
    holder: Option<RemoteCommand>,
}

impl RootLinks {
    /// No links yet. They will be in a new directory below `parent`, which currently contains
    /// directories with these names.
    pub fn new<'a>(
        destination: &Destination,
        parent: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> RootLinks {
        let prefix = prefix(&destination.directories);
        let in_parent = |name: &String| format!("{parent}/{name}");
        RootLinks {
            destination: destination.clone(),
            directory: in_parent(&new_name(&prefix)),
            stale: stale(&prefix, names).iter().map(in_parent).collect(),
            holder: None,
        }
    }

    /// The directory that they are in.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Whether there are no links and no directory for them.
    pub fn is_empty(&self) -> bool {
        self.holder.is_none()
    }

    /// Makes links to these items.
    pub fn add(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        if paths.is_empty() {
            return Ok(());
        }
        if self.is_empty() {
            self.holder = Some(self.start_holder(paths)?);
        } else {
            let script = self.link_command();
            let input = lines(paths);
            guix_commands::run(
                &self.destination,
                "making GC roots",
                &script,
                input.as_bytes(),
            )?;
        }
        Ok(())
    }

    /// Starts the command that removes the links, and makes it create the first ones.
    fn start_holder(&mut self, paths: &[StorePath]) -> Result<RemoteCommand, Error> {
        let doing = "making GC roots";
        let mut script = guix_commands::environment(&self.destination) + " ";
        for stale in std::mem::take(&mut self.stale) {
            script += &format!("rm -rf {}; ", quote(&stale));
        }
        let directory = quote(&self.directory);
        // An empty line ends the list of items; then the command waits for the end of its input.
        script += &format!(
            "trap '' PIPE HUP; mkdir -p {directory} && sed '/^$/q' | {link} && echo {READY} \
             && cat >/dev/null; s=$?; rm -rf {directory}; exit $s",
            link = self.link_command(),
        );
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut holder = RemoteCommand::start(&self.destination, doing, &script, true, deadline)?;
        let mut stdin = holder.stdin.take();
        let list = lines(paths) + "\n";
        let written = stdin.as_mut().map(|stdin| stdin.write_all(list.as_bytes()));
        let ready = format!("{READY}\n");
        let mut output = Vec::new();
        let mut buffer = [0; 4096];
        while !output.ends_with(ready.as_bytes()) && output.len() < OUTPUT_LIMIT {
            match holder.read(&mut buffer, deadline)? {
                0 => break,
                count => output.extend_from_slice(&buffer[..count]),
            }
        }
        if written.is_some_and(|written| written.is_ok()) && output.ends_with(ready.as_bytes()) {
            holder.stdin = stdin;
            return Ok(holder);
        }
        drop(stdin);
        let (code, stderr) = holder.wait(deadline)?;
        Err(remote_command::failure(
            self.destination.name(),
            doing,
            code,
            &stderr,
        ))
    }

    /// The command that creates links to the items on its standard input.
    fn link_command(&self) -> String {
        let script = format!("cd {} && ln -sf -- \"$@\" .", quote(&self.directory));
        format!("xargs -n 200 sh -c {} sh", quote(&script))
    }

    /// Removes all links.
    pub fn remove(&mut self, timeout: Duration) -> Result<(), Error> {
        let Some(holder) = self.holder.take() else {
            return Ok(());
        };
        let (code, stderr) = holder.wait(Instant::now() + timeout)?;
        match code {
            0 => Ok(()),
            code => Err(remote_command::failure(
                self.destination.name(),
                "removing GC roots",
                code,
                &stderr,
            )),
        }
    }
}

impl Drop for RootLinks {
    fn drop(&mut self) {
        // The next hook finds links that can't be removed now.
        let _ = self.remove(DROP_TIMEOUT);
    }
}

/// `offload-HOST-TAG-`: two hosts, or a host and its containers, may have the same name, but not
/// the same tag.
pub(super) fn prefix(directories: &HookDirectories) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host: String = host
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.' || *c == '_')
        .collect();
    let mut identity = fs::read("/etc/machine-id").unwrap_or_default();
    identity.extend_from_slice(directories.state.as_os_str().as_bytes());
    format!("offload-{host}-{}-", &Hash::sha256(identity).base32()[..8])
}

/// A name for this process's next directory.
fn new_name(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

/// The names in `names` that dead processes of this host left behind.
fn stale<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_stale = |name: &&str| {
        let numbers = name.strip_prefix(prefix).and_then(|n| n.split_once('-'));
        let Some((Ok(pid), Ok(_))) = numbers.map(|(pid, n)| (pid.parse::<i32>(), n.parse::<u32>()))
        else {
            return false;
        };
        !process_exists(pid)
    };
    names.filter(is_stale).map(str::to_owned).collect()
}

/// Shell code that sets `$d` to the first writable directory that may contain roots. `state` is the
/// state directory unless the environment on the machine sets another.
pub(super) fn find_parent(state: &str) -> String {
    let state = quote(state);
    format!(
        "s=${{GUIX_STATE_DIRECTORY:-{state}}}; mkdir -p \"$s/gcroots/tmp\" 2>/dev/null; \
         for d in \"$s/gcroots/tmp\" \"$s/profiles/per-user/$(id -un)\" ''; do \
         if [ -d \"$d\" ] && [ -w \"$d\" ]; then break; fi; done"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_stale() {
        let ours = std::process::id();
        // Process 1 exists; the other number isn't in use.
        let names = [
            format!("offload-h-t-{ours}-0"),
            "offload-h-t-1-0".to_owned(),
            "offload-h-t-2147483647-0".to_owned(),
            "offload-h-t-2147483647-x".to_owned(),
            "offload-h-t-2147483647".to_owned(),
            "offload-other-t-2147483647-0".to_owned(),
        ];
        let stale = stale("offload-h-t-", names.iter().map(String::as_str));
        assert_eq!(stale, ["offload-h-t-2147483647-0"]);
    }
}

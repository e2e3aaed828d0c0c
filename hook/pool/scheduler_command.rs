//! A command of the scheduler: as another user, if the entry says so, and never through a shell. Commands
//! that print entries are started in the same way.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use system::ids;
use system::pipe;
use system::poll::read_before;
use system::process::{Spawn, find_program};

/// How many bytes of a command's output are read.
const OUTPUT_LIMIT: usize = 16 << 10;

/// A command, to be started.
pub fn spawn(words: &[String], run_as: Option<&str>) -> io::Result<Spawn> {
    let (program, words) = words
        .split_first()
        .ok_or_else(|| io::Error::other("the command has no words"))?;
    let file = find_program(program).ok_or_else(|| {
        let message = format!("there is no program `{program}'");
        io::Error::new(io::ErrorKind::NotFound, message)
    })?;
    // In a session of its own, so that signals reach all that it starts, and none of ours reach it.
    let spawn = Spawn::new(file)
        .arg0(program)
        .args(words)
        .current_dir("/")
        .setsid();
    let Some(name) = run_as else {
        return Ok(spawn);
    };
    let account = ids::user_by_name(name)?;
    let account = account.ok_or_else(|| io::Error::other(format!("there is no user `{name}'")))?;
    let spawn = spawn
        .env("HOME", &account.home)
        .env("USER", name)
        .env("LOGNAME", name);
    if account.uid == ids::effective_uid() {
        return Ok(spawn);
    }
    let groups = ids::groups_of(name, account.gid)?;
    Ok(spawn.user(account.uid, account.gid, groups))
}

/// Runs a command to its end, or for so long; returns what it has printed, whether it succeeds or not.
pub fn output(words: &[String], run_as: Option<&str>, timeout: Duration) -> io::Result<String> {
    run(words, run_as, timeout).map(|(_, text)| text)
}

/// The same; returns also whether it has succeeded.
pub fn run(
    words: &[String],
    run_as: Option<&str>,
    timeout: Duration,
) -> io::Result<(bool, String)> {
    let (reader, writer) = pipe::pipe()?;
    let mut child = spawn(words, run_as)?
        .fd(pipe::null()?, 0)
        .fd(writer.try_clone()?, 1)
        .fd(writer, 2)
        .spawn()?;
    let mut reader = File::from(reader);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let deadline = Instant::now() + timeout;
    loop {
        // If it takes too long, the child is killed.
        match read_before(&mut reader, &mut buffer, deadline)? {
            0 => break,
            count if text.len() < OUTPUT_LIMIT => text.extend_from_slice(&buffer[..count]),
            _ => {}
        }
    }
    let status = child.wait_timeout(deadline.saturating_duration_since(Instant::now()))?;
    let succeeded = status.is_some_and(|status| status.success());
    Ok((succeeded, String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn words_are_no_shell_code() {
        let text = output(&words(&["echo", "$HOME; `id`", "a  b"]), None, LONG).unwrap();
        assert_eq!(text, "$HOME; `id` a  b\n");
        let error = output(&words(&["no-such-program-here"]), None, LONG).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no program `no-such-program-here'"
        );
        let error =
            output(&words(&["sleep", "1000"]), None, Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_fails_is_told_from_what_succeeds() {
        let run = |script| run(&words(&["sh", "-c", script]), None, LONG).unwrap();
        assert_eq!(run("echo done"), (true, "done\n".to_owned()));
        assert_eq!(run("echo no >&2; exit 1"), (false, "no\n".to_owned()));
        assert!(!run("kill -9 $$").0);
    }

    #[test]
    fn commands_run_as_the_entry_says() {
        let ask = |name| {
            output(
                &words(&["sh", "-c", "echo $(id -un) $USER"]),
                Some(name),
                LONG,
            )
        };
        let unknown = ask("no-such-user-here").unwrap_err().to_string();
        assert_eq!(unknown, "there is no user `no-such-user-here'");
        if ids::effective_uid() == 0 {
            assert_eq!(ask("nobody").unwrap(), "nobody nobody\n");
        }
    }
}

//! Runs a command that prints entries: without a shell, as the user that its table names, with a
//! deadline, and no more than so much of what it prints.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use system::pipe;
use system::poll::{PollFd, PollFlags, is_ready, poll};
use system::signal::{Signal, describe_exit};

use crate::machines::Generator;
use crate::pool::spawn_as;
use crate::remote::on_one_line;

/// The most bytes of entries.
pub const ANSWER_LIMIT: usize = 4 << 20;
/// How many bytes of its standard error are kept.
const STDERR_LIMIT: usize = 4 << 10;

/// What a command prints on standard output; or why there is no answer.
pub fn run(generator: &Generator) -> Result<String, String> {
    let timeout = Duration::from_secs(generator.timeout.into());
    match collect(generator, Instant::now() + timeout) {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("it takes longer than {} s", generator.timeout))
        }
        Err(error) => Err(system::errno::message(&error)),
    }
}

/// The errors are of this host, and the inner ones the command's. Whatever it has started is killed if it
/// takes too long or prints too much, and so it is if we are killed.
fn collect(generator: &Generator, deadline: Instant) -> io::Result<Result<String, String>> {
    let (mut out, its_out) = pipe::pipe().map(|(reader, writer)| (File::from(reader), writer))?;
    let (mut err, its_err) = pipe::pipe().map(|(reader, writer)| (File::from(reader), writer))?;
    let mut child = spawn_as(&generator.command, generator.run_as.as_deref())?
        .fd(pipe::null()?, 0)
        .fd(its_out, 1)
        .fd(its_err, 2)
        .parent_death_signal(Signal::SIGKILL)
        .spawn()?;
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    let mut buffer = vec![0; 64 << 10];
    while out_open || err_open {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let flags = |open| {
            if open {
                PollFlags::POLLIN
            } else {
                PollFlags::empty()
            }
        };
        let mut fds = [
            PollFd::new(std::os::fd::AsFd::as_fd(&out), flags(out_open)),
            PollFd::new(std::os::fd::AsFd::as_fd(&err), flags(err_open)),
        ];
        poll(&mut fds, Some(left))?;
        let [out_ready, err_ready] = [is_ready(&fds[0]), is_ready(&fds[1])];
        if out_open && out_ready {
            let count = out.read(&mut buffer)?;
            out_open = count > 0;
            answer.extend_from_slice(&buffer[..count]);
            if answer.len() > ANSWER_LIMIT {
                return Ok(Err(format!(
                    "it prints more than {} MiB",
                    ANSWER_LIMIT >> 20
                )));
            }
        }
        if err_open && err_ready {
            let count = err.read(&mut buffer)?;
            err_open = count > 0;
            let room = STDERR_LIMIT.saturating_sub(said.len()).min(count);
            said.extend_from_slice(&buffer[..room]);
        }
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if !child.has_ended(left)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // What it leaves in the background ends with it, unless that has left its process group.
    child.signal_group(Signal::SIGKILL)?;
    let status = child.wait()?;
    if !status.success() {
        let said = on_one_line(&String::from_utf8_lossy(&said));
        let how = describe_exit(status);
        return Ok(Err(match said.is_empty() {
            true => how,
            false => format!("{how}: {said}"),
        }));
    }
    Ok(String::from_utf8(answer).map_err(|_| "it prints what is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Place;

    fn ask(script: &str, timeout: u32) -> Result<String, String> {
        run(&Generator {
            command: ["sh", "-c", script].map(str::to_owned).into(),
            run_as: None,
            timeout,
            every: 60,
            keep: 0,
            place: Place::default(),
        })
    }

    #[test]
    fn the_answer_is_what_a_successful_command_prints() {
        assert_eq!(ask("echo a; echo b >&2", 60).unwrap(), "a\n");
        assert_eq!(ask("", 60).unwrap(), "");
        let error = ask("echo no; echo 'no\ncredentials' >&2; exit 3", 60).unwrap_err();
        assert!(
            error.contains('3') && error.ends_with(": no credentials"),
            "{error}"
        );
        assert!(ask("kill -9 $$", 60).is_err());
        assert_eq!(
            ask("printf '\\377'", 60).unwrap_err(),
            "it prints what is not UTF-8"
        );
        // Its standard output is closed, and it goes on a little.
        assert_eq!(ask("echo x; exec >&- 2>&-; sleep 0.1", 60).unwrap(), "x\n");
    }

    #[test]
    fn what_a_command_leaves_in_the_background_ends_with_it() {
        let pid = ask("sleep 1000 >/dev/null 2>&1 & echo $!", 60).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_gone());
    }

    #[test]
    fn a_command_has_little_time_and_little_to_say() {
        assert_eq!(
            ask("sleep 1000", 1).unwrap_err(),
            "it takes longer than 1 s"
        );
        assert_eq!(ask("yes", 60).unwrap_err(), "it prints more than 4 MiB");
        assert_eq!(ask("yes >&2", 1).unwrap_err(), "it takes longer than 1 s");
        // What it leaves behind doesn't hold us up.
        assert_eq!(
            ask("sleep 1000 & echo x", 1).unwrap_err(),
            "it takes longer than 1 s"
        );
    }
}

//! The last answer of a command, which all hooks share: `<state>/offload/generated/HASH.json`.
//!
//! While it is new, the command does not run. When it is old, it is still used, and one process in the
//! background (`guix-offload refresh`) gets a new one, so that no hook waits. Only where there is no
//! answer that could be used, hooks wait: one of them runs the command, under the lock of `HASH.lock`. A
//! command that fails is not run again before some time has passed, and its last answer counts for as
//! long as its table says.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use formats::Hash;
use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::{LockFile, Mode};
use system::pipe;

use super::entries;
use super::run::{ANSWER_LIMIT, run};
use crate::directories::HookDirectories;
use crate::machines::Generator;
use crate::pool::start_program;
use crate::remote::on_one_line;
use crate::stderr_line;

/// How long a command that has failed is left alone, in seconds; less if its answers are new for less.
const RETRY: u64 = 60;
/// How much longer than the command hooks wait for each other.
const LEEWAY: Duration = Duration::from_secs(5);
/// The most characters of an error.
const ERROR_LIMIT: usize = 500;
/// The most bytes of the file: of an answer in which everything has to be escaped.
const FILE_LIMIT: u64 = 8 * ANSWER_LIMIT as u64;

/// What is known of a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Answer {
    /// When it has last ended, in seconds since the epoch.
    asked: u64,
    /// When it has last succeeded.
    answered: u64,
    /// What it has printed then.
    text: String,
    /// Why it has failed since, if it has.
    error: Option<String>,
}

impl Answer {
    /// Whether the command need not run. (A clock that was set back makes it old.)
    fn is_new(&self, generator: &Generator) -> bool {
        let every = u64::from(generator.every);
        let pause = match self.error {
            None => every,
            Some(_) => every.min(RETRY),
        };
        age(self.asked).is_some_and(|age| age < pause)
    }

    /// Whether its text can be used.
    fn counts(&self, generator: &Generator) -> bool {
        let longest = u64::from(generator.keep.max(generator.every));
        self.answered > 0 && age(self.answered).is_some_and(|age| age < longest)
    }
}

fn age(time: u64) -> Option<u64> {
    unix_time().checked_sub(time)
}

/// That a command fails.
pub struct CommandFailure {
    /// What to say about it.
    pub message: String,
    /// The name of the file whose existence means that it has been said.
    mark: PathBuf,
}

impl CommandFailure {
    /// Whether nobody has been told so yet. From now on, somebody has.
    pub fn is_news(&self, directories: &HookDirectories) -> bool {
        let mark = directory(directories).join(&self.mark);
        let created = File::options().write(true).create_new(true).open(mark);
        !created.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// A command's answer, if there is one that counts, and whether the command fails.
pub fn current(
    generator: &Generator,
    directories: &HookDirectories,
) -> (Option<String>, Option<CommandFailure>) {
    let files = Files::new(generator, directories);
    let mut answer = files.load();
    if !answer.is_new(generator) {
        if answer.counts(generator) {
            files.refresh_soon(generator);
        } else {
            answer = files.wait_for_answer(generator);
        }
    }
    let counts = answer.counts(generator);
    let failure = answer.error.as_ref().map(|error| {
        let name = generator.name();
        match counts {
            true => CommandFailure {
                message: format!(
                    "`{name}' fails, and its last answer stays in use, which is {} s old: {error}",
                    age(answer.answered).unwrap_or_default()
                ),
                mark: files.name("fails"),
            },
            false => CommandFailure {
                message: format!("`{name}' fails, and its machines are not used: {error}"),
                mark: files.name("is-lost"),
            },
        }
    });
    (counts.then_some(answer.text), failure)
}

/// What a command has printed last, without running it; nothing if it has failed for so long that its machines
/// are not used.
pub fn known(generator: &Generator, directories: &HookDirectories) -> Option<String> {
    let answer = Files::new(generator, directories).load();
    let is_used = answer.answered > 0 && (answer.error.is_none() || answer.counts(generator));
    is_used.then_some(answer.text)
}

/// The process that gets an answer for others: `guix-offload refresh`. The command is on its standard
/// input.
pub fn refresh_in_background(directories: &HookDirectories) -> io::Result<()> {
    let generator: Generator = serde_json::from_reader(io::stdin().lock().take(1 << 20))?;
    let files = Files::new(&generator, directories);
    let lock = files.lock()?;
    // If somebody else has it, so he has the task.
    if lock.try_lock(Mode::Exclusive)? && !files.load().is_new(&generator) {
        files.refresh(&generator);
    }
    Ok(())
}

fn directory(directories: &HookDirectories) -> PathBuf {
    directories.state.join("generated")
}

/// The files of a command.
struct Files<'a> {
    directories: &'a HookDirectories,
    directory: PathBuf,
    stem: String,
}

impl<'a> Files<'a> {
    fn new(generator: &Generator, directories: &'a HookDirectories) -> Files<'a> {
        let identity = format!("{:?}", (&generator.command, &generator.run_as));
        Files {
            directories,
            directory: directory(directories),
            stem: Hash::sha256(identity).base32()[..16].to_owned(),
        }
    }

    fn name(&self, suffix: &str) -> PathBuf {
        format!("{}.{suffix}", self.stem).into()
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.join(self.name(suffix))
    }

    /// What is known; nothing if the file doesn't exist or is invalid.
    fn load(&self) -> Answer {
        let mut text = Vec::new();
        let read = File::open(self.path("json"))
            .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut text));
        let answer = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
        answer.unwrap_or_default()
    }

    fn save(&self, answer: &Answer) -> io::Result<()> {
        let new = self.path("new");
        // Machine files need not be readable for everybody, either.
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(answer)?)?;
        file.sync_all()?;
        fs::rename(new, self.path("json"))
    }

    fn lock(&self) -> io::Result<LockFile> {
        self.directories.check_owner()?;
        HookDirectories::make(&self.directory)?;
        HookDirectories::open_lock(&self.path("lock"))
    }

    /// Starts a process that gets a new answer, unless there is one. Without it, the next hook tries.
    fn refresh_soon(&self, generator: &Generator) {
        let start = || -> io::Result<()> {
            if self.lock()?.is_locked()? {
                return Ok(());
            }
            let mut stream = start_program("refresh", pipe::null()?.into(), pipe::null()?.into())?;
            stream.write_all(&serde_json::to_vec(generator)?)
        };
        if let Err(error) = start() {
            stderr_line!("warning: cannot run `{}': {error}", generator.name());
        }
    }

    /// Runs the command, or waits for somebody who does.
    fn wait_for_answer(&self, generator: &Generator) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(generator.timeout.into()) + LEEWAY;
        let lock = || {
            let lock = self.lock()?;
            let locked = lock.lock_unless(Mode::Exclusive, || Instant::now() >= deadline)?;
            Ok::<_, io::Error>(locked.then_some(lock))
        };
        match lock() {
            Ok(Some(_lock)) => {
                let answer = self.load();
                match answer.is_new(generator) {
                    true => answer,
                    false => self.refresh(generator),
                }
            }
            Ok(None) => self.load(),
            Err(error) => {
                stderr_line!("warning: cannot run `{}': {error}", generator.name());
                Answer::default()
            }
        }
    }

    /// Runs the command, and writes down what has come of it. The lock is held.
    fn refresh(&self, generator: &Generator) -> Answer {
        let answered =
            run(generator).and_then(|text| entries::check(generator, &text).map(|()| text));
        let answer = match answered {
            Ok(text) => {
                for mark in ["fails", "is-lost"] {
                    let _ = fs::remove_file(self.path(mark));
                }
                Answer {
                    asked: unix_time(),
                    answered: unix_time(),
                    text,
                    error: None,
                }
            }
            Err(error) => Answer {
                asked: unix_time(),
                error: Some(on_one_line(&error).chars().take(ERROR_LIMIT).collect()),
                ..self.load()
            },
        };
        if let Err(error) = self.save(&answer) {
            let name = generator.name();
            stderr_line!("warning: cannot remember the answer of `{name}': {error}");
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Place;
    use crate::test_data::directories;

    fn generator(script: &str) -> Generator {
        Generator {
            command: ["sh", "-c", script].map(str::to_owned).into(),
            run_as: None,
            timeout: 60,
            every: 1000,
            keep: 5000,
            place: Place::default(),
        }
    }

    /// Makes an answer older.
    fn later(files: &Files<'_>, seconds: u64) {
        let mut answer = files.load();
        answer.asked -= seconds;
        answer.answered = answer.answered.saturating_sub(seconds);
        files.save(&answer).unwrap();
    }

    #[test]
    fn a_command_runs_once_for_all_and_its_answer_is_kept() {
        let (state, directories) = directories();
        let count = state.path().join("count");
        let count = count.display();
        let generator = generator(&format!("echo x >>{count}; sleep 0.2; echo '# nothing'"));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let (answer, failure) = current(&generator, &directories);
                    assert_eq!(answer.as_deref(), Some("# nothing\n"));
                    assert!(failure.is_none());
                });
            }
        });
        assert_eq!(fs::read_to_string(count.to_string()).unwrap(), "x\n");
        let files = Files::new(&generator, &directories);
        later(&files, 5000);
        current(&generator, &directories);
        assert_eq!(fs::read_to_string(count.to_string()).unwrap(), "x\nx\n");
        fs::write(files.path("json"), "{").unwrap();
        current(&generator, &directories);
        assert_eq!(fs::read_to_string(count.to_string()).unwrap(), "x\nx\nx\n");
    }

    #[test]
    fn a_command_that_fails_keeps_its_last_answer_for_a_while() {
        let (state, directories) = directories();
        let file = state.path().join("fails");
        let generator = generator(&format!(
            "test -e {} || {{ echo gone >&2; exit 1; }}",
            file.display()
        ));
        let files = Files::new(&generator, &directories);
        fs::write(&file, "").unwrap();
        assert_eq!(current(&generator, &directories).0.as_deref(), Some(""));
        fs::remove_file(&file).unwrap();
        later(&files, 2000);
        files.refresh(&generator);
        let (answer, failure) = current(&generator, &directories);
        assert_eq!(answer.as_deref(), Some(""));
        let failure = failure.unwrap();
        assert!(
            failure.message.contains("stays in use, which is 200"),
            "{}",
            failure.message
        );
        assert!(failure.message.ends_with(": gone"), "{}", failure.message);
        assert!(failure.is_news(&directories) && !failure.is_news(&directories));
        // It has failed for longer than that.
        later(&files, 4000);
        let (answer, failure) = current(&generator, &directories);
        assert_eq!(answer, None);
        let failure = failure.unwrap();
        assert!(
            failure.message.contains("its machines are not used"),
            "{}",
            failure.message
        );
        assert!(failure.is_news(&directories) && !failure.is_news(&directories));
        // It works again, and fails later.
        fs::write(&file, "").unwrap();
        later(&files, 2000);
        let (answer, failure_now) = current(&generator, &directories);
        assert!(answer.is_some() && failure_now.is_none());
        assert!(failure.is_news(&directories));
    }

    #[test]
    fn one_that_has_just_failed_is_left_alone() {
        let (state, directories) = directories();
        let count = state.path().join("count");
        let generator = generator(&format!("echo x >>{}; exit 1", count.display()));
        let files = Files::new(&generator, &directories);
        for _ in 0..3 {
            assert_eq!(current(&generator, &directories).0, None);
        }
        assert_eq!(fs::read_to_string(&count).unwrap(), "x\n");
        later(&files, RETRY);
        current(&generator, &directories);
        assert_eq!(fs::read_to_string(&count).unwrap(), "x\nx\n");
        // A time that has not come yet is none.
        let mut answer = files.load();
        answer.asked += 10_000;
        files.save(&answer).unwrap();
        current(&generator, &directories);
        assert_eq!(fs::read_to_string(&count).unwrap(), "x\nx\nx\n");
    }
}

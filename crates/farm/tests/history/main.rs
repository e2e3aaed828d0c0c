//! The history as programs use it: written by several at once, and in the way of everything that can be
//! wrong with a file.

mod in_the_way;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farm::ItemName;
use farm::estimate::Basis;
use farm::history::{
    Attempt, AttemptResult, Error, Filter, Kind, Limits, MachineState, Reader, State, Times, Token,
    Writer, WriterOptions,
};
use rusqlite::Connection;

/// Longer than any test takes, on a slow machine.
const PATIENT: Duration = Duration::from_secs(60);
/// For tests of what happens afterwards.
const IMPATIENT: Duration = Duration::from_millis(20);
/// Tells this program, run by itself, where to write.
const DIRECTORY: &str = "GUIX_TEST_HISTORY";

/// A state directory, and what writers in it have said.
struct Place {
    state: tempfile::TempDir,
    said: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Place {
        Place {
            state: tempfile::tempdir().unwrap(),
            said: Arc::default(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.state.path().join("offload")
    }

    fn file(&self) -> PathBuf {
        self.directory().join("history.sqlite")
    }

    /// A writer that waits for so long.
    fn writer(&self, patience: Duration) -> Writer {
        let said = self.said.clone();
        Writer::new(WriterOptions {
            directory: self.directory(),
            limits: Limits::default(),
            patience,
            warn: Arc::new(move |line| said.lock().unwrap().push(line.to_owned())),
        })
    }

    /// Writes an attempt.
    fn write(&self, item: &str) {
        let writer = self.writer(PATIENT);
        writer.attempt(attempt(item), None);
        writer.finish();
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }

    /// The versions of everything, the newest first.
    fn versions(&self) -> Vec<String> {
        let attempts = self.attempts(&Filter::default());
        attempts
            .into_iter()
            .map(|attempt| attempt.item.version)
            .collect()
    }

    fn attempts(&self, filter: &Filter) -> Vec<Attempt> {
        let reader = Reader::open(&self.directory(), PATIENT).unwrap();
        reader.map_or_else(Vec::new, |reader| reader.attempts(filter).unwrap())
    }

    /// Checks that nothing is written, that the first of several attempts leads to one line with these
    /// words, and that no file is changed.
    #[track_caller]
    fn refuses(&self, words: &str) {
        let before = contents(&self.directory());
        let writer = self.writer(IMPATIENT);
        for _ in 0..3 {
            writer.prepare();
            writer.attempt(attempt("hello-1"), None);
            writer.attempt_of_hook(attempt("hello-1"), Token(1));
        }
        writer.finish();
        let said = self.said();
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        assert!(contents(&self.directory()) == before);
    }
}

/// The files in a directory that tell something.
fn contents(directory: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|file| !file.ends_with("history.lock"))
        .map(|file| {
            let regular = file.symlink_metadata().unwrap().is_file();
            let data = regular.then(|| fs::read(&file).unwrap());
            (file, data)
        })
        .collect();
    files.sort();
    files
}

fn attempt(item: &str) -> Attempt {
    Attempt {
        time: 1_800_000_000,
        derivation: format!("7jhl46sxb6yi6ppz8kka0hlsm1ih0qlg-{item}.drv"),
        item: ItemName::of(item),
        system: "x86_64-linux".to_owned(),
        machine: "build-1:22".to_owned(),
        speed: 2.0,
        kind: Kind::Build,
        times: Times {
            waited: Duration::from_millis(1),
            sent: Duration::from_millis(20),
            built: Duration::from_millis(300),
            retrieved: Duration::from_millis(4000),
        },
        bytes_sent: 50_000,
        bytes_retrieved: 600_000,
        result: AttemptResult::Done,
        reason: String::new(),
    }
}

fn state(machine: &str, time: u64) -> MachineState {
    MachineState {
        time,
        machine: machine.to_owned(),
        state: State::SetAside,
        reason: "no route to host".to_owned(),
        load: 0.5,
        cores: 8,
        free_bytes: 1 << 40,
        slots: 4,
    }
}

#[test]
fn rows_are_read_as_they_were_written() {
    let place = Place::new();
    assert!(Reader::open(&place.directory(), PATIENT).unwrap().is_none());
    let failed = Attempt {
        result: AttemptResult::MachineFailed,
        reason: "lost 'build-1'".to_owned(),
        ..attempt("hello-1")
    };
    let writer = place.writer(PATIENT);
    writer.prepare();
    writer.attempt(attempt("hello-1"), Some(Token(-1)));
    writer.attempt(failed.clone(), None);
    writer.state(state("build-1:22", 7));
    writer.finish();
    let all = place.attempts(&Filter::default());
    assert_eq!(all, [failed, attempt("hello-1")]);
    let reader = Reader::open(&place.directory(), PATIENT).unwrap().unwrap();
    let states = reader.states(&Filter::default()).unwrap();
    assert_eq!(states, [state("build-1:22", 7)]);
    // The database is its owner's alone.
    let modes: Vec<u32> = [place.directory(), place.file()]
        .map(|file| file.metadata().unwrap().mode() & 0o7777)
        .into();
    assert_eq!(modes, [0o700, 0o600]);
    assert_eq!(place.said(), [""; 0]);
}

#[test]
fn filters_choose_rows() {
    let place = Place::new();
    let writer = place.writer(PATIENT);
    for (number, (item, machine, system)) in [
        ("hello-1", "build-1:22", "x86_64-linux"),
        ("hello-2", "build-1:2222", "aarch64-linux"),
        ("hello-3", "build-10:22", "x86_64-linux"),
        ("hello-4.tar.gz", "local", "x86_64-linux"),
        ("help-5", "local", "x86_64-linux"),
    ]
    .into_iter()
    .enumerate()
    {
        let result = [AttemptResult::Done, AttemptResult::Failed][number % 2];
        writer.attempt(
            Attempt {
                machine: machine.to_owned(),
                system: system.to_owned(),
                time: number as u64,
                result,
                ..attempt(item)
            },
            None,
        );
    }
    writer.finish();
    let versions = |filter: Filter| -> String {
        let attempts = place.attempts(&filter).into_iter();
        attempts.map(|attempt| attempt.item.version).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let any = Filter::default;
    assert_eq!(versions(any()), "54321");
    assert_eq!(
        versions(Filter {
            name: text("hello"),
            ..any()
        }),
        "321"
    );
    assert_eq!(
        versions(Filter {
            name: text("hel*"),
            ..any()
        }),
        "54321"
    );
    assert_eq!(
        versions(Filter {
            name: text("hello*"),
            version: text("4"),
            ..any()
        }),
        "4"
    );
    assert_eq!(
        versions(Filter {
            machine: text("build-1"),
            ..any()
        }),
        "21"
    );
    assert_eq!(
        versions(Filter {
            machine: text("build-1:22"),
            ..any()
        }),
        "1"
    );
    assert_eq!(
        versions(Filter {
            machine: text("local"),
            ..any()
        }),
        "54"
    );
    assert_eq!(
        versions(Filter {
            system: text("aarch64-linux"),
            ..any()
        }),
        "2"
    );
    assert_eq!(
        versions(Filter {
            result: Some(AttemptResult::Failed),
            ..any()
        }),
        "42"
    );
    assert_eq!(
        versions(Filter {
            since: Some(3),
            ..any()
        }),
        "54"
    );
    assert_eq!(
        versions(Filter {
            limit: Some(2),
            ..any()
        }),
        "54"
    );
    assert_eq!(
        versions(Filter {
            limit: Some(0),
            ..any()
        }),
        ""
    );
    // Words in a filter are no SQL.
    assert_eq!(
        versions(Filter {
            name: text("' or 1=1 --"),
            ..any()
        }),
        ""
    );
}

#[test]
fn estimates_are_drawn_from_successful_builds() {
    let place = Place::new();
    let writer = place.writer(PATIENT);
    for (result, kind, seconds) in [
        (AttemptResult::Done, Kind::Build, 10),
        (AttemptResult::Failed, Kind::Build, 1),
        (AttemptResult::Done, Kind::Check, 1),
    ] {
        let times = Times {
            built: Duration::from_secs(seconds),
            ..Times::default()
        };
        writer.attempt(
            Attempt {
                result,
                kind,
                times,
                ..attempt("hello-1")
            },
            None,
        );
    }
    writer.finish();
    let reader = Reader::open(&place.directory(), PATIENT).unwrap().unwrap();
    let estimates = reader.estimates().unwrap();
    let attempts = reader.attempts(&Filter::default()).unwrap();
    let samples = attempts.iter().rev().filter_map(Attempt::sample);
    let same = farm::estimate::Estimates::from_rows(samples);
    for (item, from) in [
        ("hello-2", Basis::Name),
        ("emacs-30", Basis::Class),
        ("profile", Basis::All),
    ] {
        let item = ItemName::of(item);
        let one = estimates.estimate(&item, "x86_64-linux");
        assert_eq!(one, same.estimate(&item, "x86_64-linux"));
        // The machine has speed 2.
        assert_eq!((one.usual.as_secs(), one.samples, one.from), (20, 1, from));
    }
}

#[test]
fn a_literal_name_is_no_pattern() {
    let place = Place::new();
    for name in ["what?", "whats", "a*", "ab", "[x]", "x"] {
        place.write(name);
    }
    for name in ["what?", "a*", "[x]"] {
        let found = place.attempts(&Filter {
            name: Some(farm::history::literal(name)),
            ..Filter::default()
        });
        let names: Vec<_> = found.iter().map(|row| row.item.name.as_str()).collect();
        assert_eq!(names, [name]);
    }
}

#[test]
fn what_a_hook_has_written_is_not_written_again() {
    let place = Place::new();
    let with = |result| Attempt {
        result,
        ..attempt("hello-1")
    };
    for (by_hook, by_daemon, rows) in [
        (None, AttemptResult::Cancelled, 1),
        (Some(AttemptResult::Done), AttemptResult::Done, 1),
        // Killed after it had finished.
        (Some(AttemptResult::Done), AttemptResult::Cancelled, 1),
        // Killed on the second machine.
        (
            Some(AttemptResult::MachineFailed),
            AttemptResult::Cancelled,
            2,
        ),
        // There was no second machine.
        (
            Some(AttemptResult::MachineFailed),
            AttemptResult::HookFailed,
            1,
        ),
    ] {
        let writer = place.writer(PATIENT);
        let token = Token(rand::random());
        if let Some(result) = by_hook {
            writer.attempt(with(result), Some(token));
        }
        writer.attempt_of_hook(with(by_daemon), token);
        writer.finish();
        let written = place.attempts(&Filter::default()).len();
        assert_eq!(written, rows, "{by_hook:?} {by_daemon:?}");
        fs::remove_file(place.file()).unwrap();
    }
}

#[test]
fn hostile_words_are_stored_as_one_short_line() {
    let place = Place::new();
    let hostile = Attempt {
        machine: "x'; drop table attempts; --\x1b[2J".to_owned(),
        reason: format!(
            "a\nb\u{1b}]0;title\x07\u{202e}c {}",
            "long ".repeat(1_000_000)
        ),
        derivation: "<script>".repeat(1000),
        ..attempt("hello-1")
    };
    let writer = place.writer(PATIENT);
    writer.attempt(hostile, None);
    writer.finish();
    let [row]: [Attempt; 1] = place.attempts(&Filter::default()).try_into().unwrap();
    assert!(
        row.reason.starts_with("a b ]0;title c long long"),
        "{}",
        row.reason
    );
    assert!(row.reason.len() <= 500 && row.derivation.len() <= 256);
    // Names are stored as they are; who shows them escapes them.
    assert_eq!(row.machine, "x'; drop table attempts; --\x1b[2J");
}

#[test]
fn many_writers_at_once() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    place.write("hello-1");
                }
            });
        }
    });
    assert_eq!(place.versions().len(), 80);
    assert_eq!(place.said(), [""; 0]);
}

#[test]
fn many_begin_a_history_at_once() {
    for _ in 0..50 {
        let place = Place::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| place.write("hello-1"));
            }
            scope.spawn(|| {
                Reader::open(&place.directory(), PATIENT)
                    .map(|_| ())
                    .unwrap()
            });
        });
        assert_eq!(place.versions().len(), 8);
        assert_eq!(place.said(), [""; 0]);
    }
}

#[test]
fn a_lock_that_others_hold_costs_rows() {
    let place = Place::new();
    place.write("hello-1");
    let connection = Connection::open(place.file()).unwrap();
    connection.execute_batch("begin exclusive").unwrap();
    place.refuses("another process holds its lock");
    let error = Reader::open(&place.directory(), IMPATIENT).err().unwrap();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    connection.execute_batch("commit").unwrap();
    // The same writer goes on when the lock is free, and then says it if it happens again.
    let writer = place.writer(IMPATIENT);
    for version in ["2", "3"] {
        connection.execute_batch("begin exclusive").unwrap();
        writer.attempt(attempt("lost-1"), None);
        while place.said.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        connection.execute_batch("commit").unwrap();
        assert_eq!(place.said().len(), 1);
        while !place.versions().contains(&version.to_owned()) {
            writer.attempt(attempt(&format!("hello-{version}")), None);
            std::thread::sleep(IMPATIENT);
        }
        place.said();
    }
    assert!(
        place
            .attempts(&Filter {
                name: Some("lost".to_owned()),
                ..Filter::default()
            })
            .is_empty()
    );
}

#[test]
fn too_many_rows_at_once_are_counted() {
    let place = Place::new();
    place.write("hello-1");
    let connection = Connection::open(place.file()).unwrap();
    connection.execute_batch("begin exclusive").unwrap();
    let writer = place.writer(PATIENT);
    for _ in 0..1500 {
        writer.attempt(attempt("hello-2"), None);
    }
    connection.execute_batch("commit").unwrap();
    writer.finish();
    let said = place.said();
    let [line] = said.as_slice() else {
        panic!("{said:?}")
    };
    let lost = line
        .strip_prefix("the history lacks ")
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let lost: usize = lost.parse().unwrap();
    assert!(lost >= 300, "{line}");
    assert_eq!(place.versions().len(), 1501 - lost);
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn write_for_ever() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let writer = Writer::new(WriterOptions {
        directory: directory.into(),
        limits: Limits::parse("90,200").unwrap().unwrap(),
        patience: PATIENT,
        warn: Arc::new(|line| panic!("{line}")),
    });
    loop {
        writer.attempt(attempt("hello-1"), None);
        writer.state(state("build-1:22", 0));
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn a_writer_that_is_killed_leaves_a_whole_database() {
    let place = Place::new();
    let mut most = 0;
    for round in 0..15 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["write_for_ever", "--exact"])
            .env(DIRECTORY, place.directory())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let newest = || {
            let connection = Connection::open(place.file()).ok()?;
            let query = "select max(id) from attempts";
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .ok()
        };
        while newest().unwrap_or(0) <= most {
            assert!(
                writer.try_wait().unwrap().is_none(),
                "it has ended by itself"
            );
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(rand::random_range(0..3000)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let connection = Connection::open(place.file()).unwrap();
        let query = "pragma integrity_check";
        let whole: String = connection.query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok", "round {round}");
        drop(connection);
        most = newest().unwrap();
        place.write("hello-2");
        assert_eq!(place.versions()[0], "2");
    }
    assert_eq!(place.said(), [""; 0]);
}

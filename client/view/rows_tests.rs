//! Tests of [`super`].

use std::time::Duration;

use farm::status::{End, Request};
use protocol::trace::{BuildFailure, Trace};

use super::*;
use crate::view::activity::Expected;

fn path(name: &str) -> String {
    format!("/gnu/store/{}-{name}", "0".repeat(32))
}

/// So many builds run, every second one on a machine, and an item is being fetched; one has failed.
fn activity(builds: usize) -> Activity {
    let mut activity = Activity::expecting(Expected {
        builds: 100,
        fetches: 20,
        bytes: 5 << 30,
    });
    for number in 0..builds {
        let derivation = path(&format!("build-{number}.drv"));
        let started = Trace::BuildStarted {
            derivation: &derivation,
            system: "x86_64-linux",
            log_file: "/log",
            pid: None,
        };
        activity.happened(&started, None);
        if number % 2 == 0 {
            let remote = Trace::BuildRemote {
                derivation: &derivation,
                machine: "build1.example.org",
            };
            activity.happened(&remote, Some(&derivation));
        }
    }
    let item = path("texlive-2025");
    activity.happened(&Trace::SubstituterStarted { path: &item }, None);
    let progress = Trace::DownloadProgress {
        file: &item,
        url: "http://h/x",
        size: Some(2 << 30),
        transferred: 1 << 30,
    };
    activity.happened(&progress, None);
    let failed = path("broken.drv");
    let failure = BuildFailure::Cached;
    let failed = Trace::BuildFailed {
        derivation: &failed,
        failure,
    };
    activity.happened(&failed, None);
    activity.built = 34;
    activity
}

fn told() -> Told {
    let running = Running {
        usual_s: Some(120),
        long_s: Some(121),
        ..Running::default()
    };
    let mut told = Told {
        request: Some(Request {
            waiting: 83,
            critical_path: ["a", "b"].map(|name| path(name) + ".drv").into(),
            reasons: [("inputs".to_owned(), 60), ("machine".to_owned(), 23)].into(),
            end: Some(End {
                earliest_s: 300,
                latest_s: 720,
            }),
            ..Request::default()
        }),
        ..Told::default()
    };
    told.running.insert(path("build-0.drv"), running);
    told
}

fn texts(
    activity: &Activity,
    told: Option<&Told>,
    open: &str,
    columns: usize,
    rows: usize,
) -> Vec<String> {
    let now = activity.begun + Duration::from_millis(200_900);
    let lines = super::rows(activity, told, open, now, Size { columns, rows });
    lines.iter().map(Line::text).collect()
}

#[test]
fn what_runs_is_above_what_is_done() {
    let mut texts = texts(&activity(3), Some(&told()), "checking for gcc... ", 100, 30);
    let last = texts.pop().unwrap();
    assert_eq!(
        texts,
        [
            "checking for gcc... ",
            "build-0       build1.example.org  3:20 of ~2:00",
            "build-1       here                3:20",
            "build-2       build1.example.org  3:20",
            "texlive-2025  fetch               3:20           1.00 GiB of 2.00 GiB",
            "longest path: a → b",
            "0 of 20 files fetched, 1.00 GiB of 5.00 GiB, 5.10 MiB/s",
            "waiting: 60 for inputs, 23 for a machine",
            "failed: broken",
        ]
    );
    let words =
        " 34 of 120 done, 3 building, 1 fetching, 81 waiting, 1 failed; 3:20, 5 to 12 min left";
    assert!(last.ends_with(words) && last.starts_with("███"), "{last}");
    assert!(last.contains("█░"), "{last}");
}

#[test]
fn half_of_any_terminal_is_enough() {
    for builds in [0, 1, 5, 500] {
        for (columns, rows) in [
            (80, 24),
            (40, 24),
            (40, 10),
            (200, 60),
            (20, 6),
            (3, 3),
            (1, 1),
        ] {
            for told in [None, Some(&told())] {
                let open = "o".repeat(500);
                let texts = texts(&activity(builds), told, &open, columns, rows);
                assert!(
                    texts.len() <= (rows / 2).max(1),
                    "{columns}x{rows} {texts:#?}"
                );
                let widest = texts.iter().map(|text| text.chars().count()).max();
                assert!(widest < Some(columns.max(1)), "{columns}x{rows} {texts:#?}");
            }
        }
    }
    let narrow = texts(&activity(50), Some(&told()), "", 40, 24);
    assert!(narrow[0].starts_with("build-0"), "{narrow:#?}");
    assert!(
        narrow[0].contains("build1.e…  3:20 of ~2:00"),
        "{narrow:#?}"
    );
    let more = narrow.iter().find(|row| row.starts_with("and "));
    assert_eq!(more.unwrap(), "and 45 more", "{narrow:#?}");
    assert_eq!(
        narrow.last().unwrap(),
        "34/120, 50b, 1f, 34w, 1 failed; 3:20"
    );
}

#[test]
fn what_others_are_called_controls_no_terminal() {
    let evil = "/gnu/store/x-\x1b[2J\nevil\u{9b}.drv";
    let mut activity = activity(0);
    let started = Trace::BuildStarted {
        derivation: evil,
        system: "",
        log_file: "",
        pid: None,
    };
    activity.happened(&started, None);
    let machine = "\x1b[2J\r";
    let remote = Trace::BuildRemote {
        derivation: evil,
        machine,
    };
    activity.happened(&remote, Some(evil));
    activity.failures.push(evil.to_owned());
    activity.failed += 1;
    let mut told = told();
    let request = told.request.as_mut().unwrap();
    request.critical_path = vec![evil.to_owned(); 2];
    request.reasons = [(evil.to_owned(), 1)].into();
    let texts = texts(&activity, Some(&told), "", 200, 60);
    assert!(texts.iter().any(|text| text.contains("\\u{1b}")));
    let controls = texts.iter().any(|text| text.contains(char::is_control));
    assert!(!controls, "{texts:?}");
}

#[test]
fn numbers_may_be_as_large_as_they_can_be() {
    let mut activity = activity(2);
    let item = path("texlive-2025");
    for _ in 0..2 {
        let progress = Trace::DownloadProgress {
            file: &item,
            url: "http://h/x",
            size: Some(u64::MAX),
            transferred: u64::MAX,
        };
        activity.happened(&progress, None);
        let ended = Trace::DownloadSucceeded {
            file: &item,
            url: "http://h/x",
            size: Some(u64::MAX),
        };
        activity.happened(&ended, None);
        activity.happened(&progress, None);
    }
    let mut told = told();
    let request = told.request.as_mut().unwrap();
    request.done = u64::MAX;
    request.running = 1;
    request.waiting = u64::MAX;
    request.unlisted_path = u64::MAX;
    request.reasons = [("inputs".to_owned(), u64::MAX)].into();
    request.end = Some(End {
        earliest_s: u64::MAX,
        latest_s: u64::MAX,
    });
    let running = told.running.get_mut(&path("build-0.drv")).unwrap();
    running.elapsed_s = u64::MAX;
    let texts = texts(&activity, Some(&told), "", 200, 60);
    let last = texts.last().unwrap();
    assert!(
        last.contains(&format!("34 of {} done", usize::MAX)),
        "{last}"
    );
}

#[test]
fn a_builder_speaks_of_its_own_derivation_only() {
    let mut activity = activity(2);
    let [own, other] = ["build-1.drv", "build-0.drv"].map(path);
    let remote = Trace::BuildRemote {
        derivation: &other,
        machine: "evil",
    };
    activity.happened(&remote, Some(&own));
    let machines = activity
        .running
        .iter()
        .filter_map(|task| task.machine.as_ref());
    assert!(machines.into_iter().all(|machine| machine != "evil"));
}

#[test]
fn what_a_daemon_invents_takes_no_memory() {
    let activity = activity(10_000);
    assert!(activity.running.len() <= 4096);
}

#[test]
fn another_attempt_takes_the_place_of_the_first() {
    let mut activity = activity(1);
    let derivation = path("build-0.drv");
    let failed = Trace::HookFailed {
        derivation: &derivation,
        status: 1,
        message: "",
    };
    activity.happened(&failed, None);
    assert!(activity.running.iter().all(|task| task.path != derivation));
    for _ in 0..2 {
        let started = Trace::BuildStarted {
            derivation: &derivation,
            system: "",
            log_file: "",
            pid: None,
        };
        activity.happened(&started, None);
    }
    let found: Vec<_> = activity
        .running
        .iter()
        .filter(|task| task.path == derivation)
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].machine, None);
}

//! Tests of [`super`].

use super::*;
use crate::builds::Place;

fn expecting(builds: usize) -> Expected {
    Expected {
        builds,
        ..Expected::default()
    }
}

/// However the log is split, the output is the same.
fn shown(log: &str, detail: Detail) -> String {
    shown_on(Surface::Lines, log, detail)
}

fn shown_on(surface: Surface, log: &str, detail: Detail) -> String {
    let mut results = [1, 2, 7, log.len().max(1)].map(|step| {
        let mut out = Vec::new();
        let mut printer = LogPrinter::new(&mut out, detail, surface, expecting(1), None);
        log.as_bytes()
            .chunks(step)
            .for_each(|piece| printer.write(piece));
        printer.finish().unwrap();
        String::from_utf8(out).unwrap()
    });
    let last = results[3].clone();
    results
        .iter_mut()
        .for_each(|result| assert_eq!(*result, last));
    last
}

/// What is known of two builds at the end of this log, and what is shown of them.
fn of_two(log: &str) -> (Builds, String) {
    let mut out = Vec::new();
    let mut printer = LogPrinter::new(
        &mut out,
        Detail::Everything,
        Surface::Lines,
        expecting(2),
        None,
    );
    printer.write(log.as_bytes());
    let builds = printer.finish().unwrap();
    (builds, String::from_utf8(out).unwrap())
}

fn wrapped(pid: u32, output: &str) -> String {
    format!("@ build-log {pid} {}\n{output}", output.len())
}

fn log() -> String {
    [
        "@ build-started /x.drv - x86_64-linux /log/drvs/x//y.drv.gz 12\n",
        &wrapped(12, "hello\n"),
        &wrapped(12, "@ build-remote /x.drv machine\nab"),
        &wrapped(12, "@ build-succeeded /x.drv -\n"),
        "a message\n@ build-failed /x.drv - 1 why\n",
    ]
    .concat()
}

#[test]
fn events_are_shown_in_words() {
    assert_eq!(
        shown(&log(), Detail::Everything),
        "building /x.drv...\nhello\noffloading build of /x.drv to 'machine'\n\
         ab@ build-succeeded /x.drv -\na message\n\
         build of /x.drv failed\nView build log at '/log/drvs/x/y.drv.gz'.\n"
    );
}

#[test]
fn the_end_of_a_failed_log_is_shown_even_if_nothing_else_is() {
    let end = "The log of /x.drv ends with:\n  hello\n  ab@ build-succeeded /x.drv -\n\
               View build log at '/log/drvs/x/y.drv.gz'.\n";
    assert_eq!(
        shown(&log(), Detail::Events),
        format!(
            "building /x.drv...\noffloading build of /x.drv to 'machine'\na message\n\
             build of /x.drv failed\n{end}"
        )
    );
    assert_eq!(shown(&log(), Detail::Nothing), end);
}

#[test]
fn lines_of_several_builds_are_whole_and_named() {
    let derivation = |name| format!("/gnu/store/{}-{name}.drv", "0".repeat(32));
    let (one, two) = (derivation("one-1.0"), derivation("two"));
    let log = [
        &format!("@ build-started {one} - x86_64-linux /log/one 1\n"),
        &wrapped(1, "alone\nbeg"),
        &format!("@ build-started {two} - x86_64-linux /log/two 2\n"),
        &wrapped(2, "left "),
        &wrapped(1, "un\n"),
        &wrapped(2, "right\nthe end"),
        &format!("@ build-failed {two} - 1 why\n"),
        &wrapped(1, "alone again\n"),
        &format!("@ build-succeeded {one} -\n"),
    ]
    .map(String::as_str)
    .concat();
    let (builds, text) = of_two(&log);
    assert_eq!(builds.place_of(&one), Place::Daemon);
    assert_eq!(builds.place_of("/other.drv"), Place::Unknown);
    assert_eq!(
        text,
        format!(
            "building {one}...\nalone\nbeg\nbuilding {two}...\none-1.0> un\n\
             two> left right\ntwo> the end\nbuild of {two} failed\n\
             The log of {two} ends with:\n  left right\n  the end\n\
             View build log at '/log/two'.\nalone again\n\
             successfully built {one} (1 of 2)\n\
             failed: {two}\n  here after 0:00: why\n  | left right\n  | the end\n  whole log: /log/two\n\
             1 of 2 derivations built, 1 failed\n"
        )
    );
}

#[test]
fn builds_of_unknown_processes_are_kept_apart() {
    let log = "@ build-started /x.drv - x86_64-linux /log/x\n\
               @ build-started /y.drv - x86_64-linux /log/y\n\
               @ build-failed /x.drv - 1 why\n@ build-failed /y.drv - 1 why\n";
    assert_eq!(
        shown(log, Detail::Nothing),
        "View build log at '/log/x'.\nView build log at '/log/y'.\n"
    );
}

#[test]
fn the_last_attempt_tells_where_it_was_built() {
    let started = "@ build-started /x.drv - x86_64-linux /log/x 1\n";
    let sent = |machine| format!("@ build-remote /x.drv {machine}\n");
    let failed = "@ hook-failed /x.drv - 256 why\n";
    let first = [started, &sent("one"), failed].concat();
    let machine = |name: &str| Place::Machine(name.to_owned());
    for (log, place) in [
        ("", Place::Unknown),
        (started, Place::Daemon),
        // It may have failed when the outputs were here.
        (&first, machine("one")),
        (&[&first, started].concat(), Place::Daemon),
        (&[&first, started, &sent("two")].concat(), machine("two")),
    ] {
        let mut printer = LogPrinter::new(
            io::sink(),
            Detail::Nothing,
            Surface::Lines,
            expecting(1),
            None,
        );
        printer.write(log.as_bytes());
        let builds = printer.finish().unwrap();
        assert_eq!(builds.place_of("/x.drv"), place, "{log}");
    }
}

#[test]
fn downloads_are_lines() {
    let item = format!("/gnu/store/{}-x-1.0", "0".repeat(32));
    let log = format!(
        "@ substituter-started {item} substitute\n{}{}\
         @ substituter-succeeded {item}\n",
        wrapped(
            1,
            &format!(
                "@ download-started {item} http://a/x 100\n\
                 @ download-progress {item} http://a/x 100 50\n"
            )
        ),
        wrapped(
            1,
            &format!("@ download-succeeded {item} http://a/x 100\n\n")
        )
    );
    let text = shown(&log, Detail::Events);
    let expected = format!(
        "substituting {item}...\ndownloading from http://a/x ...\ndownloaded x-1.0, 100 B in "
    );
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(shown(&log, Detail::Nothing), "");
}

#[test]
fn incomplete_lines_are_shown_at_last() {
    let progress = "\x1b[Kprogress 1%\r\x1b[Kprogress 2%";
    assert_eq!(
        shown_on(Surface::Screen, progress, Detail::Events),
        progress
    );
    assert_eq!(shown(progress, Detail::Events), "progress 2%");
    assert_eq!(shown("@ build-st", Detail::Events), "@ build-st");
}

#[test]
fn only_a_terminal_gets_control_sequences() {
    let log = "\x1b[Klooking on 'a'...   0.0%\r\x1b[Klooking on 'a'... 100.0%\n\
               @ build-started /x.drv - x86_64-linux /log/x 1\n";
    let lines = "looking on 'a'... 100.0%\nbuilding /x.drv...\n";
    assert_eq!(shown(log, Detail::Events), lines);
    let screen = shown_on(Surface::Screen, log, Detail::Events);
    assert!(screen.contains("0.0%\r\x1b[K"), "{screen:?}");
    // What builders print is theirs.
    let colored = wrapped(1, "\x1b[1mbold\x1b[0m\r\n");
    assert_eq!(
        shown(&colored, Detail::Everything),
        "\x1b[1mbold\x1b[0m\r\n"
    );
}

#[test]
fn a_process_speaks_of_its_own_derivation_only() {
    let started =
        |name, pid| format!("@ build-started /{name}.drv - x86_64-linux /log/{name} {pid}\n");
    let log = [
        started("x", 1),
        started("y", 2),
        wrapped(1, "@ build-remote /y.drv evil\n"),
        wrapped(2, "@ build-remote /y.drv good\n"),
        // Of an unknown process, and by one that has ended.
        wrapped(3, "@ build-remote /y.drv evil\n"),
        "@ build-failed /x.drv - 1 why\n".to_owned(),
        wrapped(1, "@ build-remote /x.drv evil\n"),
    ]
    .concat();
    let (builds, text) = of_two(&log);
    assert_eq!(builds.place_of("/x.drv"), Place::Daemon);
    assert_eq!(builds.place_of("/y.drv"), Place::Machine("good".to_owned()));
    assert!(!text.contains("to 'evil'"), "{text}");
    assert!(text.contains("x> @ build-remote /y.drv evil\n"), "{text}");
}

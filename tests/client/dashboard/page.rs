//! The page of `guix-client dashboard`, in a real browser.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::browser::Dashboard;
use super::chromium::{Browser, ENTER, ESCAPE, TAB};
use super::simulated::Simulated;
use crate::fixture::Fixture;
use crate::harness::derivations::{Client, Script};
use crate::harness::is_ours;

/// Text that would be an element, if anybody took it for HTML, and that turns the direction of writing.
const EVIL: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";

/// The same, as a name can be: without a slash.
const EVIL_NAME: &str = "<img src=x onerror=alert(1)><b onclick=alert(2)>";

/// A browser, and the page of a daemon with this option.
fn page(options: &[&str]) -> Option<(Browser, Fixture, Dashboard)> {
    if !is_ours() {
        return None;
    }
    let browser = Browser::start()?;
    let fixture = Fixture::with_options(options);
    let dashboard = Dashboard::start(&fixture);
    Some((browser, fixture, dashboard))
}

/// The page with a farm that the test gives it; `text` is a function that makes each of its texts.
fn given(machines: u32, text: &str) -> Option<(Browser, Fixture, Dashboard)> {
    let all = page(&["--no-substitutes"])?;
    all.0.open(&format!("{}#given", all.2.url));
    give(&all.0, machines, text);
    Some(all)
}

fn give(browser: &Browser, machines: u32, text: &str) {
    browser.run_with(
        &format!("giveFarm(sampleFarm(input, {text}))"),
        &machines.into(),
    );
    browser.wait_for_text("#connection", "Live");
}

/// Nothing that others wrote has become an element, nothing was asked of another host, and the browser has
/// complained of nothing.
#[track_caller]
fn assert_clean(browser: &Browser) {
    let made =
        browser.value("document.querySelectorAll('img, iframe, object, b b, body script').length");
    assert_eq!(made, 0);
    let others = browser.value(
        "performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(location.origin))",
    );
    let others = others.as_array().unwrap().iter();
    assert_eq!(
        others
            .filter(|name| !name.as_str().unwrap().starts_with("data:"))
            .count(),
        0
    );
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// By how many pixels the page is wider than the screen.
fn overflow(browser: &Browser) -> Value {
    browser.value("document.documentElement.scrollWidth - innerWidth")
}

/// Writes a picture for the manual, if somebody wants them.
fn picture(browser: &Browser, name: &str) {
    if let Some(directory) = std::env::var_os("GUIX_PICTURES") {
        browser.picture(&PathBuf::from(directory).join(name));
    }
}

#[test]
fn what_runs_and_waits_is_shown_live_with_its_log() {
    let Some((browser, fixture, dashboard)) = page(&["--no-substitutes", "--max-jobs=1"]) else {
        return;
    };
    browser.open(&dashboard.url);
    browser.wait_for_text("#running", "Nothing runs.");
    assert_eq!(browser.text("#verdict"), "Nothing is being built.");
    let mut client = Client::connect(&fixture.daemon);
    let gate = fixture.await_gate("go");
    let say = format!(
        "echo '{EVIL}'; printf '\\033[31mred\\033[0m\\342\\200\\256turned\\n'; {gate}; echo 'and more'"
    );
    let low = client.write(Script::new("low", &format!("{say}; echo >$out")));
    let top = client.write(Script::new("top", "echo >$out").input(&low, "out"));
    let other = client.write(Script::new("zother", "echo >$out"));
    let building = client.start(&[&top, &other]);
    browser.wait_for_text("#running tbody", "low");
    browser.wait_for_text("#running tbody", "here");
    browser.wait_for_text("#waiting tbody", "zother");
    browser.wait_for_text("#waiting tbody", "it waits for something else to be done");
    browser.wait_for_text("#requests", "1 running, 2 waiting");
    browser.wait_for_text("#requests", "low → top");
    browser.value("document.querySelector('#running tbody button').focus()");
    browser.press(ENTER);
    browser.wait_for_text("#log-title", "Log of low");
    browser.wait_for_text("#log-text", EVIL);
    browser.wait_for_text("#log-text", "red\\u{202e}turned");
    assert_eq!(
        browser.value("document.querySelector('#log-text').childElementCount"),
        0
    );
    fixture.open("go");
    building.finish().1.succeeded();
    browser.wait_for_text("#log-text", "and more");
    browser.wait_for_text("#log-state", "The log is complete");
    browser.press(ESCAPE);
    browser.wait_until("document.querySelector('#log').hidden");
    browser.wait_for_text("#running", "Nothing runs.");
    browser.wait_for_text("#requests", "Nothing is being built.");
    assert_clean(&browser);
}

#[test]
fn what_has_failed_is_shown_with_its_log() {
    let Some((browser, fixture, dashboard)) = page(&["--no-substitutes"]) else {
        return;
    };
    browser.open(&dashboard.url);
    browser.wait_for_text("#failures", "Nothing has failed.");
    let (mut client, drv) = fixture.derivation("unlucky-1.0", "echo 'it is the moon'; exit 3");
    client.build(&[&drv]).failed(100, "");
    browser.wait_for_text("#failures tbody", "unlucky-1.0");
    browser.wait_for_text("#failures tbody", "build failed");
    browser.wait_for_text("#news", "Failed: unlucky-1.0");
    browser.wait_for_text("#tiles .bad", "in the last hour");
    browser.value("document.querySelector('#failures tbody button').click()");
    browser.wait_for_text("#log-text", "it is the moon");
    browser.wait_for_text("#log-state", "The log is complete");
    // The newest interval of the plot has it.
    browser.wait_until(
        "document.querySelector('#throughput .series-failed:not(.swatch)').getAttribute('d')?.startsWith('M')",
    );
    assert_clean(&browser);
}

#[test]
fn why_a_log_is_not_shown_to_its_end_is_said_as_text() {
    let Some((browser, fixture, dashboard)) = page(&["--no-substitutes"]) else {
        return;
    };
    browser.open(&dashboard.url);
    let (mut client, drv) = fixture.derivation("damaged", "echo begun; exit 3");
    client.build(&[&drv]).failed(100, "");
    browser.wait_for_text("#failures tbody", "damaged");
    // Where there was a log, there is a link to something else.
    let (start, rest) = drv.path.base_name().split_at(2);
    let log = fixture.site.log().join("drvs").join(start).join(rest);
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &log).unwrap();
    browser.value("document.querySelector('#failures tbody button').click()");
    browser.wait_for_text(
        "#log-state",
        "The log cannot be shown to its end: reading the log `",
    );
    browser.wait_for_text("#log-state", "oo many levels of symbolic links");
    assert_eq!(browser.text("#log-text"), "");
    assert_eq!(
        browser.value("document.querySelector('#log-state').childElementCount"),
        0
    );
    assert_clean(&browser);
}

#[test]
fn why_something_is_unknown_is_said_as_text() {
    let Some((browser, _fixture, _dashboard)) = given(3, "(words) => words") else {
        return;
    };
    browser.run_with(
        "giveFarm({ ...sampleFarm(3), error: input, history_error: input, machines_error: input })",
        &format!("{EVIL}\u{202e}").into(),
    );
    for what in [
        "What is being built is unknown",
        "What was built is unknown",
    ] {
        browser.wait_for_text("#notices", &format!("{what}: {EVIL}\\u{{202e}}"));
    }
    assert_clean(&browser);
}

#[test]
fn a_lost_server_or_daemon_is_said() {
    let Some((browser, fixture, dashboard)) = page(&["--no-substitutes"]) else {
        return;
    };
    browser.open(&dashboard.url);
    browser.wait_for_text("#connection", "Live");
    assert_eq!(browser.console(), Vec::<String>::new());
    let listen = format!("--listen={}", dashboard.address);
    drop(dashboard);
    browser.wait_for_text("#connection", "Connection lost; trying again.");
    let _again = Dashboard::start_with(&fixture, &[&listen]);
    browser.wait_for_text("#connection", "Live");
    fixture.daemon.signal(Signal::SIGTERM);
    browser.wait_for_text("#notices", "What is being built is unknown: ");
}

#[test]
fn whatever_names_contain_is_shown_as_text() {
    let text = format!(
        "(words) => words + {}",
        json!(format!("{EVIL_NAME}\u{202e}\u{1b}[31m\u{0}\u{2028}"))
    );
    let Some((browser, _fixture, _dashboard)) = given(40, &text) else {
        return;
    };
    for section in [
        "#requests",
        "#running",
        "#waiting",
        "#machines",
        "#failures",
    ] {
        browser.wait_for_text(
            section,
            &format!("{EVIL_NAME}\\u{{202e}}\\u{{1b}}[31m\\u{{0}}\\u{{2028}}"),
        );
    }
    browser.value("document.querySelector('#running tbody button').click()");
    browser.run_with(
        "giveLog(input)",
        &format!("{EVIL}\u{1b}]0;title\u{7}\u{1b}[2J\n50%\r100%\u{9b}\n").into(),
    );
    browser.wait_for_text("#log-text", &format!("{EVIL}\n100%\\u{{9b}}"));
    for width in [320, 1280] {
        browser.resize(width, 800, width == 320);
        assert_eq!(overflow(&browser), 0, "at {width}");
    }
    assert_clean(&browser);
}

#[test]
fn a_thousand_machines_are_shown_by_a_bounded_number_of_rows() {
    if !is_ours() {
        return;
    }
    let Some(browser) = Browser::start() else {
        return;
    };
    let farm = Simulated::new(1000);
    browser.open(&farm.dashboard.url);
    browser.wait_for_text("#machines", "25 of 1,000 machines");
    browser.wait_for_text("#tiles", &format!("{} of ", thousands(farm.slots)));
    browser.wait_for_text("#running tbody", "build0");
    browser.wait_for_text("#connection", "Live");
    browser.resize(1280, 900, false);
    picture(&browser, "dashboard-1000.png");
    browser.value("document.querySelector('#machines .below button').click()");
    browser.wait_for_text("#machines", "125 of 1,000 machines");
    let elements = browser.value("document.querySelectorAll('*').length");
    assert!(elements.as_u64().unwrap() < 15_000, "{elements}");
    browser.value("document.querySelector('#machines input').focus()");
    browser.press("build0777");
    browser.wait_for_text("#machines", "1 of 1,000 machines");
    browser.wait_for_text("#machines tbody", "build0777.example.invalid");
    assert_clean(&browser);
}

/// A number as the page has it.
fn thousands(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

#[test]
fn focus_and_selection_stay_where_they_are() {
    let Some((browser, _fixture, _dashboard)) = given(1000, "(words) => words") else {
        return;
    };
    browser.wait_until("document.querySelectorAll('#running tbody tr').length === 20");
    // Everything changes, and what is chosen would be at another place.
    let change = |host: &str| {
        browser.run_with(
            "const farm = sampleFarm(1000); farm.machines.reverse(); farm.host = input;
             for (const request of farm.requests) { request.builds.reverse(); for (const build of request.builds) build.elapsed_s += 7; }
             giveFarm(farm);",
            &host.into(),
        );
        browser.wait_for_text("h1", host);
    };
    browser.run_with(
        "const node = document.querySelector('#machines tbody .name').firstChild;
         getSelection().setBaseAndExtent(node, 0, node, 5);",
        &Value::Null,
    );
    change("once");
    assert_eq!(browser.value("String(getSelection())"), "build");
    browser
        .value("(window.chosen = document.querySelectorAll('#running tbody button')[5]).focus()");
    change("twice");
    assert_eq!(
        browser.value("document.activeElement === chosen && chosen.isConnected"),
        true
    );
    // A build that ends takes its row with it; the focus goes to a neighbour.
    browser.run_with(
        "const farm = sampleFarm(1000); const path = chosen.dataset.drv; farm.host = 'again';
         for (const request of farm.requests) request.builds = request.builds.filter((build) => build.path !== path);
         giveFarm(farm);",
        &Value::Null,
    );
    browser.wait_for_text("h1", "again");
    assert_eq!(browser.value("chosen.isConnected"), false);
    assert_eq!(
        browser.value("document.activeElement.matches('#running tbody button')"),
        true
    );
    assert_clean(&browser);
}

#[test]
fn a_keyboard_is_enough() {
    let Some((browser, _fixture, _dashboard)) = given(12, "(words) => words") else {
        return;
    };
    browser.value("document.body.focus()");
    browser.press(TAB);
    assert_eq!(browser.value("document.activeElement.className"), "skip");
    // On from one to the next, until the end of the page: each is seen to have the focus.
    let mut reached = Vec::new();
    let here = "(() => { const one = document.activeElement; const style = getComputedStyle(one);
        return [one.closest('section')?.id ?? '', one.localName, one.textContent.slice(0, 20), style.outlineStyle !== 'none'] })()";
    for _ in 0..400 {
        browser.press(TAB);
        let place = browser.value(here);
        if place[1] == "body" {
            break;
        }
        assert_eq!(
            place[3], true,
            "it isn't seen that this has the focus: {place}"
        );
        reached.push(place);
    }
    let is_reached = |section: &str, kind: &str| {
        reached
            .iter()
            .any(|place| place[0] == section && place[1] == kind)
    };
    for (section, kind) in [
        ("requests", "summary"),
        ("running", "input"),
        ("running", "button"),
        ("waiting", "button"),
        ("machines", "input"),
        ("machines", "button"),
        ("failures", "button"),
        ("throughput", "svg"),
    ] {
        assert!(
            is_reached(section, kind),
            "no {kind} of {section} is reached"
        );
    }
    assert!(reached.len() < 400, "there is no way out");
    sorting_by_keyboard(&browser);
    logs_by_keyboard(&browser);
    assert_clean(&browser);
}

fn sorting_by_keyboard(browser: &Browser) {
    browser.value("document.querySelector('#machines thead button').focus()");
    browser.press(ENTER);
    let sorted = "document.querySelector('#machines thead th').getAttribute('aria-sort')";
    assert_eq!(browser.value(sorted), "ascending");
    let first = "document.querySelector('#machines tbody .name').textContent";
    assert_eq!(browser.value(first), "build01");
    browser.press(ENTER);
    assert_eq!(browser.value(sorted), "descending");
    assert_eq!(browser.value(first), "build12");
}

fn logs_by_keyboard(browser: &Browser) {
    browser.value("(window.opener1 = document.querySelector('#running tbody button')).focus()");
    browser.press(ENTER);
    assert_eq!(browser.value("document.activeElement.id"), "log-title");
    let mut seen = Vec::new();
    for _ in 0..3 {
        browser.press(TAB);
        seen.push(browser.value("document.activeElement.id"));
    }
    assert_eq!(seen, ["log-end", "log-close", "log-text"]);
    browser.press(ESCAPE);
    assert_eq!(browser.value("document.activeElement === opener1"), true);
}

/// The text with the least contrast to what is behind it, among all that is seen, and its contrast.
const LEAST_CONTRAST: &str = r"
    const numbers = (color) => color.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = (node) => {
        for (let one = node; one; one = one.parentElement) {
            const color = numbers(getComputedStyle(one).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    let least = [100, ''];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest('svg, noscript')) continue;
        const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < least[0]) least = [contrast, texts.currentNode.data, node.outerHTML.slice(0, 100)];
    }
    return least;";

#[test]
fn it_is_readable_light_and_dark_and_on_a_telephone() {
    let Some((browser, _fixture, _dashboard)) = given(12, "(words) => words") else {
        return;
    };
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let least = browser.run_with(LEAST_CONTRAST, &Value::Null);
        assert!(least[0].as_f64() >= Some(4.5), "{scheme}: {least}");
        backgrounds
            .push(browser.value("getComputedStyle(document.documentElement).backgroundColor"));
        browser.resize(1280, 1010, false);
        picture(&browser, &format!("dashboard-{scheme}.png"));
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    browser.prefer("light");
    browser.resize(320, 640, true);
    assert_eq!(overflow(&browser), 0);
    browser.value("document.querySelector('#running tbody button').click()");
    let lines: String = (1..40)
        .map(|number| format!("  CC       src/file{number}.o\n"))
        .collect();
    browser.run_with("giveLog(input)", &lines.into());
    browser.wait_for_text("#log-text", "file39.o");
    assert_eq!(overflow(&browser), 0);
    picture(&browser, "dashboard-telephone.png");
    assert_clean(&browser);
}

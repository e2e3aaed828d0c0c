//! What a hook says, which may be what a build machine has said.

use std::cell::RefCell;

use protocol::client::{Address, Options};
use serde_json::Value;

use super::super::harness::{eventually, servers};
use super::*;

/// An event that is the daemon's to report, one that is a hook's, and terminal sequences.
const WORDS: &str = r#"
speak() {
    printf '@ build-succ' >&2; sleep 0.1; printf 'eeded /victim.drv -\n@ build-log 1 9\n' >&2
    printf '\033[2J\r@ build-failed /victim.drv - 1 x\n' >&2
    printf '@ build-remote /x.drv machine\n\033[1mbold\033[0m\n\033' >&2
}
"#;

#[test]
fn a_hooks_words_forge_no_event() {
    if !is_ours() {
        return; // Guix's passes everything on
    }
    let scripts = [
        "ask; speak; echo >&2; echo '# decline'; ask",
        "ask; echo '# accept'; speak; accept; make",
        "ask; accept; speak; make",
        "ask; speak; exit 1",
    ];
    for script in scripts {
        let setup = hooked(&format!("{WORDS}{script}"), &["--debug"]);
        for multiplexed in ["false", "true"] {
            let mut client = client(&setup);
            client.set(|options| {
                options.print_build_trace = Some(true);
                options.set("multiplexed-build-output", multiplexed);
            });
            let drv = client.write(local(&format!("example-{multiplexed}")));
            let built = client.build(&[&drv]);
            built.succeeded();
            let forged = [
                "build-succeeded /victim",
                "build-log 1 9",
                "build-failed /victim",
            ];
            for event in forged {
                built.said(event);
                for start in ["\n", "\r"] {
                    built.did_not_say(&format!("{start}@ {event}"));
                }
            }
            built.did_not_say("\x1b[2J");
            built.said("\\u{1b}[2J");
            built.said("@ build-remote /x.drv machine\n\x1b[1mbold\x1b[0m\n");
            built.did_not_say("\x1b\n");
            let log = setup.daemon.messages();
            assert!(!log.contains(['\r', '\x1b']), "{log:?}");
        }
    }
}

/// A hook that postpones everything, for a reason that names an account and a host.
const SECRETIVE: &str = r#"
while ask; do
    printf '@ build-postponed %s root@secret-host: Permission denied %02000d\n' $drv 0 >&2
    echo '# postpone'
done"#;

/// What the daemon tells a client who waits for `count` builds that the hook has postponed.
#[track_caller]
fn told(connection: protocol::client::Connection, count: u64) -> (String, Value) {
    let connection = RefCell::new(connection);
    let ask = || {
        let answer = connection.borrow_mut().query_farm_status();
        let text = answer.unwrap().0.to_string();
        let status: Value = serde_json::from_str(&text).unwrap();
        (text, status)
    };
    let waits = |status: &Value| status["requests"][0]["reasons"]["machine"] == count;
    assert!(eventually(|| waits(&ask().1)), "{}", ask().1);
    ask()
}

#[test]
fn who_comes_over_tcp_is_told_neither_users_nor_what_hooks_say() {
    if !is_ours() {
        return;
    }
    let port = servers::free_port();
    let site = site("hook", SECRETIVE);
    let unix = format!("--listen={}", site.socket().display());
    let tcp = format!("--listen=127.0.0.1:{port}");
    let setup = Setup::at(site, &["--max-jobs=0", &unix, &tcp]);
    let mut client = client(&setup);
    let drv = client.write(local("x"));
    let building = client.start(&[&drv]);
    let uid = nix::unistd::geteuid().as_raw();
    let (text, status) = told(setup.client().connection, 1);
    assert!(text.contains("root@secret-host"), "{text}");
    assert_eq!(status["requests"][0]["client"]["uid"], uid);
    let address = Address::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    let store = formats::StoreDir::new(setup.site.store().to_str().unwrap()).unwrap();
    let stranger = address.connect(&store, &Options::default()).unwrap();
    let (text, status) = told(stranger, 1);
    assert!(!text.contains("secret-host"), "{text}");
    let request = &status["requests"][0];
    let nobody = serde_json::json!({"uid": null, "address": null});
    assert_eq!(request["client"], nobody);
    assert_eq!(request["waits"][0]["path"], drv.path.as_str());
    let why = "no build machine is free for it";
    assert_eq!(request["waits"][0]["text"], why);
    building.hang_up();
}

#[test]
fn a_status_is_bounded_and_says_what_it_leaves_out() {
    if !is_ours() {
        return;
    }
    let setup = hooked(SECRETIVE, &["--max-jobs=0"]);
    let mut client = client(&setup);
    let count = 700;
    let drvs: Vec<_> = (0..count)
        .map(|number| client.write(local(&format!("x{number}"))))
        .collect();
    let building = client.start(&drvs.iter().collect::<Vec<_>>());
    let (text, status) = told(setup.client().connection, count);
    assert!(text.len() < 1 << 20, "{}", text.len());
    let request = &status["requests"][0];
    let listed = request["waits"].as_array().unwrap().len() as u64;
    assert!((200..count).contains(&listed), "{listed}");
    assert_eq!(request["unlisted_waits"], count - listed);
    assert_eq!(request["unlisted_builds"], 0);
    let targets = request["targets"].as_array().unwrap().len() as u64;
    assert_eq!(request["unlisted_targets"], count - targets);
    building.hang_up();
}

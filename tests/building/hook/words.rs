//! What a hook says, which may be what a build machine has said.

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

//! Build machines that are hostile: whatever they send, builds go elsewhere, and what they say is
//! quoted where it is shown.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::frames::{LAST, NEXT, READ, WRITE};

use crate::entry::Entry;
use crate::fake_daemon::{FakeDaemon, Guest};
use crate::farm::{CLIENT, Farm, Kind};
use crate::harness::Bytes;
use crate::harness::derivations::{Built, Script};

/// What terminals obey, and lines that look like others' words.
const WORDS: &str =
    "bad \x1b[2J\x1b]0;title\x07\u{9b}31m\r\x08 word\n@ build-succeeded /x.drv -\n# accept\n";

/// The version that fake daemons claim to have.
const VERSION: u64 = 0x163;

type Act = Arc<dyn Fn(&mut Guest) -> io::Result<()> + Send + Sync>;

/// Where a fake daemon listens. All machines see it there.
fn socket(farm: &Farm) -> PathBuf {
    farm.gate().join("s")
}

/// The entry of the first machine, with a fake daemon, which is preferred.
fn bad(farm: &Farm) -> Entry {
    let entry = farm.entry(0).text("transport", "socket");
    let entry = entry.text("daemon-socket", socket(farm).to_str().unwrap());
    entry.plain("speed", "9.0")
}

/// Builds something on two machines, of which the first has this daemon. Returns what is said.
fn built_elsewhere(farm: &Farm, name: &str, act: Act) -> Built {
    let _daemon = FakeDaemon::new(&socket(farm), move |guest| act(guest));
    farm.forget();
    farm.configure(&[bad(farm), farm.entry(1)]);
    let mut client = farm.client();
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    let drv = client.write(Script::new(name, &script));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("built on build-2\n");
    built.said("build-1");
    assert_eq!(farm.health(0)["failures"], 1, "{name}: {built:#?}");
    // It is tested, too.
    farm.configure(&[bad(farm)]);
    let (all_right, text) = farm.try_run(CLIENT, &["offload", "test"]);
    assert!(!all_right, "{text}");
    assert_quoted(&text);
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    built
}

/// Hostile daemons, by the phase in which they are.
fn daemons() -> Vec<(&'static str, Act)> {
    fn at(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        Arc::new(act)
    }
    /// After the handshake.
    fn greeted(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        at(move |guest| {
            guest.shake_hands(VERSION)?;
            act(guest)
        })
    }
    /// When it is asked what is valid.
    fn asked(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        greeted(move |guest| {
            guest.take_roots()?;
            act(guest)
        })
    }
    /// When it is sent what it lacks: everything.
    fn importing(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        asked(move |guest| {
            guest.send(Bytes::new().word(LAST).word(0))?;
            act(guest)
        })
    }
    /// When it is asked to build.
    fn building(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        greeted(move |guest| {
            guest.take_build()?;
            act(guest)
        })
    }
    /// When it is asked for the output.
    fn exporting(act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static) -> Act {
        building(move |guest| {
            guest.send(Bytes::new().word(LAST).word(1))?;
            act(guest)
        })
    }
    let huge = || Bytes::new().word(u64::MAX / 2);
    vec![
        ("closes", at(|_| Ok(()))),
        (
            "garbage",
            at(|guest| guest.send_endlessly(Bytes::new().raw(b"\xffgarbage"))),
        ),
        ("future", at(|guest| guest.shake_hands(0x264))),
        ("zero", at(|guest| guest.shake_hands(0))),
        ("greeted", greeted(|_| Ok(()))),
        ("greeted-talks", greeted(Guest::talk)),
        (
            "greeted-garbage",
            greeted(|guest| guest.send_endlessly(Bytes::new().word(7))),
        ),
        (
            "greeted-huge",
            greeted(move |guest| guest.send(Bytes::new().word(NEXT).raw(&huge().0))),
        ),
        ("asked", asked(|_| Ok(()))),
        ("asked-talks", asked(Guest::talk)),
        (
            "asked-empty-talk",
            asked(|guest| guest.send_endlessly(Bytes::new().word(NEXT).string(""))),
        ),
        (
            "asked-wants-data",
            asked(|guest| guest.send_endlessly(Bytes::new().word(READ).word(8))),
        ),
        (
            "asked-sends-data",
            asked(|guest| guest.send_endlessly(Bytes::new().word(WRITE).string("data"))),
        ),
        (
            "asked-many",
            asked(|guest| guest.send(Bytes::new().word(LAST).word(u64::from(u32::MAX)))),
        ),
        (
            "asked-long",
            asked(move |guest| guest.send(Bytes::new().word(LAST).word(1).raw(&huge().0))),
        ),
        (
            "asked-no-path",
            asked(|guest| guest.send(Bytes::new().word(LAST).strings(&["../../etc/passwd"]))),
        ),
        (
            "asked-endless-list",
            asked(|guest| {
                guest.send(Bytes::new().word(LAST).word(u64::from(u32::MAX)))?;
                guest.send_endlessly(Bytes::new().string("/x"))
            }),
        ),
        ("ancient", at(|guest| guest.shake_hands(0x101))),
        (
            "asked-shouts",
            asked(|guest| guest.fail(&"x".repeat(8 << 20), 1)),
        ),
        ("importing", importing(|_| Ok(()))),
        (
            "importing-wants-more",
            importing(|guest| guest.send_endlessly(Bytes::new().word(READ).word(1 << 20))),
        ),
        ("importing-talks", importing(Guest::talk)),
        (
            "importing-shouts",
            importing(|guest| guest.fail(&"x".repeat(8 << 20), 1)),
        ),
        ("building", building(|_| Ok(()))),
        (
            "building-garbage",
            building(|guest| guest.send(Bytes::new().word(1 << 40))),
        ),
        ("building-error", building(|guest| guest.fail(WORDS, 1))),
        ("exporting", exporting(|_| Ok(()))),
        ("exporting-talks", exporting(Guest::talk)),
        (
            "exporting-nothing",
            exporting(|guest| guest.send(Bytes::new().word(LAST).word(1))),
        ),
        (
            "exporting-garbage",
            exporting(|guest| {
                guest.send_endlessly(Bytes::new().word(WRITE).string("no archive at all"))
            }),
        ),
        ("exporting-error", exporting(|guest| guest.fail(WORDS, 100))),
        (
            "exporting-long-name",
            exporting(|guest| {
                let archive = Bytes::new().string("nix-archive-1").string("(");
                let archive = archive.string("type").string("symlink").string("target");
                guest.send(Bytes::new().word(WRITE).string(archive.word(1 << 60).0))
            }),
        ),
    ]
}

#[test]
fn whatever_a_daemon_sends_the_build_goes_elsewhere() {
    let farm = Farm::new(2);
    for (name, act) in daemons() {
        eprintln!("{name}");
        let built = built_elsewhere(&farm, name, act);
        assert_quoted(&built.log);
        assert!(built.log.len() < 64 << 10, "{} bytes", built.log.len());
    }
    farm.assert_nothing_left();
}

/// No control characters reach a terminal, and no line is taken for an event.
#[track_caller]
fn assert_quoted(text: &str) {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!text.contains(control), "{text:?}");
    for line in ["@ build-succeeded /x.drv -", "# accept"] {
        assert!(!text.lines().any(|other| other == line), "{text:?}");
    }
}

#[test]
fn what_a_machine_says_is_quoted() {
    let mut farm = Farm::with(&[Kind::default(), Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    // The account's programs are as hostile as its daemon.
    let programs = farm.gate().join("bin");
    fs::create_dir(&programs).unwrap();
    let words = farm.gate().join("words");
    fs::write(&words, WORDS).unwrap();
    let executable = |name: &str, text: String| {
        let file = programs.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    };
    executable("uname", format!("#!/bin/sh\ncat {}\n", words.display()));
    let shell = executable(
        "shell",
        format!(
            "#!/bin/sh\ncat {}\ncat {0} >&2\nPATH={}:$PATH exec /bin/sh \"$@\"\n",
            words.display(),
            programs.display()
        ),
    );
    crate::accounts::set_shell(&farm, shell.to_str().unwrap());
    let act: Act = Arc::new(|guest| {
        guest.shake_hands(VERSION)?;
        guest.fail(WORDS, 1)
    });
    let built = built_elsewhere(&farm, "x", act.clone());
    built.said("bad \\u{1b}[2J");
    assert_quoted(&built.log);
    // What is remembered of it, and what it says itself.
    let _daemon = FakeDaemon::new(&socket(&farm), move |guest| act(guest));
    for words in [
        &["offload", "status"][..],
        &["offload", "status", "--json"],
        &["offload", "status", "--prometheus"],
        &["offload", "test"],
    ] {
        let (_, text) = farm.try_run(CLIENT, words);
        assert!(text.contains("build-1"), "{text}");
        if !words.contains(&"--prometheus") {
            assert!(text.contains("bad \\u"), "{words:?}: {text}");
        }
        assert_quoted(&text);
    }
    // The load cannot be understood: that is said, in no words of the machine.
    executable("cat", "#!/bin/sh\nprintf '\\033[2J 1 2'\n".to_owned());
    let (_, text) = farm.try_run(CLIENT, &["offload", "status"]);
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains("cannot be parsed"), "{text}");
    assert_quoted(&text);
}

#[test]
fn a_server_that_greets_without_end_is_given_up() {
    let farm = Farm::new(1);
    // ssh's part is played by a script, which logs like an ssh that gets such greetings.
    let programs = farm.site.path("programs");
    fs::create_dir(&programs).unwrap();
    let ssh = programs.join("ssh");
    let text = "#!/bin/sh\nwhile [ \"$1\" != -E ]; do shift; done\nexec yes Welcome >>\"$2\"\n";
    fs::write(&ssh, text).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "PATH={}:$PATH; exec \"$1\" offload status",
        programs.display()
    );
    let text = farm.run("sh", &["-c", &script, "sh", CLIENT]);
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains("its server greets without end"), "{text}");
    farm.assert_nothing_left();
}

//! Tests of [`super`], with a shell script for `guix`.

use super::*;
use crate::cancel::CancellationToken;
use crate::spawner::Spawner;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use system::process::Spawn;

/// It outlives the agents, which are killed when its thread ends.
static SPAWNER: LazyLock<Spawner> = LazyLock::new(Spawner::default);

const PATH: &str = "/gnu/store/00000000000000000000000000000000-a";
const OTHER: &str = "/gnu/store/11111111111111111111111111111111-b";

fn guix(body: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("guix");
    fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, program)
}

/// Starts an agent that nothing is kept from.
fn start(guix: &Path, mode: AgentMode, options: &str) -> Agent {
    let start = |program: AgentProgram| {
        let log = program.log.try_clone()?;
        let guix = Spawn::new(&program.guix)
            .args(["substitute", program.mode.argument()])
            .env("_NIX_OPTIONS", program.options)
            .fd(program.requests, 0)
            .fd(log, 1)
            .fd(program.log, 2)
            .fd(program.replies, 4)
            .setsid();
        SPAWNER.start(guix)
    };
    Agent::start(&start, guix, mode, options.into(), Vec::new()).unwrap()
}

fn ask<T>(
    body: &str,
    question: impl FnOnce(&mut Agent, &mut Conversation<'_>) -> T,
) -> (T, String) {
    let (_directory, program) = guix(body);
    let mut agent = start(&program, AgentMode::Query, "a=b\n");
    let mut log = Vec::new();
    let mut on_log = |words: &[u8]| log.extend_from_slice(words);
    let cancel = CancellationToken::new();
    let mut conversation = Conversation::new(&mut on_log, &cancel)
        .unwrap()
        .with_prefixed_lines();
    let answer = question(&mut agent, &mut conversation);
    drop(conversation);
    (answer, String::from_utf8(log).unwrap())
}

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn paths() -> BTreeSet<StorePath> {
    [PATH, OTHER]
        .iter()
        .map(|path| store().parse(path).unwrap())
        .collect()
}

#[test]
fn questions_are_answered_on_descriptor_4() {
    let script = format!(
        "read word a b; echo \"$1 $2 $_NIX_OPTIONS$word $a $b\" >&2
         echo {PATH} >&4; echo >&4; read rest"
    );
    let (answer, log) = ask(&script, |agent, conversation| {
        agent.have(&paths(), &store(), conversation).unwrap()
    });
    assert_eq!(
        answer.iter().map(StorePath::as_str).collect::<Vec<_>>(),
        [PATH]
    );
    assert_eq!(
        log,
        format!("substitute: substitute --query a=b\nsubstitute: have {PATH} {OTHER}\n")
    );
}

#[test]
fn what_is_known_of_items() {
    let script = format!(
        "read line; printf '%s\\n' {PATH} '' 2 {PATH} {OTHER} 10 20 {OTHER} {PATH} 0 1 2 '' >&4
         read rest"
    );
    let (answer, _) = ask(&script, |agent, conversation| {
        agent.info(&paths(), &store(), conversation).unwrap()
    });
    let infos: Vec<Substitutable> = answer.into_values().collect();
    assert_eq!(infos[0].references, paths());
    assert_eq!((infos[0].download_size, infos[0].nar_size), (10, 20));
    assert_eq!(infos[1].deriver.as_ref().map(StorePath::as_str), Some(PATH));
}

/// Replays what the real `guix substitute` replied (`vectors/README.md`), the given number of lines to
/// each request, and records the requests.
struct Recording {
    directory: tempfile::TempDir,
    agent: Agent,
}

impl Recording {
    fn start(mode: AgentMode, replies: &str, lines: &[usize]) -> Recording {
        let mut script = String::from("exec 3<\"$0.replies\"\n");
        for count in lines {
            script += &format!(
                "IFS= read -r line; printf '%s\\n' \"$line\" >>\"$0.requests\"
                 n=0; while [ $n -lt {count} ]; do
                     IFS= read -r reply <&3; printf '%s\\n' \"$reply\" >&4; n=$((n + 1))
                 done\n"
            );
        }
        let (directory, program) = guix(&(script + "read rest"));
        fs::write(directory.path().join("guix.replies"), replies).unwrap();
        let agent = start(&program, mode, "");
        Recording { directory, agent }
    }

    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Agent, &mut Conversation<'_>) -> Result<T, Error>,
    ) -> T {
        let mut on_log = |_: &[u8]| {};
        let cancel = CancellationToken::new();
        let mut conversation = Conversation::new(&mut on_log, &cancel).unwrap();
        question(&mut self.agent, &mut conversation).unwrap()
    }

    fn requests(&self) -> String {
        fs::read_to_string(self.directory.path().join("guix.requests")).unwrap()
    }
}

#[test]
fn queries_of_guix() {
    let item = |name: &str| store().join(name).unwrap();
    let text = item("0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt");
    let refers = item("na86m89488gs12hv3yzrsvj2x5w61p1b-refers");
    let user = item("wwi12pfwrdi0c7wyjj5v0xsr0611cjk4-user");
    let none = item("00000000000000000000000000000000-none");
    let replies = include_str!("vectors/query.replies");
    let info_lines = replies.lines().count() - 3;
    let mut guix = Recording::start(AgentMode::Query, replies, &[3, info_lines]);

    let mut paths = BTreeSet::from([text.clone(), refers.clone(), none]);
    let found = guix.ask(|agent, conversation| agent.have(&paths, &store(), conversation));
    assert_eq!(found, [text.clone(), refers.clone()].into());
    paths.insert(user.clone());
    let infos = guix.ask(|agent, conversation| agent.info(&paths, &store(), conversation));
    let info = |deriver: Option<&str>, references: &[&StorePath], nar_size| Substitutable {
        deriver: deriver.map(item),
        references: references.iter().copied().cloned().collect(),
        download_size: 0,
        nar_size,
    };
    let fixed = item("2l7gv8r2dxmx9mc8k1nwv2af9r78l2cy-fixed-flat");
    let doc = item("p992x2wkq4fpbxfddwz8xp0agfi587pf-multi-doc");
    let deriver = "q4i6dx7mm19hcc89hd1skh1w55d0ggnm-user.drv";
    let expected = [
        (text.clone(), info(None, &[], 128)),
        (refers, info(None, &[&text], 168)),
        (user, info(Some(deriver), &[&fixed, &doc], 224)),
    ];
    assert_eq!(infos, expected.into());
    assert_eq!(guix.requests(), include_str!("vectors/query.requests"));
}

#[test]
fn substitutions_of_guix() {
    let replies = include_str!("vectors/substitute.replies");
    let mut guix = Recording::start(AgentMode::Substitute, replies, &[1, 1, 1]);
    let mut fetch = |name: &str| {
        let path = store().join(name).unwrap();
        guix.ask(|agent, conversation| agent.substitute(&path, path.as_path(), conversation))
    };
    let refers = "sha256:0dnqlsrmngx59pcjdg1w7zx3yf94l08rybvzix01ch9y6108gw6b";
    let success = |hash: &str, nar_size| SubstituteReply::Success {
        hash: hash.into(),
        nar_size,
    };
    assert_eq!(
        fetch("na86m89488gs12hv3yzrsvj2x5w61p1b-refers"),
        success(refers, 168)
    );
    let tree = "sha256:0b9anl816n1iyqzfz159bl77zjw3xqpalwifg87ghsp0b780iz50";
    assert_eq!(
        fetch("21lh2bkbanxjn6vb9pdjab83kbnmybvd-tree"),
        success(tree, 104_120)
    );
    assert_eq!(
        fetch("0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt"),
        SubstituteReply::HashMismatch {
            algorithm: "sha256".into(),
            expected: "0nya2hjn923syqd433mabf0rabla032jajqil5r8lm972qk07z71".into(),
            actual: refers["sha256:".len()..].into(),
        }
    );
    assert_eq!(guix.requests(), include_str!("vectors/substitute.requests"));
}

#[test]
fn a_bad_agent_is_an_error() {
    let failure = |script: &str| {
        let (answer, log) = ask(script, |agent, conversation| {
            agent.info(&paths(), &store(), conversation)
        });
        (answer.unwrap_err().to_string(), log)
    };
    let (error, log) = failure("echo last words >&2; exit 1");
    assert!(error.ends_with("substitute' died unexpectedly"), "{error}");
    assert_eq!(log, "substitute: last words\n");
    let (error, _) = failure("read line; echo /gnu/store/x >&4; read rest");
    assert_eq!(error, "got unexpected path `/gnu/store/x' from substituter");
    let (error, _) = failure(&format!(
        "read line; printf '%s\\n' {PATH} '' z >&4; read rest"
    ));
    assert_eq!(error, "integer expected from stream: z");
    let (error, _) = failure("read line; exec cat /dev/zero >&4");
    assert_eq!(error, "the substituter's answer is too long");
}

#[test]
fn a_client_that_goes_is_not_kept_waiting() {
    let (_directory, program) = guix("sleep 100");
    let mut agent = start(&program, AgentMode::Query, "");
    let cancel = CancellationToken::new();
    let begin = Instant::now();
    let canceller = cancel.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        canceller.cancel();
    });
    let mut on_log = |_: &[u8]| {};
    let mut conversation = Conversation::new(&mut on_log, &cancel).unwrap();
    let answer = agent.have(&paths(), &store(), &mut conversation);
    assert!(answer.is_err_and(|error| error.is_interruption()));
    thread.join().unwrap();
    drop(conversation);
    drop(agent);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn damaged_replies_are_read_or_refused() {
    let reply = format!("{PATH}\n{OTHER}\n1\n{OTHER}\n1234\n5678\n{OTHER}\n\n0\n0\n1\n\n");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("reply");
    let script = format!("read question; cat {} >&4", file.display());
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    let mut whole = 0;
    for round in 0..120 {
        let mut damaged = reply.clone().into_bytes();
        for _ in 0..round % 4 {
            let at = random(damaged.len());
            match random(4) {
                0 => damaged[at] = random(256) as u8,
                1 => _ = damaged.remove(at),
                2 => damaged.insert(at, b"\n 9-\x1b"[random(5)]),
                _ => damaged.truncate(at + 1),
            }
        }
        fs::write(&file, &damaged).unwrap();
        let (answer, heard) = ask(&script, |agent, conversation| {
            agent.info(&paths(), &store(), conversation)
        });
        if let Ok(found) = answer {
            assert!(found.keys().all(|path| paths().contains(path)));
            whole += 1;
        }
        assert_eq!(heard, "");
    }
    assert!((30..120).contains(&whole), "{whole}");
}

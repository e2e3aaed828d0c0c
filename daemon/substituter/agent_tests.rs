//! Tests of [`super`], with a shell script for `guix`.

use super::*;
use crate::cancel::CancellationToken;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

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

fn ask<T>(
    body: &str,
    question: impl FnOnce(&mut Agent, &mut Conversation<'_>) -> T,
) -> (T, String) {
    let (_directory, program) = guix(body);
    let mut agent = Agent::start(&SPAWNER, &program, AgentMode::Query, "a=b\n".into()).unwrap();
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
    let mut agent = Agent::start(&SPAWNER, &program, AgentMode::Query, "".into()).unwrap();
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
    assert!(matches!(answer, Err(Error::Interrupted)));
    thread.join().unwrap();
    drop(conversation);
    drop(agent);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn no_guix_no_substitutes() {
    assert!(!Agent::available(Path::new("/nonexistent/guix")));
    assert!(Agent::available(Path::new("/bin/sh")));
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

//! Conversations between Guix's own client and daemon (`vectors/README.md`): our client sends the
//! same bytes and decodes the replies, and our server decodes the requests and replies with the
//! same bytes.

use std::fs;
use std::io::{self, Cursor, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use formats::{StoreDir, StorePath};
use protocol::client::{self, Options};
use protocol::operations::*;
use protocol::server;

const TEXT: &str = "/gnu/store/ivan2f78ghx8cw4rnl6hx17ds41b78bz-protocol.txt";
const REFERS: &str = "/gnu/store/cmm6valwx49vf99ai4gdn0z02r3ynymn-protocol-refers.txt";
const NONE: &str = "/gnu/store/00000000000000000000000000000000-none";

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn path(text: &str) -> StorePath {
    store().parse(text.as_bytes()).unwrap()
}

fn recorded(number: u32, side: &str) -> Vec<u8> {
    let name = format!("tests/vectors/{number}.{side}");
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Stores what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks both halves against conversation `number`, in which `requests` got `replies`.
fn check<C: Call>(number: u32, requests: &[C], replies: &[C::Reply])
where
    C::Reply: PartialEq + std::fmt::Debug,
{
    check_with_log(number, requests, &[], replies);
}

/// Like [`check`]; before each reply, the daemon sent the messages in `log`.
fn check_with_log<C: Call>(number: u32, requests: &[C], log: &[&str], replies: &[C::Reply])
where
    C::Reply: PartialEq + std::fmt::Debug,
{
    let (client, daemon) = (recorded(number, "client"), recorded(number, "daemon"));

    let sent = Kept::default();
    let reader = Box::new(Cursor::new(daemon.clone()));
    let writer = Box::new(sent.clone());
    let mut connection =
        client::Connection::over(reader, writer, &store(), &Options::default()).unwrap();
    let logged = Kept::default();
    let mut log_target = logged.clone();
    connection.set_log(move |text| log_target.write_all(text).unwrap());
    for (request, reply) in requests.iter().zip(replies) {
        assert_eq!(connection.call(request).unwrap(), *reply, "{number}");
    }
    assert_eq!(
        *logged.0.lock().unwrap(),
        log.concat().into_bytes(),
        "{number}: the log"
    );
    assert_eq!(
        *sent.0.lock().unwrap(),
        client,
        "{number}: what the client sends"
    );

    let answered = Kept::default();
    let writer = Box::new(answered.clone());
    let (mut connection, _) =
        server::Connection::accept(client.as_slice(), writer, Box::new(()), store()).unwrap();
    connection.begin().unwrap();
    connection.finish_silently().unwrap();
    for reply in replies {
        let request = connection.next_request().unwrap().unwrap();
        assert_eq!(request.operation(), C::OPERATION, "{number}");
        connection.begin().unwrap();
        for message in log {
            assert!(connection.tunnel().log(message.as_bytes()).unwrap());
        }
        connection.finish::<C>(reply).unwrap();
    }
    assert!(connection.next_request().unwrap().is_none());
    assert_eq!(
        *answered.0.lock().unwrap(),
        daemon,
        "{number}: what the daemon answers"
    );
}

/// Checks both halves against conversation `number`, in which `request` got an error.
fn check_error<C: Call>(number: u32, request: &C, message: &str) {
    let (client, daemon) = (recorded(number, "client"), recorded(number, "daemon"));

    let sent = Kept::default();
    let reader = Box::new(Cursor::new(daemon.clone()));
    let writer = Box::new(sent.clone());
    let mut connection =
        client::Connection::over(reader, writer, &store(), &Options::default()).unwrap();
    let Err(error) = connection.call(request) else {
        panic!("{number}: a reply, not an error");
    };
    assert_eq!(error.status(), Some(1), "{number}");
    assert_eq!(error.to_string(), message, "{number}");
    assert_eq!(*sent.0.lock().unwrap(), client, "{number}: the client");

    let answered = Kept::default();
    let writer = Box::new(answered.clone());
    let (mut connection, _) =
        server::Connection::accept(client.as_slice(), writer, Box::new(()), store()).unwrap();
    connection.begin().unwrap();
    connection.finish_silently().unwrap();
    let request = connection.next_request().unwrap().unwrap();
    assert_eq!(request.operation(), C::OPERATION, "{number}");
    connection.begin().unwrap();
    connection.fail(message, 1).unwrap();
    assert_eq!(*answered.0.lock().unwrap(), daemon, "{number}: the daemon");
}

#[test]
fn texts_are_added() {
    let text = AddTextToStore {
        name: "protocol.txt".to_owned(),
        text: "hello, protocol\n".into(),
        references: [].into(),
    };
    check(5, &[text], &[path(TEXT)]);
    let refers = AddTextToStore {
        name: "protocol-refers.txt".to_owned(),
        text: format!("{TEXT}\n").into(),
        references: [path(TEXT)].into(),
    };
    check(6, &[refers], &[path(REFERS)]);
}

#[test]
fn items_are_queried() {
    let valid = |path: &str| IsValidPath { path: path.into() };
    check(12, &[valid(TEXT), valid(NONE)], &[true, false]);
    let hash = "f8aff444c1bf69a222733b7b85648a4308282962b59289a4e5ffdac4ab3ac841";
    let hash = formats::Hash::parse(formats::Algorithm::Sha256, hash).unwrap();
    check(16, &[QueryPathHash { path: path(TEXT) }], &[hash]);
    let references = QueryReferences { path: path(REFERS) };
    check(17, &[references], &[[path(TEXT)].into()]);
    let referrers = QueryReferrers { path: path(TEXT) };
    check(18, &[referrers], &[[path(REFERS)].into()]);
    let part = |part: &str| QueryPathFromHashPart {
        hash_part: part.into(),
    };
    check(
        19,
        &[part(&TEXT[11..43]), part(&NONE[11..43])],
        &[Some(path(TEXT)), None],
    );
}

#[test]
fn all_about_an_item() {
    let info = PathInfo {
        deriver: None,
        hash: formats::Hash::parse(
            formats::Algorithm::Sha256,
            "76ea4e5a9ec67d0e96a624d3799c4575b9e3fc3df24f082e12bc73e81a23429c",
        )
        .unwrap(),
        references: [path(TEXT)].into(),
        registration_time: 1795801811,
        nar_size: 176,
    };
    check(14, &[QueryPathInfo { path: path(REFERS) }], &[info]);
}

#[test]
fn substitutes_are_queried() {
    let paths = || [path(TEXT)].into();
    check(
        20,
        &[QuerySubstitutablePaths { paths: paths() }],
        &[[].into()],
    );
    check(
        21,
        &[QuerySubstitutablePathInfos { paths: paths() }],
        &[vec![]],
    );
    check(22, &[HasSubstitutes { path: path(TEXT) }], &[false]);
}

#[test]
fn valid_items_need_no_build() {
    let build = BuildPaths {
        targets: vec![Target {
            path: path(TEXT),
            outputs: [].into(),
        }],
        mode: BuildMode::Normal,
    };
    check(34, &[build], &[protocol::codec::Done]);
    let ensure = EnsurePath { path: path(TEXT) };
    check(35, &[ensure], &[protocol::codec::Done]);
}

#[test]
fn garbage_is_collected() {
    let request = |action, paths: &[&str]| CollectGarbage {
        action,
        paths: paths.iter().map(|text| path(text)).collect(),
        ignore_liveness: false,
        max_freed: u64::MAX,
    };
    let collected = |paths: &[&str], bytes_freed| Collected {
        paths: paths.iter().map(|text| path(text)).collect(),
        bytes_freed,
        obsolete: 0,
    };
    let live = request(GcAction::ReturnLive, &[]);
    let log = [
        "finding garbage collector roots...\n",
        "determining live/dead paths...\n",
    ];
    check_with_log(49, &[live], &log, &[collected(&[], 0)]);
    let deleting = |path| format!("[0 MiB] deleting '{path}'\n");
    let delete = request(GcAction::DeleteSpecific, &[REFERS, TEXT]);
    let log = [
        "finding garbage collector roots...\n",
        &deleting(REFERS),
        &deleting(TEXT),
        "deleting `/gnu/store/trash'\n",
        "deleting unused links...\n",
        "note: currently hard linking saves 0.19 MiB\n",
    ];
    check_with_log(50, &[delete], &log, &[collected(&[REFERS, TEXT], 73)]);
}

#[test]
fn errors_are_reported() {
    let valid = IsValidPath {
        path: "/etc/passwd".into(),
    };
    check_error(13, &valid, "path `/etc/passwd' is not in the store");
    let info = QueryPathInfo { path: path(NONE) };
    check_error(15, &info, &format!("path `{NONE}' is not valid"));
}

#[test]
fn the_rest() {
    let builders = ["download", "git-download"].map(str::to_owned).to_vec();
    check(23, &[BuiltinBuilders {}], &[builders]);
    let built = recorded_path(38);
    let derivers = QueryValidDerivers { path: built };
    let derivation = path("/gnu/store/6ypym0f5dq0gb5vhh37kjangjaqykkl1-protocol-build.drv");
    check(38, &[derivers], &[[derivation].into()]);
    let outputs = [
        "/gnu/store/3mhv65b9s74ha7a95qbrsjm67vdfq9xq-protocol-multi-doc",
        "/gnu/store/s1bg7pk3gxqqixf7vyw2iwma857as61f-protocol-multi",
    ];
    let derivation = QueryDerivationOutputs {
        path: recorded_path(39),
    };
    check(39, &[derivation], &[outputs.map(path).into()]);
    check(
        41,
        &[AddTempRoot { path: path(TEXT) }],
        &[protocol::codec::Done],
    );
    let root = AddIndirectRoot {
        link: "/var/guix/an-indirect-root".into(),
    };
    check(42, &[root], &[protocol::codec::Done]);
}

/// The store path at the end of the client's part of conversation `number`.
fn recorded_path(number: u32) -> StorePath {
    let bytes = recorded(number, "client");
    let bytes = bytes.trim_ascii_end();
    let end = bytes.len() - bytes.iter().rev().take_while(|&&byte| byte == 0).count();
    let start = bytes
        .windows(11)
        .rposition(|window| window == b"/gnu/store/");
    store().parse(&bytes[start.unwrap()..end]).unwrap()
}

//! `guix-client download`: files from the network.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use formats::Hash;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::fixture::Fixture;
use crate::harness::web_server::{Protocol, WebServer};

/// A server of the file `hello-1.0.txt`, and of an empty one.
fn served(fixture: &Fixture, protocol: Protocol) -> WebServer {
    let directory = fixture.site.path("served");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("hello-1.0.txt"), "hello\n").unwrap();
    fs::write(directory.join("empty"), "").unwrap();
    WebServer::with(
        &directory,
        protocol,
        "location /old { return 301 /hello-1.0.txt; }",
    )
}

#[test]
fn a_file_is_added_and_its_hash_printed() {
    let fixture = Fixture::with_network();
    let server = served(&fixture, Protocol::Http);
    let hash = Hash::sha256("hello\n");
    let run = fixture.run(&["download", &server.url("hello-1.0.txt")]);
    run.succeeds().says_nothing();
    let item = run.lines()[0].clone();
    run.prints_lines(&[&item, &hash.base32()]);
    assert!(item.ends_with("-hello-1.0.txt"), "{item}");
    assert_eq!(fs::read(&item).unwrap(), b"hello\n");
    // As if it had been added.
    let file = fixture.write("hello-1.0.txt", "hello\n");
    let file = file.to_str().unwrap();
    let added = fixture.run(&["add", "--flat", file]).succeeds().line();
    assert_eq!(added, item);
    for place in [
        file.to_owned(),
        format!("file://{file}"),
        server.url("hello-1.0.txt?x#y"),
    ] {
        fixture
            .run(&["download", &place])
            .prints_lines(&[&item, &hash.base32()]);
    }
    let run = fixture.run(&["download", "--name=other", "-f", "hex", &server.url("old")]);
    let lines = run.succeeds().lines();
    assert!(lines[0].ends_with("-other"), "{lines:?}");
    assert_eq!(lines[1], hash.hex());
    let run = fixture.run(&["download", &server.url("empty")]);
    run.succeeds();
    assert_eq!(fs::read(&run.lines()[0]).unwrap(), b"");
}

#[test]
fn a_file_can_be_left_outside_the_store() {
    let fixture = Fixture::with_network();
    let server = served(&fixture, Protocol::Http);
    let mut command = fixture.command(&[
        "download",
        "-o",
        "here",
        "-H",
        "sha512",
        &server.url("hello-1.0.txt"),
    ]);
    command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
    let hash = Hash::of(formats::Algorithm::Sha512, "hello\n").base32();
    fixture.finish(command).prints_lines(&["here", &hash]);
    assert_eq!(fs::read(fixture.file("here")).unwrap(), b"hello\n");
    let run = fixture.run(&["download", "--output=gone", &server.url("nothing")]);
    run.fails("404");
    assert!(!fixture.file("gone").exists());
}

#[test]
fn what_was_there_stays_if_a_download_fails() {
    let fixture = Fixture::with_network();
    let server = served(&fixture, Protocol::Http);
    let file = fixture.file("there");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("there", fixture.file("link")).unwrap();
    let download =
        |output: &str, name: &str| fixture.run(&["download", "-o", output, &server.url(name)]);
    download("there", "nothing").fails("404");
    assert_eq!(fs::read(&file).unwrap(), b"old");
    download("link", "hello-1.0.txt").succeeds();
    assert_eq!(fs::read(&file).unwrap(), b"hello\n");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    download(".", "hello-1.0.txt").fails("directory");
    // A pipe, as a device, is written to, and never replaced or removed.
    let pipe = fixture.file("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let mut reader = fs::File::options()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    download("pipe", "hello-1.0.txt").succeeds();
    download("pipe", "nothing").fails("404");
    let mut contents = [0; 6];
    reader.read_exact(&mut contents).unwrap();
    assert_eq!(&contents, b"hello\n");
    let kind = fs::symlink_metadata(&pipe).unwrap().file_type();
    assert!(kind.is_fifo());
    let hidden = fs::read_dir(file.parent().unwrap()).unwrap();
    let hidden = hidden.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("there.")
    });
    assert_eq!(hidden.count(), 0);
}

#[test]
fn certificates_are_checked() {
    let fixture = Fixture::with_network();
    let server = served(&fixture, Protocol::Https);
    let url = server.url("hello-1.0.txt");
    fixture.run(&["download", &url]).fails("certificate");
    let run = fixture.run(&["download", "--no-check-certificate", &url]);
    assert_eq!(run.succeeds().lines().len(), 2);
}

#[test]
fn what_goes_wrong_is_named() {
    let fixture = Fixture::with_network();
    let server = served(&fixture, Protocol::Http);
    let run = |url: &str| fixture.run(&["download", url]);
    let missing = server.url("missing");
    run(&missing)
        .fails(&format!("error: {missing}: "))
        .says("404");
    run("http://127.0.0.1:9/x").fails("127.0.0.1");
    run("gopher://a/x").fails("gopher://a/x: not an address of http, https or ftp");
    run(server.address()).fails("'--name'");
    run("nowhere").fails("nowhere");
    let mut command = fixture.command(&["download", &server.url("hello-1.0.txt")]);
    command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
    fixture.finish(command).fails("/nowhere/socket");
    let mut command = fixture.command(&["download", &server.url("hello-1.0.txt")]);
    command.env("GUIX_FETCH", "/nowhere/fetch");
    fixture.finish(command).fails("/nowhere/fetch");
    // Nothing was asked for when there was no daemon to give it to.
    let asked = server.log();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn a_file_that_is_cut_is_not_added() {
    let fixture = Fixture::with_network();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/cut", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    fixture
        .run(&["download", &url])
        .fails(&url)
        .prints_nothing();
    server.join().unwrap();
}

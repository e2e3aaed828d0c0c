//! `builtin:download`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use super::*;
use crate::fixture::SmallDisk;
use formats::{Algorithm, Hash};

/// A download of a file with this SHA-256, from upstream only.
fn download(name: &str, url: &str, contents: impl AsRef<[u8]>) -> Script {
    let hash = Hash::of(Algorithm::Sha256, contents);
    anywhere(name, url, hash).variable("download-methods", "(upstream)")
}

/// The same from anywhere.
fn anywhere(name: &str, url: &str, hash: Hash) -> Script {
    Script::new(name, "")
        .builder("builtin:download")
        .fixed(false, hash)
        .variable("url", url)
}

fn quoted(url: &str) -> String {
    format!("{url:?}")
}

/// Bytes that are different everywhere.
fn large() -> Vec<u8> {
    (0..300_000u32)
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

#[test]
fn the_program_may_be_where_build_users_cannot_look() {
    let site = Site::new();
    let private = site.path("private");
    fs::create_dir(&private).unwrap();
    let program = private.join("guix-fetch");
    copy_program(Path::new(env!("CARGO_BIN_EXE_guix-fetch")), &program);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let setup = Setup::with_program(site, &program);
    let server = WebServer::start(&setup.served("hello.txt", "hello\n"));
    let url = quoted(&server.url("hello.txt"));
    let (_, built) = build(&mut setup.client(), download("hello.txt", &url, "hello\n"));
    built.succeeded();
}

#[test]
fn a_file_is_downloaded_and_its_progress_shown() {
    let setup = Setup::new();
    let server = WebServer::start(&setup.served("hello.txt", "hello\n"));
    let mut client = setup.client();
    let url = server.url("hello.txt");
    let (drv, built) = build(&mut client, download("hello.txt", &quoted(&url), "hello\n"));
    built.succeeded();
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "hello\n");
    built.said(&format!("Starting download of {}", drv.out()));
    built.said(&format!("From {url}..."));
    assert!(requests(&server).contains(" HTTP/1.1 GET /hello.txt 200 "));
    // With traces.
    client.set(|options| {
        options.set("print-extended-build-trace", "1");
    });
    let url = server.url("./hello.txt");
    let (drv, built) = build(&mut client, download("again.txt", &quoted(&url), "hello\n"));
    built.succeeded();
    for event in ["started", "succeeded"] {
        built.said(&format!("@ download-{event} {} {url} 6\n", drv.out()));
    }
    built.said(&format!("@ download-progress {} {url} 6 6\n", drv.out()));
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn an_executable_has_the_hash_of_its_archive() {
    let setup = Setup::new();
    let server = WebServer::start(&setup.served("program", "#!/bin/sh\n"));
    let hash = Hash::sha256(formats::nar::of_file(true, b"#!/bin/sh\n"));
    let script = Script::new("program", "")
        .builder("builtin:download")
        .fixed(true, hash)
        .variable("download-methods", "(upstream)")
        .variable("url", quoted(&server.url("program")))
        .variable("executable", "1");
    let (drv, built) = build(&mut setup.client(), script);
    built.succeeded();
    let mode = fs::metadata(drv.out().as_path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o555);
}

#[test]
fn places_are_tried_in_order_until_one_has_the_right_contents() {
    let setup = Setup::new();
    setup.served("wrong", "something else");
    let server = WebServer::start(&setup.served("right", "right"));
    let urls = ["missing", "wrong", "gone", "right", "never"].map(|name| server.url(name));
    let list = format!("({})", urls.each_ref().map(|url| quoted(url)).join(" "));
    let (drv, built) = build(&mut setup.client(), download("file", &list, "right"));
    built.succeeded();
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "right");
    built.said(&format!("download failed {:?} 404 \"Not Found\"", urls[0]));
    built.said(&format!("hash mismatch for {:?}:", urls[1]));
    assert!(!requests(&server).contains("never"));
}

#[test]
fn if_all_places_have_something_else_the_daemon_reports_the_hashes() {
    let setup = Setup::new();
    setup.served("one", "something");
    let server = WebServer::start(&setup.served("two", "else"));
    let list = format!(
        "({:?} {:?} {:?})",
        server.url("one"),
        server.url("two"),
        server.url("missing")
    );
    let mut client = setup.client();
    let (drv, built) = build(&mut client, download("file", &list, "right"));
    built.failed(1, "failed");
    built.said(&format!("keeping those of {:?}", server.url("two")));
    let hash = |text: &str| Hash::of(Algorithm::Sha256, text).base32();
    built.said(&format!(
        "@ hash-mismatch {} sha256 {} {}",
        drv.out(),
        hash("right"),
        hash("else")
    ));
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn nothing_is_left_if_no_place_has_it() {
    let setup = Setup::new();
    let server = WebServer::start(&setup.served("x", ""));
    let cut = Cable::new(port(&server), &[0; 1000]);
    let list = format!(
        "({:?} \"http://127.0.0.1:{}/x\" \"http://127.0.0.1:1/x\" \"gopher://127.0.0.1/x\")",
        server.url("missing"),
        cut.port
    );
    let (drv, built) = build(&mut setup.client(), download("file", &list, "right"));
    built.failed(1, "failed");
    built.said(&format!("failed to produce output path `{}'", drv.out()));
    built.said(&format!(
        "failed to download {:?} from {list}",
        drv.out().as_str()
    ));
    // Why, in libcurl's own words.
    built.said("download failed \"http://127.0.0.1:1/x\" (Failed to connect to 127.0.0.1 port 1 ");
    built.said("skipping URI with unsupported scheme: \"gopher://127.0.0.1/x\"");
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn redirections_are_followed_but_not_to_local_files() {
    let setup = Setup::new();
    let root = setup.served("file", "contents");
    fs::write(setup.site.path("secret"), "secret").unwrap();
    let directives = format!(
        "location = /relative {{ return 302 /file; }}
         location = /moved {{ return 301 /relative; }}
         location = /loop {{ return 307 /loop; }}
         location = /secret {{ return 302 file://{}; }}",
        setup.site.path("secret").display()
    );
    let server = WebServer::with(&root, Protocol::Http, &directives);
    let mut client = setup.client();
    let url = server.url("moved");
    let (_, built) = build(&mut client, download("a", &quoted(&url), "contents"));
    built.succeeded();
    built.said(&format!(
        "following redirection to `{}'...",
        server.url("file")
    ));
    let (_, built) = build(
        &mut client,
        download("b", &quoted(&server.url("loop")), "x"),
    );
    built.failed(1, "failed");
    built.said("(too many redirections)");
    let (_, built) = build(
        &mut client,
        download("c", &quoted(&server.url("secret")), "secret"),
    );
    built.failed(1, "failed");
    built.said("(redirection to \"file://");
}

#[test]
fn a_password_goes_to_its_own_server_only() {
    let setup = Setup::new();
    let root = setup.served("file", "contents");
    let seen = "add_header X-Seen $http_authorization;
                if ($http_authorization != '') { return 418; }";
    let other = WebServer::with(&root, Protocol::Http, seen);
    let directives = format!(
        "if ($http_authorization != 'Basic dXNlcjpwYXNz') {{ return 401; }}
         location = /away {{ return 302 {}; }}
         location = /here {{ return 302 /file; }}",
        other.url("file")
    );
    let server = WebServer::with(&root, Protocol::Http, &directives);
    let mut client = setup.client();
    for (name, from) in [("a", "file"), ("b", "here"), ("c", "away")] {
        let url = format!("http://user:pass@127.0.0.1:{}/{from}", port(&server));
        let (_, built) = build(&mut client, download(name, &quoted(&url), "contents"));
        built.succeeded();
    }
    let url = server.url("file");
    let (_, built) = build(&mut client, download("d", &quoted(&url), "contents!"));
    built.failed(1, "failed");
    built.said("401 \"Unauthorized\"");
}

#[test]
fn broken_transfers_are_resumed() {
    let setup = Setup::new();
    let contents = large();
    let server = WebServer::start(&setup.served("large", &contents));
    // Within the headers; within the body, several times.
    let cable = Cable::new(port(&server), &[100, 500_000, 300_000, 1000]);
    let url = format!("http://127.0.0.1:{}/large", cable.port);
    let (drv, built) = build(
        &mut setup.client(),
        download("large", &quoted(&url), &contents),
    );
    built.succeeded();
    built.said("broke off");
    assert!(fs::read(drv.out().as_path()).unwrap() == contents);
    let partial = requests(&server)
        .lines()
        .filter(|line| line.contains(" 206 "))
        .count();
    assert_eq!(partial, 3, "{}", requests(&server));
}

#[test]
fn a_server_that_cannot_resume_starts_again() {
    let setup = Setup::new();
    let contents = large();
    let server = WebServer::with(
        &setup.served("large", &contents),
        Protocol::Http,
        "max_ranges 0;",
    );
    let cable = Cable::new(port(&server), &[500_000]);
    let url = format!("http://127.0.0.1:{}/large", cable.port);
    let (drv, built) = build(
        &mut setup.client(),
        download("large", &quoted(&url), &contents),
    );
    built.succeeded();
    assert!(fs::read(drv.out().as_path()).unwrap() == contents);
    assert!(!requests(&server).contains(" 206 "));
}

#[test]
fn mirrors_of_all_kinds() {
    let setup = Setup::new();
    let hash = Hash::of(Algorithm::Sha256, "contents");
    setup.served("gnu/hello/hello.tar", "contents");
    let root = setup.served(&format!("file/b.tar/sha256/{}", hash.base32()), "contents");
    let server = WebServer::start(&root);
    let mut client = setup.client();
    let lists = format!(
        "((gnu \"{}\" {:?}))",
        server.url("none"),
        server.url("gnu/")
    );
    let lists = client.text("mirrors", &lists, &[]);
    let expression = format!(
        "(begin (use-modules (guix base32))
           (define (guix-publish host)
             (lambda (file algo hash)
               (string-append \"http://\" host \"/file/\" file \"/\" (symbol->string algo) \"/\"
                              (bytevector->nix-base32-string hash))))
           (list (lambda (file algo hash) (delete-file file))
                 (guix-publish \"127.0.0.1:{}\")))",
        port(&server)
    );
    let expression = client.text("content-addressed", &expression, &[]);
    let script = anywhere("a.tar", "\"mirror://gnu/hello/hello.tar\"", hash);
    let script = script
        .source(&lists)
        .variable("mirrors", lists.as_str())
        .variable("download-methods", "(upstream)");
    let (_, built) = build(&mut client, script);
    built.succeeded();
    let methods = "(upstream content-addressed-mirrors)";
    let script = anywhere("b.tar", "\"mirror://kde/hello.tar\"", hash)
        .source(&expression)
        .variable("content-addressed-mirrors", expression.as_str())
        .variable("download-methods", methods);
    let (_, built) = build(&mut client, script);
    built.succeeded();
    built.said("unsupported URL mirror kind: mirror://kde/hello.tar");
    built.said("content-addressed mirror skipped: 6:44: unknown name `delete-file'");
}

#[test]
fn files_of_mirrors_must_be_in_the_store() {
    let setup = Setup::new();
    let server = WebServer::start(&setup.served("file", "contents"));
    let secret = setup.site.path("secret");
    fs::write(&secret, "((gnu \"http://127.0.0.1/\"))").unwrap();
    let link = setup.site.store().join("link");
    let mut client = setup.client();
    symlink(&secret, &link).unwrap();
    for (name, variable, file) in [
        ("a", "mirrors", secret.to_str().unwrap()),
        ("b", "content-addressed-mirrors", link.to_str().unwrap()),
        ("c", "content-addressed-mirrors", "/etc/passwd"),
        ("d", "disarchive-mirrors", "/etc/shadow"),
        ("e", "mirrors", "relative"),
    ] {
        let script = download(name, &quoted(&server.url("file")), "contents");
        let (_, built) = build(&mut client, script.variable(variable, file));
        built.failed(1, "failed");
        let real = fs::canonicalize(file).unwrap_or_else(|_| file.into());
        built.said(&format!("{real:?} is not in the store"));
    }
    assert_eq!(requests(&server), "");
}

#[test]
fn local_files_and_strange_variables_are_refused() {
    let setup = Setup::new();
    let mut client = setup.client();
    for (name, url, expected) in [
        (
            "a",
            "\"file:///etc/passwd\"",
            "URL \"file:///etc/passwd\" is for a local file",
        ),
        (
            "b",
            "(\"http://127.0.0.1:1/\" \"FILE:/etc/passwd\")",
            "is for a local file",
        ),
        (
            "c",
            "\"/etc/passwd\"",
            "URL \"/etc/passwd\" can't be decoded",
        ),
        (
            "d",
            "#.(system \"id\")",
            "variable `url': 1:1: `#.' is not allowed",
        ),
        (
            "e",
            "(\"http://127.0.0.1:1/\"",
            "variable `url': 1:1: unmatched open parenthesis",
        ),
        ("f", "", "variable `url': no datum"),
        ("g", "(7)", "URL 7 can't be decoded"),
    ] {
        let (_, built) = build(&mut client, download(name, url, "x"));
        built.failed(1, "failed");
        built.said("guix perform-download: error: ");
        built.said(expected);
    }
    let script = Script::new("h", "").builder("builtin:download");
    let script = script.fixed(false, Hash::sha256("x"));
    let (drv, built) = build(&mut client, script);
    built.failed(1, "failed");
    built.said(&format!("{}: missing URL", drv.path));
    let script = Script::new("i", "").builder("builtin:download");
    let (drv, built) = build(
        &mut client,
        script.variable("url", "\"http://127.0.0.1:1/\""),
    );
    built.failed(100, "failed");
    built.said(&format!("{} is not a fixed-output derivation", drv.path));
}

#[test]
fn names_and_answers_cannot_forge_messages() {
    let setup = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // No real server would.
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 4096]);
        let answer = "HTTP/1.1 404 \x1b[2J@ build-succeeded\r\nContent-Length: 0\r\n\r\n";
        client.write_all(answer.as_bytes()).unwrap();
    });
    let list = format!(
        "(\"http://127.0.0.1:{port}/\" \"http://127.0.0.1:1/\n@ build-failed x\" \"x:\\x1b;[2J\")"
    );
    let (_, built) = build(&mut setup.client(), download("file", &list, "x"));
    built.failed(1, "failed");
    server.join().unwrap();
    built.did_not_say("\x1b");
    built.did_not_say("\n@ build-succeeded");
    built.did_not_say("\n@ build-failed x");
    built.said("404");
}

#[test]
fn an_endless_answer_ends_with_its_client() {
    let setup = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 4096]);
        let _ = client.write_all(b"HTTP/1.1 500 Internal Server Error\r\n\r\n");
        let zeros = [0; 4096];
        let mut written = 0;
        while client.write_all(&zeros).is_ok() {
            written += zeros.len();
        }
        written
    });
    let url = format!("\"http://127.0.0.1:{port}/\"");
    let (_, built) = build(&mut setup.client(), download("file", &url, "x"));
    built.failed(1, "failed");
    built.said("500 \"Internal Server Error\"");
    // What a socket holds, besides the page that is read.
    assert!(server.join().unwrap() < 64 * 1024 * 1024);
}

#[test]
fn tls_needs_no_certificate_as_the_hash_is_known() {
    let setup = Setup::new();
    let server = WebServer::with(&setup.served("file", "contents"), Protocol::Http2, "");
    let url = format!("\"https://127.0.0.1:{}/file\"", port(&server));
    let (_, built) = build(&mut setup.client(), download("file", &url, "contents"));
    built.succeeded();
    assert!(
        requests(&server).contains("HTTP/2.0 GET /file 200"),
        "{}",
        requests(&server)
    );
}

#[test]
fn proxies_are_those_of_the_daemon() {
    let proxy = Server::proxy();
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let site = Site::new()
        .env("http_proxy", &address)
        .env("https_proxy", &address);
    let setup = Setup::at(site.env("no_proxy", "localhost"));
    let root = setup.served("file", "contents");
    let (plain, tls) = (
        WebServer::start(&root),
        WebServer::with(&root, Protocol::Http2, ""),
    );
    let mut client = setup.client();
    for (name, url) in [
        ("a", plain.url("file")),
        ("b", format!("https://127.0.0.1:{}/file", port(&tls))),
        ("c", format!("http://localhost:{}/file", port(&plain))),
    ] {
        let (_, built) = build(&mut client, download(name, &quoted(&url), "contents"));
        built.succeeded();
    }
    assert!(
        proxy
            .said()
            .contains(&format!("GET http://127.0.0.1:{}/file", port(&plain)))
    );
    assert!(
        proxy
            .said()
            .contains(&format!("CONNECT 127.0.0.1:{}", port(&tls)))
    );
    assert!(!proxy.said().contains("localhost"));
    // The last resort: the proxy cannot reach it, but is asked.
    let hash = Hash::of(Algorithm::Sha256, "x");
    let script = anywhere("d", &quoted(&plain.url("missing")), hash);
    let script = script.variable("download-methods", "(upstream internet-archive)");
    let (_, built) = build(&mut client, script);
    built.failed(1, "failed");
    built.said("From https://web.archive.org/web/2");
}

#[test]
fn ftp_servers() {
    let setup = Setup::new();
    let contents = large();
    setup.served("dir/large", &contents);
    let root = setup.served("small", "contents");
    let server = Server::ftp(&root, None);
    let closed = Server::ftp(&root, Some("somebody"));
    let mut client = setup.client();
    for (name, address, file, right) in [
        (
            "a",
            format!("127.0.0.1:{}", server.port),
            "small",
            &b"contents"[..],
        ),
        (
            "b",
            format!("127.0.0.1:{}", server.port),
            "dir/large",
            &contents,
        ),
        (
            "c",
            format!("somebody:secret@127.0.0.1:{}", closed.port),
            "small",
            b"contents",
        ),
    ] {
        let url = format!("\"ftp://{address}/{file}\"");
        let (drv, built) = build(&mut client, download(name, &url, right));
        built.succeeded();
        assert!(fs::read(drv.out().as_path()).unwrap() == right);
    }
    let urls = format!(
        "(\"ftp://127.0.0.1:{}/missing\" \"ftp://127.0.0.1:{}/small\")",
        server.port, closed.port
    );
    let (_, built) = build(&mut client, download("d", &urls, "other"));
    built.failed(1, "failed");
    built.said("failed to produce output path");
}

#[test]
fn broken_transfers_from_ftp_servers_are_resumed() {
    let setup = Setup::new();
    let contents = large();
    let root = setup.served("large", &contents);
    let data = free_port();
    let server = Server::ftp_with_data_port(&root, data);
    // Data come from the same address as what is said of them.
    let _data = Cable::at(&format!("127.0.0.2:{data}"), data, &[500_000, 300_000]);
    let control = Cable::at("127.0.0.2:0", server.port, &[]);
    let url = format!("ftp://127.0.0.2:{}/large", control.port);
    let script = download("large", &quoted(&url), &contents);
    let (drv, built) = build(&mut setup.client(), script);
    built.succeeded();
    built.said("broke off");
    assert!(fs::read(drv.out().as_path()).unwrap() == contents);
}

#[test]
fn a_full_disk_ends_a_download_and_nothing_stays() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, for a file system of its own");
    }
    let site = Site::new();
    let mounted = SmallDisk::mount(site.store(), "8m");
    let setup = Setup::at(site);
    let contents = large().repeat(10);
    let root = setup.served("large", &contents);
    let server = WebServer::start(&root);
    let urls = format!("({:?} {:?})", server.url("large"), server.url("again"));
    let mut client = setup.client();
    let (drv, built) = build(&mut client, download("large", &urls, &contents));
    built.failed(1, "failed");
    built.said(&format!(
        "cannot write {}: No space left on device",
        drv.out()
    ));
    assert!(!requests(&server).contains("again"));
    assert_eq!(setup.leftovers(), [""; 0]);
    // A directory on which something is mounted can't be removed.
    let Setup { daemon, site, .. } = setup;
    drop((client, daemon, mounted, site));
}

#[test]
fn the_superuser_downloads_nothing() {
    let program = env!("CARGO_BIN_EXE_guix-fetch");
    let site = Site::new();
    fs::create_dir(site.store()).unwrap();
    let name = "00000000000000000000000000000000-x";
    let store = site.store();
    let mut command = site.command(program);
    command
        .arg("perform-download")
        .args([store.join(format!("{name}.drv")), store.join(name)]);
    let text = format!(
        "Derive([(\"out\",\"{}/{name}\",\"sha256\",\"{}\")],[],[],\"x86_64-linux\",\"builtin:download\",[],[(\"url\",\"\\\"http://127.0.0.1:1/\\\"\")])",
        store.display(),
        Hash::sha256("x").hex()
    );
    fs::write(store.join(format!("{name}.drv")), text).unwrap();
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("refusing to run with elevated privileges (UID 0)"),
        "{said}"
    );
    let mut command = site.command(program);
    let output = command.args(["perform-download", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("fixed-output derivation and output file name expected"),
        "{said}"
    );
}

/// Under Guix's daemon, and for users, there is nothing around the program that keeps it from the
/// machine's services. libcurl can have a proxy at a local socket.
#[test]
fn the_program_itself_gives_up_local_sockets() {
    let site = Site::new();
    let socket = site.path("proxy");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let program = site.for_everybody(env!("CARGO_BIN_EXE_guix-fetch"));
    let start = |arguments: &[&str]| {
        let mut command = site.command(&program);
        let proxy = format!("socks5h://localhost{}", socket.display());
        command.args(arguments).env("http_proxy", proxy);
        command
    };
    let url = "http://127.0.0.1:1/x";
    let output = start(&["get", url]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(url), "{said}");
    let reached = || listener.accept().is_ok();
    assert!(!reached());
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, to be somebody else");
    }
    let store = site.store();
    fs::create_dir(&store).unwrap();
    let (drv, output) = ["x.drv", "x"]
        .map(|name| store.join(format!("{}-{name}", "0".repeat(32))))
        .into();
    let text = format!(
        "Derive([(\"out\",\"{}\",\"sha256\",\"{}\")],[],[],\"x86_64-linux\",\"builtin:download\",[],[(\"download-methods\",\"(upstream)\"),(\"url\",\"\\\"{url}\\\"\")])",
        output.display(),
        Hash::sha256("x").hex()
    );
    fs::write(&drv, text).unwrap();
    let mut command = start(&["perform-download"]);
    command.args([&drv, &output]).uid(65534).gid(65534);
    let output = command.current_dir("/").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains(url), "{said}");
    assert!(!reached());
}

//! `builtin:git-download`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use formats::{Hash, nar};

use super::*;

/// A directory with repositories.
struct Repositories {
    root: PathBuf,
}

impl Repositories {
    fn new(site: &Site) -> Repositories {
        Repositories { root: served(site) }
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command
            .current_dir(&self.root)
            .args(["-c", "protocol.file.allow=always"]);
        command
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Somebody");
            command.env(format!("GIT_{role}_EMAIL"), "somebody@localhost");
            command.env(format!("GIT_{role}_DATE"), "2026-01-01T00:00:00Z");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with these files, and a program and a link; returns its directory.
    fn repository(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.root.join(name);
        make_files(&directory, files);
        self.git(&["init", "--quiet", "--initial-branch=main", name]);
        self.commit(name);
        directory
    }

    fn commit(&self, name: &str) -> String {
        self.git(&["-C", name, "add", "."]);
        self.git(&["-C", name, "commit", "--quiet", "--allow-empty", "-m", "x"]);
        self.git(&["-C", name, "rev-parse", "HEAD"])
    }
}

fn make_files(directory: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(directory).unwrap();
    for (name, contents) in files {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, contents).unwrap();
    }
    fs::write(directory.join("run"), "#!/bin/sh\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.join("run"), mode).unwrap();
    symlink("nowhere", directory.join("link")).unwrap();
}

/// The archive of a directory with these files, as [`make_files`] makes it.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_files(&tree, files);
    let mut writer = nar::Writer::new(Vec::new());
    store::files::dump(&tree, &mut writer).unwrap();
    writer.into_inner()
}

fn download(name: &str, url: &str, commit: &str, nar: &[u8]) -> Script {
    Script::new(name, "")
        .builder("builtin:git-download")
        .fixed(true, Hash::sha256(nar))
        .variable("url", format!("{url:?}"))
        .variable("commit", commit)
        .variable("download-methods", "(upstream)")
}

#[test]
fn a_commit_or_tag_is_checked_out() {
    let setup = Setup::new();
    let repositories = Repositories::new(&setup.site);
    let files = [("README", "hello\n"), ("src/a.c", "int a;\n")];
    repositories.repository("one", &files);
    let first = repositories.git(&["-C", "one", "rev-parse", "HEAD"]);
    repositories.git(&["-C", "one", "tag", "v1.0"]);
    fs::write(repositories.root.join("one/README"), "changed").unwrap();
    repositories.commit("one");
    let backend = GitBackend::start(&repositories.root);
    let directives = backend.directives("git", true) + &backend.directives("old", false);
    let web = WebServer::with(&repositories.root, Protocol::Http, &directives);
    let daemon = Server::git_daemon(&repositories.root);
    let nar = archive(&files);
    let mut client = setup.client();
    for (name, url, commit, shallow) in [
        ("a", web.url("git/one/.git"), first.as_str(), true),
        ("b", web.url("git/one/.git"), "v1.0", true),
        (
            "c",
            format!("git://127.0.0.1:{}/one/.git", daemon.port),
            "v1.0",
            true,
        ),
        // That is not at the end of a branch, and old servers refuse to look for it.
        ("d", web.url("old/one/.git"), first.as_str(), false),
    ] {
        if !shallow {
            repositories.git(&["-C", "one", "tag", "-d", "v1.0"]);
        }
        let (drv, built) = build(&mut client, download(name, &url, commit, &nar));
        built.succeeded();
        let retried = built
            .log
            .contains("Failed to do a shallow fetch; retrying a full fetch...");
        assert_eq!(retried, !shallow, "{built:?}");
        let out = drv.out().as_path();
        assert_eq!(fs::read_to_string(out.join("README")).unwrap(), "hello\n");
        assert!(!out.join(".git").exists());
    }
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn submodules_are_fetched_if_they_are_wanted() {
    let setup = Setup::new();
    let repositories = Repositories::new(&setup.site);
    repositories.repository("inner", &[("innermost", "x")]);
    repositories.repository("outer", &[("README", "hello\n")]);
    let add = [
        "-C",
        "outer",
        "submodule",
        "--quiet",
        "add",
        "../inner",
        "sub",
    ];
    repositories.git(&add);
    // Relative to the server, not to this directory.
    let modules = "[submodule \"sub\"]\n\tpath = sub\n\turl = ../../inner/.git\n";
    fs::write(repositories.root.join("outer/.gitmodules"), modules).unwrap();
    let commit = repositories.commit("outer");
    let backend = GitBackend::start(&repositories.root);
    let directives = backend.directives("git", true);
    let web = WebServer::with(&repositories.root, Protocol::Http, &directives);
    let url = web.url("git/outer/.git");
    let mut client = setup.client();
    let with = [
        (".gitmodules", modules),
        ("README", "hello\n"),
        ("sub/innermost", "x"),
        ("sub/run", "#!/bin/sh\n"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_files(&tree, &with);
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(tree.join("sub/run"), mode).unwrap();
    symlink("nowhere", tree.join("sub/link")).unwrap();
    let mut writer = nar::Writer::new(Vec::new());
    store::files::dump(&tree, &mut writer).unwrap();
    let script = download("with", &url, &commit, &writer.into_inner());
    let (_, built) = build(&mut client, script.variable("recursive?", "#t"));
    built.succeeded();
    for name in ["sub/innermost", "sub/link", "sub/run"] {
        fs::remove_file(tree.join(name)).unwrap();
    }
    let mut writer = nar::Writer::new(Vec::new());
    store::files::dump(&tree, &mut writer).unwrap();
    let script = download("without", &url, &commit, &writer.into_inner());
    let (_, built) = build(&mut client, script.variable("recursive?", "#f"));
    built.succeeded();
}

#[test]
fn submodules_and_urls_reach_no_local_files_and_programs() {
    let site = Site::new();
    let evil = site.path("evil");
    // A configuration that a user of the same name might have.
    let home = site.path("home");
    fs::create_dir(&home).unwrap();
    let gate = site.path("gate");
    fs::create_dir(&gate).unwrap();
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o777)).unwrap();
    let configuration = format!(
        "[core]\n\tsshCommand = touch {0}/ssh\n\tfsmonitor = touch {0}/fsmonitor\n\
         [protocol]\n\tallow = always\n[protocol \"ext\"]\n\tallow = always\n",
        gate.display()
    );
    fs::write(home.join(".gitconfig"), &configuration).unwrap();
    let site = site
        .env("HOME", &home)
        .env("GIT_CONFIG_GLOBAL", home.join(".gitconfig"))
        .env("GIT_ALLOW_PROTOCOL", "ext:file:ssh:http")
        .env("GIT_SSH_COMMAND", format!("touch {}/ssh", gate.display()));
    let setup = Setup::at(site);
    let repositories = Repositories::new(&setup.site);
    repositories.repository("secret", &[("key", "secret")]);
    let secret = repositories.root.join("secret");
    let backend = GitBackend::start(&repositories.root);
    let directives = backend.directives("git", true)
        + &format!(
            "location /away {{ return 302 file://{}; }}",
            secret.display()
        );
    let web = WebServer::with(&repositories.root, Protocol::Http, &directives);
    let mut client = setup.client();
    let touch = format!("ext::sh -c touch% {}/ext", gate.display());
    for (number, url) in [
        format!("file://{}", secret.display()),
        secret.display().to_string(),
        touch.clone(),
        "ssh://127.0.0.1/x".to_owned(),
        "-c".to_owned(),
        "--upload-pack=touch".to_owned(),
        web.url("away"),
    ]
    .iter()
    .enumerate()
    {
        let (_, built) = build(
            &mut client,
            download(&format!("url{number}"), url, "main", b"x"),
        );
        built.failed(1, "failed");
    }
    for (number, commit) in ["--upload-pack=touch", "-", "--orphan"].iter().enumerate() {
        let url = web.url("git/secret/.git");
        let script = download(&format!("commit{number}"), &url, commit, b"x");
        let (_, built) = build(&mut client, script);
        built.failed(1, "failed");
        built.said("is not a commit");
    }
    for (number, url) in [
        format!("file://{}", secret.display()),
        secret.display().to_string(),
        touch,
        "ssh://127.0.0.1/x".to_owned(),
        "127.0.0.1:x".to_owned(),
        "-c".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("module{number}");
        repositories.repository(&name, &[]);
        let head = repositories.git(&["-C", "secret", "rev-parse", "HEAD"]);
        let entry = format!("160000,{head},sub");
        let index = ["-C", &name, "update-index", "--add", "--cacheinfo", &entry];
        repositories.git(&index);
        let modules = format!("[submodule \"sub\"]\n\tpath = sub\n\turl = \"{url}\"\n");
        fs::write(repositories.root.join(&name).join(".gitmodules"), modules).unwrap();
        repositories.git(&["-C", &name, "add", ".gitmodules"]);
        repositories.git(&["-C", &name, "commit", "--quiet", "-m", "sub"]);
        let script = download(&name, &web.url(&format!("git/{name}/.git")), "main", b"x");
        let (_, built) = build(&mut client, script.variable("recursive?", "#t"));
        built.failed(1, "failed");
        built.said("'git submodule update --init --recursive' failed");
    }
    let made: Vec<_> = fs::read_dir(&gate).unwrap().collect();
    assert!(made.is_empty() && !evil.exists(), "{made:?}");
    assert_eq!(setup.leftovers(), [""; 0]);
}

fn lzip(data: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    fs::write(&file, data).unwrap();
    let output = Command::new("lzip")
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn substitute_servers_have_what_is_gone_upstream() {
    let site = Site::new();
    let (one, two) = (site.path("one"), site.path("two"));
    let (first, second) = (served_in(&one), served_in(&two));
    let urls = format!("{} {}/", first.address(), second.address());
    let setup = Setup::at(site.env("GUIX_FETCH_NAR_SERVERS", urls));
    let mut client = setup.client();
    let nar = archive(&[("README", "hello\n")]);
    let put = |root: &Path, place: &str, drv: &Drv, data: &[u8]| {
        fs::create_dir_all(root.join(place)).unwrap();
        fs::write(root.join(place).join(drv.out().base_name()), data).unwrap();
    };
    let script = |name: &str| {
        let script = download(name, "http://127.0.0.1:1/x", "main", &nar);
        script.variable("download-methods", "(upstream nar)")
    };
    // The first has something else, then half of it, then nothing.
    let good = client.write(script("good"));
    put(
        &one,
        "nar/lzip",
        &good,
        &lzip(&archive(&[("README", "evil\n")])),
    );
    put(&two, "nar/lzip", &good, &lzip(&nar));
    let built = client.build(&[&good]);
    built.succeeded();
    built.said("Trying content-addressed mirror at 127.0.0.1...");
    built.said("hash mismatch for ");
    let half = client.write(script("half"));
    put(&one, "nar/lzip", &half, &lzip(&nar[..nar.len() / 2]));
    put(&two, "nar", &half, &nar);
    client.build(&[&half]).succeeded();
    // Nobody has the right one: what the last one has is reported.
    let bad = client.write(script("bad"));
    let other = archive(&[("README", "evil\n")]);
    put(&two, "nar/lzip", &bad, &lzip(&other));
    let built = client.build(&[&bad]);
    built.failed(1, "failed");
    built.said(&format!(
        "@ hash-mismatch {} r:sha256 {} {}",
        bad.out(),
        Hash::sha256(&nar).base32(),
        Hash::sha256(&other).base32()
    ));
    // Names that lead elsewhere.
    let evil = client.write(script("evil"));
    let mut escape = nar::Writer::new(Vec::new());
    let name = setup.site.path("escaped");
    let entry = format!("../../../..{}", name.display());
    nar::Sink::begin_directory(&mut escape).unwrap();
    nar::Sink::entry(&mut escape, entry.as_str().into()).unwrap();
    nar::Sink::regular(&mut escape, false, 4, &mut &b"evil"[..]).unwrap();
    nar::Sink::end_directory(&mut escape).unwrap();
    put(&one, "nar/lzip", &evil, &lzip(&escape.into_inner()));
    let built = client.build(&[&evil]);
    built.failed(1, "failed");
    built.said("not an archive: NAR contains invalid file name");
    assert!(!name.exists());
    assert_eq!(setup.leftovers(), [""; 0]);
}

fn served_in(root: &Path) -> WebServer {
    fs::create_dir_all(root).unwrap();
    WebServer::start(root)
}

/// The API of Software Heritage, as far as it is asked, from files.
#[test]
fn software_heritage_has_what_is_gone_upstream() {
    let site = Site::new();
    let root = served(&site);
    let directives = "index answer.json;
        location = /api/1/vault/flat/swh:1:dir:2222222222222222222222222222222222222222/ {
            if ($request_method = POST) {
                return 200 '{\"status\": \"done\", \"fetch_url\": \"/bundle.tar.gz\"}';
            }
            return 404 '{\"reason\": \"not cooked\"}';
        }";
    let server = WebServer::with(&root, Protocol::Http, directives);
    let setup = Setup::at(
        site.env("GUIX_FETCH_SWH_URL", server.address())
            .env("GUIX_SWH_TOKEN", "token"),
    );
    let answer = |path: &str, text: String| {
        setup.served(&format!("api/1/{path}/answer.json"), text);
    };
    let mut client = setup.client();
    // What a checkout has in place of line ends that the archive has.
    let nar = archive(&[
        (".gitattributes", "*.txt eol=crlf\n"),
        ("a.txt", "a\r\nb\r\n"),
    ]);
    let tree = setup.site.path("tree");
    make_files(
        &tree.join("x"),
        &[(".gitattributes", "*.txt eol=crlf\n"), ("a.txt", "a\nb\n")],
    );
    let bundle = setup.site.path("served/bundle.tar.gz");
    let packed = Command::new("tar")
        .arg("-czf")
        .arg(bundle)
        .arg("-C")
        .arg(&tree)
        .arg("x")
        .status();
    assert!(packed.unwrap().success());
    let done = "{\"status\": \"done\", \"fetch_url\": \"/bundle.tar.gz\"}";
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    answer(&format!("vault/flat/swh:1:dir:{one}"), done.to_owned());
    let extid = format!("extid/nar-sha256/hex:{}", Hash::sha256(&nar).hex());
    answer(&extid, format!("{{\"target\": \"swh:1:dir:{one}\"}}"));
    let script = |name: &str, commit: &str, nar: &[u8]| {
        let script = download(name, "http://127.0.0.1:1/x", commit, nar);
        script.variable("download-methods", "(upstream swh)")
    };
    let (_, built) = build(&mut client, script("hash", "v1", &nar));
    built.succeeded();
    assert!(requests(&server).contains("authorization=Bearer token"));
    // By the commit, and by a tag that leads to a release.
    fs::remove_dir_all(setup.site.path("served/api/1/extid")).unwrap();
    let commit = "c".repeat(40);
    answer(
        &format!("revision/{commit}"),
        format!("{{\"directory\": \"{two}\"}}"),
    );
    let (_, built) = build(&mut client, script("commit", &commit, &nar));
    built.succeeded();
    let visits = "{\"origin_visits_url\": \"/api/1/visits/\"}";
    setup.served("api/1/origin/http:/127.0.0.1:1/x/get/answer.json", visits);
    let visit = "[{\"status\": \"partial\"},
                  {\"status\": \"full\", \"snapshot_url\": \"/api/1/snapshot/s/\"}]";
    answer("visits", visit.to_owned());
    let branches = "{\"id\": \"s\", \"branches\": {\"refs/tags/v1\":
                    {\"target_type\": \"release\", \"target_url\": \"/api/1/release/r/\"}}}";
    answer("snapshot/s", branches.to_owned());
    answer(
        "release/r",
        format!("{{\"target_url\": \"/api/1/revision/{commit}/\"}}"),
    );
    let (_, built) = build(&mut client, script("tag", "v1", &nar));
    built.succeeded();
    // Answers that lead elsewhere.
    answer(&extid, "{\"target\": \"swh:1:dir:../../x\"}".to_owned());
    answer(
        &format!("revision/{}", "d".repeat(40)),
        "{\"directory\": \"x/y\"}".to_owned(),
    );
    answer(&format!("revision/{}", "e".repeat(40)), "[[[".to_owned());
    for commit in ["d", "e", "f"] {
        let script = script(&format!("bad-{commit}"), &commit.repeat(40), &nar);
        let (_, built) = build(&mut client, script);
        built.failed(1, "failed");
        built.said("failed to produce output path");
    }
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn variables_are_needed() {
    let setup = Setup::new();
    let mut client = setup.client();
    let script = |name: &str| {
        let script = Script::new(name, "").builder("builtin:git-download");
        script.fixed(true, Hash::sha256("x"))
    };
    let (drv, built) = build(&mut client, script("a").variable("commit", "x"));
    built.failed(1, "failed");
    built.said(&format!("{}: missing Git URL", drv.path));
    let (drv, built) = build(
        &mut client,
        script("b").variable("url", "\"http://127.0.0.1:1\""),
    );
    built.failed(1, "failed");
    built.said(&format!("{}: missing Git commit", drv.path));
}

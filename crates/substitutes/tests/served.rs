//! Narinfos in a server's directory, whether they are believed, and which files they lead to.

use std::io::Read;
use std::sync::Arc;

use authority::Keys;
use formats::{Hash, StoreDir, StorePath};
use substitutes::{Choice, Compression, Location, Narinfo, Preference, Server, Trust, choose};

#[path = "../../../tests/harness/substitutes.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod publisher;

use publisher::{Draft, Item, Publisher, Signature, Tree};

/// A store, a configuration directory, and servers.
struct Site {
    directory: tempfile::TempDir,
    store: StoreDir,
}

impl Site {
    fn new() -> Site {
        Site {
            directory: tempfile::tempdir().unwrap(),
            store: StoreDir::new("/gnu/store").unwrap(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn publisher(&self, name: &str) -> Publisher {
        Publisher::new(self.path(name))
    }

    fn trust(&self) -> Trust {
        Trust::new(Arc::new(Keys::new(&self.path("etc"))), false)
    }

    /// What the publisher says of an item.
    fn ask(&self, publisher: &Publisher, wanted: &StorePath) -> Option<Arc<Narinfo>> {
        let server = Arc::new(Server::new(&publisher.url()).unwrap());
        let mut text = Vec::new();
        let name = Server::narinfo_name(wanted.hash_part());
        server.open(name).ok()?.read_to_end(&mut text).unwrap();
        let narinfo = Narinfo::parse(&text, wanted, &self.store, &server);
        narinfo.ok().map(Arc::new)
    }

    /// What is chosen among the answers of these publishers.
    fn choose(&self, publishers: &[&Publisher], wanted: &StorePath) -> Option<Choice> {
        let answers = publishers
            .iter()
            .filter_map(|publisher| self.ask(publisher, wanted));
        let answers: Vec<_> = answers.collect();
        let judge = self.trust().judge().unwrap();
        choose(&answers, |narinfo| judge.vouches_for(narinfo))
    }
}

fn hello() -> Item {
    Item::new("hello", Tree::directory([("bin", Tree::file("Hello!\n"))]))
}

fn servers(choice: &Choice) -> Vec<&str> {
    choice
        .sources
        .iter()
        .map(|narinfo| narinfo.server().url())
        .collect()
}

#[test]
fn a_signed_narinfo_is_believed_and_leads_to_the_nar() {
    let site = Site::new();
    let publisher = site.publisher("server");
    publisher.authorise(&site.path("etc"));
    let item = hello().compressed(&Compression::ALL);
    let path = publisher.publish(&site.store, &item);
    let choice = site.choose(&[&publisher], &path).unwrap();
    let variants = choice.variants(Preference::Fast);
    assert_eq!(variants.len(), Compression::ALL.len());
    let (narinfo, variant) = variants[1];
    assert_eq!(variant.compression, Compression::None);
    let Location::File(name) = &variant.location else {
        panic!("{variant:?}")
    };
    let mut nar = Vec::new();
    narinfo
        .server()
        .open(name)
        .unwrap()
        .read_to_end(&mut nar)
        .unwrap();
    assert_eq!(nar, item.nar());
    assert_eq!(narinfo.nar_size(), nar.len() as u64);
}

#[test]
fn an_unsigned_server_delivers_what_a_signed_one_vouches_for() {
    let site = Site::new();
    let (first, second) = (site.publisher("first"), site.publisher("second"));
    second.authorise(&site.path("etc"));
    let deriver = Item::new("hello.drv", Tree::file("")).path(&site.store);
    let other = Item::new("other.drv", Tree::file("")).path(&site.store);
    let item = hello().deriver(&deriver);
    let path = second.publish(&site.store, &item);
    first.publish_with(&site.store, &item.clone().deriver(&other), |draft| {
        draft.signature = Signature::None;
    });
    let choice = site.choose(&[&first, &second], &path).unwrap();
    assert_eq!(servers(&choice), [first.url(), second.url()]);
    assert_eq!(choice.believed.deriver(), Some(&deriver));
    assert!(site.choose(&[&first], &path).is_none());
    // A signature by a key that isn't authorised is worth as much as none.
    first.publish(&site.store, &item);
    assert!(site.choose(&[&first], &path).is_none());
    // A server that says something else isn't asked for the nar.
    for lie in [
        |draft: &mut Draft| draft.nar_size = "1".into(),
        |draft: &mut Draft| draft.nar_hash = format!("sha256:{}", Hash::sha256("").base32()),
        |draft: &mut Draft| draft.references.push(draft.store_path[11..].to_owned()),
    ] {
        first.publish_with(&site.store, &item, lie);
        let choice = site.choose(&[&first, &second], &path).unwrap();
        assert_eq!(servers(&choice), [second.url()]);
    }
}

#[test]
fn what_is_signed_cannot_be_changed_or_extended() {
    let site = Site::new();
    let publisher = site.publisher("server");
    publisher.authorise(&site.path("etc"));
    let path = hello().path(&site.store);
    let believed = |change: fn(&mut Draft)| {
        publisher.publish_with(&site.store, &hello(), change);
        site.choose(&[&publisher], &path)
    };
    assert!(believed(|_| ()).is_some());
    assert!(believed(|draft| draft.signature = Signature::OfAnotherText).is_none());
    assert!(believed(|draft| draft.signature = Signature::None).is_none());
    for value in [
        "",
        "1;host",
        "2;host;KCk=",
        "1;host;KCk=",
        "1;host;*",
        "1;host;",
        "1;h;KCk=;x",
    ] {
        let value = value.to_owned();
        publisher.publish_with(&site.store, &hello(), move |draft| {
            draft.signature = Signature::Value(value);
        });
        assert!(site.choose(&[&publisher], &path).is_none());
    }
    // Below the signature, only the files count.
    let choice = believed(|draft| {
        draft.below = format!(
            "Deriver: {0}.drv\nReferences: {0}\nNarSize: 7\nStorePath: /gnu/store/{0}\n",
            "0mgxsakkancy2iry6pj8hwcmlbmjbamn-x"
        );
    })
    .unwrap();
    assert_eq!(choice.believed.deriver(), None);
    assert!(choice.believed.references().is_empty());
    assert_eq!(choice.believed.nar_size(), hello().nar().len() as u64);
    // Unsigned below an earlier field that looks like a signature.
    assert!(believed(|draft| draft.above = "Note: Signature: 1;x;\n".into()).is_none());
}

#[test]
fn a_signed_narinfo_of_another_item_is_absent() {
    let site = Site::new();
    let publisher = site.publisher("server");
    publisher.authorise(&site.path("etc"));
    let old = Item::new("hello-1", Tree::file("has a hole"));
    let old_path = publisher.publish(&site.store, &old);
    let new = Item::new("hello-2", Tree::file("is safe"));
    let new_path = publisher.publish(&site.store, &new);
    let under_the_new_name = site
        .path("server")
        .join(format!("{}.narinfo", new_path.hash_part()));
    let old_narinfo = site
        .path("server")
        .join(format!("{}.narinfo", old_path.hash_part()));
    std::fs::copy(old_narinfo, under_the_new_name).unwrap();
    assert!(site.ask(&publisher, &old_path).is_some());
    assert!(site.ask(&publisher, &new_path).is_none());
}

#[test]
fn files_of_this_machine_are_those_of_servers_that_are_directories() {
    let site = Site::new();
    let publisher = site.publisher("server");
    let secret = site.path("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, site.path("server/link")).unwrap();
    std::os::unix::fs::symlink(site.path(""), site.path("server/up")).unwrap();
    nix::unistd::mkfifo(&site.path("server/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = hello().path(&site.store);
    let offer = |url: String| {
        publisher.publish_with(&site.store, &hello(), move |draft| draft.files[0].url = url);
    };
    let file = format!("file://{}", secret.display());
    let inside = format!("{}/nix-cache-info", publisher.url());
    for url in [
        file.as_str(),
        &format!("file://localhost{}", secret.display()),
        &format!("{}/../secret", publisher.url()),
        "../secret",
        "/etc/passwd",
        "nar/../../secret",
        "",
        "ftp://example.org/x",
        "data:x",
        "file:",
        "a b",
        "nar/\x1b[2J",
        "http:///x",
    ] {
        offer(url.to_owned());
        assert!(site.ask(&publisher, &path).is_none(), "{url}");
    }
    // No link on the way is followed, and nothing but a regular file is opened.
    for (url, readable) in [
        ("link", false),
        ("up/secret", false),
        ("fifo", false),
        (&inside, true),
    ] {
        offer(url.to_owned());
        let narinfo = site.ask(&publisher, &path).unwrap();
        let Location::File(name) = &narinfo.variants()[0].location else {
            panic!("{narinfo:?}");
        };
        assert_eq!(narinfo.server().open(name).is_ok(), readable, "{url}");
    }
    // The administrator may name a server by a link.
    std::os::unix::fs::symlink(site.path("server"), site.path("link")).unwrap();
    let linked = Server::new(&format!("file://{}", site.path("link").display())).unwrap();
    assert!(linked.open("nix-cache-info").is_ok() && linked.open("link").is_err());
    // A server of the network has no files here, whatever its narinfo says.
    offer(inside.clone());
    let text = std::fs::read(
        site.path("server")
            .join(Server::narinfo_name(path.hash_part())),
    );
    let text = text.unwrap();
    let network = Arc::new(Server::new("http://example.org").unwrap());
    assert!(Narinfo::parse(&text, &path, &site.store, &network).is_err());
}

#[test]
fn a_judge_keeps_its_list_of_keys_and_the_next_has_the_new_one() {
    let site = Site::new();
    let publisher = site.publisher("server");
    let path = publisher.publish(&site.store, &hello());
    let narinfo = site.ask(&publisher, &path).unwrap();
    let trust = site.trust();
    let before = trust.judge().unwrap();
    assert!(before.believes_nobody());
    assert!(!before.vouches_for(&narinfo));
    publisher.authorise(&site.path("etc"));
    assert!(!before.vouches_for(&narinfo));
    let after = trust.judge().unwrap();
    assert!(after.vouches_for(&narinfo) && !after.believes_nobody());
    let many = vec![narinfo.clone(); 100];
    assert_eq!(after.vouches_for_each(&many), [true; 100]);
    assert_eq!(before.vouches_for_each(&many), [false; 100]);
    std::fs::write(site.path("etc/acl"), "(acl").unwrap();
    assert!(
        trust
            .judge()
            .is_err_and(|reason| reason.contains("etc/acl"))
    );
    let keys = Arc::new(Keys::new(&site.path("none")));
    let everything = Trust::new(keys, true).judge().unwrap();
    assert!(everything.vouches_for(&narinfo) && !everything.believes_nobody());
}

#[test]
fn the_own_key_alone_is_as_good_as_none() {
    let site = Site::new();
    let configuration = site.path("etc");
    let pair = gcrypt::KeyPair::generate(gcrypt::keys::DEFAULT_PARAMETERS).unwrap();
    pair.save(&configuration).unwrap();
    let judge = site.trust().judge().unwrap();
    assert!(judge.believes_nobody());
    site.publisher("server").authorise(&configuration);
    assert!(!site.trust().judge().unwrap().believes_nobody());
}

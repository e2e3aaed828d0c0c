use super::*;

const WANTED: &str = "/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt";
const OTHER: &str = "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello";

/// A narinfo as `guix publish` writes it, without its signature.
const UNSIGNED: &str = "\
StorePath: /gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 120
References: lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello 0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt
Deriver: 939lqx80y1q6qlgk78i3d4h7hyvc98fl-text.txt.drv
";
const SIGNATURE: &str = "Signature: 1;host.example;KHNpZ25hdHVyZSk=\n";
const FILES: &str = "\
URL: nar/gzip/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt
Compression: gzip
FileSize: 80
URL: nar/zstd/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt
Compression: zstd
FileSize: 70
";

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn parse_from(server: &str, text: &str) -> Result<Narinfo, Error> {
    let server = Arc::new(Server::new(server).unwrap());
    let store = store();
    Narinfo::parse(
        text.as_bytes(),
        &store.parse(WANTED).unwrap(),
        &store,
        &server,
    )
}

fn parse(text: &str) -> Result<Narinfo, Error> {
    parse_from("http://example.org", text)
}

fn urls(narinfo: &Narinfo) -> Vec<String> {
    narinfo
        .variants()
        .iter()
        .map(|variant| narinfo.url_of(variant))
        .collect()
}

#[test]
fn everything_is_read() {
    let narinfo = parse(&[UNSIGNED, SIGNATURE, FILES].concat()).unwrap();
    assert_eq!(narinfo.path().as_str(), WANTED);
    assert_eq!(narinfo.nar_hash(), &Hash::sha256(""));
    assert_eq!(narinfo.nar_size(), 120);
    let references: Vec<_> = narinfo
        .references()
        .iter()
        .map(StorePath::base_name)
        .collect();
    assert_eq!(references, [&WANTED[11..], OTHER]);
    assert!(narinfo.deriver().unwrap().is_derivation());
    assert_eq!(
        urls(&narinfo),
        ["gzip", "zstd"].map(|kind| format!("http://example.org/nar/{kind}/{}", &WANTED[11..]))
    );
    let variants = narinfo.variants();
    assert_eq!(
        (variants[0].compression, variants[0].file_size),
        (Compression::Gzip, Some(80))
    );
    assert_eq!(
        (variants[1].compression, variants[1].file_size),
        (Compression::Zstd, Some(70))
    );
    let signature = narinfo.signature().unwrap();
    assert_eq!(signature.text(), b"(signature)");
    assert_eq!(signature.signed(), Hash::sha256(UNSIGNED).bytes());
}

#[test]
fn the_record_may_have_comments_continued_lines_and_other_fields() {
    let text = "\n\n# a comment: with a colon\nStorePath:/gnu/store/\n+0mgxsakkancy2iry6pj8hwcmlbmjbamn-x\n";
    let fields = fields::parse(text).unwrap();
    assert_eq!(fields.len(), 1);
    assert_eq!(
        (fields[0].name, &*fields[0].value, fields[0].offset),
        (
            "StorePath",
            "/gnu/store/\n0mgxsakkancy2iry6pj8hwcmlbmjbamn-x",
            28
        )
    );
    let text = UNSIGNED.replace(" 0mgxsakkancy2iry", "\n+ 0mgxsakkancy2iry");
    let text = format!("\n# comment\nPriority: 1\n{text}# end\n{FILES}\nStorePath: another record");
    let narinfo = parse(&text).unwrap();
    assert_eq!(narinfo.references().len(), 2);
    assert_eq!(narinfo.signature(), None);
    // Without a line feed at the end, too.
    assert!(parse(&[UNSIGNED, FILES.trim_end()].concat()).is_ok());
}

#[test]
fn the_first_field_of_a_name_counts() {
    let text = [UNSIGNED, UNSIGNED, "NarSize: 1\n", FILES].concat();
    assert_eq!(parse(&text).unwrap().nar_size(), 120);
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let unsigned = [UNSIGNED, FILES].concat();
    let without = |name: &str| {
        let lines = unsigned.lines().filter(|line| !line.starts_with(name));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    for name in ["StorePath", "NarHash", "NarSize", "References"] {
        assert_eq!(
            parse(&without(name)).unwrap_err().to_string(),
            format!("narinfo without `{name}'")
        );
    }
    assert_eq!(parse(&without("Deriver")).unwrap().deriver(), None);
    for name in ["URL", "Compression"] {
        assert_eq!(
            parse(&without(name)).unwrap_err(),
            Error::NoVariant,
            "{name}"
        );
    }
    let changed = |from: &str, to: &str| {
        assert!(unsigned.contains(from), "{from}");
        parse(&unsigned.replacen(from, to, 1))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let refused = |from: &str, to: &str| changed(from, to).unwrap_err();
    assert_eq!(
        refused("NarSize: 120", "NarSize: 12 0"),
        "narinfo with invalid `NarSize': 12 0"
    );
    for size in ["", "-1", "0x10", "1e3", "18446744073709551616"] {
        refused("NarSize: 120", &format!("NarSize: {size}"));
    }
    let large = unsigned.replacen("NarSize: 120", "NarSize: 9223372036854775908", 1);
    assert_eq!(parse(&large).unwrap().nar_size(), 9_223_372_036_854_775_908);
    for hash in [
        "",
        "sha256:",
        "sha256:x",
        "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ] {
        refused(
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            hash,
        );
    }
    for reference in [
        "..",
        "/etc/passwd",
        "x",
        "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb",
        "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-e",
        "/gnu/store/lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello",
        "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-\u{1b}",
    ] {
        let message = refused("lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-hello", reference);
        assert!(!message.contains('\u{1b}'));
        refused("939lqx80y1q6qlgk78i3d4h7hyvc98fl-text.txt.drv", reference);
    }
    assert_eq!(
        refused("-text.txt\nNarHash", "-text\nNarHash"),
        "narinfo of another item: /gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text"
    );
    for line in [
        " NarSize: 1\n",
        "no colon\n",
        "\tx\n",
        "1: 2\n",
        "\r\n",
        "-\n",
    ] {
        assert_eq!(
            parse(&[line, &unsigned].concat()).unwrap_err(),
            Error::Malformed,
            "{line:?}"
        );
    }
    assert_eq!(parse("+ x\n").unwrap_err(), Error::Malformed);
    assert_eq!(parse("").unwrap_err(), Error::Missing("StorePath"));
    let server = Arc::new(Server::new("http://example.org").unwrap());
    let wanted = store().parse(WANTED).unwrap();
    let bytes = |text: &[u8]| Narinfo::parse(text, &wanted, &store(), &server).unwrap_err();
    assert_eq!(bytes(b"StorePath: \xff\n"), Error::Malformed);
    assert_eq!(bytes(&vec![b'\n'; MAX_LENGTH + 1]), Error::TooLong);
    // A path that no item has is asked for in vain, even if the server has it.
    let strange = store().parse("/gnu/store/.links").unwrap();
    let text = unsigned.replace(WANTED, strange.as_str());
    assert!(Narinfo::parse(text.as_bytes(), &strange, &store(), &server).is_err());
}

#[test]
fn only_files_that_can_be_used_are_listed() {
    let offer = |files: &str| parse(&[UNSIGNED, files].concat());
    let both = "URL: a\nCompression: brotli\nURL: b\nCompression: lzip\n";
    assert_eq!(urls(&offer(both).unwrap()), ["http://example.org/b"]);
    assert_eq!(
        offer("URL: a\nCompression: brotli\n").unwrap_err(),
        Error::NoVariant
    );
    // Fields belong together by their positions; sizes are given for all files or for none.
    let mixed = "URL: a\nURL: https://cdn.example/b\nURL: c\nCompression: none\nCompression: xz\n";
    let narinfo = offer(&format!("{mixed}FileSize: 1\n")).unwrap();
    assert_eq!(
        urls(&narinfo),
        ["http://example.org/a", "https://cdn.example/b"]
    );
    assert!(
        narinfo
            .variants()
            .iter()
            .all(|variant| variant.file_size.is_none())
    );
    let narinfo = offer(&format!("{mixed}FileSize: 1\nFileSize: x\nFileSize: 3\n")).unwrap();
    let sizes = narinfo.variants().iter().map(|variant| variant.file_size);
    assert_eq!(sizes.collect::<Vec<_>>(), [Some(1), None]);
    let many = "URL: a\nCompression: none\n".repeat(1000);
    assert_eq!(offer(&many).unwrap().variants().len(), MAX_VARIANTS);
    // Names of a server whose URL ends in a slash.
    let narinfo = parse_from("http://example.org/x/", &[UNSIGNED, both].concat()).unwrap();
    assert_eq!(urls(&narinfo), ["http://example.org/x/b"]);
}

#[test]
fn a_signature_counts_only_below_what_it_must_sign() {
    let signed = |text: &str| parse(text).unwrap().signature().is_some();
    assert!(signed(&[UNSIGNED, SIGNATURE, FILES].concat()));
    assert!(signed(&[UNSIGNED, FILES, SIGNATURE].concat()));
    assert!(!signed(&[SIGNATURE, UNSIGNED, FILES].concat()));
    for name in ["StorePath", "NarHash", "References"] {
        let (line, rest): (Vec<&str>, Vec<&str>) = UNSIGNED
            .split_inclusive('\n')
            .partition(|line| line.starts_with(name));
        assert!(
            !signed(&[&rest.concat(), SIGNATURE, &line.concat(), FILES].concat()),
            "{name}"
        );
    }
    // In the middle of a line, in a comment, or below the end of the record.
    for above in [
        "x: Signature: 1\n",
        "# Signature: 1\n",
        "Note: x\n+Signature:\n",
    ] {
        assert!(
            !signed(&[UNSIGNED, above, SIGNATURE, FILES].concat()),
            "{above}"
        );
    }
    assert!(!signed(&[UNSIGNED, FILES, "\n", SIGNATURE].concat()));
    // The first counts, even if it is none.
    assert!(!signed(
        &[UNSIGNED, "Signature: 2;x;\n", SIGNATURE, FILES].concat()
    ));
    // Continued.
    assert!(!signed(&[UNSIGNED, SIGNATURE, "+ x\n", FILES].concat()));
}

/// Lines of which texts are made that are nearly narinfos.
fn line() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let known: Vec<String> = [UNSIGNED, SIGNATURE, FILES]
        .concat()
        .split_inclusive('\n')
        .map(str::to_owned)
        .collect();
    prop_oneof![
        8 => proptest::sample::select(known),
        1 => "[A-Za-z%]{0,3}:?[ -~]{0,8}\n?",
        1 => "[+#][ -~]{0,8}\n",
        1 => Just("\n".to_owned()),
        1 => "(URL|Signature|References|NarSize|Compression|Deriver): ?(\\PC{0,12})\n",
    ]
}

proptest::proptest! {
    #[test]
    fn what_is_accepted_is_what_was_asked_for(lines in proptest::collection::vec(line(), 0..24)) {
        let text = lines.concat();
        for server in ["http://example.org", "file:///srv/nars"] {
            let Ok(narinfo) = parse_from(server, &text) else { continue };
            assert_eq!(narinfo.path().as_str(), WANTED);
            assert!(narinfo.references().iter().all(StorePath::is_well_formed));
            assert!((1..=MAX_VARIANTS).contains(&narinfo.variants().len()));
            for variant in narinfo.variants() {
                let url = narinfo.url_of(variant);
                assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
                let right = ["http://", "https://", "file:///srv/nars/"];
                assert!(right.iter().any(|start| url.starts_with(start)), "{url}");
                assert!(!server.starts_with("http") || !url.starts_with("file"), "{url}");
            }
            let Some(signature) = narinfo.signature() else { continue };
            let offset = text.find("Signature:").unwrap();
            assert_eq!(signature.signed(), Hash::sha256(&text[..offset]).bytes());
            // Everything but the files follows from what is signed.
            let alone = [&text[..offset], FILES].concat();
            let alone = parse_from(server, &alone).unwrap();
            assert!(alone.is_equivalent(&narinfo));
            assert_eq!(alone.deriver(), narinfo.deriver());
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let server = Arc::new(Server::new("http://example.org").unwrap());
        let wanted = store().parse(WANTED).unwrap();
        assert!(Narinfo::parse(&bytes, &wanted, &store(), &server).is_err());
    }
}

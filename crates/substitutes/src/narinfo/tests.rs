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

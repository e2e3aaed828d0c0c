use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hash::Hash;
use crate::wire::WriteExt;

/// A tree in memory, for comparison.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    File(bool, Vec<u8>),
    Link(BString),
    Directory(BTreeMap<BString, Tree>),
}

impl Tree {
    fn write(&self, sink: &mut impl Sink) -> io::Result<()> {
        match self {
            Tree::File(executable, data) => {
                sink.regular(*executable, data.len() as u64, &mut &data[..])
            }
            Tree::Link(target) => sink.symlink(target.as_bstr()),
            Tree::Directory(entries) => {
                sink.begin_directory()?;
                for (name, tree) in entries {
                    sink.entry(name.as_bstr())?;
                    tree.write(sink)?;
                }
                sink.end_directory()
            }
        }
    }

    fn nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.write(&mut writer).unwrap();
        writer.into_inner()
    }
}

/// Rebuilds the tree.
#[derive(Default)]
struct Builder {
    open: Vec<(BTreeMap<BString, Tree>, BString)>,
    root: Option<Tree>,
}

impl Builder {
    fn node(&mut self, tree: Tree) -> io::Result<()> {
        match self.open.last_mut() {
            Some((entries, name)) => assert!(entries.insert(name.clone(), tree).is_none()),
            None => assert!(self.root.replace(tree).is_none()),
        }
        Ok(())
    }
}

impl Sink for Builder {
    fn begin_directory(&mut self) -> io::Result<()> {
        self.open.push(Default::default());
        Ok(())
    }
    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.open.last_mut().unwrap().1 = name.into();
        Ok(())
    }
    fn end_directory(&mut self) -> io::Result<()> {
        let (entries, _) = self.open.pop().unwrap();
        self.node(Tree::Directory(entries))
    }
    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        self.node(Tree::Link(target.into()))
    }
    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut data = Vec::new();
        contents.read_to_end(&mut data)?;
        assert_eq!(data.len() as u64, size);
        self.node(Tree::File(executable, data))
    }
}

fn parse(mut nar: &[u8]) -> Result<Tree, Error> {
    let mut builder = Builder::default();
    read(&mut nar, &mut builder)?;
    assert!(nar.is_empty(), "{} bytes left", nar.len());
    Ok(builder.root.unwrap())
}

#[test]
fn known_nar() {
    let nar = of_file(false, b"Hello, world!\n");
    assert_eq!(nar.len(), 128);
    let hex = "5849379a8b8cbfc4131d0c0f89ad020ea270d85f161e257b7d52135b58337ece";
    assert_eq!(Hash::sha256(&nar).hex(), hex);
}

/// A nar from its tokens; `=N` is a size of N without any contents.
fn tokens(tokens: &[&str]) -> Vec<u8> {
    let mut nar = Vec::new();
    nar.write_bytes(MAGIC).unwrap();
    for token in tokens {
        match token.strip_prefix('=') {
            Some(size) => nar.write_u64(size.parse().unwrap()).unwrap(),
            None => nar.write_bytes(token).unwrap(),
        }
    }
    nar
}

fn directory_of(names: &[&str]) -> Vec<u8> {
    let mut all = vec!["(", "type", "directory"];
    for name in names {
        all.extend(["entry", "(", "name", name, "node"]);
        all.extend(["(", "type", "symlink", "target", "x", ")", ")"]);
    }
    all.push(")");
    tokens(&all)
}

#[test]
fn names_must_be_proper_sorted_and_unique() {
    assert!(parse(&directory_of(&[])).is_ok());
    assert!(parse(&directory_of(&["a", "b"])).is_ok());
    for bad in ["", ".", "..", "a/b", "../x", "/", "a\0b", &"n".repeat(256)] {
        assert!(
            matches!(parse(&directory_of(&[bad])), Err(Error::Name(_))),
            "{bad:?}"
        );
    }
    for bad in [["a", "a"], ["b", "a"]] {
        assert!(matches!(
            parse(&directory_of(&bad)),
            Err(Error::Unsorted(..))
        ));
    }
}

#[test]
fn shape_must_be_the_canonical_one() {
    for bad in [
        &["(", "type", "fifo", ")"][..],
        &["(", "type", "regular", ")"],
        &[
            "(",
            "type",
            "regular",
            "contents",
            "=0",
            "executable",
            "",
            ")",
        ],
        &[
            "(",
            "type",
            "regular",
            "executable",
            "yes",
            "contents",
            "=0",
            ")",
        ],
        &[
            "(", "type", "regular", "type", "regular", "contents", "=0", ")",
        ],
        &["(", "type", "symlink", "target", "a", "target", "b", ")"],
        &["(", ")"],
        &[")"],
    ] {
        assert!(
            matches!(parse(&tokens(bad)), Err(Error::Unexpected { .. })),
            "{bad:?}"
        );
    }
    assert!(matches!(
        parse(&tokens(&["(", "type", "symlink", "target", "", ")"])),
        Err(Error::Target(_))
    ));
    assert!(matches!(
        parse(b"\x05\0\0\0\0\0\0\0hello\0\0\0"),
        Err(Error::Magic)
    ));
    // A file that claims nearly 2^64 bytes, without contents.
    let huge = tokens(&["(", "type", "regular", "contents", "=18446744073709551615"]);
    assert!(matches!(parse(&huge), Err(Error::Wire(error)) if error.is_eof()));
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| {
        let mut all = Vec::new();
        for _ in 0..depth {
            all.extend(["(", "type", "directory", "entry", "(", "name", "d", "node"]);
        }
        all.extend(["(", "type", "symlink", "target", "x", ")"]);
        all.extend(std::iter::repeat_n(")", 2 * depth));
        tokens(&all)
    };
    let mut nar = &nested(MAX_DEPTH)[..];
    read(&mut nar, &mut io::sink()).unwrap();
    assert!(nar.is_empty());
    assert!(matches!(
        read(&mut &nested(100_000)[..], &mut io::sink()),
        Err(Error::TooDeep)
    ));
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(
        any::<u8>().prop_filter("name", |b| !b"/\0.".contains(b)),
        1..9,
    )
    .prop_map(BString::from);
    let leaf = prop_oneof![
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(executable, data)| Tree::File(executable, data)),
        "[a-z./]{1,20}".prop_map(|target| Tree::Link(target.into())),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory)
    })
}

proptest! {
    #[test]
    fn trees_round_trip(tree in any_tree()) {
        let nar = tree.nar();
        prop_assert_eq!(parse(&nar).unwrap(), tree);
        let mut copied = Vec::new();
        copy(&mut &nar[..], &mut copied).unwrap();
        prop_assert_eq!(copied, nar);
    }

    #[test]
    fn what_follows_is_left_alone(tree in any_tree(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
        let nar = [tree.nar(), rest.clone()].concat();
        let mut input = &nar[..];
        read(&mut input, &mut io::sink()).unwrap();
        prop_assert_eq!(input, rest);
    }

    /// However small the reads are, an extent yields its nar and stops.
    #[test]
    fn extent_is_the_nar(tree in any_tree(), rest in prop::collection::vec(any::<u8>(), 0..20), step in 1usize..50) {
        let nar = tree.nar();
        let input = [nar.clone(), rest.clone()].concat();
        let mut extent = Extent::new(&input[..]);
        let (mut out, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            let count = extent.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            out.extend_from_slice(&buffer[..count]);
        }
        prop_assert_eq!(out, nar);
        prop_assert!(extent.is_complete());
        prop_assert_eq!(extent.into_inner(), rest);
    }

    #[test]
    fn damaged_extent_ends(tree in any_tree(), place: prop::sample::Index, value: u8) {
        let mut nar = tree.nar();
        let place = place.index(nar.len());
        nar[place] = value;
        let mut extent = Extent::new(&nar[..]);
        let _ = extent.drain();
    }

    #[test]
    fn truncated_is_an_error(tree in any_tree(), cut: prop::sample::Index) {
        let nar = tree.nar();
        prop_assert!(parse(&nar[..cut.index(nar.len())]).is_err());
    }

    #[test]
    fn damaged_is_refused_or_canonical(
        tree in any_tree(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut nar = tree.nar();
        for (place, value) in damage {
            let place = place.index(nar.len());
            nar[place] = value;
        }
        let mut builder = Builder::default();
        let mut input = &nar[..];
        if read(&mut input, &mut builder).is_ok() {
            let used = nar.len() - input.len();
            prop_assert_eq!(builder.root.unwrap().nar(), &nar[..used]);
        }
    }
}

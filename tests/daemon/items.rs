//! Test data for stores: trees, items to import, derivations and keys.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use formats::export::{self, Fields};
use formats::nar::{Sink, Writer};
use formats::wire::WriteExt;
use formats::{Hash, StoreDir, StorePath};
use gcrypt::KeyPair;

/// A tree of files.
pub enum Tree {
    File(bool, Vec<u8>),
    Link(&'static str),
    Directory(Vec<(&'static str, Tree)>),
}

impl Tree {
    /// A file that isn't executable.
    pub fn file(contents: impl Into<Vec<u8>>) -> Tree {
        Tree::File(false, contents.into())
    }

    /// Writes it to a nar writer.
    pub fn write<W: Write>(&self, writer: &mut Writer<W>) -> std::io::Result<()> {
        match self {
            Tree::File(executable, data) => {
                writer.regular(*executable, data.len() as u64, &mut data.as_slice())
            }
            Tree::Link(target) => writer.symlink((*target).into()),
            Tree::Directory(entries) => {
                writer.begin_directory()?;
                for (name, tree) in entries {
                    writer.entry((*name).into())?;
                    tree.write(writer)?;
                }
                writer.end_directory()
            }
        }
    }

    /// Its nar.
    pub fn nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.write(&mut writer).unwrap();
        writer.into_inner()
    }
}

/// A tree with one entry of each type.
pub fn sample() -> Tree {
    Tree::Directory(vec![
        ("empty", Tree::Directory(vec![])),
        ("large", Tree::file(noise(1, 700_000))),
        ("link", Tree::Link("large")),
        ("program", Tree::File(true, noise(2, 20_000))),
        ("small", Tree::file("x")),
    ])
}

/// Bytes without repetition.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Checks that everything below `path` has canonical metadata.
#[track_caller]
pub fn assert_canonical(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert_eq!(metadata.mtime(), 1, "{}", path.display());
    assert_eq!(
        (metadata.uid(), metadata.gid()),
        (0, 0),
        "{}",
        path.display()
    );
    if metadata.is_symlink() {
        return;
    }
    let mode = metadata.permissions().mode() & 0o7777;
    assert!(
        mode == 0o444 || mode == 0o555,
        "{}: {mode:o}",
        path.display()
    );
    if metadata.is_dir() {
        assert_eq!(mode, 0o555, "{}", path.display());
        for entry in fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    }
}

/// A new key pair.
pub fn new_keys() -> KeyPair {
    KeyPair::generate(gcrypt::keys::DEFAULT_PARAMETERS).unwrap()
}

/// An item to import.
pub struct Item {
    pub nar: Vec<u8>,
    pub fields: Fields,
}

impl Item {
    /// A text.
    pub fn text(path: &StorePath, text: &str) -> Item {
        let fields = Fields {
            path: path.clone(),
            references: BTreeSet::new(),
            deriver: None,
        };
        Item {
            nar: Tree::file(text).nar(),
            fields,
        }
    }

    /// The item in the export format, with the words before and after it and the signature of
    /// `keys`.
    pub fn archive(&self, keys: Option<&KeyPair>) -> Vec<u8> {
        let mut item = self.nar.clone();
        self.fields.write(&mut item).unwrap();
        let hash: [u8; 32] = Hash::sha256(&item).bytes().try_into().unwrap();
        let signature = keys.map(|keys| gcrypt::sign(&hash, keys).unwrap());
        let mut archive = export::ITEM.to_le_bytes().to_vec();
        archive.extend_from_slice(&item);
        export::write_signature(&mut archive, signature.as_deref()).unwrap();
        archive.write_u64(export::END).unwrap();
        archive
    }
}

/// A fixed-output derivation whose output has the contents of `tree`: its text and the output.
pub fn fixed_derivation(dir: &StoreDir, name: &str, tree: &Tree) -> (String, StorePath) {
    let hash = Hash::sha256(tree.nar());
    let output = dir.fixed_output_path(name, true, &hash).unwrap();
    let text = format!(
        r#"Derive([("out","{output}","r:sha256","{}")],[],[],"x86_64-linux","/bin/sh",[],[("out","{output}")])"#,
        hash.hex()
    );
    (text, output)
}

//! The directory of a substitute server: narinfos, nars in any compression, and the key that signs
//! them. A web server can serve it, or it is a server itself, by its `file:` URL.
//!
//! ```ignore
//! let publisher = Publisher::new(site.path("server"));
//! publisher.authorise(&site.configuration());
//! let hello = Item::new("hello", Tree::file("Hello!\n")).reference(&other);
//! let path = publisher.publish(&store, &hello);
//! // A lie, validly signed:
//! publisher.publish_with(&store, &hello, |draft| draft.store_path = other.to_string());
//! ```
//!
//! Everything is as `guix publish` names and writes it. Nars are compressed by the programs that
//! Debian has for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use formats::nar::{self, Sink};
use formats::{Hash, StoreDir, StorePath};
use gcrypt::{Acl, KeyPair, PublicKey, keys};
use substitutes::Compression;

/// Contents of a store item.
#[derive(Clone, Debug)]
pub enum Tree {
    /// A regular file.
    File {
        /// Whether it is executable.
        executable: bool,
        /// Its bytes.
        contents: Vec<u8>,
    },
    /// A directory.
    Directory(BTreeMap<String, Tree>),
    /// A symbolic link.
    Link(String),
}

impl Tree {
    /// A file that isn't executable.
    pub fn file(contents: impl AsRef<[u8]>) -> Tree {
        Tree::File {
            executable: false,
            contents: contents.as_ref().to_vec(),
        }
    }

    /// A directory.
    pub fn directory<const N: usize>(entries: [(&str, Tree); N]) -> Tree {
        Tree::Directory(entries.map(|(name, tree)| (name.to_owned(), tree)).into())
    }

    /// Its nar.
    pub fn nar(&self) -> Vec<u8> {
        let mut writer = nar::Writer::new(Vec::new());
        self.write(&mut writer);
        writer.into_inner()
    }

    fn write(&self, writer: &mut nar::Writer<Vec<u8>>) {
        match self {
            Tree::File {
                executable,
                contents,
            } => writer
                .regular(*executable, contents.len() as u64, &mut &contents[..])
                .unwrap(),
            Tree::Directory(entries) => {
                writer.begin_directory().unwrap();
                for (name, tree) in entries {
                    writer.entry(name.as_str().into()).unwrap();
                    tree.write(writer);
                }
                writer.end_directory().unwrap();
            }
            Tree::Link(target) => writer.symlink(target.as_str().into()).unwrap(),
        }
    }
}

/// A store item to publish.
#[derive(Clone, Debug)]
pub struct Item {
    name: String,
    nar: Vec<u8>,
    references: Vec<StorePath>,
    deriver: Option<StorePath>,
    compressions: Vec<Compression>,
}

impl Item {
    /// An item called `name`, with these contents, offered as gzip.
    pub fn new(name: &str, tree: Tree) -> Item {
        Item::with_nar(name, tree.nar())
    }

    /// An item with this nar, which may be anything.
    pub fn with_nar(name: &str, nar: Vec<u8>) -> Item {
        Item {
            name: name.to_owned(),
            nar,
            references: Vec::new(),
            deriver: None,
            compressions: vec![Compression::Gzip],
        }
    }

    /// Offers it in these compressions, in this order.
    pub fn compressed(mut self, compressions: &[Compression]) -> Item {
        self.compressions = compressions.to_vec();
        self
    }

    /// Adds a reference.
    pub fn reference(mut self, path: &StorePath) -> Item {
        self.references.push(path.clone());
        self
    }

    /// Sets the deriver.
    pub fn deriver(mut self, path: &StorePath) -> Item {
        self.deriver = Some(path.clone());
        self
    }

    /// Its nar.
    pub fn nar(&self) -> &[u8] {
        &self.nar
    }

    /// Its path: that of a fixed output, whatever it refers to.
    pub fn path(&self, store: &StoreDir) -> StorePath {
        store
            .fixed_output_path(&self.name, true, &Hash::sha256(&self.nar))
            .unwrap()
    }
}

/// What a narinfo is going to say, the truth at first.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The hash part under which it is found.
    pub hash_part: String,
    /// The full path.
    pub store_path: String,
    /// The hash, with its algorithm.
    pub nar_hash: String,
    /// The size.
    pub nar_size: String,
    /// Base names.
    pub references: Vec<String>,
    /// A base name.
    pub deriver: Option<String>,
    /// More fields above the signature, each line ended.
    pub above: String,
    /// How it is signed.
    pub signature: Signature,
    /// More fields right below the signature, each line ended.
    pub below: String,
    /// The files.
    pub files: Vec<OfferedFile>,
}

/// One of the files that a narinfo lists.
#[derive(Clone, Debug)]
pub struct OfferedFile {
    /// The URL.
    pub url: String,
    /// The name of the compression.
    pub compression: String,
    /// The size of the file.
    pub size: Option<u64>,
}

/// How a narinfo is signed.
#[derive(Clone, Debug)]
pub enum Signature {
    /// By the publisher's key.
    Valid,
    /// Not at all.
    None,
    /// By the publisher's key, but of another text.
    OfAnotherText,
    /// This is the field's value.
    Value(String),
}

impl Draft {
    /// The fields above the signature.
    fn signed_text(&self) -> String {
        let deriver = match &self.deriver {
            Some(deriver) => format!("Deriver: {deriver}\n"),
            None => String::new(),
        };
        format!(
            "StorePath: {}\nNarHash: {}\nNarSize: {}\nReferences: {}\n{deriver}{}",
            self.store_path,
            self.nar_hash,
            self.nar_size,
            self.references.join(" "),
            self.above
        )
    }

    /// The whole narinfo.
    fn text(&self, pair: &KeyPair) -> String {
        let signed = self.signed_text();
        let value = match &self.signature {
            Signature::Valid => Some(signature(&signed, pair)),
            Signature::None => None,
            Signature::OfAnotherText => Some(signature("another text", pair)),
            Signature::Value(value) => Some(value.clone()),
        };
        let mut text = signed;
        if let Some(value) = value {
            text += &format!("Signature: {value}\n");
        }
        text += &self.below;
        for file in &self.files {
            text += &format!("URL: {}\nCompression: {}\n", file.url, file.compression);
            if let Some(size) = file.size {
                text += &format!("FileSize: {size}\n");
            }
        }
        text
    }
}

/// The value of a narinfo's signature.
fn signature(signed: &str, pair: &KeyPair) -> String {
    let digest = Hash::sha256(signed).compress();
    let text = gcrypt::sign(&digest, pair).unwrap();
    format!("1;publisher.example;{}", BASE64.encode(&text))
}

/// A directory with narinfos and nars, and the key that signs them.
pub struct Publisher {
    directory: PathBuf,
    pair: KeyPair,
}

impl Publisher {
    /// A publisher with a new key, and a new directory.
    pub fn new(directory: impl Into<PathBuf>) -> Publisher {
        Publisher::with_parameters(directory, keys::DEFAULT_PARAMETERS)
    }

    /// The same, with a key made of these parameters for libgcrypt.
    pub fn with_parameters(directory: impl Into<PathBuf>, parameters: &str) -> Publisher {
        let directory = directory.into();
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join("nix-cache-info"),
            "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n",
        )
        .unwrap();
        let pair = KeyPair::generate(parameters).unwrap();
        let key = pair.public().as_sexp().to_advanced();
        fs::write(directory.join("signing-key.pub"), key).unwrap();
        Publisher { directory, pair }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory as the URL of a server.
    pub fn url(&self) -> String {
        format!("file://{}", self.directory.display())
    }

    /// Adds its key to the ACL in the directory `configuration`.
    pub fn authorise(&self, configuration: &Path) {
        let mut acl = Acl::load(configuration).unwrap();
        let key = self.pair.public().as_sexp().to_canonical();
        acl.authorize(PublicKey::parse(key).unwrap());
        acl.save(configuration).unwrap();
    }

    /// Publishes `item`; returns its path.
    pub fn publish(&self, store: &StoreDir, item: &Item) -> StorePath {
        self.publish_with(store, item, |_| ())
    }

    /// Publishes `item`, with a narinfo that was changed before it was signed.
    pub fn publish_with(
        &self,
        store: &StoreDir,
        item: &Item,
        change: impl FnOnce(&mut Draft),
    ) -> StorePath {
        let path = item.path(store);
        let base = path.base_name();
        let files = item.compressions.iter().map(|&compression| {
            let name = match compression {
                Compression::None => format!("nar/{base}"),
                _ => format!("nar/{compression}/{base}"),
            };
            let size = self.write_nar(&name, item.nar(), compression);
            OfferedFile {
                url: name,
                compression: compression.to_string(),
                size: Some(size),
            }
        });
        let hash = Hash::sha256(item.nar());
        let mut draft = Draft {
            hash_part: path.hash_part().to_owned(),
            store_path: path.to_string(),
            nar_hash: format!("sha256:{}", hash.base32()),
            nar_size: item.nar().len().to_string(),
            references: item
                .references
                .iter()
                .map(|path| path.base_name().to_owned())
                .collect(),
            deriver: item
                .deriver
                .as_ref()
                .map(|path| path.base_name().to_owned()),
            above: String::new(),
            signature: Signature::Valid,
            below: String::new(),
            files: files.collect(),
        };
        change(&mut draft);
        let name = format!("{}.narinfo", draft.hash_part);
        fs::write(self.directory.join(name), draft.text(&self.pair)).unwrap();
        path
    }

    /// Withdraws the narinfo of an item; its nars stay.
    pub fn withdraw(&self, path: &StorePath) {
        let name = format!("{}.narinfo", path.hash_part());
        fs::remove_file(self.directory.join(name)).unwrap();
    }

    /// Writes a nar to the file `name`, compressed; returns the size of the file.
    pub fn write_nar(&self, name: &str, nar: &[u8], compression: Compression) -> u64 {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, nar).unwrap();
        if compression != Compression::None {
            let compressed = path.with_extension("compressed");
            let status = Command::new(compression.name())
                .arg("-c")
                .stdin(File::open(&path).unwrap())
                .stdout(File::create(&compressed).unwrap())
                .stderr(Stdio::inherit())
                .status()
                .unwrap_or_else(|error| panic!("the program {compression}: {error}"));
            assert!(status.success(), "{compression}: {status}");
            fs::rename(&compressed, &path).unwrap();
        }
        fs::metadata(&path).unwrap().len()
    }
}

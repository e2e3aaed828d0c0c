//! A separate store for each test, in a temporary directory.
#![allow(dead_code, reason = "each test program uses a part of this")]

#[path = "../../../../tests/harness/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use formats::hash::{Algorithm, Hash};
use formats::nar::{Sink, Writer};
use formats::store_path::{StoreDir, StorePath};
use store::{
    AddOptions, Authority, Directories, GcAction, GcRequest, GcResult, ImportOptions, Level,
    Progress, Quiet, Store, StoreOptions, TempRoots,
};
use system::companion::Installation;

#[allow(unused_imports, reason = "not every test program skips")]
pub use skip::skip;

pub struct Fixture {
    pub store: Store,
    pub scratch: tempfile::TempDir,
}

/// The directories of a store in `root`.
pub fn directories(root: &Path) -> Directories {
    let text = root.join("store").to_str().unwrap().to_owned();
    Directories {
        store: StoreDir::new(text).unwrap(),
        state: root.join("state"),
        database: root.join("state/db"),
        log: root.join("log"),
        configuration: root.join("etc"),
        installation: Installation {
            bin: root.join("bin"),
            libexec: root.join("libexec"),
        },
        guix: root.join("bin/guix"),
    }
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(StoreOptions::default())
    }

    pub fn with(options: StoreOptions) -> Fixture {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let store = Store::open(directories(&root), options, &Quiet).unwrap();
        Fixture { store, scratch }
    }

    pub fn root(&self) -> PathBuf {
        fs::canonicalize(self.scratch.path()).unwrap()
    }

    /// Opens the same store again.
    pub fn again(&self) -> Store {
        let options = self.store.options().clone();
        Store::open(self.store.directories().clone(), options, &Quiet).unwrap()
    }

    pub fn add(
        &self,
        roots: &TempRoots,
        name: &str,
        text: &str,
        references: &[&StorePath],
    ) -> StorePath {
        self.try_add(roots, name, text, references).unwrap()
    }

    pub fn try_add(
        &self,
        roots: &TempRoots,
        name: &str,
        text: &str,
        references: &[&StorePath],
    ) -> store::Result<StorePath> {
        let references: BTreeSet<StorePath> = references.iter().copied().cloned().collect();
        self.store
            .add_text(name, text.as_bytes(), &references, &adding(roots))
    }

    /// The names in the store directory, except `.links`.
    pub fn entries(&self) -> BTreeSet<String> {
        fs::read_dir(self.store.dir().as_path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".links")
            .collect()
    }

    pub fn links(&self) -> usize {
        fs::read_dir(self.store.dir().as_path().join(".links"))
            .unwrap()
            .count()
    }

    pub fn collect(&self, action: GcAction) -> GcResult {
        self.store
            .collect_garbage(&request(action), &Quiet)
            .unwrap()
    }
}

pub fn adding(temp_roots: &TempRoots) -> AddOptions<'_> {
    AddOptions {
        temp_roots,
        repair: false,
        progress: &Quiet,
    }
}

pub fn importing<'a>(
    temp_roots: &'a TempRoots,
    authority: Option<&'a dyn Authority>,
) -> ImportOptions<'a> {
    ImportOptions {
        wanted: None,
        fixed: None,
        temp_roots,
        authority,
        held_locks: &[],
        progress: &Quiet,
    }
}

pub fn request(action: GcAction) -> GcRequest<'static> {
    GcRequest {
        action,
        ignore_liveness: false,
        paths: Vec::new(),
        max_freed: u64::MAX,
        keep_outputs: false,
        keep_derivations: true,
        own_roots: None,
        asker: None,
    }
}

/// Records the messages it receives.
#[derive(Default)]
pub struct Listener(pub Mutex<Vec<String>>);

impl Progress for Listener {
    fn message(&self, _level: Level, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Listener {
    pub fn heard(&self, part: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .iter()
            .any(|text| text.contains(part))
    }
}

/// "Signs" with a secret that is the same for all stores.
pub struct Seal(pub &'static str);

impl Authority for Seal {
    fn sign(&self, hash: &Hash) -> Result<Vec<u8>, String> {
        Ok(format!("{} {}", self.0, hash.hex()).into_bytes())
    }

    fn verify(&self, signature: &[u8]) -> Result<Hash, String> {
        let text = String::from_utf8(signature.to_vec()).map_err(|error| error.to_string())?;
        match text.split_once(' ') {
            Some((secret, hash)) if secret == self.0 => {
                Hash::parse(Algorithm::Sha256, hash).map_err(|error| error.to_string())
            }
            _ => Err("unauthorized public key".to_owned()),
        }
    }
}

/// A tree for making nars.
pub enum Tree {
    File(bool, Vec<u8>),
    Link(&'static str),
    Directory(Vec<(&'static str, Tree)>),
}

impl Tree {
    pub fn nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.write(&mut writer);
        writer.into_inner()
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) {
        match self {
            Tree::File(executable, data) => {
                writer
                    .regular(*executable, data.len() as u64, &mut data.as_slice())
                    .unwrap();
            }
            Tree::Link(target) => writer.symlink((*target).into()).unwrap(),
            Tree::Directory(entries) => {
                writer.begin_directory().unwrap();
                for (name, tree) in entries {
                    writer.entry((*name).into()).unwrap();
                    tree.write(writer);
                }
                writer.end_directory().unwrap();
            }
        }
    }
}

/// Bytes without repetition.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.write_all(&state.to_le_bytes()).unwrap();
    }
    bytes.truncate(length);
    bytes
}

/// Checks that everything below `path` has canonical metadata.
pub fn assert_canonical(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert_eq!(metadata.mtime(), 1, "{}", path.display());
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
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
        for entry in fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    }
}

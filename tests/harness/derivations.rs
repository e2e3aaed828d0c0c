//! A client that writes derivations, and builds them.
//!
//! ```ignore
//! let mut client = Client::connect(&daemon);
//! let hello = client.write(Script::new("hello", "echo hello >$out"));
//! let built = client.build(&[&hello]);
//! built.succeeded();
//! ```
//!
//! Builders are scripts for the shell of busybox, which is added to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use formats::derivation::{Derivation, FixedHash, ModuloHashes, Recipe};
use formats::{Algorithm, Hash, StoreDir, StorePath};
use protocol::client::{Connection, Error, Options};
use protocol::operations::{BuildMode, PathInfo, SetOptions, Target};

use super::{Daemon, eventually};

/// The busybox for builders: it must be statically linked.
const BUSYBOX: &str = "/bin/busybox";
/// The names under which builders call it.
const APPLETS: &str = "[ basename cat chmod chown cp cut dd echo env false find grep head hostname id \
                       kill ln ls mkdir mkfifo mknod mount mv nc nohup printf ps pwd readlink \
                       realpath rm sed seq setsid sh sleep sort stat tail test touch tr true umount \
                       uname wc yes";

/// A derivation to write.
pub struct Script {
    name: String,
    script: String,
    recipe: Recipe,
}

impl Script {
    /// A derivation called `name` that runs `script`, with the output `out`.
    pub fn new(name: &str, script: &str) -> Script {
        let recipe = Recipe {
            outputs: BTreeMap::from([("out".to_owned(), None)]),
            system: env!("GUIX_SYSTEM").into(),
            ..Recipe::default()
        };
        Script {
            name: name.to_owned(),
            script: script.to_owned(),
            recipe,
        }
    }

    /// Adds an output.
    pub fn output(mut self, id: &str) -> Script {
        self.recipe.outputs.insert(id.to_owned(), None);
        self
    }

    /// Adds a variable.
    pub fn variable(mut self, name: &str, value: impl Into<bstr::BString>) -> Script {
        self.recipe.environment.insert(name.into(), value.into());
        self
    }

    /// Adds the output `id` of another derivation as an input.
    pub fn input(mut self, needed: &Drv, id: &str) -> Script {
        let outputs = self.recipe.inputs.entry(needed.path.clone()).or_default();
        outputs.insert(id.to_owned());
        self
    }

    /// Adds a store item as a source.
    pub fn source(mut self, item: &StorePath) -> Script {
        self.recipe.sources.insert(item.clone());
        self
    }

    /// Makes it a fixed-output derivation, with the hash of a file, or of a nar if `recursive`.
    pub fn fixed(mut self, recursive: bool, hash: Hash) -> Script {
        self.recipe
            .outputs
            .insert("out".to_owned(), Some(FixedHash { recursive, hash }));
        self
    }

    /// Sets the system.
    pub fn system(mut self, system: &str) -> Script {
        self.recipe.system = system.into();
        self
    }

    /// Sets a builder other than busybox's shell; the script is its only argument.
    pub fn builder(mut self, program: &str) -> Script {
        self.recipe.builder = program.into();
        self
    }
}

/// A derivation in the store.
#[derive(Clone)]
pub struct Drv {
    /// Its file.
    pub path: StorePath,
    /// Its contents.
    pub derivation: Derivation,
}

impl Drv {
    /// Its output `out`.
    pub fn out(&self) -> &StorePath {
        self.output("out")
    }

    /// Its output `id`.
    pub fn output(&self, id: &str) -> &StorePath {
        &self.derivation.outputs[id].path
    }
}

/// The result of a build.
#[derive(Debug)]
pub struct Built {
    /// Nothing, or the daemon's error and its status.
    pub result: Result<(), (String, u32)>,
    /// The log that the client received.
    pub log: String,
}

impl Built {
    /// Requires that it succeeded.
    #[track_caller]
    pub fn succeeded(&self) {
        assert!(self.result.is_ok(), "{self:#?}");
    }

    /// Requires that it failed with this status, and with `text` in the error.
    #[track_caller]
    pub fn failed(&self, status: u32, text: &str) {
        match &self.result {
            Err((error, got)) if *got == status && error.contains(text) => {}
            _ => panic!("expected status {status} and `{text}': {self:#?}"),
        }
    }

    /// Requires `text` in the client's log.
    #[track_caller]
    pub fn said(&self, text: &str) {
        assert!(self.log.contains(text), "expected `{text}': {self:#?}");
    }

    /// Requires that the client's log doesn't contain `text`.
    #[track_caller]
    pub fn did_not_say(&self, text: &str) {
        assert!(!self.log.contains(text), "unexpected `{text}': {self:#?}");
    }
}

/// A client of a daemon.
pub struct Client {
    /// The connection, for everything else.
    pub connection: Connection,
    stream: UnixStream,
    store: StoreDir,
    busybox: StorePath,
    hashes: ModuloHashes,
    options: SetOptions,
}

impl Client {
    /// Connects, and adds busybox to the store.
    pub fn connect(daemon: &Daemon) -> Client {
        Client::connect_with(daemon, &Options::default())
    }

    /// Like [`Client::connect`], with these options.
    pub fn connect_with(daemon: &Daemon, options: &Options) -> Client {
        let store = daemon.store.to_str().unwrap();
        Client::over(daemon.connect(), store, options)
    }

    /// Like [`Client::connect_with`], over a connection to a daemon with this store.
    pub fn over(stream: UnixStream, store: &str, options: &Options) -> Client {
        let store = StoreDir::new(store).unwrap();
        let (reader, writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let mut connection =
            Connection::over(Box::new(reader), Box::new(writer), &store, options).unwrap();
        let busybox = add_busybox(&mut connection);
        let mut client = Client {
            connection,
            stream,
            store,
            busybox,
            hashes: ModuloHashes::new(),
            options: SetOptions {
                use_build_hook: Some(false),
                ..SetOptions::default()
            },
        };
        client.set(|_| ());
        client
    }

    /// Changes the options. Initially they are those of Guix's client, but without the build hook.
    pub fn set(&mut self, change: impl FnOnce(&mut SetOptions)) {
        change(&mut self.options);
        self.connection.set_options(&self.options).unwrap();
    }

    /// Sets the timeout for messages of the daemon.
    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    /// The store item with `bin/busybox`.
    pub fn busybox(&self) -> &StorePath {
        &self.busybox
    }

    /// Adds a text to the store.
    pub fn text(&mut self, name: &str, text: &str, references: &[&StorePath]) -> StorePath {
        let references = references.iter().map(|path| (*path).clone()).collect();
        self.connection
            .add_text_to_store(name, text, references)
            .unwrap()
    }

    /// Writes a derivation to the store.
    pub fn write(&mut self, script: Script) -> Drv {
        let Script {
            name,
            script,
            mut recipe,
        } = script;
        let bin = format!("{}/bin", self.busybox);
        if recipe.builder.is_empty() {
            recipe.builder = format!("{bin}/busybox").into();
            recipe.arguments = ["sh", "-e", "-c", &script].map(Into::into).into();
        } else {
            recipe.arguments = vec![script.into()];
        }
        recipe.sources.insert(self.busybox.clone());
        recipe
            .environment
            .entry("PATH".into())
            .or_insert_with(|| bin.into());
        let hashes = &mut self.hashes;
        let unwritten = |path: &StorePath| -> Result<Derivation, std::io::Error> {
            panic!("{path} was not written by this client")
        };
        let (derivation, path) = recipe
            .instantiate(&name, &self.store, |input| hashes.get(input, unwritten))
            .unwrap();
        let hash = derivation
            .hash_modulo(|input| hashes.get(input, unwritten))
            .unwrap();
        hashes.insert(path.clone(), hash);
        let references: BTreeSet<StorePath> = derivation.references();
        let file = format!("{name}.drv");
        let written = self
            .connection
            .add_text_to_store(&file, derivation.to_bytes(), references)
            .unwrap();
        assert_eq!(written, path);
        Drv { path, derivation }
    }

    /// Builds, and waits for the result.
    pub fn build(&mut self, drvs: &[&Drv]) -> Built {
        self.build_in_mode(drvs, BuildMode::Normal)
    }

    /// Like [`Client::build`], in another mode.
    pub fn build_in_mode(&mut self, drvs: &[&Drv], mode: BuildMode) -> Built {
        let targets = drvs.iter().map(|drv| drv.path.clone().into()).collect();
        self.realise(targets, mode, &Mutex::default())
    }

    fn realise(&mut self, targets: Vec<Target>, mode: BuildMode, log: &Mutex<Vec<u8>>) -> Built {
        let result = self.connection.build_paths(targets, mode, &mut |text| {
            log.lock().unwrap().extend_from_slice(text);
        });
        let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        let result = result.map_err(|error| match error {
            Error::Daemon { message, status } => (message, status),
            other => (other.to_string(), 0),
        });
        Built { result, log }
    }

    /// Builds on a new thread.
    pub fn start(mut self, drvs: &[&Drv]) -> Building {
        let targets = drvs.iter().map(|drv| drv.path.clone().into()).collect();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stream = self.stream.try_clone().unwrap();
        let thread = std::thread::spawn({
            let log = log.clone();
            move || {
                let built = self.realise(targets, BuildMode::Normal, &log);
                (self, built)
            }
        });
        Building {
            thread,
            log,
            stream,
        }
    }

    /// Whether a store item is valid.
    pub fn is_valid(&mut self, path: &StorePath) -> bool {
        self.connection.is_valid_path(path).unwrap()
    }

    /// What is registered about a store item.
    pub fn info(&mut self, path: &StorePath) -> PathInfo {
        self.connection.query_path_info(path).unwrap()
    }
}

/// A build in progress.
pub struct Building {
    thread: JoinHandle<(Client, Built)>,
    log: Arc<Mutex<Vec<u8>>>,
    stream: UnixStream,
}

impl Building {
    /// Waits until the client's log contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let said = || self.said().contains(text);
        let heard = eventually(|| said() || self.thread.is_finished());
        assert!(heard && said(), "expected `{text}': {}", self.said());
    }

    /// The client's log so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the result.
    #[track_caller]
    pub fn finish(self) -> (Client, Built) {
        assert!(
            eventually(|| self.thread.is_finished()),
            "the build does not end"
        );
        self.thread.join().unwrap()
    }

    /// Closes the connection, like a client that is killed.
    pub fn hang_up(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
        drop(self.stream);
        let _ = self.thread.join();
    }
}

fn add_busybox(connection: &mut Connection) -> StorePath {
    let program = fs::read(BUSYBOX).unwrap();
    let mut names: Vec<&str> = APPLETS.split_whitespace().chain(["busybox"]).collect();
    names.sort_unstable();
    connection
        .add_to_store("busybox", true, Algorithm::Sha256, |nar| {
            use formats::nar::Sink;
            nar.begin_directory()?;
            nar.entry("bin".into())?;
            nar.begin_directory()?;
            for name in names {
                nar.entry(name.into())?;
                match name {
                    "busybox" => nar.regular(true, program.len() as u64, &mut &program[..])?,
                    _ => nar.symlink("busybox".into())?,
                }
            }
            nar.end_directory()?;
            nar.end_directory()
        })
        .unwrap()
}

/// The processes with `text` in their command line.
pub fn processes_with(text: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
            let line: Vec<u8> = line
                .into_iter()
                .map(|byte| if byte == 0 { b' ' } else { byte })
                .collect();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

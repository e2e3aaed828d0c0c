//! Substitutes and downloads: looking for items on a real web server, and fetching them.
//!
//! The servers' directories are made once; each round asks for items that nobody has asked for
//! before. The reference daemon runs its `guix substitute` and `guix perform-download`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use formats::Hash;
use formats::derivation::{FixedHash, Recipe};
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::{QuerySubstitutablePathInfos, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use substitutes::Compression;

use crate::host::Host;
use crate::memory::peak;
use crate::proxy::{self, Line};
use crate::publisher::{Item, OfferedFile, Publisher, Tree};
use crate::web_server::WebServer;
use crate::work::build;
use crate::{Implementation, Task};

/// A daemon and a server that it is told to use.
pub struct Served {
    host: Host,
    publisher: Publisher,
    web: WebServer,
}

/// The tasks, and how far the server is away: half of a round trip.
pub const TASKS: &[(Duration, &[Task<Served>])] = &[
    (
        Duration::ZERO,
        &[
            Task::new("first answer about a substitute", first_answer),
            Task::new(
                "the same, from the start of a daemon",
                first_answer_of_a_daemon,
            ),
            Task::new("builtin:download of a small file", download),
            Task::new("look for 2000 substitutes", look_up).rounds(2),
            Task::new("substitute 300 small items", small).rounds(2),
            Task::new("substitute a chain of 40 small items", chain),
            Task::new("substitute 1 GiB as zstd", |on, round| {
                large(on, round, Compression::Zstd)
            })
            .rounds(2)
            .long(),
            Task::new("the 1 GiB as zstd by curl, zstd, openssl", |on, _| {
                by_programs(on, Compression::Zstd)
            })
            .rounds(2)
            .long(),
            Task::new("substitute 1 GiB as gzip", |on, round| {
                large(on, round, Compression::Gzip)
            })
            .rounds(2)
            .long(),
            Task::new("the 1 GiB as gzip by curl, gzip, openssl", |on, _| {
                by_programs(on, Compression::Gzip)
            })
            .rounds(2)
            .long(),
            Task::new("substitute 1 GiB as lzip", |on, round| {
                large(on, round, Compression::Lzip)
            })
            .rounds(2)
            .long(),
            Task::new("the 1 GiB as lzip by curl, lzip, openssl", |on, _| {
                by_programs(on, Compression::Lzip)
            })
            .rounds(2)
            .long(),
            Task::weighing("memory of what substitutes 1 GiB", memory)
                .rounds(1)
                .long(),
        ],
    ),
    (
        Duration::from_millis(10),
        &[
            Task::new("look for 2000 substitutes, 20 ms away", look_up).rounds(2),
            Task::new("substitute 300 small items, 20 ms away", small).rounds(2),
            Task::new("substitute a chain of 40 small items, 20 ms away", chain),
            Task::new("the same, looked for before", chain_looked_for),
        ],
    ),
];

impl Served {
    /// Starts a web server, and a daemon whose only substitute server it is.
    pub fn start(implementation: &Implementation, delay: Duration) -> Result<Served> {
        let directory = tempfile::Builder::new()
            .prefix("guix-bench-server-")
            .tempdir()?
            .keep();
        let web = WebServer::start(&directory);
        let mut url = web.address().to_owned();
        if !delay.is_zero() {
            let target = url.strip_prefix("http://").context("no address")?;
            let line = Line {
                delay,
                ..Line::default()
            };
            let proxy = proxy::start("127.0.0.1:0", target.parse()?, line)?;
            url = format!("http://{}", proxy.address);
        }
        let host = Host::start(implementation, &[&format!("--substitute-urls={url}")])?;
        let publisher = Publisher::new(directory);
        publisher.authorise(&host.path("etc/guix"));
        Ok(Served {
            host,
            publisher,
            web,
        })
    }

    /// So many small items, which no other call has returned.
    fn small_items(&self, name: &str, round: usize, count: usize) -> BTreeSet<StorePath> {
        let item = |number| {
            let contents = format!("{name} {number} of round {round}\n").repeat(100);
            let item = Item::new(&format!("{name}-{number}"), Tree::file(contents));
            self.publisher
                .publish(self.host.store(), &item.compressed(&[Compression::Zstd]))
        };
        (0..count).map(item).collect()
    }

    /// So many small items, each of which refers to the one before.
    fn chain(&self, name: &str, round: usize, count: usize) -> Vec<StorePath> {
        let mut paths: Vec<StorePath> = Vec::new();
        for number in 0..count {
            let contents = format!("{name} {number} of round {round}\n").repeat(100);
            let mut item = Item::new(&format!("{name}-{number}"), Tree::file(contents));
            if let Some(last) = paths.last() {
                item = item.reference(last);
            }
            let item = item.compressed(&[Compression::Zstd]);
            paths.push(self.publisher.publish(self.host.store(), &item));
        }
        paths
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.publisher.directory());
    }
}

/// The time that a new client waits for what is known about `paths`, all of which are there.
fn ask(on: &Served, paths: BTreeSet<StorePath>) -> Result<Duration> {
    let daemon = on.host.connect()?;
    ask_over(daemon, Instant::now(), paths)
}

/// The time since `begun` until a client knows about `paths`, all of which are there.
fn ask_over(
    mut daemon: Connection,
    begun: Instant,
    paths: BTreeSet<StorePath>,
) -> Result<Duration> {
    let count = paths.len();
    let found = daemon.call(&QuerySubstitutablePathInfos { paths })?;
    let time = begun.elapsed();
    ensure!(
        found.len() == count,
        "{} substitutes were found",
        found.len()
    );
    Ok(time)
}

fn first_answer(on: &Served, round: usize) -> Result<Duration> {
    ask(on, on.small_items("first", round, 1))
}

fn first_answer_of_a_daemon(on: &Served, round: usize) -> Result<Duration> {
    let paths = on.small_items("first-of-daemon", round, 1);
    let (begun, daemon) = on.host.restart()?;
    ask_over(daemon, begun, paths)
}

fn look_up(on: &Served, round: usize) -> Result<Duration> {
    ask(on, on.small_items("looked-for", round, 2000))
}

/// The time that a new client waits for `paths`.
fn fetch(on: &Served, paths: BTreeSet<StorePath>) -> Result<Duration> {
    let mut daemon: Connection = on.host.connect()?;
    let time = build(
        &mut daemon,
        paths.iter().cloned().map(Target::from).collect(),
    )?;
    for path in &paths {
        ensure!(Path::new(path.as_str()).exists(), "{path} is not there");
    }
    Ok(time)
}

fn small(on: &Served, round: usize) -> Result<Duration> {
    fetch(on, on.small_items("small", round, 300))
}

/// A chain of items of which nobody knows more than the last one's name: a round trip for each shows
/// to what it refers.
fn chain(on: &Served, round: usize) -> Result<Duration> {
    fetch_chain(on, &on.chain("unknown", round, 40))
}

/// The same after the client has asked about all of them, as `guix build` does.
fn chain_looked_for(on: &Served, round: usize) -> Result<Duration> {
    let chain = on.chain("known", round, 40);
    ask(on, chain.iter().cloned().collect())?;
    fetch_chain(on, &chain)
}

fn fetch_chain(on: &Served, chain: &[StorePath]) -> Result<Duration> {
    let time = fetch(on, chain.last().cloned().into_iter().collect())?;
    let is_there = |path: &StorePath| path.as_path().exists();
    ensure!(chain.iter().all(is_there), "not all of the chain is there");
    Ok(time)
}

fn download(on: &Served, round: usize) -> Result<Duration> {
    let name = format!("download-{round}");
    let contents = format!("contents {round}\n").repeat(100);
    fs::write(on.publisher.directory().join(&name), &contents)?;
    let hash = FixedHash {
        recursive: false,
        hash: Hash::sha256(&contents),
    };
    let recipe = Recipe {
        outputs: BTreeMap::from([("out".to_owned(), Some(hash))]),
        system: "builtin".into(),
        builder: "builtin:download".into(),
        environment: BTreeMap::from([
            ("preferLocalBuild".into(), "1".into()),
            ("url".into(), format!("{:?}", on.web.url(&name)).into()),
        ]),
        ..Recipe::default()
    };
    let (derivation, path) =
        recipe.instantiate(&name, on.host.store(), |_| unreachable!("it has no inputs"))?;
    let mut daemon = on.host.connect()?;
    let text = derivation.to_bytes();
    daemon.add_text_to_store(&format!("{name}.drv"), text, derivation.references())?;
    build(&mut daemon, vec![Target::from(path)])
}

fn large(on: &Served, round: usize, compression: Compression) -> Result<Duration> {
    fetch_large(on, &format!("large-{round}"), compression)
}

/// The most memory that the program has that touches the network, and in Guix also decides.
fn memory(on: &Served, _: usize) -> Result<u64> {
    let fetch_all = || {
        let kinds = [Compression::Zstd, Compression::Gzip, Compression::Lzip];
        kinds.iter().try_for_each(|&compression| {
            fetch_large(on, "weighed", compression)?;
            Ok(())
        })
    };
    let (result, peak): (Result<()>, _) =
        peak(on.host.pid(), &["network", "substitute"], fetch_all);
    result?;
    Ok(peak)
}

fn fetch_large(on: &Served, name: &str, compression: Compression) -> Result<Duration> {
    let file = large_file(on, compression)?;
    let item = Item::with_nar(&format!("{name}-{compression}"), nar().clone()).compressed(&[]);
    let path = on
        .publisher
        .publish_with(on.host.store(), &item, |draft| draft.files.push(file));
    fetch(on, [path].into())
}

/// The large nar, compressed at the fastest level, which decompresses like any other.
fn large_file(on: &Served, compression: Compression) -> Result<OfferedFile> {
    let program = compression.name();
    let url = format!("large.nar.{program}");
    let file = on.publisher.directory().join(&url);
    if !file.exists() {
        let plain = on.publisher.directory().join("large.nar");
        fs::write(&plain, nar())?;
        let fastest = match compression {
            Compression::Lzip => "-0c",
            _ => "-1c",
        };
        let mut command = Command::new(program);
        command.arg(fastest).stdin(File::open(&plain)?);
        let status = command.stdout(File::create(&file)?).status()?;
        ensure!(status.success(), "{program}: {status}");
        fs::remove_file(plain)?;
    }
    let size = Some(file.metadata()?.len());
    let compression = compression.to_string();
    Ok(OfferedFile {
        url,
        compression,
        size,
    })
}

/// The time that other programs take to fetch the same, to decompress, hash and write it. (Debian's
/// `sha256sum` doesn't use the processor's instructions; OpenSSL does.)
fn by_programs(on: &Served, compression: Compression) -> Result<Duration> {
    let url = on.web.url(&large_file(on, compression)?.url);
    let file = on.host.path("by-programs");
    let program = compression.name();
    let script = format!(
        "curl -sf {url} | {program} -dc | tee '{}' | openssl dgst -sha256 >/dev/null",
        file.display()
    );
    let begun = Instant::now();
    let status = Command::new("sh").args(["-c", &script]).status()?;
    let time = begun.elapsed();
    ensure!(status.success(), "{script}: {status}");
    ensure!(
        file.metadata()?.len() == nar().len() as u64,
        "{script}: not everything is there"
    );
    fs::remove_file(file)?;
    Ok(time)
}

/// The nar of a file of 1 GiB: every eighth mebibyte is random text, and seven are like it but for
/// some bytes, so that it can be compressed like programs, and in bearable time.
fn nar() -> &'static Vec<u8> {
    static NAR: OnceLock<Vec<u8>> = OnceLock::new();
    NAR.get_or_init(|| {
        let mut random = StdRng::seed_from_u64(1);
        let mut contents = Vec::with_capacity(1 << 30);
        let mut piece = vec![0; 1 << 20];
        for number in 0..1 << 10 {
            let every = if number % 8 == 0 { 1 } else { 64 };
            for byte in piece.iter_mut().step_by(every) {
                *byte =
                    b'a' + random.next_u32().leading_zeros() as u8 + (random.next_u32() % 16) as u8;
            }
            contents.extend_from_slice(&piece);
        }
        Tree::file(contents).nar()
    })
}

//! Substitutes: looking for items on a real web server, and fetching them.
//!
//! The servers' directories are made once; each round asks for items that nobody has asked for
//! before. The reference daemon runs its `guix substitute`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use formats::store_path::{StoreDir, StorePath};
use protocol::client::Connection;
use protocol::operations::{QuerySubstitutablePathInfos, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use substitutes::Compression;

use crate::host::Host;
use crate::publisher::{Item, Publisher, Tree};
use crate::web_server::WebServer;
use crate::work::build;
use crate::{Implementation, Task, proxy};

/// A daemon and a server that it is told to use.
pub struct Served {
    host: Host,
    publisher: Publisher,
    _web: WebServer,
}

/// The tasks, and how far the server is away: half of a round trip.
pub const TASKS: &[(Duration, &[Task<Served>])] = &[
    (
        Duration::ZERO,
        &[
            Task::new("first answer about a substitute", first_answer),
            Task::new("look for 2000 substitutes", look_up).rounds(2),
            Task::new("substitute 300 small items", small).rounds(2),
            Task::new("substitute 1 GiB as zstd", |on, round| {
                large(on, round, Compression::Zstd)
            })
            .rounds(2)
            .long(),
            Task::new("substitute 1 GiB as gzip", |on, round| {
                large(on, round, Compression::Gzip)
            })
            .rounds(2)
            .long(),
            Task::new("substitute 1 GiB as lzip", |on, round| {
                large(on, round, Compression::Lzip)
            })
            .rounds(2)
            .long(),
        ],
    ),
    (
        Duration::from_millis(10),
        &[
            Task::new("look for 2000 substitutes, 20 ms away", look_up).rounds(2),
            Task::new("substitute 300 small items, 20 ms away", small).rounds(2),
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
            let proxy = proxy::start("127.0.0.1:0", target.parse()?, delay)?;
            url = format!("http://{}", proxy.address);
        }
        let host = Host::start(implementation, &[&format!("--substitute-urls={url}")])?;
        let publisher = Publisher::new(directory);
        publisher.authorise(&host.path("etc/guix"));
        Ok(Served {
            host,
            publisher,
            _web: web,
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
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.publisher.directory());
    }
}

/// The time that a new client waits for what is known about `paths`, all of which are there.
fn ask(on: &Served, paths: BTreeSet<StorePath>) -> Result<Duration> {
    let count = paths.len();
    let mut daemon = on.host.connect()?;
    let begun = Instant::now();
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

fn large(on: &Served, round: usize, compression: Compression) -> Result<Duration> {
    let item = Item::with_nar(&format!("large-{round}-{compression}"), nar().clone());
    let store: &StoreDir = on.host.store();
    let path = on
        .publisher
        .publish(store, &item.compressed(&[compression]));
    fetch(on, [path].into())
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

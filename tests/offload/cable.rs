//! A cable as bad as a test wants it: what one end sends passes through this process, which delays
//! it, loses some of it, and lets through so much a second. What netem does, where it can't be had.
//!
//! The ends are TAP devices, so frames are what a cable would see: no larger than 1514 bytes, with
//! all checksums in them. TCP resends, backs off and times out as it does anywhere.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Frames that wait for their turn, at most, on a cable that takes so much a second: in bytes.
const QUEUE: u64 = 64 << 10;
/// Names a seed, to do once more what a test did that printed it.
const SEED: &str = "GUIX_TEST_SEED";
/// How often the end of the cable is looked for.
const POLL: Duration = Duration::from_millis(100);

/// What a cable does to frames, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quality {
    /// How long each is on its way.
    pub delay: Duration,
    /// How much longer it may take, at random. None overtakes another.
    pub jitter: Duration,
    /// The part of them that is lost, 1 being all.
    pub loss: f64,
    /// Bits a second that get through; 0 for as many as come.
    pub rate: u64,
}

impl Quality {
    /// None gets through, and nobody is told: neither end sees a cable pulled.
    pub const DEAD: Quality = Quality {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 1.0,
        rate: 0,
    };
}

/// Whether there can be such cables here; if not, it is said that this test cannot be done.
pub fn available() -> bool {
    let available = Path::new("/dev/net/tun").exists();
    if !available {
        crate::harness::skip("/dev/net/tun is missing");
    }
    available
}

/// What is random in a test comes from this number, which is printed.
pub fn seed() -> u64 {
    let named = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let seed = named.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("{SEED}={seed}");
    seed
}

/// A cable between two network namespaces. Its devices go with it.
pub struct Cable {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    quality: Mutex<Quality>,
    ended: AtomicBool,
    bytes: AtomicU64,
    lost: AtomicU64,
}

impl Cable {
    /// Between a device in the network of one process and a device in that of another. The same
    /// seed loses the same frames, if they come in the same order.
    pub fn new(ends: [(i32, &str); 2], quality: Quality, seed: u64) -> Cable {
        let [a, b] = ends.map(|(pid, name)| Arc::new(tap(pid, name)));
        let shared = Arc::new(Shared {
            quality: Mutex::new(quality),
            ..Shared::default()
        });
        let there = one_way(a.clone(), b.clone(), shared.clone(), seed);
        let back = one_way(b, a, shared.clone(), seed ^ 1);
        Cable {
            shared,
            threads: [there, back].into_iter().flatten().collect(),
        }
    }

    /// From now on it is like this. What is on its way stays as it was.
    pub fn set(&self, quality: Quality) {
        *self.shared.quality.lock().unwrap() = quality;
    }

    /// Bytes that got through.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Frames that were lost, one way or the other.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A device in a process's network namespace: a thread goes there, makes it, and ends.
fn tap(pid: i32, name: &str) -> File {
    let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let name = name.to_owned();
    let make = move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        system::network::tap(&name).unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// One thread decides what becomes of each frame, another delivers those that are due.
fn one_way(from: Arc<File>, to: Arc<File>, shared: Arc<Shared>, seed: u64) -> [JoinHandle<()>; 2] {
    let (sender, frames) = mpsc::channel::<(Instant, Vec<u8>)>();
    let deliver = move || {
        for (due, frame) in frames {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is down takes none.
            let _ = (&*to).write(&frame);
        }
    };
    let decide = move || {
        let mut random = StdRng::seed_from_u64(seed);
        let mut buffer = [0; 2048];
        // When the last frame has left, and when it arrives.
        let (mut left, mut arrives) = (Instant::now(), Instant::now());
        while !shared.ended.load(Ordering::Relaxed) {
            if !matches!(system::poll::wait_readable(&*from, Some(POLL)), Ok(true)) {
                continue;
            }
            let Ok(count) = (&*from).read(&mut buffer) else {
                std::thread::sleep(POLL); // it is down, or gone with its namespace
                continue;
            };
            let quality = *shared.quality.lock().unwrap();
            let now = Instant::now();
            let bits = 8 * count as u64;
            let takes = |bits: u64| match quality.rate {
                0 => Duration::ZERO,
                rate => Duration::from_secs_f64(bits as f64 / rate as f64),
            };
            let waits = left.saturating_duration_since(now);
            let full = quality.rate > 0 && waits > takes(8 * QUEUE);
            if full || random.random_bool(quality.loss) {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
            left = left.max(now) + takes(bits);
            let jitter = quality.jitter.mul_f64(random.random());
            arrives = arrives.max(left + quality.delay + jitter);
            let _ = sender.send((arrives, buffer[..count].to_vec()));
        }
    };
    [std::thread::spawn(deliver), std::thread::spawn(decide)]
}

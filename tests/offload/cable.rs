//! A simulated cable: frames from one end pass through this process, which delays them, loses some,
//! and limits the bandwidth. This is what netem does, where that isn't available.
//!
//! The ends are TAP devices, so frames are those of a real cable: at most 1514 bytes, with all
//! checksums. TCP resends, backs off and times out as anywhere else.

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

/// The maximum number of bytes queued on a cable with limited bandwidth.
const QUEUE: u64 = 64 << 10;
/// The variable with a seed, to repeat a test that printed it.
const SEED: &str = "GUIX_TEST_SEED";
/// How often to check whether the end of the cable exists.
const POLL: Duration = Duration::from_millis(100);

/// The quality of a cable, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quality {
    /// The delay of each frame.
    pub delay: Duration,
    /// The maximum additional random delay. Frames aren't reordered.
    pub jitter: Duration,
    /// The fraction of frames that are lost, from 0 to 1.
    pub loss: f64,
    /// The bandwidth in bits per second; 0 means unlimited.
    pub rate: u64,
}

impl Quality {
    /// Loses all frames, silently: neither end notices a disconnected cable.
    pub const DEAD: Quality = Quality {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 1.0,
        rate: 0,
    };
}

/// Whether such cables are available here; if not, reports that the test is skipped.
pub fn available() -> bool {
    let available = Path::new("/dev/net/tun").exists();
    if !available {
        crate::harness::skip("/dev/net/tun is missing");
    }
    available
}

/// The seed of everything random in a test, which is printed.
pub fn seed() -> u64 {
    let named = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let seed = named.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("{SEED}={seed}");
    seed
}

/// A cable between two network namespaces. Its devices are deleted on drop.
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
    /// A cable between devices in the network namespaces of two processes. With the same seed, the
    /// same frames are lost, if they arrive in the same order.
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

    /// Changes the quality. Frames on their way aren't affected.
    pub fn set(&self, quality: Quality) {
        *self.shared.quality.lock().unwrap() = quality;
    }

    /// The number of bytes delivered.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// The number of frames lost, for whatever reason.
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

/// A device in a process's network namespace, created by a thread that enters it and ends.
fn tap(pid: i32, name: &str) -> File {
    let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let name = name.to_owned();
    let make = move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        system::network::tap(&name).unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// One thread decides about each frame, another delivers those that are due.
fn one_way(from: Arc<File>, to: Arc<File>, shared: Arc<Shared>, seed: u64) -> [JoinHandle<()>; 2] {
    let (sender, frames) = mpsc::channel::<(Instant, Vec<u8>)>();
    let deliver = move || {
        for (due, frame) in frames {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is down accepts none.
            let _ = (&*to).write(&frame);
        }
    };
    let decide = move || {
        let mut random = StdRng::seed_from_u64(seed);
        let mut buffer = [0; 2048];
        // When the last frame has left, and when it will arrive.
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

//! A proxy for a port of this machine that adds a delay and limits rates, as netem would if it were
//! available, and counts bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// How much waits in the kernel where a rate is limited, in bytes: as in a router.
const QUEUE: usize = 64 << 10;

/// A limit of bytes per second, shared by everything that passes it.
pub struct Limit {
    rate: f64,
    /// When what has passed it so far has left.
    left: Mutex<Instant>,
}

impl Limit {
    /// So many bytes in a second.
    pub fn new(rate: u64) -> Arc<Limit> {
        Arc::new(Limit {
            rate: rate as f64,
            left: Mutex::new(Instant::now()),
        })
    }

    /// When so many bytes more have left.
    fn after(&self, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate);
        let mut left = self.left.lock().expect("no thread panics with it");
        *left = (*left).max(Instant::now()) + takes;
        *left
    }
}

/// What a line is like.
#[derive(Clone, Default)]
pub struct Line {
    /// The delay in each direction.
    pub delay: Duration,
    /// The limits in the direction of the target.
    pub there: Vec<Arc<Limit>>,
    /// The limits in the other direction.
    pub back: Vec<Arc<Limit>>,
}

/// A running proxy. It serves as long as this program runs.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many bytes it has taken for its target.
    pub sent: Arc<AtomicU64>,
}

/// Forwards connections to `target` over a line.
pub fn start(address: &str, target: SocketAddr, line: Line) -> io::Result<Proxy> {
    let listener = TcpListener::bind(address)?;
    if !line.there.is_empty() {
        setsockopt(&listener, sockopt::RcvBuf, &QUEUE)?;
    }
    let address = listener.local_addr()?;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that cannot be forwarded is closed.
            let _ = pass_on(stream, target, &line, &counter);
        }
    });
    Ok(Proxy { address, sent })
}

fn pass_on(
    stream: TcpStream,
    target: SocketAddr,
    line: &Line,
    sent: &Arc<AtomicU64>,
) -> io::Result<()> {
    let there = TcpStream::connect(target)?;
    if !line.back.is_empty() {
        setsockopt(&there, sockopt::RcvBuf, &QUEUE)?;
    }
    for stream in [&stream, &there] {
        stream.set_nodelay(true)?;
    }
    let (from, to) = (stream.try_clone()?, there.try_clone()?);
    one_way(from, to, line.delay, line.there.clone(), sent.clone());
    one_way(there, stream, line.delay, line.back.clone(), Arc::default());
    Ok(())
}

/// One thread reads pieces and notes the time, another sends each when it is due.
fn one_way(
    mut from: TcpStream,
    mut to: TcpStream,
    delay: Duration,
    limits: Vec<Arc<Limit>>,
    bytes: Arc<AtomicU64>,
) {
    let (sender, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(4096);
    std::thread::spawn(move || {
        let piece = if limits.is_empty() { 64 << 10 } else { 8 << 10 };
        let mut buffer = vec![0; piece];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            bytes.fetch_add(count as u64, Ordering::Relaxed);
            // What has not left yet keeps the next from being read.
            let leaves = limits.iter().map(|limit| limit.after(count)).max();
            if let Some(leaves) = leaves {
                std::thread::sleep(leaves.saturating_duration_since(Instant::now()));
            }
            if sender
                .send((Instant::now() + delay, buffer[..count].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, piece) in pieces {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

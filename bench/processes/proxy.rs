//! A proxy for a port of this machine that adds a delay, as netem would if it were available, and
//! counts bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// A running proxy. It serves as long as this program runs.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many bytes it has taken for its target.
    pub sent: Arc<AtomicU64>,
}

/// Forwards connections to `target`, with a delay in both directions.
pub fn start(address: &str, target: SocketAddr, delay: Duration) -> io::Result<Proxy> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that cannot be forwarded is closed.
            let _ = pass_on(stream, target, delay, &counter);
        }
    });
    Ok(Proxy { address, sent })
}

fn pass_on(
    stream: TcpStream,
    target: SocketAddr,
    delay: Duration,
    sent: &Arc<AtomicU64>,
) -> io::Result<()> {
    let there = TcpStream::connect(target)?;
    for stream in [&stream, &there] {
        stream.set_nodelay(true)?;
    }
    one_way(stream.try_clone()?, there.try_clone()?, delay, sent.clone());
    one_way(there, stream, delay, Arc::default());
    Ok(())
}

/// One thread reads pieces and notes the time, another sends each when it is due.
fn one_way(mut from: TcpStream, mut to: TcpStream, delay: Duration, bytes: Arc<AtomicU64>) {
    let (sender, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(4096);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            bytes.fetch_add(count as u64, Ordering::Relaxed);
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

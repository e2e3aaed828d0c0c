//! A proxy for a port of this machine that adds a delay, as netem would if it were available.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Forwards connections to `target`, with a delay in both directions.
/// Serves as long as this program runs.
pub fn delaying(address: &str, target: SocketAddr, delay: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that cannot be forwarded is closed.
            let _ = pass_on(stream, target, delay);
        }
    });
    Ok(address)
}

fn pass_on(stream: TcpStream, target: SocketAddr, delay: Duration) -> io::Result<()> {
    let there = TcpStream::connect(target)?;
    for stream in [&stream, &there] {
        stream.set_nodelay(true)?;
    }
    one_way(stream.try_clone()?, there.try_clone()?, delay);
    one_way(there, stream, delay);
    Ok(())
}

/// One thread reads pieces and notes the time, another sends each when it is due.
fn one_way(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(4096);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
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

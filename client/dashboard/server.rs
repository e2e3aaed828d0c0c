//! Accepts browsers, as many as there is room for.
//!
//! One thread serves them all. A browser that is too much is told so and sent away; one that takes its time with
//! its request, or with the response, loses its connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

use super::requests::{self, Site};
use super::stream::Bounded;

/// How many connections there are at most.
const CONNECTIONS: usize = 1024;
/// How many files this program needs for other things.
const OTHER_FILES: u64 = 192;
/// How many connections wait to be accepted.
const BACKLOG: u32 = 1024;
/// How many of those that are sent away are told why at the same time.
const FAREWELLS: usize = 64;
/// How long that takes at most.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a browser may take for the head of a request, or wait with the next one.
const READING: Duration = Duration::from_secs(10);
/// The size of the head at most. (Nothing else of a request is read.)
const HEAD: usize = 16 << 10;
/// The most headers.
const HEADERS: usize = 64;
/// The kernel's buffer for what is sent to a browser.
const SEND_BUFFER: u32 = 256 << 10;
/// After how many milliseconds a browser that acknowledges nothing is taken for gone.
const GONE: u32 = 60_000;

/// What is sent to those for whom there is no room.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 40\r\nRetry-After: 10\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n\
    too many browsers look; try again later\n";

/// Listens on an address. Inside of a runtime only.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port on which connections have just ended isn't in use.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?; // of all connections
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the site until `end` is told.
pub async fn serve(listener: TcpListener, site: Arc<Site>, end: &Notify) -> io::Result<()> {
    let files = system::open_files::hard_limit()?.saturating_sub(OTHER_FILES);
    let most = CONNECTIONS
        .min(usize::try_from(files).unwrap_or(CONNECTIONS))
        .max(1);
    let accepting = tokio::spawn(accept(listener, site, most));
    end.notified().await;
    accepting.abort();
    Ok(())
}

async fn accept(listener: TcpListener, site: Arc<Site>, most: usize) {
    let room = Arc::new(Semaphore::new(most));
    let farewells = Arc::new(Semaphore::new(FAREWELLS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // The browser has gone, or files have run out: some will be closed.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        match room.clone().try_acquire_owned() {
            Ok(place) => {
                let site = site.clone();
                tokio::spawn(async move {
                    connection(stream, local.ip(), site).await;
                    drop(place);
                });
            }
            Err(_) => {
                let Ok(place) = farewells.clone().try_acquire_owned() else {
                    let _ = stream.try_write(FULL.as_bytes());
                    continue;
                };
                tokio::spawn(async move {
                    let _ = timeout(FAREWELL, send_away(stream)).await;
                    drop(place);
                });
            }
        }
    }
}

/// Serves one connection until it ends.
async fn connection(stream: TcpStream, local: IpAddr, site: Arc<Site>) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &GONE);
    let answer = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, std::convert::Infallible>(requests::answer(&site, local, &request).await) }
    });
    // An error is the browser's, which has gone or is told of it.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READING)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Bounded::new(stream)), answer)
        .await;
}

/// Says that there is no room. What has arrived must be read: the kernel would withdraw the response otherwise.
async fn send_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(FULL.as_bytes()).await?;
    stream.shutdown().await?;
    let mut left = HEAD;
    let mut buffer = [0; 1024];
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_how_long_it_is() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
    }
}

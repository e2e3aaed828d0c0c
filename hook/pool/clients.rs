//! The hooks that connect to a keeper.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::socket;

use super::events::{Event, Events};
use super::messages;

/// How long a hook may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens on a socket that only our user may connect to. The caller holds the slot's keeper lock, so
/// that no other keeper listens there.
pub fn listen(path: &Path, events: &Arc<Events>) -> io::Result<()> {
    let listener = socket::bind(path).map_err(io::Error::other)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let events = events.clone();
    let thread = std::thread::Builder::new().name("clients".into());
    thread.spawn(move || accept(&listener, &events)).map(drop)
}

fn accept(listener: &UnixListener, events: &Arc<Events>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // It has too many files open; some will be closed.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let ours = system::ids::effective_uid();
        if !socket::peer(&stream).is_ok_and(|peer| peer.uid == ours) {
            continue;
        }
        let events = events.clone();
        let ask = move || {
            let deadline = Some(Instant::now() + REQUEST_TIMEOUT);
            if let Ok(Some(request)) = messages::read(&stream, deadline) {
                events.push(Event::Client(stream, request));
            }
        };
        // A hook that is not heard tries again.
        let _ = std::thread::Builder::new().name("client".into()).spawn(ask);
    }
}

//! The program without privileges that touches the network: `guix-fetch network`.
//!
//! Whoever decides (the daemon, or what stands in for `guix substitute`) starts it with a socket as
//! its descriptor 0, and asks it for small bodies and for contents of items
//! (`substitutes::network`). It confines itself before it reads the first request.
//!
//! One thread ([`server`]) does all of the networking, with libcurl, for all requests at once; each
//! item that is fetched has another thread that decompresses it ([`decode`]), and a stream between
//! them that holds little ([`stream`]). What decoders need of memory, they take from a [`budget`]
//! that all of them share, and wait if there isn't enough.

mod address;
mod budget;
mod capacity;
mod decode;
mod engine;
mod fetches;
mod gets;
mod head;
mod job;
mod link;
mod load;
mod lzip_members;
mod members;
mod notes;
mod outcome;
mod output;
mod queue;
mod rests;
mod server;
mod stream;
mod transfer;
mod xz_blocks;
mod xz_streams;
mod zstd_frames;

use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};

/// The run of the program.
pub fn run() -> anyhow::Result<()> {
    let socket = system::pipe::inherited(0).context("cannot take descriptor 0")?;
    let Some(socket) = socket.map(UnixStream::from) else {
        bail!("descriptor 0 is closed; the daemon starts this program with a socket there");
    };
    if socket.peer_addr().is_err() {
        bail!("descriptor 0 is no socket; the daemon starts this program, not people");
    }
    system::open_files::raise_limit().context("cannot raise the limit of open files")?;
    curl::init();
    crate::confine::confine()?;
    server::serve(socket)
}

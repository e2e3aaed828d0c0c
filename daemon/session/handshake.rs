//! The handshake: identifies the client and opens the store for it.

use std::sync::Arc;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use protocol::server::{Connection, Error, Hello};
use store::Store;

use super::client_log::ClientLog;
use super::session::Session;
use super::transport::{Peeker, Reader, Writer};
use crate::building::ClientIdentity;
use crate::cancel::CancellationToken;
use crate::connections::Admission;
use crate::daemon::Daemon;
use crate::request_error::RequestError;
use crate::shared_limit::LimitReached;
use crate::stream::{Peer, Stream};
use crate::substituter::{Asker, Questions};

/// Performs the handshake with a client. `None` if it was refused.
pub fn greet<'a>(
    daemon: &'a Daemon,
    stream: &Arc<Stream>,
    peer: Peer,
    cancel: &CancellationToken,
    admission: &Admission,
) -> Result<Option<Session<'a>>, Error> {
    let (mut connection, hello) = Connection::accept(
        Reader(stream.clone()),
        Box::new(Writer(stream.clone())),
        Box::new(Peeker(stream.clone())),
        daemon.settings.directories.store.clone(),
    )?;
    admission.greeted();
    let memory = daemon.limits.request_memory.share(peer.client());
    connection.limit_memory(memory.into_quota(LimitReached::of_request_memory));
    connection.begin()?;
    let settings = daemon.settings.session.clone();
    let log = Arc::new(ClientLog::new(
        connection.tunnel().clone(),
        settings.clone(),
        cancel.clone(),
    ));
    let opened = open(daemon, &peer, &hello, &log);
    let store = match opened {
        Ok(store) => store,
        Err(failure) => {
            connection.fail(&failure.message, failure.status)?;
            return Ok(None);
        }
    };
    connection.finish_silently()?;
    let client = identity(&peer);
    // While the client thinks about its first request.
    daemon.scheduler(&store).substituter().prepare(Asker {
        settings: &settings,
        trusted: client.trusted,
        client: client.client(),
    });
    let roots = daemon.limits.temp_roots.share(peer.client());
    Ok(Some(Session {
        daemon,
        connection,
        stream: stream.clone(),
        temp_roots: Arc::new(
            store
                .temp_roots()
                .limited_by(roots.into_quota(too_many_roots)),
        ),
        store,
        client,
        settings,
        log,
        cancel: cancel.clone(),
        hangup: None,
        questions: Questions::default(),
    }))
}

/// Does what the handshake requests, besides the greeting.
fn open(
    daemon: &Daemon,
    peer: &Peer,
    hello: &Hello,
    log: &ClientLog,
) -> Result<Store, RequestError> {
    if let Some(cpu) = hello.cpu {
        let mut processors = CpuSet::new();
        // As in Guix, the client is not told if that processor isn't available.
        if processors.set(cpu as usize).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(0), &processors);
        }
    }
    let store = daemon.store(log)?;
    // Others could use up what they give up here, so that there is none for the collector, which
    // gives it up itself.
    store.set_reserved_space(hello.reserve_space || !peer.trusted());
    if let Peer::Local(peer) = peer {
        let uid = peer.process.uid;
        if let Ok(Some(account)) = system::ids::user_by_id(uid) {
            if let Err(error) = store.create_user(&account.name, uid, log) {
                // On a full disk, say, where the client may be about to collect garbage.
                tracing::warn!("warning: {error}");
            }
        }
    }
    Ok(store)
}

/// What is said about temporary roots that are too many.
fn too_many_roots(exceeded: LimitReached) -> String {
    let (count, who) = match exceeded {
        LimitReached::OfClient(count) => (count, "one user"),
        LimitReached::OfAll(count) => (count, "all users together"),
    };
    format!("too many temporary roots: {who} can have {count} at a time")
}

fn identity(peer: &Peer) -> ClientIdentity {
    match peer {
        Peer::Local(local) => ClientIdentity {
            uid: Some(local.process.uid),
            gid: Some(local.process.gid),
            trusted: local.trusted,
            ..ClientIdentity::default()
        },
        Peer::Remote(address) => ClientIdentity {
            remote: true,
            address: Some(*address),
            ..ClientIdentity::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::LocalPeer;
    use system::socket::PeerCredentials;

    #[test]
    fn what_is_known_of_a_client() {
        let local = identity(&Peer::Local(LocalPeer {
            process: PeerCredentials {
                pid: 1,
                uid: 1000,
                gid: 2,
            },
            trusted: true,
        }));
        assert_eq!((local.uid, local.gid), (Some(1000), Some(2)));
        assert!(local.trusted && !local.remote);
        let remote = identity(&Peer::Remote([127, 0, 0, 1].into()));
        assert_eq!(remote.uid, None);
        assert!(remote.remote && !remote.trusted);
    }
}

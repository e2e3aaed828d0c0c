//! One client: the handshake, then one operation after the other until it goes.
//!
//! The session owns the connection, the client's settings and its temporary roots. What an
//! operation does is in the file of its family; here is what all have in common: when the client
//! may be told what, which errors end the connection, and who notices that the client has gone.
//! Documented in Guix's `nix/nix-daemon/nix-daemon.cc`.

mod add;
mod build;
mod client_log;
mod failure;
mod garbage;
mod maintenance;
mod queries;
mod roots;
mod set_options;
mod stream;
mod substitutes;
mod transfer;

use std::sync::Arc;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use protocol::operations::{Call, Request};
use protocol::server::{Connection, Error, Hello};
use store::{AddOptions, Store, TempRoots};

use self::client_log::ClientLog;
use self::failure::Failure;
use self::stream::{Reader, Watched, Writer};
use crate::building::{ClientIdentity, Scheduler};
use crate::cancel::CancellationToken;
use crate::listen::{Peer, Stream};
use crate::settings::SessionSettings;
use crate::shared::Shared;
use crate::substitute::Agent;
use crate::watch::{Serving, Watch};

/// What becomes of the connection after an operation.
type Outcome = Result<(), Error>;

/// A client that has been greeted.
struct Session<'a> {
    shared: &'a Shared,
    connection: Connection<Reader>,
    stream: Arc<Stream>,
    store: Store,
    temp_roots: Arc<TempRoots>,
    client: ClientIdentity,
    /// What holds for this client; the log looks at it too.
    settings: Arc<SessionSettings>,
    log: Arc<ClientLog>,
    cancel: CancellationToken,
    /// Notices when the client goes, once there was something that may take long.
    watch: Option<Watch>,
    /// Answers questions about substitutes, once there was one.
    substituter: Option<Agent>,
}

/// Serves a client until it goes, or `cancel` is thrown.
pub fn run(shared: &Shared, stream: Arc<Stream>, peer: Peer, cancel: CancellationToken) {
    let end = greet(shared, &stream, peer, &cancel)
        .and_then(|session| session.map_or(Ok(()), |mut session| session.serve()));
    match end {
        Ok(()) | Err(Error::Gone) => {}
        Err(error) => tracing::debug!("a session ended: {error}"),
    }
    stream.shut_down();
}

/// The handshake. `None` if the client was told why it cannot be served.
fn greet<'a>(
    shared: &'a Shared,
    stream: &Arc<Stream>,
    peer: Peer,
    cancel: &CancellationToken,
) -> Result<Option<Session<'a>>, Error> {
    let (mut connection, hello) = Connection::accept(
        Reader(stream.clone()),
        Box::new(Writer(stream.clone())),
        Box::new(Watched(stream.clone())),
        shared.settings.directories.store.clone(),
    )?;
    connection.begin()?;
    let settings = shared.settings.session.clone();
    let log = Arc::new(ClientLog::new(
        connection.tunnel().clone(),
        settings.clone(),
        cancel.clone(),
    ));
    let opened = open(shared, &peer, &hello, &log);
    let store = match opened {
        Ok(store) => store,
        Err(failure) => {
            connection.fail(&failure.message, failure.status)?;
            return Ok(None);
        }
    };
    connection.finish_silently()?;
    Ok(Some(Session {
        shared,
        connection,
        stream: stream.clone(),
        temp_roots: Arc::new(store.temp_roots()),
        store,
        client: identity(&peer),
        settings,
        log,
        cancel: cancel.clone(),
        watch: None,
        substituter: None,
    }))
}

/// What the handshake asks for, besides the greeting.
fn open(shared: &Shared, peer: &Peer, hello: &Hello, log: &ClientLog) -> Result<Store, Failure> {
    if let Some(cpu) = hello.cpu {
        let mut processors = CpuSet::new();
        // A wish that can't be met is no error, as in Guix.
        if processors.set(cpu as usize).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(0), &processors);
        }
    }
    let store = shared.store(log)?;
    store.set_reserved_space(hello.reserve_space);
    if let Peer::Local(peer) = peer
        && let Ok(Some(account)) = system::ids::user_by_id(peer.uid)
    {
        store.create_user(&account.name, peer.uid, log)?;
    }
    Ok(store)
}

fn identity(peer: &Peer) -> ClientIdentity {
    match peer {
        Peer::Local(local) => ClientIdentity {
            uid: Some(local.uid),
            gid: Some(local.gid),
            trusted: peer.trusted(),
            remote: false,
        },
        Peer::Remote(_) => ClientIdentity {
            remote: true,
            ..ClientIdentity::default()
        },
    }
}

impl Session<'_> {
    /// One operation after the other. An error is the end of the connection.
    fn serve(&mut self) -> Outcome {
        loop {
            let end = match self.connection.next_request() {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => self.perform(request),
                Err(error) => Err(error),
            };
            match end {
                Ok(()) => {}
                Err(error) => {
                    if error.can_be_told() {
                        tracing::debug!("refused: {error}");
                        self.connection.fail(&error.to_string(), 1)?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// The table of operations and of those who answer them.
    fn perform(&mut self, request: Request) -> Outcome {
        match request {
            Request::IsValidPath(it) => self.is_valid_path(it),
            Request::HasSubstitutes(it) => self.has_substitutes(it),
            Request::QueryPathHash(it) => self.query_path_hash(it),
            Request::QueryReferences(it) => self.query_references(it),
            Request::QueryReferrers(it) => self.query_referrers(it),
            Request::AddToStore(it) => self.add_to_store(it),
            Request::AddTextToStore(it) => self.add_text_to_store(it),
            Request::BuildPaths(it) => self.build_paths(it),
            Request::EnsurePath(it) => self.ensure_path(it),
            Request::AddTempRoot(it) => self.add_temp_root(it),
            Request::AddIndirectRoot(it) => self.add_indirect_root(it),
            Request::SyncWithGC(it) => self.sync_with_gc(it),
            Request::FindRoots(it) => self.find_roots(it),
            Request::ExportPath(it) => self.export_path(it),
            Request::QueryDeriver(it) => self.query_deriver(it),
            Request::SetOptions(it) => self.set_options(it),
            Request::CollectGarbage(it) => self.collect_garbage(it),
            Request::QuerySubstitutablePathInfo(it) => self.query_substitutable_path_info(it),
            Request::QueryDerivationOutputs(it) => self.query_derivation_outputs(it),
            Request::QueryAllValidPaths(it) => self.query_all_valid_paths(it),
            Request::QueryFailedPaths(it) => self.query_failed_paths(it),
            Request::ClearFailedPaths(it) => self.clear_failed_paths(it),
            Request::QueryPathInfo(it) => self.query_path_info(it),
            Request::ImportPaths(it) => self.import_paths(it),
            Request::QueryDerivationOutputNames(it) => self.query_derivation_output_names(it),
            Request::QueryPathFromHashPart(it) => self.query_path_from_hash_part(it),
            Request::QuerySubstitutablePathInfos(it) => self.query_substitutable_path_infos(it),
            Request::QueryValidPaths(it) => self.query_valid_paths(it),
            Request::QuerySubstitutablePaths(it) => self.query_substitutable_paths(it),
            Request::QueryValidDerivers(it) => self.query_valid_derivers(it),
            Request::OptimiseStore(it) => self.optimise_store(it),
            Request::VerifyStore(it) => self.verify_store(it),
            Request::BuiltinBuilders(it) => self.builtin_builders(it),
            Request::SubstituteURLs(it) => self.substitute_urls(it),
        }
    }

    /// Does something that takes no time, and replies.
    fn answer<C: Call>(
        &mut self,
        request: C,
        work: impl FnOnce(&mut Self, C) -> Result<C::Reply, Failure>,
    ) -> Outcome {
        if !self.begin()? {
            return Ok(());
        }
        let result = work(self, request);
        self.reply::<C>(result)
    }

    /// Does something that may take long, and replies; if the client goes, the work is
    /// interrupted.
    fn labour<C: Call>(
        &mut self,
        request: C,
        work: impl FnOnce(&mut Self, C) -> Result<C::Reply, Failure>,
    ) -> Outcome {
        if !self.begin()? {
            return Ok(());
        }
        let serving = self.heed_departure()?;
        let result = work(self, request);
        drop(serving);
        self.reply::<C>(result)
    }

    /// While the result lives, the session is cancelled when the client goes.
    fn heed_departure(&mut self) -> std::io::Result<Serving> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => {
                let watcher = &self.shared.watcher;
                watcher.watch(self.stream.clone(), &self.cancel)?
            }
        };
        Ok(self.watch.insert(watch).serve())
    }

    /// Enters the state of work. `false` if the client spoke out of turn and was told so: an
    /// error of this one operation, as in Guix.
    fn begin(&mut self) -> Result<bool, Error> {
        match self.connection.begin() {
            Ok(()) => Ok(true),
            Err(error @ Error::Pipelined) => {
                self.connection.fail(&error.to_string(), 1)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn reply<C: Call>(&mut self, result: Result<C::Reply, Failure>) -> Outcome {
        if self.cancel.is_cancelled() {
            return Err(Error::Gone);
        }
        match result {
            Ok(reply) => self.connection.finish::<C>(&reply)?,
            Err(failure) => self.connection.fail(&failure.message, failure.status)?,
        }
        Ok(())
    }

    /// Tells the client why what it asked cannot even be begun, which ends the connection.
    fn refuse(&mut self, message: &str) -> Outcome {
        self.connection.fail(message, 1)?;
        Err(Error::Gone)
    }

    fn scheduler(&self) -> &Scheduler {
        self.shared.scheduler(&self.store)
    }

    fn add_options(&self) -> AddOptions<'_> {
        AddOptions {
            temp_roots: &self.temp_roots,
            repair: false,
            progress: &*self.log,
        }
    }
}

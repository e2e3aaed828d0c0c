//! What all handlers of operations use.
//!
//! The session owns the connection, the client's settings and its temporary roots. This file
//! implements what operations have in common: when the client may be sent messages, which errors
//! end the connection, and which operations are cancelled when the client disconnects.

use std::sync::Arc;

use protocol::operations::{BuildMode, Call, Target};
use protocol::server::{Connection, Error};
use store::{AddOptions, Store, TempRoots};

use super::client_log::ClientLog;
use super::transport::Reader;
use crate::building::{BuildRequest, ClientIdentity, Scheduler};
use crate::cancel::CancellationToken;
use crate::daemon::Daemon;
use crate::hangup::{CancelOnHangup, WatchedConnection};
use crate::request_error::RequestError;
use crate::settings::SessionSettings;
use crate::stream::Stream;
use crate::substituter::Questions;

/// What a path in a reply takes, in bytes: itself and what is sent.
const BYTES_PER_PATH: u64 = 200;

/// The result for the connection after an operation: an error ends it.
pub type HandlerResult = Result<(), Error>;

/// One client after the handshake.
pub struct Session<'a> {
    /// The state that all sessions share.
    pub daemon: &'a Daemon,
    /// The connection for requests and replies.
    pub connection: Connection<Reader>,
    /// The socket under the connection.
    pub stream: Arc<Stream>,
    /// The store.
    pub store: Store,
    /// Protects items from the garbage collector until the session ends.
    pub temp_roots: Arc<TempRoots>,
    /// The client's identity.
    pub client: ClientIdentity,
    /// The client's settings. The log has a copy: see [`ClientLog::set_settings`].
    pub settings: Arc<SessionSettings>,
    /// Sends messages and logs to the client.
    pub log: Arc<ClientLog>,
    /// Cancels whatever is being done for the client.
    pub cancel: CancellationToken,
    /// Set by the first operation that is cancelled when the client disconnects.
    pub hangup: Option<WatchedConnection>,
    /// What is kept between queries about substitutes.
    pub questions: Questions,
}

impl Session<'_> {
    /// What the client may see of the file system.
    pub fn credentials(&self) -> store::Credentials {
        match (self.client.uid, self.client.gid) {
            (Some(uid), Some(gid)) => store::Credentials::of_user(uid, gid),
            _ => store::Credentials::stranger(),
        }
    }

    /// Runs a short operation, and replies.
    pub fn answer<C: Call>(
        &mut self,
        request: C,
        work: impl FnOnce(&mut Self, C) -> Result<C::Reply, RequestError>,
    ) -> HandlerResult {
        if !self.begin()? {
            return Ok(());
        }
        let result = work(self, request);
        self.reply::<C>(result)
    }

    /// Runs an operation that may take long, and replies. If the client disconnects, the operation
    /// is cancelled.
    pub fn run_interruptibly<C: Call>(
        &mut self,
        request: C,
        work: impl FnOnce(&mut Self, C) -> Result<C::Reply, RequestError>,
    ) -> HandlerResult {
        if !self.begin()? {
            return Ok(());
        }
        let guard = self.cancel_on_hangup()?;
        let result = work(self, request);
        drop(guard);
        self.reply::<C>(result)
    }

    /// As long as the result lives, the session is cancelled if the client disconnects.
    pub fn cancel_on_hangup(&mut self) -> std::io::Result<CancelOnHangup> {
        let watched = match self.hangup.take() {
            Some(watched) => watched,
            None => {
                let watcher = &self.daemon.hangup_watcher;
                watcher.watch(self.stream.clone(), &self.cancel)?
            }
        };
        Ok(self.hangup.insert(watched).cancel_on_hangup())
    }

    /// Begins an operation, during which messages may be sent to the client. Returns `false` if the
    /// client sent something out of turn, which is an error of this operation, as in Guix.
    pub fn begin(&mut self) -> Result<bool, Error> {
        match self.connection.begin() {
            Ok(()) => Ok(true),
            Err(error @ Error::Pipelined) => {
                self.connection.fail(&error.to_string(), 1)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends an operation with its reply or its error.
    pub fn reply<C: Call>(&mut self, result: Result<C::Reply, RequestError>) -> HandlerResult {
        if self.cancel.is_cancelled() {
            return Err(Error::Gone);
        }
        match result {
            Ok(reply) => self.connection.finish::<C>(&reply)?,
            Err(failure) => self.connection.fail(&failure.message, failure.status)?,
        }
        Ok(())
    }

    /// Counts a reply with so many paths as memory of the client, which may not read it.
    pub fn count_paths(&mut self, paths: u64) -> Result<(), RequestError> {
        let bytes = BYTES_PER_PATH.saturating_mul(paths);
        Ok(self.connection.take_memory(bytes)?)
    }

    /// Sends the client the reason why an operation can't even begin, which ends the connection.
    pub fn refuse(&mut self, message: &str) -> HandlerResult {
        self.connection.fail(message, 1)?;
        Err(Error::Gone)
    }

    /// The scheduler of builds.
    pub fn scheduler(&self) -> &Scheduler {
        self.daemon.scheduler(&self.store)
    }

    /// A build on behalf of this client.
    pub fn build_request(&self, targets: Vec<Target>, mode: BuildMode) -> BuildRequest {
        BuildRequest {
            targets,
            mode,
            settings: self.settings.clone(),
            client: self.client,
            told: self.questions.told(),
            temp_roots: Arc::clone(&self.temp_roots),
            log: self.log.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// The options for adding this client's items to the store.
    pub fn add_options(&self) -> AddOptions<'_> {
        AddOptions {
            temp_roots: &self.temp_roots,
            repair: false,
            progress: &*self.log,
        }
    }
}

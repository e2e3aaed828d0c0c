//! Who starts the program, and how.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use system::companion::Companion;
use system::process::{Child, Spawn};
use system::sync::Mutex;

use super::connection::{self, Launch};
use super::dispatch::Shared;
use super::request::User;

/// The environment variables that decide about proxies.
pub const PROXY_VARIABLES: [&str; 7] = [
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];
/// More variables that the program gets of this process's environment: how names are resolved, and
/// languages.
const VARIABLES: [&str; 7] = [
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "LANG",
    "LC_ALL",
    "LC_MESSAGES",
    "LOCPATH",
    "GUIX_LOCPATH",
];

/// The environment variable with the program's file name.
const VARIABLE: &str = "GUIX_FETCH";

/// Where the program is.
pub const GUIX_FETCH: Companion = Companion {
    variable: VARIABLE,
    built: "guix-fetch",
    installed: "guix/fetch",
};

/// The command `guix-fetch network`, with a socket as its descriptor 0 and only those variables of
/// the environment that it needs. What it says on standard error are failures of its own.
pub fn program(guix_fetch: &Path, socket: UnixStream) -> Spawn {
    let inherited = PROXY_VARIABLES
        .into_iter()
        .chain(VARIABLES)
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    let program = Spawn::new(guix_fetch)
        .arg("network")
        .env_clear()
        .fd(socket, 0)
        .current_dir("/")
        .setsid();
    inherited.fold(program, |program, (name, value)| program.env(name, value))
}

/// The program that touches the network. Clones share it.
///
/// It is started when there is something to ask, or by [`Network::prepare`]. If it dies, its requests fail with
/// [`ErrorKind::ProgramDied`](super::ErrorKind::ProgramDied), and it is started again for later ones:
/// at once, or, if it keeps dying, after a pause of up to five seconds. If it dies before it has
/// greeted, whatever waits for it fails, too. If it can't be started, requests fail with
/// [`ErrorKind::ProgramMissing`](super::ErrorKind::ProgramMissing). It is killed when the last clone
/// and the last [`Exchange`](super::Exchange) are dropped, and if it doesn't take what is sent to it
/// for a minute.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
    user: User,
}

struct Inner {
    launch: Arc<Launch>,
    /// What the thread shares with exchanges; it is started for the first exchange, and ends when all
    /// of them, and this, are dropped.
    shared: Mutex<Option<Arc<Shared>>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// Nothing is started yet. `launch` starts the program with the socket as its descriptor 0, as
    /// [`program`] makes it; it is called on a thread that lives as long as the program should, so
    /// that a parent-death signal may be set there.
    ///
    /// ```no_run
    /// use std::path::Path;
    /// use substitutes::network::{self, Network};
    ///
    /// let network = Network::new(|socket| {
    ///     network::program(Path::new("/usr/libexec/guix-fetch"), socket).spawn()
    /// });
    /// ```
    pub fn new(
        launch: impl Fn(UnixStream) -> io::Result<Child> + Send + Sync + 'static,
    ) -> Network {
        Network {
            inner: Arc::new(Inner {
                launch: Arc::new(Box::new(launch)),
                shared: Mutex::default(),
            }),
            user: User::default(),
        }
    }

    /// The same, for requests on behalf of a user.
    pub fn of_user(&self, user: User) -> Network {
        Network {
            inner: self.inner.clone(),
            user,
        }
    }

    /// On whose behalf requests are made.
    pub(super) fn user(&self) -> User {
        self.user
    }

    /// Starts the program in the background, unless it runs, so that the first question doesn't wait
    /// for its start. If it can't be started or dies, that is a matter for those who ask.
    ///
    /// # Errors
    /// The process has no descriptors or threads left.
    pub fn prepare(&self) -> io::Result<()> {
        self.shared()?.start_early();
        Ok(())
    }

    /// What the thread shares with exchanges; starts the thread.
    pub(super) fn shared(&self) -> io::Result<Arc<Shared>> {
        let mut place = self.inner.shared.lock();
        if let Some(shared) = &*place {
            return Ok(shared.clone());
        }
        let shared = Arc::new(Shared::new()?);
        connection::start(
            self.inner.launch.clone(),
            Arc::downgrade(&shared),
            shared.wake(),
        )?;
        *place = Some(shared.clone());
        Ok(shared)
    }
}

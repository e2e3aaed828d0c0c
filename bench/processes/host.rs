//! A daemon with its own directories.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::store_path::StoreDir;
use protocol::client::{Address, Connection, Options};

use crate::Implementation;
use crate::users::BuildUsers;

/// A running daemon. Dropping it ends the daemon and removes its directories.
pub struct Host {
    root: tempfile::TempDir,
    store: StoreDir,
    /// The daemon's command line, and itself.
    daemon: Mutex<(Command, Child)>,
    environment: Vec<(OsString, OsString)>,
    users: Option<BuildUsers>,
    hook: Vec<PathBuf>,
}

impl Host {
    /// Starts the daemon. All names have four letters, so that file names have the same length.
    pub fn start(implementation: &Implementation, options: &[&str]) -> Result<Host> {
        let Implementation { name, daemon, .. } = implementation;
        let root = tempfile::Builder::new()
            .prefix(&format!("guix-bench-{name}-"))
            .tempdir()?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        make_directories(root.path())?;
        fs::write(root.path().join("etc/guix/machines.scm"), "(list)\n")?;
        let store = root.path().join("store");
        let store = StoreDir::new(
            store
                .to_str()
                .context("a temporary directory of odd name")?,
        )?;
        let log = File::create(root.path().join("daemon.log"))?;
        let environment = environment(root.path(), implementation);
        make_keys(&environment)?;
        let users = BuildUsers::claim();
        // It is killed when this program ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(daemon);
        if let Some(users) = &users {
            command.arg(format!("--build-users-group={}", users.group));
        }
        if !(options.iter()).any(|option| option.starts_with("--substitute-urls=")) {
            command.arg("--no-substitutes");
        }
        let child = command
            .arg("--max-jobs=2")
            .args(options)
            .env_remove("NIX_BUILD_HOOK")
            .envs(environment.iter().cloned())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", daemon.display()))?;
        let host = Host {
            root,
            store,
            daemon: Mutex::new((command, child)),
            environment,
            users,
            hook: implementation.hook.clone(),
        };
        host.wait()?;
        Ok(host)
    }

    /// Waits until the daemon answers; returns a connection.
    fn wait(&self) -> Result<Connection> {
        let begun = Instant::now();
        loop {
            if let Ok(connection) = self.connect() {
                return Ok(connection);
            }
            if begun.elapsed() > Duration::from_secs(20) {
                let log = fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
                bail!("the daemon does not answer; it said: {log}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the daemon and starts it anew. Returns when that was, and the first connection.
    pub fn restart(&self) -> Result<(Instant, Connection)> {
        let mut daemon = self.daemon.lock().expect("no panic");
        let (command, child) = &mut *daemon;
        child.kill()?;
        child.wait()?;
        let _ = fs::remove_file(self.path("var/guix/daemon-socket/socket"));
        let begun = Instant::now();
        *child = command.spawn()?;
        Ok((begun, self.wait()?))
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.lock().expect("no panic").1.id()
    }

    /// A new connection.
    pub fn connect(&self) -> Result<Connection> {
        let socket = self.path("var/guix/daemon-socket/socket");
        Ok(Address::Unix(socket).connect(&self.store, &Options::default())?)
    }

    /// The store.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// A file of this host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The environment of its programs.
    pub fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// Its hook and the hook's first arguments.
    pub fn hook(&self) -> &[PathBuf] {
        &self.hook
    }

    /// The group of its build users; empty if there is none.
    pub fn group(&self) -> &str {
        self.users.as_ref().map_or("", |users| &users.group)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok((_, daemon)) = self.daemon.get_mut() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Store directories are read-only.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.root.path())
            .status();
    }
}

/// The contents of the directory of a host, or of a build machine in its place.
pub fn make_directories(root: &Path) -> Result<()> {
    for directory in [
        "store",
        "var/guix",
        "var/log/guix",
        "etc/guix",
        "cache",
        "tmp",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// A signing key, and an ACL that authorizes it.
fn make_keys(environment: &[(OsString, OsString)]) -> Result<()> {
    let client = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guix-client"));
        command.arg("archive").envs(environment.iter().cloned());
        command
    };
    let generated = client()
        .arg("--generate-key")
        .stderr(Stdio::null())
        .status()?;
    let directory = environment
        .iter()
        .find(|(name, _)| name == "GUIX_CONFIGURATION_DIRECTORY");
    let directory = Path::new(&directory.context("no configuration directory")?.1);
    let key = File::open(directory.join("signing-key.pub"))?;
    let authorized = client().arg("--authorize").stdin(key).status()?;
    if !generated.success() || !authorized.success() {
        bail!("cannot make keys");
    }
    Ok(())
}

fn environment(root: &Path, implementation: &Implementation) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = [
        ("NIX_STORE_DIR", "store"),
        ("GUIX_STATE_DIRECTORY", "var/guix"),
        ("GUIX_DATABASE_DIRECTORY", "var/guix/db"),
        ("GUIX_LOG_DIRECTORY", "var/log/guix"),
        ("GUIX_CONFIGURATION_DIRECTORY", "etc/guix"),
        ("GUIX_DAEMON_SOCKET", "var/guix/daemon-socket/socket"),
        ("XDG_CACHE_HOME", "cache"),
        ("TMPDIR", "tmp"),
    ]
    .into_iter()
    .map(|(name, directory)| (name.into(), root.join(directory).into()))
    .collect();
    let mut set = |name: &str, value: OsString| environment.push((name.into(), value));
    match implementation.hook.as_slice() {
        // Our hook is a program; Guix's is a subcommand of `guix', with which its daemon also
        // signs.
        [hook] => set("NIX_BUILD_HOOK", hook.into()),
        [guix, ..] => set("GUIX", guix.into()),
        [] => {}
    }
    set("GUILE_AUTO_COMPILE", "0".into());
    set("LC_ALL", "C".into());
    environment
}

//! The `ssh` destination of one machine: its files in `<state>/offload/ssh`, and the options of
//! `ssh`.
//!
//! All our `ssh` processes run in that directory and use relative file names. So these are short
//! enough for sockets, and contain no characters that are special to `ssh`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use formats::Hash;
use system::process::{Spawn, find_program};
use system::signal::Signal;

use super::error::{Error, SshFailure};
use crate::directories::HookDirectories;
use crate::machines::Machine;

/// How long an idle connection is kept open, in seconds.
const PERSIST_SECONDS: u32 = 600;

/// A machine as an `ssh` destination. Its files are named after a hash of everything that
/// determines where connections lead, so that an edited entry never uses connections of the old
/// one.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub machine: Machine,
    pub directories: HookDirectories,
    /// `<state>/offload/ssh`
    pub ssh_directory: PathBuf,
    /// The prefix of the names of this machine's files.
    stem: String,
    ssh: PathBuf,
}

impl Destination {
    /// Creates the directory if it is missing.
    pub fn new(machine: &Machine, directories: &HookDirectories) -> Result<Destination, Error> {
        let ssh_directory = directories.state.join("ssh");
        let local = |source| Error::Local {
            doing: format!("preparing `{}'", ssh_directory.display()),
            source,
        };
        private_directory(&ssh_directory).map_err(local)?;
        let ssh = ssh_program()?;
        let identity = format!(
            "{:?}",
            (
                (&machine.name, machine.port, &machine.user),
                (&machine.host_key, &machine.private_key, &machine.ssh_config),
                (&machine.daemon_socket, &directories.user_home),
            )
        );
        let stem = Hash::sha256(identity).base32();
        Ok(Destination {
            machine: machine.clone(),
            directories: directories.clone(),
            stem: stem[..16].to_owned(),
            ssh_directory,
            ssh,
        })
    }

    /// The machine's name in messages.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Another of this machine's files: `STEM.SUFFIX`.
    pub fn file(&self, suffix: &str) -> PathBuf {
        self.ssh_directory.join(format!("{}.{suffix}", self.stem))
    }

    /// A file of one of its connections.
    pub fn master_file(&self, number: u32, suffix: &str) -> PathBuf {
        self.file(&format!("{number}{suffix}"))
    }

    /// The file that says how many sessions its sshd allows on a connection, once that is learned.
    pub fn session_limit(&self) -> PathBuf {
        self.file("sessions")
    }

    /// The local end of the machine's daemon socket.
    pub fn daemon(&self) -> PathBuf {
        self.master_file(0, ".d")
    }

    /// A new control socket name, which no other connection has or had.
    pub fn new_control(&self, number: u32) -> String {
        format!(
            "{}{:016x}",
            self.control_prefix(number),
            rand::random::<u64>()
        )
    }

    /// The prefix of all control sockets of a connection.
    pub fn control_prefix(&self, number: u32) -> String {
        format!("{}.{number}-", self.stem)
    }

    /// ssh's log file of a connection.
    pub fn log(&self, number: u32) -> PathBuf {
        self.master_file(number, ".log")
    }

    /// The `ssh` process that opens a connection, runs a command that does nothing, and stays in
    /// the background. Its sockets are named after `control`, a file in our directory that no other
    /// connection uses, and which it removes when it ends. Only the first connection forwards the
    /// daemon's socket: one is enough for any number of clients.
    pub fn master(&self, number: u32, control: &str, seconds: u64) -> Result<Spawn, Error> {
        let machine = &self.machine;
        let mut args = Arguments(vec!["-F".into()]);
        args.0.push(match &machine.ssh_config {
            Some(file) => file.into(),
            None => "none".into(),
        });
        args.0
            .extend(["-M", "-n", "-T", "-x", "-a"].map(OsString::from));
        args.pair("-S", format!("./{control}"));
        args.pair("-E", format!("./{}.{number}.log", self.stem));
        args.pair("-p", machine.port.to_string());
        args.pair("-l", &machine.user);
        for option in [
            "BatchMode=yes",
            "CheckHostIP=no",
            "Compression=no",
            "ConnectionAttempts=1",
            "ExitOnForwardFailure=yes",
            "GlobalKnownHostsFile=/dev/null",
            "LogLevel=INFO",
            "PermitLocalCommand=no",
            "RequestTTY=no",
            // Detects within 15 seconds that a machine is gone.
            "ServerAliveCountMax=3",
            "ServerAliveInterval=5",
            "StreamLocalBindUnlink=yes",
            "StrictHostKeyChecking=yes",
            "Tunnel=no",
            "UpdateHostKeys=no",
            "VerifyHostKeyDNS=no",
        ] {
            args.pair("-o", option);
        }
        args.pair("-o", format!("ConnectTimeout={}", seconds.max(1)));
        args.pair("-o", format!("ControlPersist={PERSIST_SECONDS}"));
        args.pair("-o", format!("HostKeyAlias={}", self.stem));
        args.pair("-o", format!("UserKnownHostsFile=./{}.hosts", self.stem));
        if let Some(key) = self.private_key()? {
            args.pair("-o", "IdentitiesOnly=yes");
            // `-o` takes a line of a configuration file, in which blanks have to be quoted.
            let key = escape_percent(&key.to_string_lossy());
            args.pair("-o", format!("IdentityFile=\"{key}\""));
        }
        if machine.ssh_config.is_none() && has_aes() {
            args.pair(
                "-o",
                "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
            );
        }
        if number == 0 {
            let remote = escape_percent(&machine.daemon_socket);
            args.pair("-L", format!("./{control}.d:{remote}"));
        }
        args.0.push("--".into());
        args.0.push((&machine.name).into());
        // sshd sets `TCP_NODELAY` with the first command; until then, each reply of the daemon may
        // take 40 ms.
        args.0.push("true".into());
        // In its own process group, so that a proxy command that takes too long is killed with it.
        Ok(self.spawn(args).setsid())
    }

    /// `ssh` that runs a command over an existing connection.
    pub fn command(&self, number: u32, command: &str) -> Spawn {
        let mut args = self.over_master(number);
        args.0.extend(["-T", "--"].map(OsString::from));
        args.0.push((&self.machine.name).into());
        args.0.push(command.into());
        self.spawn(args)
    }

    /// `ssh` that ends a connection.
    pub fn exit(&self, number: u32) -> Spawn {
        let mut args = self.over_master(number);
        args.pair("-O", "exit");
        args.0.push("--".into());
        args.0.push((&self.machine.name).into());
        self.spawn(args)
    }

    /// `ssh` that has a connection end as soon as nothing uses it.
    pub fn stop(&self, control: &Path) -> Spawn {
        let mut args = over_control(&format!("./{}", control.display()));
        args.pair("-O", "stop");
        args.0.push("--".into());
        args.0.push((&self.machine.name).into());
        self.spawn(args)
    }

    fn over_master(&self, number: u32) -> Arguments {
        let mut args = over_control(&format!("./{}.{number}", self.stem));
        args.pair("-o", "ControlMaster=no");
        args.pair("-o", "BatchMode=yes");
        args.pair("-o", "LogLevel=ERROR");
        // Without its master, ssh would silently open a connection of its own: make that fail.
        args.pair("-o", "ProxyCommand=false");
        args
    }

    fn spawn(&self, args: Arguments) -> Spawn {
        Spawn::new(&self.ssh)
            .arg0("ssh")
            .args(args.0)
            .current_dir(&self.ssh_directory)
            .env("LC_ALL", "C") // its messages are read by us
            .parent_death_signal(Signal::SIGKILL)
    }

    /// The key to log in with, as far as it is known and exists.
    pub fn login_key(&self) -> Option<PathBuf> {
        self.private_key().ok().flatten()
    }

    /// The private key for the login. `None`: it is in the machine's own configuration file.
    fn private_key(&self) -> Result<Option<PathBuf>, Error> {
        let missing = |file: &Path| Error::Ssh {
            machine: self.name().to_owned(),
            failure: SshFailure::NoKey(file.display().to_string()),
            stderr: String::new(),
        };
        if let Some(file) = &self.machine.private_key {
            return match file.exists() {
                true => Ok(Some(file.clone())),
                false => Err(missing(file)),
            };
        }
        let usual = |name: &str| self.directories.user_home.join(".ssh").join(name);
        let found = ["id_rsa", "id_ed25519", "id_ecdsa"]
            .map(usual)
            .into_iter()
            .find(|file| file.exists());
        match found {
            None if self.machine.ssh_config.is_none() => Err(missing(&usual("id_rsa"))),
            found => Ok(found),
        }
    }

    /// Writes the only accepted host key, unless it is there.
    pub fn write_host_key(&self) -> io::Result<()> {
        let line = format!("{} {}\n", self.stem, self.machine.host_key);
        let file = self.file("hosts");
        if fs::read(&file).is_ok_and(|text| text == line.as_bytes()) {
            return Ok(());
        }
        let new = self.file(&format!("hosts.{}", std::process::id()));
        fs::write(&new, line)?;
        fs::rename(&new, &file)
    }
}

/// Arguments of an `ssh` that uses the connection with this control socket.
fn over_control(control: &str) -> Arguments {
    let mut args = Arguments(Vec::new());
    args.pair("-F", "none");
    args.pair("-S", control);
    args
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

/// OpenSSH's client.
pub(super) fn ssh_program() -> Result<PathBuf, Error> {
    let program = find_program("ssh").or_else(|| find_program("/usr/bin/ssh"));
    program.ok_or_else(|| Error::Local {
        doing: "looking for OpenSSH's client".to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, "there is no program `ssh' here"),
    })
}

/// `%` begins a token in file names passed to ssh.
fn escape_percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// Creates a directory with mode 0700; refuses one that another user owns.
fn private_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let metadata = fs::symlink_metadata(directory)?;
    if !metadata.is_dir() || metadata.uid() != system::ids::effective_uid() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is not a directory of our own",
        ));
    }
    Ok(())
}

/// Whether AES is faster here than the cipher that ssh prefers.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

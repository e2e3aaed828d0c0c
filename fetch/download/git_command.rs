//! Running the system's `git` so that nothing but its arguments matters: without the configuration,
//! hooks and templates of any user, without questions, and with network protocols that need no
//! program of others only. Submodules and redirections are held to the same.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use substitutes::network::PROXY_VARIABLES;
use system::pipe::pipe;

use super::report;

/// Where programs are; `git submodule` runs some.
pub const PATH: [&str; 4] = [
    "/run/current-system/profile/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
];
/// The schemes of repositories' URLs that work.
pub const PROTOCOLS: [&str; 3] = ["http", "https", "git"];
/// The longest line of its output that is passed on in one piece.
const MAX_LINE: u64 = 4096;

/// What would run programs, read local files or leave processes behind.
const CONFIGURATION: [(&str, &str); 11] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("init.templateDir", ""),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("user.name", "guix-fetch"),
    ("user.email", "guix-fetch@localhost"),
];

/// Why a command failed, in words.
pub struct Failed(pub String);

/// `git` in one directory.
pub struct Git {
    program: PathBuf,
    directory: PathBuf,
    home: PathBuf,
}

impl Git {
    /// For commands in `directory`; `home` is an empty directory.
    pub fn new(directory: &Path, home: &Path) -> Result<Git, Failed> {
        Ok(Git {
            program: find("git").ok_or_else(|| Failed("git is not installed".to_owned()))?,
            directory: directory.to_owned(),
            home: home.to_owned(),
        })
    }

    /// Runs `git` with these arguments; it is an error if that fails.
    pub fn run(&self, arguments: &[&str]) -> Result<(), Failed> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.directory);
        command.env_clear().env("PATH", PATH.join(":"));
        command
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home);
        command.env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_ALLOW_PROTOCOL", PROTOCOLS.join(":"));
        // The hash is known.
        command.env("GIT_SSL_NO_VERIFY", "true");
        command.env("GIT_CONFIG_COUNT", CONFIGURATION.len().to_string());
        for (number, (name, value)) in CONFIGURATION.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        for name in PROXY_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let shown = format!("'git {}'", arguments.join(" "));
        match run(command) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failed(match status.code() {
                Some(code) => format!("{shown} failed with exit code {code}"),
                None => format!("{shown} failed: {status}"),
            })),
            Err(error) => Err(Failed(format!("{shown}: {error}"))),
        }
    }
}

/// A program in one of the directories of [`PATH`].
pub fn find(name: &str) -> Option<PathBuf> {
    let files = PATH.iter().map(|directory| Path::new(directory).join(name));
    files.into_iter().find(|file| file.is_file())
}

/// Runs a command whose output is passed on line by line, with what a server put in it escaped.
pub fn run(mut command: Command) -> io::Result<ExitStatus> {
    let (output, end) = pipe()?;
    command.stdin(Stdio::null());
    command.stdout(end.try_clone()?).stderr(end);
    let mut child = command.spawn()?;
    // With the command's copies of the pipe's end.
    drop(command);
    let mut output = BufReader::new(std::fs::File::from(output));
    let mut line = Vec::new();
    while output
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)?
        > 0
    {
        report::line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    child.wait()
}

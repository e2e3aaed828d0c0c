//! `offload add` and `offload remove`: machines in `machines.toml`, without an editor.
//!
//! Nothing is written before the machine has passed the tests of `offload test`. Its host key is accepted only
//! if the administrator says so, or has given it or its fingerprint.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::printable::printable;
use gcrypt::{Acl, PublicKey};
use hook::check_machines;
use hook::directories::HookDirectories;
use hook::drained;
use hook::generated::{self, Audience};
use hook::host_keys::{self, HostKey};
use hook::machine_file::MachineFile;
use hook::machines::{self, Machine, MachineList};
use hook::name_patterns::named;
use hook::new_entry::NewEntry;
use hook::{remote, slots};
use store::Directories;

use crate::options::number;
use crate::output;

/// How long the exchange of keys may take.
const KEYS_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `offload add`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The machine, and the account to log in to
    #[arg(value_name = "USER@NAME")]
    machine: String,
    /// Port of its SSH server
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// SSH key to log in with
    #[arg(long, value_name = "FILE")]
    private_key: Option<String>,
    /// Its SSH host key, as in its /etc/ssh/ssh_host_ed25519_key.pub
    #[arg(long, value_name = "TYPE BASE64", conflicts_with = "fingerprint")]
    host_key: Option<String>,
    /// The fingerprint of its SSH host key, as `ssh-keygen -l` prints it there
    #[arg(long, value_name = "SHA256:...")]
    fingerprint: Option<String>,
    /// System types that it builds for, separated by commas, instead of its own
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',')]
    systems: Vec<String>,
    /// How many builds it gets at once, instead of one for four processors
    #[arg(long, value_name = "N", value_parser = number)]
    parallel_builds: Option<u32>,
    /// Processor cores for each build
    #[arg(long, value_name = "N", value_parser = number)]
    cores: Option<u32>,
    /// Its speed compared with other machines
    #[arg(long, value_name = "NUMBER")]
    speed: Option<f64>,
    /// What it offers, separated by commas
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    features: Vec<String>,
    /// The socket of its daemon
    #[arg(long, value_name = "FILE")]
    daemon_socket: Option<String>,
    /// How its daemon is reached: auto, socket or commands
    #[arg(long, value_name = "TRANSPORT")]
    transport: Option<String>,
    /// Program to run there for the transport `commands`
    #[arg(long, value_name = "PROGRAM")]
    program: Option<String>,
    /// OpenSSH configuration file for it, for jump hosts and the like
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<String>,
    /// Have both sides accept each other's signatures first
    #[arg(long)]
    authorize: bool,
    /// Test it, print its entry, and change nothing
    #[arg(short = 'n', long, conflicts_with = "authorize")]
    dry_run: bool,
}

/// Adds a machine. The exit status is 1 if it doesn't pass the tests.
pub fn add(daemon: &Directories, arguments: Arguments, out: &mut impl Write) -> Result<ExitCode> {
    let directories = HookDirectories::new(daemon).context("looking up our user")?;
    directories.check_owner()?;
    let file = machines::changeable_file(&directories.configuration);
    let Some((user, name)) = arguments.machine.rsplit_once('@') else {
        bail!("say which account to log in to: USER@{}", arguments.machine);
    };
    let mut entry = NewEntry {
        name: name.to_owned(),
        user: user.to_owned(),
        port: arguments.port,
        host_key: String::new(),
        private_key: arguments.private_key.map(absolute).transpose()?,
        systems: arguments.systems,
        parallel_builds: arguments.parallel_builds,
        cores: arguments.cores,
        speed: arguments.speed,
        features: arguments.features,
        daemon_socket: arguments.daemon_socket,
        transport: arguments.transport,
        program: arguments.program,
        ssh_config: arguments.ssh_config.map(absolute).transpose()?,
    };
    let key = entry.machine()?.key();
    check_unlisted(
        &generated::load(&directories, Audience::Administrator)?,
        &key,
    )?;
    // Before anybody is asked: whether it can be added at all.
    if !arguments.dry_run {
        MachineFile::check_changeable(&file)?;
    }
    let port = arguments.port.unwrap_or(22);
    entry.host_key = match (&arguments.host_key, &entry.ssh_config) {
        (Some(key), _) => key.trim().to_owned(),
        (None, Some(_)) => bail!("with --ssh-config, its host key has to be given by --host-key"),
        (None, None) => ask_host_key(name, port, arguments.fingerprint.as_deref())?.field(),
    };
    let machine = entry.machine()?;
    if arguments.authorize {
        exchange_keys(&machine, &directories)?;
    }
    let mut text = Vec::new();
    let (is_right, vitals) = check_machines::check_new(&machine, daemon, &directories, &mut text)?;
    let _ = output::stderr().write_all(&text);
    let Some(vitals) = vitals.filter(|_| is_right) else {
        output::info(
            "offload",
            &format!("'{key}' is not added, as something is wrong with it"),
        );
        return Ok(ExitCode::FAILURE);
    };
    entry.complete(&vitals)?;
    let entry_text = entry.toml();
    entry.machine()?;
    let machine_file = open(&file, arguments.dry_run)?;
    check_unlisted(&machine_file.machines()?, &key)?;
    let change = machine_file.add(&entry_text)?;
    if arguments.dry_run {
        write!(out, "{entry_text}")?;
    } else {
        change.write()?;
        writeln!(out, "added '{key}' to '{}':\n", file.display())?;
        write!(out, "{entry_text}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a machine file to change it, or only to see what would change.
fn open(file: &Path, dry_run: bool) -> Result<MachineFile> {
    match dry_run {
        true => MachineFile::look(file),
        false => MachineFile::open(file),
    }
}

/// Removes machines. The builds that they have go on.
pub fn remove(
    daemon: &Directories,
    names: &[String],
    dry_run: bool,
    out: &mut impl Write,
) -> Result<()> {
    let directories = HookDirectories::new(daemon).context("looking up our user")?;
    let file = open(
        &machines::changeable_file(&directories.configuration),
        dry_run,
    )?;
    let list = file.machines()?;
    let keys: Vec<String> = list.keys().collect();
    let chosen = match named(&keys, names) {
        Ok(chosen) => chosen,
        Err(message) => bail!(elsewhere(&directories, names).unwrap_or(message)),
    };
    let change = file.remove(&chosen)?;
    if dry_run {
        write!(out, "{}", change.removed)?;
        return Ok(out.flush()?);
    }
    change.write()?;
    for key in &chosen {
        let mut builds = 0;
        if let Some(machine) = list.find(key) {
            builds = slots::taken(&directories, machine).map_or(0, |taken| taken.len());
        }
        match builds {
            0 => writeln!(out, "removed '{key}'")?,
            1 => writeln!(out, "removed '{key}'; the build that it has goes on")?,
            builds => writeln!(
                out,
                "removed '{key}'; the {builds} builds that it has go on"
            )?,
        }
        // Another one of that name begins anew.
        if drained::keys(&directories).is_ok_and(|drained| drained.contains(key)) {
            if let Err(error) = drained::put_back(&directories, key) {
                output::warning("offload", &format!("'{key}' is still drained: {error}"));
            }
        }
    }
    Ok(out.flush()?)
}

/// Where machines are that are not in the file which can be changed.
fn elsewhere(directories: &HookDirectories, names: &[String]) -> Option<String> {
    let list = generated::load(directories, Audience::Administrator).ok()?;
    let keys: Vec<String> = list.keys().collect();
    let chosen = names.iter().find_map(|name| {
        let chosen = named(&keys, std::slice::from_ref(name)).ok()?;
        let machine = list.find(&chosen[0])?;
        let is_here = machine.place.file == machines::changeable_file(&directories.configuration);
        (!is_here).then_some(machine)
    })?;
    Some(format!(
        "'{}' comes from {}, which this command does not change",
        chosen.name, chosen.place
    ))
}

fn absolute(file: String) -> Result<String> {
    let path = std::path::absolute(&file).with_context(|| format!("'{file}'"))?;
    let path = path.into_os_string().into_string();
    path.map_err(|_| anyhow::anyhow!("the name '{file}' is not UTF-8"))
}

fn check_unlisted(list: &MachineList, key: &str) -> Result<()> {
    match list.find(key) {
        Some(machine) => bail!(
            "there is an entry for '{key}' already, at {}",
            machine.place
        ),
        None => Ok(()),
    }
}

/// The host key of a machine, if it has the expected fingerprint, or if the administrator accepts it.
fn ask_host_key(name: &str, port: u16, fingerprint: Option<&str>) -> Result<HostKey> {
    if fingerprint.is_none() && !io::stdin().is_terminal() {
        bail!("nobody can say whether its host key is right: give --fingerprint or --host-key");
    }
    let keys = host_keys::scan(name, port)
        .with_context(|| format!("failed to ask '{name}' for its host key"))?;
    if let Some(fingerprint) = fingerprint {
        let found = keys.iter().find(|key| key.fingerprint() == fingerprint);
        return found.cloned().with_context(|| {
            let fingerprints: Vec<String> = keys.iter().map(HostKey::fingerprint).collect();
            format!(
                "the host keys of '{name}' have other fingerprints: {}",
                fingerprints.join(", ")
            )
        });
    }
    let Some(key) = keys.into_iter().next() else {
        bail!("'{name}' has no host key");
    };
    let kind = key
        .kind
        .trim_start_matches("ssh-")
        .split('-')
        .next()
        .unwrap_or("");
    let text = format!(
        "'{name}' presents this host key:\n\n  {} {}\n\nIt is the right machine if this prints the same there:\n\n  \
         ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub\n\nIs it (yes, no, or what it should be)? ",
        printable(&key.kind),
        key.fingerprint()
    );
    output::stderr().write_all(text.as_bytes())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(key),
        answer if answer == key.fingerprint() => Ok(key),
        _ => bail!("the host key of '{name}' was not accepted"),
    }
}

/// Has both sides accept each other's signatures. That the machine doesn't let us do so is a warning: the tests
/// say what is missing.
fn exchange_keys(machine: &Machine, directories: &HookDirectories) -> Result<()> {
    let configuration = &directories.configuration;
    let deadline = || Instant::now() + KEYS_TIMEOUT;
    let ours = configuration.join("signing-key.pub");
    let ours = fs::read(&ours).with_context(|| {
        format!(
            "failed to read '{}' (guix-client archive --generate-key)",
            ours.display()
        )
    })?;
    match remote::signing_key(machine, directories, deadline()) {
        Ok(theirs) => {
            let name = &machine.name;
            let theirs = PublicKey::parse(&theirs)
                .with_context(|| format!("what '{name}' has as its signing key is none"))?;
            let mut acl = Acl::load(configuration)?;
            acl.authorize(theirs);
            acl.save(configuration)?;
        }
        Err(error) => output::warning("offload", &error.to_string()),
    }
    if let Err(error) = remote::authorize(machine, directories, &ours, deadline()) {
        output::warning("offload", &error.to_string());
    }
    Ok(())
}

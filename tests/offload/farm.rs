//! A head and its build machines, each with its own store, daemon and network and (the machines)
//! sshd.
//!
//! All have the same file names for different things: the directory of a [`Site`] is the head's,
//! and a machine, in its mount namespace, has its own in that place. Machine NAME's is seen from
//! here as `machines/NAME` in the head's. They are connected as by cables, which can be cut.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cable::{Cable, Quality};
use crate::entry::Entry;
use crate::harness::derivations::Client;
use crate::harness::users::BuildUsers;
use crate::harness::{Daemon, Site, eventually, is_ours};
pub use crate::inspection::names;
pub use crate::machine::{Kind, Machine};
use crate::machine::{daemon_options, write_accounts, write_who};
use crate::namespaces::{Namespaces, START_NETWORK, output};
pub use crate::namespaces::{Process, processes};

/// The hook.
pub const HOOK: &str = env!("CARGO_BIN_EXE_guix-offload");

/// The daemon that workers start: ours, also where another one is tested.
pub const DAEMON: &str = env!("CARGO_BIN_EXE_guix-daemon");
/// The client.
pub const CLIENT: &str = env!("CARGO_BIN_EXE_guix-client");
/// The daemons' system.
pub const SYSTEM: &str = env!("GUIX_SYSTEM");
/// A head and its machines.
pub struct Farm {
    /// The daemon of the head, while it runs.
    pub daemon: Option<Daemon>,
    /// The machines.
    pub machines: Vec<Machine>,
    pub head: Namespaces,
    /// The head's directories.
    pub site: Site,
    /// The head's build users: its daemon shares a PID namespace with those of other tests.
    users: Option<BuildUsers>,
}

impl Farm {
    /// A head, whose daemon doesn't build anything locally, and working machines that are all
    /// configured.
    pub fn new(machines: usize) -> Farm {
        let mut farm = Farm::with(&vec![Kind::default(); machines]);
        farm.start(&["--max-jobs=0"]);
        farm
    }

    /// Like [`Farm::new`], with machines of these kinds, and without a daemon on the head yet.
    pub fn with(kinds: &[Kind]) -> Farm {
        let site = Site::new();
        let guix = site.path("guix");
        let site = site.env("NIX_BUILD_HOOK", HOOK);
        // Guix's own daemon runs `guix offload' instead, and `guix' for other things.
        let site = if is_ours() {
            site
        } else {
            site.env("GUIX", &guix)
        };
        let real = std::env::var("GUIX").unwrap_or_else(|_| "false".to_owned());
        let text =
            format!("#!/bin/sh\n[ \"$1\" = offload ] || exec {real} \"$@\"\nexec {HOOK} \"$@\"\n");
        fs::write(&guix, text).unwrap();
        fs::set_permissions(&guix, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["gate", "machines", "ssh"] {
            fs::create_dir(site.path(name)).unwrap();
        }
        for key in ["login", "host", "other"] {
            let file = site.path("ssh").join(key);
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"];
            assert!(
                Command::new("ssh-keygen")
                    .args(words)
                    .arg(file)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        write_who(&site.path("."), "head");
        fs::set_permissions(site.path("gate"), fs::Permissions::from_mode(0o777)).unwrap();
        write_accounts(&site);
        // The accounts of the machines were written before, and the head's namespaces have those of this thread.
        let users = BuildUsers::claim();
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for number in 1..=kinds.len() {
            hosts += &format!("10.77.{number}.2 build-{number}\n");
        }
        fs::write(site.path("hosts"), hosts).unwrap();
        let script =
            format!("mount --bind \"$1/hosts\" /etc/hosts; hostname head; {START_NETWORK}");
        let head = Namespaces::new(&[], &script, &[site.path(".").to_str().unwrap()]);
        let mut farm = Farm {
            daemon: None,
            machines: Vec::new(),
            head,
            site,
            users,
        };
        farm.run(CLIENT, &["archive", "--generate-key"]);
        for kind in kinds {
            farm.add_machine(kind);
        }
        let entries: Vec<_> = (0..kinds.len()).map(|index| farm.entry(index)).collect();
        farm.configure(&entries);
        farm
    }

    fn add_machine(&mut self, kind: &Kind) {
        let number = self.machines.len() + 1;
        let mut machine = Machine::new(&self.site, number, kind);
        let (pid, cable) = (machine.namespaces.pid, format!("m{number}"));
        match kind.cable {
            Some(quality) => {
                let ends = [(self.head.pid, cable.as_str()), (pid, "eth0")];
                machine.cable = Some(Cable::new(ends, quality, crate::cable::seed()));
            }
            None => self.run_script(&format!(
                "ip link add {cable} type veth peer name eth0 netns {pid}"
            )),
        }
        self.run_script(&format!(
            "ip addr add 10.77.{number}.1/24 dev {cable}; ip link set {cable} up"
        ));
        machine.connect(&self.site);
        let key = |directory: &Path| fs::read(directory.join("etc/signing-key.pub")).unwrap();
        if !kind.strange_there {
            machine.authorize(&self.site, &key(&self.site.path(".")));
        }
        if !kind.strange_here {
            self.authorize(&key(&machine.files));
        }
        machine.start_sshd(&self.site);
        if !kind.no_daemon {
            machine.start_daemon(&self.site);
        }
        self.machines.push(machine);
    }

    /// Starts the head's daemon.
    pub fn start(&mut self, options: &[&str]) {
        self.start_program(&crate::harness::program(), options);
    }

    /// Starts another daemon on the head.
    pub fn start_program(&mut self, program: &Path, options: &[&str]) {
        self.daemon = Some(self.launch(program, options));
    }

    /// A daemon on the head, which serves.
    pub fn launch(&self, program: &Path, options: &[&str]) -> Daemon {
        let mut command = self.site.command(program);
        command.args(daemon_options(&self.site)).args(options);
        let users = self.users.iter();
        command.args(users.map(|users| format!("--build-users-group={}", users.group)));
        let daemon = self.site.launch_command(self.on_head(&command));
        let socket = self.site.socket();
        daemon.wait_until(|| UnixStream::connect(&socket).is_ok(), "to serve");
        daemon
    }

    /// A client of the head that requests offloading.
    pub fn client(&self) -> Client {
        offloading(self.daemon.as_ref().unwrap())
    }

    /// The same command, run on the head.
    pub fn on_head(&self, command: &Command) -> Command {
        self.head.enter(command, &["--mount", "--uts", "--net"])
    }

    /// The output of one of our programs on the head; it has to succeed.
    #[track_caller]
    pub fn run(&self, program: &str, words: &[&str]) -> String {
        let (succeeded, text) = self.try_run(program, words);
        assert!(succeeded, "{program} {words:?}: {text}");
        text
    }

    /// Whether a program on the head succeeds, and what it prints.
    pub fn try_run(&self, program: &str, words: &[&str]) -> (bool, String) {
        output(self.on_head(self.site.command(program).args(words)), b"")
    }

    fn run_script(&self, script: &str) {
        // The machine's process is identified by its number here.
        let mut command = Command::new("sh");
        command.args(["-ec", script]);
        let (succeeded, text) = output(self.head.enter(&command, &["--net"]), b"");
        assert!(succeeded, "{script}: {text}");
    }

    /// Changes the quality of a machine's cable.
    pub fn set_quality(&self, index: usize, quality: Quality) {
        self.machines[index].cable.as_ref().unwrap().set(quality);
    }

    /// Unplugs a machine's cable, or plugs it in again.
    pub fn set_cable(&self, index: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.run_script(&format!("ip link set m{} {state}", index + 1));
    }

    /// Authorises this key.
    pub fn authorize(&self, key: &[u8]) {
        let command = self.on_head(self.site.command(CLIENT).args(["archive", "--authorize"]));
        let (succeeded, text) = output(command, key);
        assert!(succeeded, "{text}");
    }

    /// The correct entry of a machine.
    pub fn entry(&self, index: usize) -> Entry {
        let key = fs::read_to_string(self.site.path("ssh/host.pub")).unwrap();
        let login = self.site.path("ssh/login");
        Entry::default()
            .text("name", &format!("build-{}", index + 1))
            .list("systems", &[SYSTEM])
            .text("user", "root")
            .text("host-key", key.trim())
            .text("private-key", login.to_str().unwrap())
            .text("daemon-socket", self.site.socket().to_str().unwrap())
            .text("program", CLIENT)
            .plain("parallel-builds", "2")
            .plain("overload-threshold", "false")
    }

    /// Writes `machines.toml`.
    pub fn configure(&self, entries: &[Entry]) {
        let text: String = entries.iter().map(Entry::toml).collect();
        // Hooks that run must not find half of it.
        let file = self.site.configuration().join("machines.toml");
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// A directory that all builders on all machines can see and write to.
    pub fn gate(&self) -> PathBuf {
        self.site.path("gate")
    }

    /// Shell code for builders: the name of the machine.
    pub fn where_am_i(&self) -> String {
        format!("read -r me <{}/name", self.site.path("who").display())
    }

    /// Shell code for builders: reports on which machine it runs, and waits for [`Farm::open`].
    pub fn await_gate(&self, name: &str) -> String {
        let gate = self.gate();
        format!(
            "{}; echo $me >{1}/{name}-at-$me; until test -e {1}/{name}; do sleep 0.02; done",
            self.where_am_i(),
            gate.display()
        )
    }

    /// Lets builders continue that wait for it.
    pub fn open(&self, name: &str) {
        fs::write(self.gate().join(name), "").unwrap();
    }

    /// Waits until a builder waits for `name`; returns the machine that it runs on.
    #[track_caller]
    pub fn wait_for_builder(&self, name: &str) -> String {
        let prefix = format!("{name}-at-");
        let find = || {
            names(&self.gate())
                .into_iter()
                .find_map(|n| n.strip_prefix(&prefix).map(str::to_owned))
        };
        assert!(eventually(|| find().is_some()), "nothing builds `{name}'");
        let found = find().unwrap();
        fs::remove_file(self.gate().join(format!("{prefix}{found}"))).unwrap();
        found
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for machine in &self.machines {
                for file in ["sshd.log", "daemon.log"] {
                    let text = fs::read_to_string(machine.files.join(file)).unwrap_or_default();
                    eprintln!("--- {}: {file}:\n{text}---", machine.name);
                }
            }
            eprintln!("--- on the head: {:#?}", self.head_processes());
        }
        self.daemon = None;
        self.end_masters();
        let hooks: Vec<_> = self.head_processes();
        for process in hooks {
            process.kill();
        }
    }
}

/// A client that requests offloading.
pub fn offloading(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon);
    client.set(|options| {
        options.use_build_hook = Some(true);
        options.set("build-poll-interval", "1");
        options.set("multiplexed-build-output", "true");
    });
    client
}

/// Runs a function for both transports, in parallel.
pub fn by_both_transports(act: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for transport in ["socket", "commands"] {
            let act = &act;
            scope.spawn(move || act(transport));
        }
    });
}

//! A build machine: a daemon and an sshd in namespaces of their own.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::cable::{Cable, Quality};
use crate::farm::CLIENT;
use crate::harness::{Site, eventually};
use crate::inspection::{locks_and_temporary, names, store_items};
use crate::namespaces::{Namespaces, Process, START_NETWORK, output, show_accounts};

/// The machines' group of build users.
const GROUP: &str = "offload-test-build";
/// The variable that names Guix's daemon, if the machines are to have that.
const MACHINE_DAEMON: &str = "GUIX_MACHINE_DAEMON_UNDER_TEST";

/// Whether the machines' daemon is ours.
pub fn is_machine_ours() -> bool {
    std::env::var_os(MACHINE_DAEMON).is_none()
}

/// The daemon of the machines.
fn machine_daemon() -> PathBuf {
    std::env::var_os(MACHINE_DAEMON)
        .map_or_else(|| env!("CARGO_BIN_EXE_guix-daemon").into(), PathBuf::from)
}

/// A build machine.
pub struct Machine {
    /// Its name, which has an address on the head.
    pub name: String,
    /// Its files, as seen from here.
    pub files: PathBuf,
    number: usize,
    /// Its cable, if its quality can be changed.
    pub cable: Option<Cable>,
    pub namespaces: Namespaces,
    /// The programs that started others there, and wait for them.
    launched: Mutex<Vec<Child>>,
    substitutes: Substitutes,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.namespaces.child.kill();
        for child in self.launched.get_mut().unwrap() {
            // They are stopped when their children are stopped, and don't notice when those exit.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where a machine's daemon gets substitutes from: something in the machine's directory.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substitutes {
    /// Nowhere.
    #[default]
    None,
    /// From the program `substituter`, which stands for Guix's.
    Program,
    /// From the directory `server`, by `guix-fetch`, after the server at this port of 127.0.0.1.
    Directory { after: u16 },
}

/// Options of a machine.
#[derive(Default, Clone)]
pub struct Kind {
    /// Lines for its sshd.
    pub sshd: String,
    /// Its daemon does not run.
    pub no_daemon: bool,
    /// Neither side has the other's signing key.
    pub strange_here: bool,
    /// The machine does not know our key.
    pub strange_there: bool,
    /// Where its daemon gets substitutes from.
    pub substitutes: Substitutes,
    /// Its store is a file system of this many MiB.
    pub store_mib: Option<u32>,
    /// Its directory for builds is a file system of this many MiB.
    pub build_mib: Option<u32>,
    /// The load that it reports.
    pub load: f64,
    /// The initial quality of its cable, if that can be changed.
    pub cable: Option<Quality>,
}

impl Machine {
    pub fn new(site: &Site, number: usize, kind: &Kind) -> Machine {
        let name = format!("build-{number}");
        let files = site.path("machines").join(&name);
        for directory in ["state", "log", "etc", "tmp", "gate", "store", "ssh"] {
            fs::create_dir_all(files.join(directory)).unwrap();
        }
        write_who(&files, &name);
        let mut config = format!(
            "Port 22\nListenAddress 10.77.{number}.2\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n{}\n",
            kind.sshd
        );
        for key in ["host", "login.pub"] {
            fs::copy(site.path("ssh").join(key), files.join("ssh").join(key)).unwrap();
        }
        let ssh = site.path("ssh");
        config += &format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/login.pub\n",
            ssh.display()
        );
        let environment = site.command("sshd");
        let mut variables: Vec<String> = environment
            .get_envs()
            .filter(|(name, _)| name.to_str().unwrap().starts_with(['G', 'N']))
            .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
            .filter(|(name, _)| *name != "NIX_BUILD_HOOK")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        // A login shell would run the startup files of the user who runs the tests.
        variables.push(format!("HOME={}", site.path("").display()));
        config += &format!("SetEnv {}\n", variables.join(" "));
        fs::write(files.join("ssh/config"), config).unwrap();
        let load = kind.load;
        fs::write(
            files.join("loadavg"),
            format!("{load:.2} 0.00 0.00 1/1 1\n"),
        )
        .unwrap();
        let size = |mib: Option<u32>| mib.map_or(String::new(), |mib| format!("{mib}m"));
        fs::set_permissions(files.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let script = "mount --bind \"$1/gate\" \"$2/gate\"
            if [ -n \"$4\" ]; then mount -t tmpfs -o size=$4,mode=755 store \"$2/store\"; fi
            if [ -n \"$5\" ]; then mount -t tmpfs -o size=$5,mode=1777 tmp \"$2/tmp\"; fi
            mount --rbind \"$2\" \"$1\"
            mount -t tmpfs -o mode=755 run /run
            mkdir /run/sshd
            mount -t proc proc /proc
            mount --bind \"$1/loadavg\" /proc/loadavg
            # What does not say where its daemon listens means the usual place.
            mount -t tmpfs -o mode=755 var /var
            mkdir -p /var/guix/daemon-socket /var/empty
            ln -s \"$1/state/daemon-socket/socket\" /var/guix/daemon-socket/socket
            hostname \"$3\"";
        let accounts = show_accounts("$1");
        let script = format!("{accounts}; {script}; {START_NETWORK}");
        let root = site.path(".");
        let words = [
            root.to_str().unwrap(),
            files.to_str().unwrap(),
            &name,
            &size(kind.store_mib),
            &size(kind.build_mib),
        ];
        let options = ["--fork", "--kill-child", "--pid", "--ipc"];
        let namespaces = Namespaces::new(&options, &script, &words);
        Machine {
            name,
            files,
            number,
            cable: None,
            namespaces,
            launched: Mutex::default(),
            substitutes: kind.substitutes,
        }
    }

    pub fn connect(&self, site: &Site) {
        let script = format!(
            "ip addr add 10.77.{}.2/24 dev eth0; ip link set eth0 up",
            self.number
        );
        let mut command = Command::new("sh");
        command.args(["-ec", &script]);
        let (succeeded, text) = output(self.inside(&command), b"");
        assert!(succeeded, "{text}");
        let generate = ["archive", "--generate-key"];
        let (succeeded, text) = output(self.inside(site.command(CLIENT).args(generate)), b"");
        assert!(succeeded, "{text}");
    }

    /// The same command, run there.
    pub fn inside(&self, command: &Command) -> Command {
        self.namespaces
            .enter(command, &["--mount", "--uts", "--net", "--ipc", "--pid"])
    }

    /// Authorises this key.
    pub fn authorize(&self, site: &Site, key: &[u8]) {
        let command = self.inside(site.command(CLIENT).args(["archive", "--authorize"]));
        let (succeeded, text) = output(command, key);
        assert!(succeeded, "{text}");
    }

    /// The output of a program there; it has to succeed.
    #[track_caller]
    pub fn run(&self, site: &Site, program: &str, words: &[&str]) -> String {
        let (succeeded, text) = output(self.inside(site.command(program).args(words)), b"");
        assert!(succeeded, "{program} {words:?}: {text}");
        text
    }

    /// Starts its sshd.
    pub fn start_sshd(&self, site: &Site) {
        let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"];
        let sshd = sshd
            .into_iter()
            .find(|file| Path::new(file).exists())
            .unwrap();
        let mut command = Command::new(sshd);
        command
            .args(["-D", "-e", "-f"])
            .arg(site.path("ssh/config"));
        self.launch(&command, "sshd.log");
        let listens = || {
            let log = fs::read_to_string(self.files.join("sshd.log")).unwrap_or_default();
            log.contains("Server listening")
        };
        assert!(
            eventually(listens),
            "the sshd of {} does not start",
            self.name
        );
    }

    /// Starts its daemon.
    pub fn start_daemon(&self, site: &Site) {
        let mut command = site.command(machine_daemon());
        let group = format!("--build-users-group={GROUP}");
        let mut options = daemon_options(site);
        if self.substitutes != Substitutes::None {
            options.retain(|option| option != "--no-substitutes");
        }
        match self.substitutes {
            Substitutes::None => {}
            Substitutes::Program => {
                command.env("GUIX", site.path("substituter"));
                command.env("GUIX_FETCH", "");
            }
            Substitutes::Directory { after } => {
                command.env("GUIX_FETCH", env!("CARGO_BIN_EXE_guix-fetch"));
                let server = site.path("server");
                let server = server.display();
                let urls = format!("http://127.0.0.1:{after} file://{server}");
                options.push(format!("--substitute-urls={urls}"));
            }
        }
        command
            .args(options)
            .args(["--no-offload", "--max-jobs=8", &group]);
        self.launch(&command, "daemon.log");
        let socket = self.files.join("state/daemon-socket/socket");
        let serves = || UnixStream::connect(&socket).is_ok();
        assert!(
            eventually(serves),
            "the daemon of {} does not start",
            self.name
        );
    }

    fn launch(&self, command: &Command, log: &str) {
        let mut command = self.inside(command);
        let log = File::create(self.files.join(log)).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.launched.lock().unwrap().push(child);
    }

    /// The processes there whose program has this name.
    pub fn processes(&self, program: &str) -> Vec<Process> {
        let mut all = self.namespaces.processes("pid");
        all.retain(|process| process.name() == program);
        all
    }

    /// The items in its store.
    pub fn store_names(&self) -> Vec<String> {
        store_items(&self.files.join("store"))
    }

    /// The links that are GC roots there.
    pub fn roots(&self) -> Vec<String> {
        let directory = self.files.join("state/gcroots/tmp");
        if directory.exists() {
            names(&directory)
        } else {
            Vec::new()
        }
    }

    /// Collects garbage; returns what is left, which is protected.
    pub fn collect_garbage(&self, site: &Site) -> Vec<String> {
        self.run(site, CLIENT, &["gc"]);
        self.store_names()
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = || -> Vec<Process> {
            let mut all = self.namespaces.processes("pid");
            all.retain(|process| {
                let own = process.pid == self.namespaces.pid;
                let stays = [
                    "guix-daemon",
                    "guix-daemon-forkserver",
                    "guix-fetch",
                    "sshd",
                    "sshd-session",
                ];
                !own && !stays.contains(&process.name())
            });
            all
        };
        assert!(
            eventually(|| left().is_empty()),
            "on {}: {:#?}",
            self.name,
            left()
        );
        if self.processes("guix-daemon").is_empty() {
            return;
        }
        let store = self.files.join("store");
        let clean = || locks_and_temporary(&store).is_empty();
        assert!(
            eventually(clean),
            "on {}: {:?}",
            self.name,
            locks_and_temporary(&store)
        );
        assert!(
            eventually(|| self.roots().is_empty()),
            "on {}: {:?}",
            self.name,
            self.roots()
        );
        let built = || {
            let names = names(&self.files.join("tmp"));
            names
                .into_iter()
                .filter(|name| name.starts_with("guix-build-"))
                .collect::<Vec<_>>()
        };
        assert!(
            eventually(|| built().is_empty()),
            "on {}: {:?}",
            self.name,
            built()
        );
    }
}

/// The options of every daemon.
pub fn daemon_options(site: &Site) -> Vec<String> {
    let directory = |name: &str| format!("--chroot-directory={}", site.path(name).display());
    let options = ["--no-substitutes", "--log-compression=none"].map(str::to_owned);
    options
        .into_iter()
        .chain([directory("gate"), directory("who")])
        .collect()
}

/// The machines' accounts: those of this host, and build users. (Their daemons are in PID
/// namespaces, so none can kill the processes of the others' users.)
pub fn write_accounts(site: &Site) {
    let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
    let mut members = Vec::new();
    for number in 1..=8 {
        let name = format!("{GROUP}er{number}");
        let uid = 40_000 + number;
        passwd += &format!("{name}:x:{uid}:40000::/var/empty:/usr/sbin/nologin\n");
        members.push(name);
    }
    let group = fs::read_to_string("/etc/group").unwrap();
    let group = format!("{group}{GROUP}:x:40000:{}\n", members.join(","));
    fs::write(site.path("passwd"), passwd).unwrap();
    fs::write(site.path("group"), group).unwrap();
}

pub fn write_who(directory: &Path, name: &str) {
    fs::create_dir(directory.join("who")).unwrap();
    fs::write(directory.join("who/name"), format!("{name}\n")).unwrap();
}

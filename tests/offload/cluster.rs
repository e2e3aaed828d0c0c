//! A Slurm cluster beside a farm's head: munge, a controller and nodes, joined by a switch. The
//! controller and each node are in namespaces of their own (network, processes, mounts, host name), and
//! end with them.
//!
//! The head has Slurm's commands, a configuration in `/etc/slurm`, and no daemon of Slurm's. A node has a
//! `/tmp` of its own; everything else is where it is on the head. Jobs can be those of root, or of
//! [`USER`], whom the head and all nodes know.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::farm::Farm;
use crate::harness::{Site, eventually};
use crate::inspection::names;
use crate::namespaces::{Namespaces, Process, START_NETWORK, output, processes, show_accounts};

/// An ordinary user who may have jobs.
pub const USER: &str = "slurm-test-user";
/// The user's number, and the group's.
pub const UID: u32 = 41_000;
/// After how many seconds the controller gives up on a node that does not answer.
pub const NODE_TIMEOUT_S: u32 = 5;
/// Where Slurm's commands look for their configuration.
const CONFIGURATION: &str = "/etc/slurm";
/// Shell code: `/tmp` becomes the directory `$2/tmp`. What the tests use below it stays in its place.
const OWN_TMP: &str = "mount -t tmpfs -o mode=755 kept /mnt
    for kept in \"$1\" \"$4\"; do
        case $kept in /tmp/*) mkdir -p \"/mnt$kept\"; mount --rbind \"$kept\" \"/mnt$kept\";; esac
    done
    mount --bind \"$2/tmp\" /tmp
    for kept in \"$1\" \"$4\"; do
        case $kept in /tmp/*) mkdir -p \"$kept\"; mount --rbind \"/mnt$kept\" \"$kept\";; esac
    done
    umount -l /mnt";

/// What a node has, as Slurm is told.
#[derive(Debug, Clone)]
pub struct NodeKind {
    /// Processors.
    pub cores: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Whether it has a graphics processor, as Slurm is told: any device will do.
    pub has_gpu: bool,
}

impl Default for NodeKind {
    fn default() -> NodeKind {
        NodeKind {
            cores: 4,
            memory: 2000,
            has_gpu: false,
        }
    }
}

/// A running cluster.
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Node>,
    controller: Controller,
    files: PathBuf,
    site: PathBuf,
}

/// munge's daemon, Slurm's controller, and the switch.
struct Controller {
    namespaces: Namespaces,
    launched: Vec<Child>,
}

/// One node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its `/tmp`, as seen from here.
    pub tmp: PathBuf,
    files: PathBuf,
    number: usize,
    /// While it is switched on.
    namespaces: Option<Namespaces>,
    launched: Vec<Child>,
}

impl Cluster {
    /// Starts a cluster for the head of a farm, and waits until all its nodes are idle.
    pub fn start(farm: &Farm, kinds: &[NodeKind]) -> Cluster {
        let site = farm.site.path("");
        let files = farm.site.path("slurm");
        write_files(&farm.site, &files, kinds);
        let controller = Controller::start(&site, &files, farm);
        let nodes = (1..=kinds.len())
            .map(|number| Node::new(&files, number))
            .collect();
        let mut cluster = Cluster {
            nodes,
            controller,
            files,
            site,
        };
        cluster.start_controller();
        for index in 0..kinds.len() {
            cluster.switch_on(index);
        }
        cluster.wait_until_idle(farm);
        cluster
    }

    /// Starts the controller's daemon. It knows the jobs that it had.
    pub fn start_controller(&mut self) {
        let mut command = Command::new("slurmctld");
        command.arg("-D");
        self.controller
            .launch(&command, &self.files.join("slurmctld.out"));
    }

    /// Kills the controller's daemon, which may have forgotten then that jobs have ended.
    pub fn kill_controller(&mut self) {
        self.end_controller(Signal::SIGKILL);
    }

    /// Ends the controller's daemon by a signal.
    pub fn end_controller(&mut self, signal: Signal) {
        let running = || {
            let mut all = processes_in(&self.controller.namespaces);
            all.retain(|process| process.name() == "slurmctld");
            all
        };
        for process in running() {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        assert!(eventually(|| running().is_empty()));
    }

    /// Switches a node on.
    pub fn switch_on(&mut self, index: usize) {
        let switch = self.controller.namespaces.pid;
        self.nodes[index].switch_on(&self.site, switch);
    }

    /// Cuts a node's power: everything there ends at once, and its address answers no more.
    pub fn switch_off(&mut self, index: usize) {
        self.nodes[index].switch_off();
    }

    /// Unplugs a node's cable, or plugs it in again. The node goes on.
    pub fn set_cable(&self, index: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        let name = &self.nodes[index].name;
        run_in(
            &self.controller.namespaces,
            &format!("ip link set {name} {state}"),
        );
    }

    /// The jobs, a line for each: name, state, node and reason.
    pub fn jobs(&self, farm: &Farm) -> Vec<String> {
        let words = ["--noheader", "--states=all", "--format=%j %T %N %r"];
        let (succeeded, text) = farm.try_run("squeue", &words);
        let ended = [
            "COMPLETED",
            "CANCELLED",
            "FAILED",
            "TIMEOUT",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
        ];
        let lives = |line: &&str| {
            !ended
                .iter()
                .any(|state| line.contains(&format!(" {state} ")))
        };
        match succeeded {
            true => text.lines().filter(lives).map(str::to_owned).collect(),
            false => vec![text],
        }
    }

    /// Waits until all nodes are idle.
    #[track_caller]
    pub fn wait_until_idle(&self, farm: &Farm) {
        let states = || {
            let words = ["--noheader", "--Node", "--partition=main", "--format=%T"];
            farm.try_run("sinfo", &words).1
        };
        let idle = || {
            let states = states();
            states.lines().count() == self.nodes.len()
                && states.lines().all(|state| state == "idle")
        };
        assert!(eventually(idle), "{}\n{}", states(), self.logs());
    }

    /// The processes on a node, but for Slurm's own.
    pub fn processes(&self, index: usize) -> Vec<Process> {
        let Some(namespaces) = &self.nodes[index].namespaces else {
            return Vec::new();
        };
        let mut all = processes_in(namespaces);
        all.retain(|process| !process.name().starts_with("slurm"));
        all
    }

    /// Checks that there is no job, no process of one, and no file of one.
    #[track_caller]
    pub fn assert_nothing_left(&self, farm: &Farm) {
        self.assert_no_jobs(farm);
        for node in &self.nodes {
            let files = || node.files_of_jobs();
            assert!(
                eventually(|| files().is_empty()),
                "on {}: {:?}",
                node.name,
                files()
            );
        }
    }

    /// Checks that there is no job, and no process of one.
    #[track_caller]
    pub fn assert_no_jobs(&self, farm: &Farm) {
        let jobs = || self.jobs(farm);
        assert!(eventually(|| jobs().is_empty()), "jobs: {:#?}", jobs());
        for (index, node) in self.nodes.iter().enumerate() {
            let left = || self.processes(index);
            assert!(
                eventually(|| left().is_empty()),
                "on {}: {:#?}",
                node.name,
                left()
            );
        }
    }

    /// The ends of the logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in names(&self.files) {
            if name.ends_with(".log") || name.ends_with(".out") {
                let log = fs::read(self.files.join(&name)).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(30)..];
                text += &format!("--- {name}:\n{}\n", last.join("\n"));
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}---", self.logs());
        }
    }
}

impl Controller {
    /// Makes the switch, plugs the head in, and starts munge.
    fn start(site: &Path, files: &Path, farm: &Farm) -> Controller {
        let head = farm.head.pid;
        let script = format!(
            "{START_NETWORK}; hostname controller; mount -t proc proc /proc
             mount --bind \"$2/etc\" {CONFIGURATION}
             mount --bind \"$1/hosts\" /etc/hosts
             {}
             ip link add switch type bridge; ip addr add 10.78.0.1/24 dev switch
             ip link set switch up",
            show_accounts("$2")
        );
        let words = [site.to_str().unwrap(), files.to_str().unwrap()];
        let options = ["--fork", "--kill-child", "--pid", "--ipc"];
        let mut controller = Controller {
            namespaces: Namespaces::new(&options, &script, &words),
            launched: Vec::new(),
        };
        // The processes of other namespaces are identified by their numbers here.
        let pid = controller.namespaces.pid;
        let plug = format!(
            "ip link add slurm type veth peer name head netns {pid}
             ip addr add 10.78.0.2/24 dev slurm; ip link set slurm up"
        );
        assert!(head != pid);
        run_in(&farm.head, &plug);
        run_in(&controller.namespaces, "ip link set head master switch up");
        let mounts = format!(
            "mount --bind \"$1/etc\" {CONFIGURATION}; {}",
            show_accounts("$1")
        );
        let mut command = Command::new("sh");
        command.args(["-ec", &mounts, "sh"]).arg(files);
        let (succeeded, text) = output(farm.head.enter(&command, &["--mount"]), b"");
        assert!(succeeded, "{text}");
        let mut munge = Command::new("munged");
        munge.args(["--foreground", "--force", "--num-threads=2"]);
        for (option, name) in [
            ("key-file", "munge.key"),
            ("socket", "munge/socket"),
            ("pid-file", "munge/pid"),
            ("seed-file", "munge/seed"),
            ("log-file", "munge/log"),
        ] {
            munge.arg(format!("--{option}={}", files.join(name).display()));
        }
        controller.launch(&munge, &files.join("munged.out"));
        let socket = files.join("munge/socket");
        let said = || fs::read_to_string(files.join("munged.out")).unwrap_or_default();
        assert!(eventually(|| socket.exists()), "munged: {}", said());
        controller
    }

    fn launch(&mut self, command: &Command, log: &Path) {
        self.launched.push(launch(&self.namespaces, command, log));
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        end(Some(&mut self.namespaces), &mut self.launched);
    }
}

impl Node {
    fn new(files: &Path, number: usize) -> Node {
        let name = format!("node-{number}");
        let own = files.join(&name);
        for directory in ["tmp", "spool", "who"] {
            fs::create_dir_all(own.join(directory)).unwrap();
        }
        fs::set_permissions(own.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
        fs::write(own.join("who/name"), format!("{name}\n")).unwrap();
        Node {
            tmp: own.join("tmp"),
            files: own,
            name,
            number,
            namespaces: None,
            launched: Vec::new(),
        }
    }

    fn switch_on(&mut self, site: &Path, switch: i32) {
        let (name, number) = (&self.name, self.number);
        let script = format!(
            "{START_NETWORK}; hostname \"$3\"; mount -t proc proc /proc
             mount --bind \"$1/slurm/etc\" {CONFIGURATION}
             mount --bind \"$1/hosts\" /etc/hosts
             {}
             mount --bind \"$2/who\" \"$1/who\"
             {OWN_TMP}",
            show_accounts("$1/slurm")
        );
        let programs = Path::new(crate::farm::HOOK).parent().unwrap();
        let words = [
            site.to_str().unwrap(),
            self.files.to_str().unwrap(),
            name,
            programs.to_str().unwrap(),
        ];
        let options = ["--fork", "--kill-child", "--pid", "--ipc"];
        let namespaces = Namespaces::new(&options, &script, &words);
        let pid = namespaces.pid;
        let plug = format!(
            "nsenter --target {switch} --net ip link add {name} type veth peer name eth0 \
                 address 02:00:00:00:00:{number:02x} netns {pid}
             nsenter --target {switch} --net ip link set {name} master switch up
             nsenter --target {pid} --net ip addr add 10.78.0.{}/24 dev eth0
             nsenter --target {pid} --net ip link set eth0 up",
            10 + number
        );
        let mut command = Command::new("sh");
        command.args(["-ec", &plug]);
        let (succeeded, text) = output(command, b"");
        assert!(succeeded, "{text}");
        let mut slurmd = Command::new("slurmd");
        slurmd.args(["-D", "-N", name]);
        let log = self.files.with_extension("out");
        self.launched.push(launch(&namespaces, &slurmd, &log));
        self.namespaces = Some(namespaces);
    }

    fn switch_off(&mut self) {
        end(self.namespaces.as_mut(), &mut self.launched);
        self.namespaces = None;
    }

    /// What is in its `/tmp`, but for what the tests themselves have mounted there.
    fn files_of_jobs(&self) -> Vec<String> {
        let mut all = names(&self.tmp);
        all.retain(|name| !self.is_mount_point(name));
        all
    }

    /// Whether a name in its `/tmp` only leads to where something was mounted: empty directories.
    fn is_mount_point(&self, name: &str) -> bool {
        let parts = [self.files.as_path(), Path::new(crate::farm::HOOK)];
        parts
            .iter()
            .any(|path| path.starts_with(Path::new("/tmp").join(name)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// Ends everything in namespaces, and those who wait for it.
fn end(namespaces: Option<&mut Namespaces>, launched: &mut Vec<Child>) {
    if let Some(namespaces) = namespaces {
        let _ = namespaces.child.kill();
        let _ = namespaces.child.wait();
    }
    for mut child in launched.drain(..) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts a daemon.
fn launch(namespaces: &Namespaces, command: &Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    // Not everybody has administrators' programs in PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let kinds = ["--mount", "--uts", "--net", "--ipc", "--pid"];
    namespaces
        .enter(command, &kinds)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Runs shell code in a network.
#[track_caller]
fn run_in(namespaces: &Namespaces, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    let (succeeded, text) = output(namespaces.enter(&command, &["--net"]), b"");
    assert!(succeeded, "{script}: {text}");
}

/// All processes in a PID namespace, and in those further down.
fn processes_in(namespaces: &Namespaces) -> Vec<Process> {
    let all = processes();
    let parents: Vec<Option<i32>> = all.iter().map(|process| parent(process.pid)).collect();
    let mut found = namespaces.processes("pid");
    let mut family: Vec<i32> = found.iter().map(|process| process.pid).collect();
    let mut new = family.clone();
    while !new.is_empty() {
        let is_child = |parent: &Option<i32>| parent.is_some_and(|pid| new.contains(&pid));
        let children = all
            .iter()
            .zip(&parents)
            .filter(|(_, parent)| is_child(parent));
        let children: Vec<Process> = children
            .map(|(process, _)| process.clone())
            .filter(|process| !family.contains(&process.pid))
            .collect();
        new = children.iter().map(|process| process.pid).collect();
        family.extend(&new);
        found.extend(children);
    }
    found.retain(|process| process.pid != namespaces.pid);
    found
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// The configuration, the key, the accounts and the addresses.
fn write_files(site: &Site, files: &Path, kinds: &[NodeKind]) {
    for directory in ["etc", "munge", "state"] {
        fs::create_dir_all(files.join(directory)).unwrap();
    }
    let key: Vec<u8> = (0..1024).map(|_| rand::random()).collect();
    fs::write(files.join("munge.key"), key).unwrap();
    fs::set_permissions(files.join("munge.key"), Permissions::from_mode(0o400)).unwrap();
    fs::write(files.join("etc/slurm.conf"), configuration(files, kinds)).unwrap();
    // There may be no control groups to write to. Older versions do not look into this file.
    fs::write(files.join("etc/cgroup.conf"), cgroup_configuration()).unwrap();
    let gpus: String = (1..)
        .zip(kinds)
        .filter(|(_, kind)| kind.has_gpu)
        .map(|(number, _)| format!("NodeName=node-{number} Name=gpu File=/dev/null\n"))
        .collect();
    fs::write(files.join("etc/gres.conf"), gpus).unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let home = site.path("slurm/home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(UID), Some(UID)).unwrap();
    let user = format!("{USER}:x:{UID}:{UID}::{}:/bin/sh\n", home.display());
    fs::write(files.join("passwd"), format!("{passwd}{user}")).unwrap();
    let group = fs::read_to_string("/etc/group").unwrap();
    fs::write(files.join("group"), format!("{group}{USER}:x:{UID}:\n")).unwrap();
    let mut hosts = fs::read_to_string(site.path("hosts")).unwrap();
    hosts += "10.78.0.1 controller\n10.78.0.2 head\n";
    for number in 1..=kinds.len() {
        hosts += &format!("10.78.0.{} node-{number}\n", 10 + number);
    }
    fs::write(site.path("hosts"), hosts).unwrap();
}

/// Without what old versions do not know.
fn cgroup_configuration() -> &'static str {
    let version = Command::new("/usr/sbin/slurmd").arg("-V").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    // `slurm-wlm 22.05.8'
    let year = version
        .split([' ', '.'])
        .find_map(|word| word.trim().parse::<u32>().ok());
    if year.is_some_and(|year| year >= 24) {
        "CgroupPlugin=disabled\n"
    } else {
        ""
    }
}

fn configuration(files: &Path, kinds: &[NodeKind]) -> String {
    let files = files.display();
    let mut text = format!(
        "ClusterName=test
SlurmctldHost=controller(10.78.0.1)
AuthType=auth/munge
AuthInfo=socket={files}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={files}/state
SlurmdSpoolDir={files}/%n/spool
SlurmctldPidFile={files}/slurmctld.pid
SlurmdPidFile={files}/%n.pid
SlurmctldLogFile={files}/slurmctld.log
SlurmdLogFile={files}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout={NODE_TIMEOUT_S}
SlurmctldTimeout=10
KillWait=1
MinJobAge=2
TCPTimeout=2
GresTypes=gpu
"
    );
    for (number, kind) in (1..).zip(kinds) {
        let NodeKind {
            cores,
            memory,
            has_gpu,
        } = kind;
        let gres = if *has_gpu { " Gres=gpu:1" } else { "" };
        text += &format!(
            "NodeName=node-{number} NodeAddr=10.78.0.{} CPUs={cores} RealMemory={memory}{gres} \
             State=UNKNOWN\n",
            10 + number
        );
    }
    text += "PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP\n\
             PartitionName=closed Nodes=ALL AllowGroups=nogroup MaxTime=60 State=UP\n";
    text
}

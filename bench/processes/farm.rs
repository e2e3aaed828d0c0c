//! A head and its build machines on the loopback interface. Each machine has a real sshd, and its
//! own store and daemon in namespaces in which its directory is mounted over the head's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::{Host, make_directories};
use crate::proxy::{self, Line};
use crate::{Implementation, TEST_TIMEOUT};

/// A head and its machines. The head doesn't build anything itself.
pub struct Farm {
    machines: Vec<Machine>,
    /// The head.
    pub head: Host,
    /// How many bytes were sent in the rounds of a task.
    pub sent: RefCell<HashMap<usize, u64>>,
}

/// What the head is told of a machine, and the line to it.
#[derive(Clone)]
pub struct Entry {
    /// A line that is slower than loopback.
    pub line: Option<Line>,
    /// The number of builds at a time.
    pub slots: usize,
    /// The speed, and the cores that each build may use.
    pub speed: u32,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            line: None,
            slots: 2,
            speed: 1,
        }
    }
}

struct Machine {
    /// The process whose end ends all others; it ends when its standard input is closed.
    child: Child,
    _input: ChildStdin,
    address: SocketAddr,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The script of a machine: `$1` is the head's directory, `$2` its own, the rest its daemon.
const MACHINE: &str = r#"
set -e
root=$1; own=$2; shift 2
mount --make-rprivate /
mount --rbind "$own" "$root"
mount -t tmpfs -o mode=755 run /run
mkdir /run/sshd
# All would report the load of this host.
echo 0.00 0.00 0.00 1/1 1 >"$root/loadavg"
mount --bind "$root/loadavg" /proc/loadavg
"$@" >"$root/daemon.log" 2>&1 </dev/null &
for _ in $(seq 500); do
    if [ -S "$GUIX_DAEMON_SOCKET" ]; then break; fi
    sleep 0.04
done
/usr/sbin/sshd -D -e -f "$root/sshd_config" >"$root/sshd.log" 2>&1 </dev/null &
echo up
read -r _
"#;

impl Farm {
    /// Starts a head and machines that run the same daemon.
    pub fn start(implementation: &Implementation, machines: usize) -> Result<Farm> {
        Farm::start_with(implementation, machines, &[])
    }

    /// The same, with options for the head's daemon.
    pub fn start_with(
        implementation: &Implementation,
        machines: usize,
        options: &[&str],
    ) -> Result<Farm> {
        let head = Host::start(implementation, &[&["--max-jobs=0"], options].concat())?;
        for key in ["login", "host"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                .arg(head.path(key))
                .status()?;
            if !made.success() {
                bail!("cannot make an SSH key");
            }
        }
        let mut farm = Farm {
            machines: Vec::new(),
            head,
            sent: RefCell::default(),
        };
        for number in 0..machines {
            let machine = farm.start_machine(implementation, number)?;
            farm.machines.push(machine);
        }
        farm.configure(None)?;
        Ok(farm)
    }

    fn start_machine(&self, implementation: &Implementation, number: usize) -> Result<Machine> {
        let head = &self.head;
        let own = head.path(&format!("machine-{number}"));
        make_directories(&own)?;
        for file in ["signing-key.pub", "signing-key.sec", "acl"] {
            let file = format!("etc/guix/{file}");
            fs::copy(head.path(&file), own.join(&file))?;
        }
        for file in ["host", "login.pub"] {
            fs::copy(head.path(file), own.join(file))?;
        }
        // Each machine has its own address on this host. The port is free again after this
        // statement.
        let address = TcpListener::bind((format!("127.0.0.{}", number + 2), 0))?.local_addr()?;
        fs::write(
            own.join("sshd_config"),
            self.sshd_config(implementation, address),
        )?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-c", MACHINE, "machine"])
            .args([head.path(""), own])
            .arg(&implementation.daemon)
            .args(["--no-substitutes", "--no-offload", "--max-jobs=4"])
            .arg(format!("--build-users-group={}", head.group()))
            .envs(head.environment().iter().cloned())
            .env_remove("NIX_BUILD_HOOK");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        let machine = Machine {
            child,
            _input: input,
            address,
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > TEST_TIMEOUT {
                bail!("the sshd of machine {number} does not start");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(machine)
    }

    fn sshd_config(&self, implementation: &Implementation, address: SocketAddr) -> String {
        // A login shell would run our own start-up files.
        let mut variables = vec![format!("HOME={}", self.head.path("").display())];
        for (name, value) in self.head.environment() {
            variables.push(format!(
                "{}={}",
                Path::new(name).display(),
                Path::new(value).display()
            ));
        }
        // Guix's hook runs `guix repl' there.
        let guix = implementation.hook.first().and_then(|guix| guix.parent());
        let directory = guix.unwrap_or("/".as_ref()).display();
        variables.push(format!("PATH={directory}:/usr/bin:/bin"));
        format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\nSetEnv {}\n",
            self.head.path("host").display(),
            self.head.path("login.pub").display(),
            variables.join(" ")
        )
    }

    /// Writes `machines.scm`, with the machines as they are or behind proxies with a delay each way.
    /// Returns the numbers of bytes that are sent to them through proxies.
    pub fn configure(&self, delay: Option<Duration>) -> Result<Vec<Arc<AtomicU64>>> {
        let line = delay.map(|delay| Line {
            delay,
            ..Line::default()
        });
        let entry = Entry {
            line,
            ..Entry::default()
        };
        self.configure_each(&vec![entry; self.machines.len()])
    }

    /// The same, with each machine as its entry says.
    pub fn configure_each(&self, entries: &[Entry]) -> Result<Vec<Arc<AtomicU64>>> {
        let key = fs::read_to_string(self.head.path("host.pub"))?;
        let mut text = "(list\n".to_owned();
        let mut sent = Vec::new();
        for (machine, entry) in self.machines.iter().zip(entries) {
            let address = match &entry.line {
                None => machine.address,
                Some(line) => {
                    let ip = machine.address.ip();
                    let proxy = proxy::start(&format!("{ip}:0"), machine.address, line.clone())?;
                    sent.push(proxy.sent);
                    proxy.address
                }
            };
            // Guix's entries have no cores.
            let speed = match entry.speed {
                1 => String::new(),
                speed => format!("(speed {speed}.0) (cores {speed})"),
            };
            text += &format!(
                "(build-machine (name \"{}\") (port {}) (systems (list \"{}\")) (user \"root\")\n\
                 (private-key \"{}\") (host-key \"{}\") (parallel-builds {}) {speed}\n\
                 (overload-threshold #f) (daemon-socket \"{}\"))\n",
                address.ip(),
                address.port(),
                env!("GUIX_SYSTEM"),
                self.login().display(),
                key.trim(),
                entry.slots,
                self.head.path("var/guix/daemon-socket/socket").display()
            );
        }
        fs::write(self.head.path("etc/guix/machines.scm"), text + ")\n")?;
        Ok(sent)
    }

    /// Ends our hook's shared connections, and removes its files about the machines.
    pub fn forget(&self) -> Result<()> {
        let directory = self.head.path("var/guix/offload");
        for entry in fs::read_dir(directory.join("ssh")).into_iter().flatten() {
            let file = entry?.path();
            if std::os::unix::net::UnixStream::connect(&file).is_ok() {
                let mut ssh = Command::new("ssh");
                ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(&file);
                ssh.arg("none").stderr(Stdio::null()).status()?;
            }
        }
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        Ok(())
    }

    /// An ssh to the first machine that runs a command.
    pub fn ssh(&self, command: &str) -> Result<Command> {
        let address = self.machines.first().context("no machine")?.address;
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .arg("-i")
            .arg(self.login())
            .args(["-p", &address.port().to_string()])
            .args([&format!("root@{}", address.ip()), command]);
        Ok(ssh)
    }

    fn login(&self) -> PathBuf {
        self.head.path("login")
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.forget();
    }
}

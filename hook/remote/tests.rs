//! Against a real sshd on the loopback device, with keys and configuration of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::machines::{Place, TransportChoice};

struct Server {
    directory: tempfile::TempDir,
    process: Child,
    machine: Machine,
}

impl Server {
    fn start(options: &str) -> Server {
        let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
            .into_iter()
            .find(|file| Path::new(file).exists())
            .expect("sshd is not installed");
        let _ = fs::create_dir_all("/run/sshd");
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        for key in ["host", "login"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(file(key))
                .status();
            assert!(made.unwrap().success());
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .unwrap()
            .port();
        let path = directory.path().display();
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {path}/host\nPidFile none\n\
             AuthorizedKeysFile {path}/login.pub\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\n{options}\n"
        );
        fs::write(file("config"), configuration).unwrap();
        let mut process = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(file("config"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Server listening") {
            line.clear();
            let count = log.read_line(&mut line).unwrap();
            assert!(count > 0, "sshd does not start");
        }
        // It would wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let host_key = fs::read_to_string(file("host.pub")).unwrap();
        let machine = Machine {
            name: "127.0.0.1".into(),
            port,
            systems: vec!["x86_64-linux".into()],
            user: nix::unistd::User::from_uid(nix::unistd::getuid())
                .unwrap()
                .unwrap()
                .name,
            private_key: Some(file("login")),
            host_key: host_key.split(' ').take(2).collect::<Vec<_>>().join(" "),
            daemon_socket: format!("{path}/daemon"),
            overload_threshold: None,
            parallel_builds: 1,
            speed: 1.0,
            features: Vec::new(),
            mandatory_features: Vec::new(),
            transport: TransportChoice::Socket,
            ssh_config: None,
            transfer_compression: None,
            cores: None,
            program: None,
            place: Place::default(),
        };
        Server {
            directory,
            process,
            machine,
        }
    }

    fn home(&self) -> Home {
        Home {
            // Longer than a socket's name can be.
            directory: self.directory.path().join("x".repeat(120)),
            store: StoreDir::new("/gnu/store").unwrap(),
            user_home: PathBuf::from("/nonexistent"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = disconnect(&self.machine, &self.home());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn a_connection_is_shared_and_replaced() {
    let server = Server::start("");
    let (machine, home) = (&server.machine, &server.home());
    let vitals = probe(machine, home, soon()).unwrap();
    assert!(vitals.cores > 0 && vitals.free_bytes > 0);
    assert!(vitals.clock_offset.abs() < 5.0);

    let link = Link::new(machine, home).unwrap();
    assert!(!master::ensure(&link, 0, soon()).unwrap());
    disconnect(machine, home).unwrap();
    assert!(master::ensure(&link, 0, soon()).unwrap());
    // More at once than one connection takes.
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| probe(machine, home, soon())))
            .collect();
        for probe in probes {
            probe.join().unwrap().unwrap();
        }
    });
}

#[test]
fn what_is_no_daemon_is_found_out() {
    let server = Server::start("");
    let (machine, home) = (&server.machine, &server.home());
    let failed = || connect(machine, home, soon()).err().unwrap();
    assert!(matches!(failed(), Error::Forwarding { .. }));
    let listener = UnixListener::bind(&machine.daemon_socket).unwrap();
    let other = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"220 mail.example.org").unwrap();
    });
    let error = failed();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error}");
    assert_eq!(error.is_build_failure(), None);
    other.join().unwrap();
}

#[test]
fn wrong_keys_and_forbidden_forwarding_are_named() {
    let server = Server::start("AllowStreamLocalForwarding no");
    let home = &server.home();
    let failed = |machine: &Machine| connect(machine, home, soon()).err().unwrap();
    let obstacle = |machine: &Machine| match failed(machine) {
        Error::Ssh { obstacle, .. } => obstacle,
        other => panic!("{other}"),
    };
    let mut machine = server.machine.clone();
    assert!(matches!(failed(&machine), Error::Forwarding { .. }));
    let login = server.directory.path().join("login.pub");
    machine.host_key = fs::read_to_string(login).unwrap().trim().to_owned();
    assert_eq!(obstacle(&machine), Obstacle::HostKey);
    let mut machine = server.machine.clone();
    machine.private_key = Some(server.directory.path().join("host"));
    assert_eq!(obstacle(&machine), Obstacle::Login);
    machine.private_key = Some("/nonexistent/key".into());
    assert!(matches!(obstacle(&machine), Obstacle::NoKey(_)));
    let mut machine = server.machine.clone();
    machine.port = 1;
    assert_eq!(obstacle(&machine), Obstacle::Unreachable);
}

//! Tests with a real sshd on the loopback device, with its own keys and configuration.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use formats::StoreDir;

use super::*;
use crate::machines::TransportChoice;

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
        // Without a reader, sshd would block.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let host_key = fs::read_to_string(file("host.pub")).unwrap();
        let machine = Machine {
            port,
            user: nix::unistd::User::from_uid(nix::unistd::getuid())
                .unwrap()
                .unwrap()
                .name,
            private_key: Some(file("login")),
            host_key: host_key.split(' ').take(2).collect::<Vec<_>>().join(" "),
            daemon_socket: format!("{path}/daemon"),
            transport: TransportChoice::Socket,
            ..crate::test_data::machine("127.0.0.1")
        };
        Server {
            directory,
            process,
            machine,
        }
    }

    fn directories(&self) -> HookDirectories {
        HookDirectories {
            // Too long for a socket's name.
            state: self.directory.path().join("x".repeat(120)),
            store: StoreDir::new("/gnu/store").unwrap(),
            configuration: PathBuf::from("/nonexistent"),
            user_home: PathBuf::from("/nonexistent"),
            history: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = disconnect(&self.machine, &self.directories());
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
    let (machine, directories) = (&server.machine, &server.directories());
    let vitals = probe(machine, directories, soon()).unwrap();
    assert!(vitals.cores > 0 && vitals.free_bytes > 0);
    assert!(vitals.clock_offset.abs() < 5.0);

    let destination = Destination::new(machine, directories).unwrap();
    assert!(!master::ensure(&destination, 0, soon()).unwrap());
    disconnect(machine, directories).unwrap();
    assert!(master::ensure(&destination, 0, soon()).unwrap());
    // More at the same time than one connection allows.
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| probe(machine, directories, soon())))
            .collect();
        for probe in probes {
            probe.join().unwrap().unwrap();
        }
    });
}

#[test]
fn what_is_no_daemon_is_found_out() {
    let server = Server::start("");
    let (machine, directories) = (&server.machine, &server.directories());
    let failed = || connect(machine, directories, soon()).err().unwrap();
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
    let directories = &server.directories();
    let failed = |machine: &Machine| connect(machine, directories, soon()).err().unwrap();
    let failure = |machine: &Machine| match failed(machine) {
        Error::Ssh { failure, .. } => failure,
        other => panic!("{other}"),
    };
    let mut machine = server.machine.clone();
    assert!(matches!(failed(&machine), Error::Forwarding { .. }));
    let login = server.directory.path().join("login.pub");
    machine.host_key = fs::read_to_string(login).unwrap().trim().to_owned();
    assert_eq!(failure(&machine), SshFailure::HostKey);
    let mut machine = server.machine.clone();
    machine.private_key = Some(server.directory.path().join("host"));
    assert_eq!(failure(&machine), SshFailure::Login);
    machine.private_key = Some("/nonexistent/key".into());
    assert!(matches!(failure(&machine), SshFailure::NoKey(_)));
    let mut machine = server.machine.clone();
    machine.port = 1;
    assert_eq!(failure(&machine), SshFailure::Refused);
}

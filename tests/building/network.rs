//! Network access of builds: fixed-output builds can access what the machine can access, through
//! `slirp4netns`; others nothing.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use formats::{Algorithm, Hash};
use system::namespace::Namespaces;

use super::*;

/// What the server serves.
const PAGE: &str = "a page\n";

/// Whether builds can be connected to the network here, which requires a program and a device; if
/// not, the test is skipped.
fn is_possible() -> bool {
    let device = "/dev/net/tun";
    if system::process::find_program("slirp4netns").is_none() {
        skip("there is no slirp4netns");
    } else if fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .is_err()
    {
        skip(&format!("{device} cannot be opened"));
    } else {
        return true;
    }
    false
}

/// A server of one page on this machine's loopback device. It ends with the test program.
struct Server {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Server {
    fn new() -> Server {
        Server::at(Ipv4Addr::LOCALHOST.into())
    }

    fn at(address: IpAddr) -> Server {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let visits = Arc::new(AtomicUsize::new(0));
        let counter = visits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0)
                {
                    request.push(byte[0]);
                }
                let length = PAGE.len();
                let _ = write!(
                    stream,
                    "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{PAGE}"
                );
            }
        });
        Server { port, visits }
    }

    /// A derivation that fetches the page from `host`.
    fn fetch(&self, name: &str, host: &str) -> Script {
        // The static busybox's wget crashes where it finds no libraries of its system.
        let script = format!(
            "printf 'GET /page HTTP/1.0\\r\\n\\r\\n' >request
             nc -w 10 {host} {} <request >reply
             tail -n 1 reply >$out",
            self.port
        );
        Script::new(name, &script)
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

fn page() -> Hash {
    Hash::of(Algorithm::Sha256, PAGE)
}

/// The processes that forward packets for a daemon's builds.
fn carriers(daemon: &Daemon) -> Vec<i32> {
    children_named(daemon, "slirp4netns")
}

#[test]
fn a_fixed_output_build_reaches_servers_of_this_machine() {
    if !is_possible() {
        return;
    }
    let setup = Setup::new(&[]);
    fetches_from_this_machine(&setup);
    assert!(carriers(&setup.daemon).is_empty());
}

/// By number, by name, and by this machine's address inside.
fn fetches_from_this_machine(setup: &Setup) {
    let server = Server::new();
    let mut client = setup.client();
    for (number, host) in ["127.0.0.1", "localhost", "10.0.2.2"].iter().enumerate() {
        // The name gives each another output.
        let name = format!("page{number}");
        let drv = client.write(server.fetch(&name, host).fixed(false, page()));
        client.build(&[&drv]).succeeded();
        assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), PAGE);
        assert_eq!(server.visits(), number + 1);
    }
    let names = Script::new("names", "cat /etc/resolv.conf; echo >$out");
    let drv = client.write(names.fixed(false, Hash::sha256("\n")));
    client.build(&[&drv]).said("nameserver 10.0.2.3\n");
}

/// A name server on this thread's loopback device: every name has the address 192.0.2.7. It ends with the
/// test program.
fn serve_names() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let mut reply = query[..length].to_vec();
            // A reply to one question; the name ends before its type (1: an IPv4 address) and class.
            let is_address = reply[length - 4..] == [0, 1, 0, 1];
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
            if is_address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&reply, client);
        }
    });
}

#[test]
fn names_are_resolved_where_resolv_conf_and_hosts_are_links() {
    if !is_possible() || !nix::unistd::geteuid().is_root() {
        return;
    }
    // As with systemd-resolved. This thread and its daemon have a network and an /etc of their own.
    let users = BuildUsers::claim();
    let etc = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "/etc/.", etc.path().to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
    for (name, target) in [("resolv.conf", "stub"), ("hosts", "hosts")] {
        let _ = fs::remove_file(etc.path().join(name));
        symlink(
            Path::new("../run/resolve").join(target),
            etc.path().join(name),
        )
        .unwrap();
    }
    let spaces = Namespaces::CLONE_NEWNET | Namespaces::CLONE_NEWNS;
    system::namespace::unshare(spaces).unwrap();
    system::mount::make_private(Path::new("/")).unwrap();
    let none = nix::mount::MsFlags::empty();
    system::mount::mount_new("tmpfs", Path::new("/run"), none, "mode=755").unwrap();
    fs::create_dir("/run/resolve").unwrap();
    fs::write("/run/resolve/stub", "nameserver 127.0.0.1\n").unwrap();
    fs::write(
        "/run/resolve/hosts",
        "127.0.0.1 localhost\n192.0.2.8 known.test\n",
    )
    .unwrap();
    fs::set_permissions(etc.path(), fs::Permissions::from_mode(0o755)).unwrap();
    system::mount::bind(etc.path(), Path::new("/etc")).unwrap();
    system::network::bring_up_loopback().unwrap();
    serve_names();
    let setup = Setup::with_users(users, Site::new(), &["--no-substitutes"]);
    let hosts = "cat /etc/hosts; grep '^192.0.2.8 known.test' /etc/hosts; echo >$out";
    let script =
        format!("nslookup host.test 10.0.2.3 >found; cat found; grep 192.0.2.7 found; {hosts}");
    resolves(&setup, Script::new("names", &script));
    // The file itself is shown then.
    let setup = setup.restarted(&["--isolate-host-loopback"]);
    resolves(&setup, Script::new("hosts", hosts));
}

fn resolves(setup: &Setup, script: Script) {
    let mut client = setup.client();
    let drv = client.write(script.fixed(false, Hash::sha256("\n")));
    client.build(&[&drv]).succeeded();
}

#[test]
fn a_fixed_output_build_has_ipv6_where_this_machine_has() {
    if !is_possible() {
        return;
    }
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let is_wide = |line: &str| [Some("00"), Some("40")].contains(&line.split_whitespace().nth(3));
    if !addresses.lines().any(is_wide) {
        return skip("this machine has no address of IPv6");
    }
    // Also in a user namespace.
    let (daemon, site) = start(Site::new(), None, &[]);
    let in_user_namespace = Setup {
        daemon,
        site,
        users: None,
    };
    let isolated = Setup::new(&["--isolate-host-loopback"]);
    for setup in [Setup::new(&[]), in_user_namespace] {
        let server = Server::at(Ipv6Addr::LOCALHOST.into());
        let mut client = setup.client();
        // This machine's address inside.
        let drv = client.write(server.fetch("page", "fd00::2").fixed(false, page()));
        client.build(&[&drv]).succeeded();
        assert_eq!(server.visits(), 1);
        let mut client = isolated.client();
        let drv = client.write(server.fetch("page", "fd00::2").fixed(false, page()));
        client.build(&[&drv]).failed(1, "failed");
        assert_eq!(server.visits(), 1);
    }
}

#[test]
fn an_ordinary_build_does_not() {
    let setup = Setup::new(&[]);
    let server = Server::new();
    let mut client = setup.client();
    for host in ["127.0.0.1", "10.0.2.2"] {
        let drv = client.write(server.fetch("page", host));
        let built = client.build(&[&drv]);
        built.failed(100, "failed");
        assert_eq!(server.visits(), 0);
    }
    let script = "cat /proc/net/dev >$out";
    let drv = client.write(Script::new("devices", script));
    client.build(&[&drv]).succeeded();
    let devices = fs::read_to_string(drv.out().as_path()).unwrap();
    assert!(!devices.contains("tap0"), "{devices}");
}

#[test]
fn services_of_this_machine_can_be_kept_from_builds() {
    if !is_possible() {
        return;
    }
    let setup = Setup::new(&["--isolate-host-loopback"]);
    let server = Server::new();
    let mut client = setup.client();
    for host in ["127.0.0.1", "localhost", "10.0.2.2"] {
        let drv = client.write(server.fetch("page", host).fixed(false, page()));
        client.build(&[&drv]).failed(1, "failed");
        assert_eq!(server.visits(), 0);
    }
}

#[test]
fn a_fixed_output_build_shares_no_abstract_sockets_with_this_machine() {
    if !is_possible() {
        return;
    }
    let setup = Setup::new(&[]);
    let name = format!("guix-test-{:x}", rand::random::<u64>());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let listed = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(listed.contains(&name));
    // A network namespace only lists its own sockets, and only they can be connected to.
    let script = format!(
        "grep -q tap0 /proc/net/dev; ! grep {name} /proc/net/unix; readlink /proc/self/ns/net \
         >{}/namespace; echo >$out",
        setup.gate().display()
    );
    let mut client = setup.client();
    let drv = client.write(Script::new("probe", &script).fixed(false, Hash::sha256("\n")));
    client.build(&[&drv]).succeeded();
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(setup.read("namespace").trim(), ours.to_str().unwrap());
}

#[test]
fn nothing_carries_packets_for_a_build_that_has_ended() {
    if !is_ours() || !is_possible() {
        return;
    }
    let setup = Setup::new(&[]);
    for ending in ["exit 0", "exit 1", "hang up"] {
        let mut client = setup.client();
        let script = format!(
            "echo begun; {}; {ending}",
            setup.await_gate(&ending.replace(' ', "-"))
        );
        let name = format!("ends{}", ending.len());
        let script = Script::new(&name, &script).fixed(false, Hash::sha256(ending));
        let drv = client.write(script);
        let building = client.start(&[&drv]);
        building.wait_for("begun");
        let carriers = carriers(&setup.daemon);
        assert_eq!(carriers.len(), 1, "{ending}");
        match ending {
            "hang up" => building.hang_up(),
            _ => {
                setup.open(&ending.replace(' ', "-"));
                building.finish();
            }
        }
        assert!(eventually(|| !exists(carriers[0])), "{ending}");
    }
}

#[test]
fn nothing_carries_packets_for_a_daemon_that_has_ended() {
    if !is_ours() || !is_possible() {
        return;
    }
    let Setup {
        daemon,
        site: _site,
        users: _users,
    } = Setup::new(&[]);
    let mut client = Client::connect(&daemon);
    let script = Script::new("endless", "echo begun; sleep 1000");
    let drv = client.write(script.fixed(false, Hash::sha256("endless")));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    let carriers = carriers(&daemon);
    assert_eq!(carriers.len(), 1);
    daemon.kill();
    let is_gone = |pid| {
        // The process that inherits it may not have reaped it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    assert!(eventually(|| is_gone(carriers[0])));
    building.hang_up();
}

#[test]
fn without_the_program_builds_go_on_without_network() {
    if !is_ours() || !is_possible() {
        return;
    }
    // A broken program with that name, first in the path.
    let site = Site::new();
    let directory = site.path("bin");
    fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink("/bin/false", directory.join("slirp4netns")).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
    let setup = Setup::at(site.env("PATH", path), &[]);
    let server = Server::new();
    let mut client = setup.client();
    let page = client.write(server.fetch("page", "127.0.0.1").fixed(false, page()));
    let built = client.build(&[&page]);
    built.failed(1, "failed");
    built.said("`slirp4netns' does not connect it to the network, network access disabled\n");
    assert_eq!(server.visits(), 0);
    let alone = Script::new("alone", "echo >$out").fixed(false, Hash::sha256("\n"));
    let alone = client.write(alone);
    client.build(&[&alone]).succeeded();
}

//! The network of fixed-output builds: `slirp4netns` connects the builder's own namespace to the
//! host's network as an unprivileged program (`doc/spec/build-environment.md`, section 9).
//!
//! Inside, the host is 10.0.2.2 or fd00::2, and its name server 10.0.2.3. Unlike Guix, which
//! creates the device itself, we let the program create it.

use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use system::poll::wait_readable;
use system::process::{Child, Spawn};
use system::{network, pipe};

use super::identity::Identity;
use super::plan::Network;

/// The host's address, as the builder sees it.
pub(super) const HOST: &str = "10.0.2.2";
/// The address of the host's name server, as the builder sees it.
pub(super) const NAME_SERVER: &str = "10.0.2.3";

/// The builder's network device.
const TAP: &str = "tap0";
/// The builder's IPv6 address and its prefix length.
const ADDRESS: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x80), 64);
/// The host's IPv6 address, as the builder sees it.
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The program, which is searched for in `$PATH`.
const PROGRAM: &str = "slirp4netns";
/// The device file from which it creates the network device.
const DEVICE: &str = "/dev/net/tun";
/// How long the program may take to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The descriptor to which the program writes when it is ready.
const READY_FD: i32 = 3;

/// The network of a fixed-output build, or why it isn't available.
pub fn of_fixed_output(host_loopback: bool) -> Result<Network, String> {
    let Some(program) = system::process::find_program(PROGRAM) else {
        return Err(format!(
            "`{PROGRAM}' can't be found in PATH, network access disabled"
        ));
    };
    if !Path::new(DEVICE).exists() {
        return Err(format!("`{DEVICE}' is missing, network access disabled"));
    }
    if access(DEVICE, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
        return Err(format!(
            "`{DEVICE}' can't be opened, network access disabled"
        ));
    }
    Ok(Network::Host {
        program: program.into(),
        loopback: host_loopback,
        ipv6: std::fs::read_to_string("/proc/net/if_inet6")
            .is_ok_and(|table| has_routable_ipv6(&table)),
    })
}

/// Whether the host has an IPv6 address with more than link scope, according to the kernel's table
/// `/proc/net/if_inet6`. If not, builders don't get one either, so that programs don't try what
/// can't work. A line has address, device number, prefix length, scope, flags, and device name.
fn has_routable_ipv6(table: &str) -> bool {
    const GLOBAL: &str = "00";
    const SITE: &str = "40";
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .any(|scope| [GLOBAL, SITE].contains(&scope))
}

/// Connects the network namespace of the process `pid` to the host's network, as long as the result
/// lives.
pub(super) fn connect(
    pid: i32,
    identity: &Identity,
    program: PathBuf,
    host_loopback: bool,
    ipv6: bool,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> io::Result<Child> {
    let (ready, child_ready) = pipe::pipe()?;
    let mut slirp = Spawn::new(program)
        .arg0(PROGRAM)
        .args(["--configure", "--mtu=1500"])
        .args([
            format!("--ready-fd={READY_FD}"),
            "--netns-type=path".to_owned(),
        ]);
    // The program reads packets from the builder, so it is restricted: always to a few system
    // calls, and, if the daemon is root, to a sandbox, which requires root.
    slirp = slirp.arg("--enable-seccomp");
    if system::ids::effective_uid() == 0 {
        slirp = slirp.arg("--enable-sandbox");
    }
    if *identity == Identity::Own {
        slirp = slirp.arg(format!("--userns-path=/proc/{pid}/ns/user"));
    }
    if !host_loopback {
        slirp = slirp.arg("--disable-host-loopback");
    }
    if ipv6 {
        slirp = slirp.arg("--enable-ipv6");
    }
    let child = spawn(
        slirp
            .args([format!("/proc/{pid}/ns/net"), TAP.to_owned()])
            .fd(pipe::null()?, 0)
            .fd(pipe::null()?, 1)
            .fd(pipe::null()?, 2)
            .fd(child_ready, READY_FD)
            .setsid(),
    )?;
    let count = match wait_readable(&ready, Some(START_TIMEOUT))? {
        true => nix::unistd::read(&ready, &mut [0; 1])?,
        false => 0,
    };
    match count {
        0 => Err(io::Error::other(format!(
            "`{PROGRAM}' does not connect it to the network"
        ))),
        _ => Ok(child),
    }
}

/// In the builder's namespace, once connected: makes 127.0.0.1 the builder's own or the host's.
pub(super) fn set_up_loopback(host_loopback: bool) -> io::Result<()> {
    if !host_loopback {
        return network::bring_up_loopback();
    }
    // The proxy in the environment may be at 127.0.0.1. Only root may set this; without it,
    // 10.0.2.2 works.
    let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
    network::take_down_loopback()
}

/// In the builder's namespace, once connected: adds an IPv6 address and the default route, which
/// `slirp4netns` does for IPv4 only.
pub(super) fn set_up_ipv6() -> io::Result<()> {
    // There is no other machine on this network, so duplicate addresses and router advertisements,
    // for which the kernel would wait a second, are impossible.
    for setting in ["accept_dad", "accept_ra"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/{setting}"), "0")?;
    }
    let (address, prefix) = ADDRESS;
    network::add_address(TAP, address, prefix)?;
    network::add_default_route(TAP, HOST6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_loopback_addresses_are_not_routable() {
        let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link = "fe80000000000000000000fffe000001 02 40 20 80     eth0\n";
        let global = "20010db8000000000000000000000001 02 40 00 80     eth0\n";
        let site = "fec00000000000000000000000000001 02 40 40 80     eth0\n";
        assert!(!has_routable_ipv6(""));
        assert!(!has_routable_ipv6(&[loopback, link].concat()));
        assert!(has_routable_ipv6(&[loopback, link, global].concat()));
        assert!(has_routable_ipv6(site));
    }
}

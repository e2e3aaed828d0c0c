//! The network of fixed-output builds: `slirp4netns` carries it from a namespace of the builder's
//! own to the host, as an ordinary program's (`doc/spec/build-environment.md`, section 9).
//!
//! Inside, the host is 10.0.2.2 or fd00::2, and its name server 10.0.2.3. Unlike Guix, which makes
//! the device itself, we have the program make it.

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

/// What stands for the host inside.
pub(super) const HOST: &str = "10.0.2.2";
/// What stands for the host's name server inside.
pub(super) const NAME_SERVER: &str = "10.0.2.3";

/// The device inside.
const TAP: &str = "tap0";
/// The builder's own address of IPv6, with the length of its network's prefix.
const ADDRESS: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x80), 64);
/// What stands for the host inside, over IPv6.
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The program, looked for in `$PATH`.
const PROGRAM: &str = "slirp4netns";
/// What it makes the device from.
const DEVICE: &str = "/dev/net/tun";
/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// The descriptor on which it says that it is ready.
const READY: i32 = 3;

/// The network of a fixed-output build; or why there is none.
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
        ipv6: host_has_ipv6(),
    })
}

/// Whether the host has an address of IPv6 for more than its own links. Else builders get none,
/// so that programs don't try what can't work. The format is that of the kernel: address, device,
/// length of the prefix, scope, flags, and name of the device.
fn host_has_ipv6() -> bool {
    const GLOBAL: &str = "00";
    const SITE: &str = "40";
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    addresses
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .any(|scope| [GLOBAL, SITE].contains(&scope))
}

/// Connects the namespace of the process `pid` to the host's network, as long as what is returned
/// lives.
pub(super) fn connect(
    pid: i32,
    identity: &Identity,
    program: PathBuf,
    host_loopback: bool,
    ipv6: bool,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
) -> io::Result<Child> {
    let (ready, its_ready) = pipe::pipe()?;
    let mut slirp = Spawn::new(program)
        .arg0(PROGRAM)
        .args(["--configure", "--mtu=1500"])
        .args([
            format!("--ready-fd={READY}"),
            "--netns-type=path".to_owned(),
        ]);
    // It speaks with the builder: what it can do otherwise is to be little. Its own sandbox takes
    // root; who isn't has to be content with fewer system calls.
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
            .fd(its_ready, READY)
            .setsid(),
    )?;
    let said = match wait_readable(&ready, Some(PATIENCE))? {
        true => nix::unistd::read(&ready, &mut [0; 1])?,
        false => 0,
    };
    match said {
        0 => Err(io::Error::other(format!(
            "`{PROGRAM}' does not connect it to the network"
        ))),
        _ => Ok(child),
    }
}

/// Inside, once connected: whether 127.0.0.1 is the builder's own or the host's.
pub(super) fn settle_loopback(host_loopback: bool) -> io::Result<()> {
    if !host_loopback {
        return network::bring_up_loopback();
    }
    // So that a proxy of the host is found where the host's environment says. Not everybody may
    // set this; 10.0.2.2 works all the same.
    let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
    network::take_down_loopback()
}

/// Inside, once connected: an address of IPv6, and the way to others. The program only carries it.
pub(super) fn settle_ipv6() -> io::Result<()> {
    // There is nobody who could have the same address, or could tell of other ways; to ask takes a
    // second.
    for setting in ["accept_dad", "accept_ra"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/{setting}"), "0")?;
    }
    let (address, prefix) = ADDRESS;
    network::add_address(TAP, address, prefix)?;
    network::add_default_route(TAP, HOST6)
}

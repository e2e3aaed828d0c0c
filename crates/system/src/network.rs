//! The devices of a network namespace.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings up the loopback device of this process's network namespace.
pub fn bring_up_loopback() -> io::Result<()> {
    let mut request = about_loopback();
    let flags = libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = flags as _;
    change(libc::SIOCSIFFLAGS, &request)
}

/// Takes down the loopback device of this process's network namespace and removes its address:
/// 127.0.0.1 is then an address like any other, not a local one.
pub fn take_down_loopback() -> io::Result<()> {
    let mut request = about_loopback();
    request.ifr_ifru.ifru_addr.sa_family = libc::AF_INET as _;
    change(libc::SIOCSIFADDR, &request)?;
    let mut request = about_loopback();
    request.ifr_ifru.ifru_flags = libc::IFF_LOOPBACK as _;
    change(libc::SIOCSIFFLAGS, &request)
}

/// Adds an IPv6 address to a device of this process's network namespace, in a network with a prefix
/// of `prefix` bits.
pub fn add_address(device: &str, address: Ipv6Addr, prefix: u32) -> io::Result<()> {
    let request = libc::in6_ifreq {
        ifr6_addr: in6_addr(address),
        ifr6_prefixlen: prefix,
        ifr6_ifindex: index(device)?,
    };
    change_as(AddressFamily::Inet6, libc::SIOCSIFADDR, &request)
}

/// Routes IPv6 packets to other networks through `gateway`, which is reachable through `device`.
pub fn add_default_route(device: &str, gateway: Ipv6Addr) -> io::Result<()> {
    let nowhere = in6_addr(Ipv6Addr::UNSPECIFIED);
    let request = Route {
        destination: nowhere,
        source: nowhere,
        gateway: in6_addr(gateway),
        kind: 0,
        destination_prefix: 0,
        source_prefix: 0,
        metric: 1,
        info: 0,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        device: index(device)?,
    };
    change_as(AddressFamily::Inet6, libc::SIOCADDRT, &request)
}

/// `struct in6_rtmsg` of `<linux/ipv6_route.h>`; the one in `libc` has private fields.
#[repr(C)]
struct Route {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_prefix: u16,
    source_prefix: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    device: libc::c_int,
}

fn in6_addr(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: address.octets(),
    }
}

/// The index of a device.
fn index(device: &str) -> io::Result<libc::c_int> {
    Ok(nix::net::if_::if_nametoindex(device)? as i32)
}

/// Creates an Ethernet device in this thread's network namespace. Each frame that it sends can be
/// read from the file; it receives the frames that are written to the file. It is deleted when the
/// file is closed.
pub fn tap(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = about(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as _;
    // SAFETY: the request reads and writes an ifreq.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn about_loopback() -> libc::ifreq {
    about("lo")
}

fn about(device: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1; // stays zero
    for (to, from) in request.ifr_name[..last].iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn change(what: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    change_as(AddressFamily::Inet, what, request)
}

/// `T` is what the request `what` reads in this address family.
fn change_as<T>(family: AddressFamily, what: libc::c_ulong, request: &T) -> io::Result<()> {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: callers pass the type that the request reads, and none of the requests writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), what as _, request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

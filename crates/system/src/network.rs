//! The devices of a network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings up the loopback device of this process's network namespace.
pub fn bring_up_loopback() -> io::Result<()> {
    let mut request = about_loopback();
    let flags = libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = flags as _;
    change(libc::SIOCSIFFLAGS, &request)
}

/// Takes down the loopback device of this process's network namespace, and its address away:
/// 127.0.0.1 is an address like any other then, not this namespace's own.
pub fn take_down_loopback() -> io::Result<()> {
    let mut request = about_loopback();
    request.ifr_ifru.ifru_addr.sa_family = libc::AF_INET as _;
    change(libc::SIOCSIFADDR, &request)?;
    let mut request = about_loopback();
    request.ifr_ifru.ifru_flags = libc::IFF_LOOPBACK as _;
    change(libc::SIOCSIFFLAGS, &request)
}

/// Makes an Ethernet device in this thread's network namespace. What it sends is read from the
/// file, a frame at a time; what is written to the file it receives. It goes when the file is closed.
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
    let (family, kind) = (AddressFamily::Inet, SockType::Datagram);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the requests made here read an ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), what as _, request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

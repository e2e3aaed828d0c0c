//! The addresses of hosts.
//!
//! A static program knows only the names in `/etc/hosts` (`hosts(5)`): the C library would load parts
//! of itself to ask others, which must be of the same version as what the program was linked with, and
//! may not be there at all.

use std::io;
use std::net::SocketAddr;

#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    use std::net::ToSocketAddrs;

    Ok((host, port).to_socket_addrs()?.collect())
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
use from_file::addresses;

/// The addresses of a host, which is given by its name or its address.
///
/// An error of the kind [`io::ErrorKind::Unsupported`] is that a static program can't look up this
/// name.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    addresses(host, port)
}

#[cfg(any(test, all(target_env = "gnu", target_feature = "crt-static")))]
mod from_file {
    use std::fs::File;
    use std::io::{self, Read};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    const HOSTS: &str = "/etc/hosts";

    /// What is read of the file, in bytes; lists of blocked hosts are the longest.
    const LARGEST: u64 = 64 << 20;

    #[cfg_attr(test, allow(dead_code))]
    pub(super) fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut hosts = Vec::new();
        if let Ok(file) = File::open(HOSTS) {
            file.take(LARGEST).read_to_end(&mut hosts)?;
        }
        let found = in_text(&String::from_utf8_lossy(&hosts), host);
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{host} is not in {HOSTS}, and a static program can't ask name servers"),
            ));
        }
        Ok(found.into_iter().map(|ip| (ip, port).into()).collect())
    }

    pub(super) fn in_text(hosts: &str, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.parse() {
            return vec![address];
        }
        let lines = hosts.lines().filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        });
        let mut found: Vec<IpAddr> = lines.collect();
        if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
            found.push(Ipv4Addr::LOCALHOST.into());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let hosts = "127.0.0.1 localhost # alpha\n::1 ip6-localhost Alpha beta\nrubbish beta\n\
            10.0.0.7 beta\n";
        let find = |host: &str| {
            let found = from_file::in_text(hosts, host);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(find("alpha"), ["::1"]);
        assert_eq!(find("beta"), ["::1", "10.0.0.7"]);
        assert_eq!(find("192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(find("gamma"), [""; 0]);
        assert_eq!(from_file::in_text("", "localhost").len(), 1);
        let loopback = |addresses: Vec<SocketAddr>| {
            !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback())
        };
        assert!(loopback(resolve("localhost", 80).unwrap()));
        assert!(loopback(from_file::addresses("localhost", 80).unwrap()));
    }
}

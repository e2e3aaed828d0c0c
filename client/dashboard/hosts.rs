//! By which names the server may be called.
//!
//! A page on another host can give its own name this machine's address (DNS rebinding), and then read
//! what is served here as if it were its own. The browser still sends the name by which it has come here.

use std::net::IpAddr;

/// The names that are accepted besides this machine's addresses.
pub struct Hosts(Vec<String>);

impl Hosts {
    /// With these names, in lower case.
    pub fn new(names: Vec<String>) -> Hosts {
        Hosts(names)
    }

    /// Whether a request that has come to the address `local` may be for `host`, which is
    /// `HOST` or `HOST:PORT`. The port doesn't matter: it is another one behind a tunnel or a proxy.
    pub fn accept(&self, host: &str, local: IpAddr) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        match name.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address == local.to_canonical()
            }
            Err(_) => {
                name == "localhost"
                    || name.ends_with(".localhost")
                    || self.0.iter().any(|one| one == name)
            }
        }
    }
}

/// `HOST`, without brackets around an address of IPv6; nothing if the rest is no port.
fn without_port(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |text: &str| text.is_empty() || text.parse::<u16>().is_ok();
    let is_right = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    is_right.then_some(name)
}

/// Checks a name of the command line.
pub fn name(text: &str) -> Result<String, String> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match !text.is_empty() && text.bytes().all(is_right) {
        true => Ok(text.trim_end_matches('.').to_ascii_lowercase()),
        false => Err("expected a host name, without a port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_accepted() {
        let hosts = Hosts::new(vec![name("Farm.Example.org.").unwrap()]);
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        for good in [
            "localhost",
            "LOCALHOST:8090",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]:8090",
            "[::1]",
            "192.0.2.1:8090",
            "[::ffff:192.0.2.1]",
            "farm.example.org",
            "farm.example.ORG.:443",
            "localhost:",
        ] {
            assert!(hosts.accept(good, local), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.2",
            "0.0.0.0",
            "localhost:99999",
            "localhost:80:80",
            "user@localhost",
            "[::1",
            "[::1]x",
            "[::2]",
            "::1",
            "2130706433",
            "0x7f.1",
            "example.org",
            "notlocalhost",
            "localhost, evil.example",
        ] {
            assert!(!hosts.accept(bad, local), "{bad}");
        }
    }

    #[test]
    fn names_of_the_command_line_are_names() {
        for bad in ["", "a:80", "http://a", "a b", "*"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}

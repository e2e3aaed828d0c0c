//! The host keys that a machine's SSH server presents, as `ssh-keyscan` reports them. Nothing says that it is
//! the right machine which has answered: who uses a key has to compare its fingerprint.

use std::io;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD};
use formats::Hash;

use crate::pool::run_as;

/// The kinds of keys, the one that is preferred first.
const KINDS: [&str; 3] = ["ssh-ed25519", "ecdsa-sha2-", "ssh-rsa"];
/// How long the server may take, in seconds.
const SECONDS: u64 = 10;

/// A host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its type, as `ssh-ed25519`.
    pub kind: String,
    /// The key in base 64.
    pub key: String,
}

impl HostKey {
    /// Reads `TYPE BASE64 [COMMENT]`.
    pub fn parse(text: &str) -> Option<HostKey> {
        let mut words = text.split_ascii_whitespace();
        let (kind, key) = (words.next()?, words.next()?);
        BASE64.decode(key.as_bytes()).ok()?;
        Some(HostKey {
            kind: kind.to_owned(),
            key: key.to_owned(),
        })
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        let key = BASE64.decode(self.key.as_bytes()).unwrap_or_default();
        format!("SHA256:{}", BASE64_NOPAD.encode(Hash::sha256(key).bytes()))
    }

    /// `TYPE BASE64`, the value of the field `host-key`.
    pub fn field(&self) -> String {
        format!("{} {}", self.kind, self.key)
    }
}

/// The host keys of the server at a name and port, the one that is preferred first. It is an error if it has
/// none, or doesn't answer.
pub fn scan(name: &str, port: u16) -> io::Result<Vec<HostKey>> {
    let (port, seconds) = (port.to_string(), SECONDS.to_string());
    let words = [
        "ssh-keyscan",
        "-T",
        &seconds,
        "-p",
        &port,
        "-t",
        "ed25519,ecdsa,rsa",
        name,
    ];
    let words: Vec<String> = words.map(str::to_owned).into();
    let (_, text) = run_as(&words, None, Duration::from_secs(3 * SECONDS))?;
    let mut keys = keys(&text);
    if keys.is_empty() {
        // It says on standard error why not; what the server sends in its greeting begins with `#'.
        let mut said = text.lines().filter(|line| !line.starts_with('#'));
        let said = said.next_back().unwrap_or("no answer");
        return Err(io::Error::other(said.to_owned()));
    }
    keys.sort_by_key(|key| KINDS.iter().position(|kind| key.kind.starts_with(kind)));
    Ok(keys)
}

/// The keys in what `ssh-keyscan` prints: `NAME TYPE BASE64`, and comments.
fn keys(text: &str) -> Vec<HostKey> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let known = |key: &HostKey| KINDS.iter().any(|kind| key.kind.starts_with(kind));
    lines
        .filter_map(|line| HostKey::parse(line.split_once(' ')?.1))
        .filter(known)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_among_other_lines() {
        let text = "# m:22 SSH-2.0-OpenSSH_10.0\nm ssh-rsa AAAAB3NzaC1yc2E=\n\
                    [m]:22 ssh-ed25519 AAAAC3Nz\nm other AAAA\nm: Connection refused\nm ssh-rsa !\n";
        let found = keys(text);
        let kinds: Vec<_> = found.iter().map(|key| key.kind.as_str()).collect();
        assert_eq!(kinds, ["ssh-rsa", "ssh-ed25519"]);
        assert_eq!(found[1].field(), "ssh-ed25519 AAAAC3Nz");
    }

    #[test]
    fn a_fingerprint_is_that_of_openssh() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let run = |words: &[&str]| {
            let output = std::process::Command::new("ssh-keygen")
                .args(words)
                .arg("-f")
                .arg(&file)
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        run(&["-q", "-t", "ed25519", "-N", "", "-C", "x"]);
        let key = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let fingerprint = HostKey::parse(&key).unwrap().fingerprint();
        assert_eq!(run(&["-l"]).split(' ').nth(1), Some(&*fingerprint));
    }

    proptest::proptest! {
        #[test]
        fn any_output_is_read(text in "([#m] ?(ssh-rsa|ssh-ed25519)? ?[A-Za-z0-9+/=]{0,12}\n?){0,8}") {
            for key in keys(&text) {
                assert!(key.fingerprint().starts_with("SHA256:"));
            }
        }
    }
}

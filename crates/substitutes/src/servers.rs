//! Substitute servers: their URLs, lists of them, and those found on the local network
//! (`doc/spec/substitutes.md`, sections 1, 5 and 9).

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::printable::printable;
use percent_encoding::percent_decode;
use rand::seq::SliceRandom;
use system::tree::Dir;

/// The longest URL, in bytes.
const MAX_URL: usize = 4096;

/// The most servers in a list.
const MAX_SERVERS: usize = 1000;

/// How many discovered servers are used.
const MAX_DISCOVERED: usize = 50;

/// The longest file of discovered servers that is read, in bytes.
const MAX_DISCOVERED_FILE: u64 = 1 << 20;

/// A substitute server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    url: String,
    place: Place,
}

/// Where a server's files are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Behind its URL, which is `http` or `https`.
    Network,
    /// In this directory of this machine.
    Directory(PathBuf),
}

/// Why a URL can't be that of a substitute server. The URL is made safe to print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a URL.
    #[error("{0}: invalid URI")]
    Invalid(String),
    /// A URL of a scheme that substitutes can't come from.
    #[error("{0}: unsupported server URI scheme")]
    Scheme(String),
    /// A directory of this machine, named by someone who may not name one.
    #[error("{0}: only the administrator can name a directory as a substitute server")]
    Directory(String),
    /// A list that is too long.
    #[error("more than {MAX_SERVERS} substitute servers")]
    TooMany,
}

/// Who wrote a list of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedBy {
    /// The administrator, who may name directories.
    Administrator,
    /// Any user of the daemon, who may not.
    User,
}

impl Server {
    /// The server at `url`.
    ///
    /// # Errors
    /// The URL doesn't name a server, or its scheme isn't `http`, `https` or `file`.
    pub fn new(url: &str) -> Result<Server, Error> {
        let invalid = || Error::Invalid(printable(url).into_owned());
        let (scheme, rest) = split_scheme(url).ok_or_else(invalid)?;
        if !is_plain(url) {
            return Err(invalid());
        }
        let rest = rest.strip_prefix("//");
        let place = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
                let host = authority.and_then(|authority| authority.rsplit('@').next());
                let named = host.is_some_and(|host| !host.is_empty() && !host.starts_with(':'));
                if named {
                    Place::Network
                } else {
                    return Err(invalid());
                }
            }
            "file" => {
                let path = rest.ok_or_else(invalid)?;
                let path = path.strip_prefix("localhost").unwrap_or(path);
                if !path.starts_with('/') || path.contains(['?', '#']) {
                    return Err(invalid());
                }
                Place::Directory(path.into())
            }
            _ => return Err(Error::Scheme(printable(url).into_owned())),
        };
        Ok(Server {
            url: url.to_owned(),
            place,
        })
    }

    /// The URL, as it was given: the cache of narinfos is named after it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its files are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The URL of `name` on this server.
    pub fn url_of(&self, name: &str) -> String {
        let slash = if self.url.ends_with('/') { "" } else { "/" };
        [&self.url, slash, name].concat()
    }

    /// Opens a regular file in the server's directory by its relative name, of which no part may be a
    /// link. Never blocks. Guix takes the names in narinfos as they are; if there is no such file,
    /// they are taken as a web server takes them: with percent-encoded characters.
    ///
    /// # Errors
    /// There is no such file, or the server isn't a directory of this machine.
    pub fn open(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let Place::Directory(directory) = &self.place else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // The server itself may be a link.
        let directory = Dir::open(directory.join("."))?;
        let name = name.as_ref();
        match directory.open_file_beneath(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let decoded: Vec<u8> = percent_decode(name.as_os_str().as_bytes()).collect();
                directory.open_file_beneath(OsStr::from_bytes(&decoded))
            }
            opened => opened,
        }
    }

    /// The name of the narinfo of the item with this hash part.
    pub fn narinfo_name(hash_part: &str) -> String {
        [hash_part, ".narinfo"].concat()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.url)
    }
}

/// The scheme of an absolute URL, and what follows its colon.
pub(crate) fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then_some((scheme, rest))
}

/// Whether `url` can be requested and printed as it is: printable ASCII of a reasonable length,
/// without blanks, and without backslashes, which programs understand differently.
pub(crate) fn is_plain(url: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    url.len() <= MAX_URL && !url.is_empty() && url.bytes().all(is_plain)
}

/// The servers in `list`, whose URLs are separated by white space; each is listed once.
///
/// # Errors
/// The first URL that isn't that of a server.
///
/// ```
/// use substitutes::servers::{ListedBy, parse_list};
///
/// let servers = parse_list("https://a.example  http://b.example:8080/x", ListedBy::User)?;
/// assert_eq!(servers[1].url_of("nar/y"), "http://b.example:8080/x/nar/y");
/// let error = parse_list("a.example", ListedBy::User).unwrap_err();
/// assert_eq!(error.to_string(), "a.example: invalid URI");
/// # Ok::<(), substitutes::servers::Error>(())
/// ```
pub fn parse_list(list: &str, by: ListedBy) -> Result<Vec<Arc<Server>>, Error> {
    let mut servers = Vec::new();
    for url in list.split_ascii_whitespace() {
        let server = Server::new(url)?;
        if by == ListedBy::User && server.place != Place::Network {
            return Err(Error::Directory(server.url));
        }
        if servers.len() == MAX_SERVERS {
            return Err(Error::TooMany);
        }
        servers.push(Arc::new(server));
    }
    let mut unique: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
    for server in servers {
        if !unique.contains(&server) {
            unique.push(server);
        }
    }
    Ok(unique)
}

/// The file of discovered servers in the state directory.
pub fn discovery_file(state: &Path) -> PathBuf {
    state.join("discover/publish")
}

/// The servers in the file of discovered servers: the last line first, and if there are more than
/// 50, a random choice of them. Lines that aren't URLs of network servers are skipped; without the
/// file, there are none.
///
/// # Errors
/// The file cannot be read.
pub fn discovered(file: &Path) -> io::Result<Vec<Arc<Server>>> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let opened =
        Dir::open(directory).and_then(|dir| dir.open_file(file.file_name().unwrap_or_default()));
    let mut text = Vec::new();
    match opened {
        Ok(opened) => opened.take(MAX_DISCOVERED_FILE).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let mut servers = Vec::new();
    for line in text.lines().rev() {
        if let Ok(server) = Server::new(line.trim()) {
            if server.place == Place::Network
                && !servers.iter().any(|s: &Arc<Server>| **s == server)
            {
                servers.push(Arc::new(server));
            }
        }
    }
    if servers.len() > MAX_DISCOVERED {
        let (chosen, _) = servers.partial_shuffle(&mut rand::rng(), MAX_DISCOVERED);
        return Ok(chosen.to_vec());
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers() {
        for url in [
            "http://a",
            "https://ci.guix.gnu.org",
            "HTTP://a:80/x/",
            "http://user:pass@a/",
            "http://[::1]:8080",
            "file:///srv",
            "file://localhost/srv/x",
        ] {
            assert_eq!(Server::new(url).unwrap().url(), url);
        }
        let reason = |url: &str| Server::new(url).unwrap_err().to_string();
        for url in [
            "",
            "a",
            "/srv",
            "//a",
            "http",
            "http:",
            "http:a",
            "http:/a",
            "http://",
            "http:///x",
            "http://:80",
            "http://user@",
            "http://a\\@b",
            "file:",
            "file:srv",
            "file://srv/x",
            "file:///a?b",
            "://a",
            "http://a\x1b[2J",
            "http://a b",
            "http://\u{e9}",
        ] {
            let shown = printable(url);
            assert_eq!(reason(url), format!("{shown}: invalid URI"));
        }
        assert_eq!(reason("ftp://a"), "ftp://a: unsupported server URI scheme");
        let long = format!("http://a/{}", "x".repeat(MAX_URL));
        assert!(Server::new(&long).is_err());
    }

    #[test]
    fn lists_keep_their_order_and_name_each_server_once() {
        let urls = |list: &str, by| {
            let servers = parse_list(list, by)?;
            Ok::<_, Error>(
                servers
                    .iter()
                    .map(|server| server.url().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(urls(" \n", ListedBy::User), Ok(vec![]));
        assert_eq!(
            urls("http://b  http://a\thttp://b\n", ListedBy::User),
            Ok(vec!["http://b".to_owned(), "http://a".to_owned()])
        );
        let directory = "http://b file:///srv";
        assert_eq!(urls(directory, ListedBy::Administrator).unwrap().len(), 2);
        assert_eq!(
            urls(directory, ListedBy::User),
            Err(Error::Directory("file:///srv".to_owned()))
        );
        let many = |count| {
            (0..count)
                .map(|n| format!("http://{n} "))
                .collect::<String>()
        };
        assert!(urls(&many(MAX_SERVERS), ListedBy::User).is_ok());
        assert_eq!(
            urls(&many(MAX_SERVERS + 1), ListedBy::User),
            Err(Error::TooMany)
        );
    }

    #[test]
    fn discovered_servers() {
        let state = tempfile::tempdir().unwrap();
        let file = discovery_file(state.path());
        assert_eq!(discovered(&file).unwrap(), []);
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        assert_eq!(discovered(&file).unwrap(), []);
        std::fs::write(
            &file,
            "http://1.2.3.4:80\nrubbish\nfile:///etc\n\nhttp://[fe80::1]:80\n",
        )
        .unwrap();
        let found = discovered(&file).unwrap();
        let urls: Vec<_> = found.iter().map(|server| server.url()).collect();
        assert_eq!(urls, ["http://[fe80::1]:80", "http://1.2.3.4:80"]);
        let many: String = (0..60).map(|n| format!("http://10.0.0.{n}\n")).collect();
        std::fs::write(&file, many).unwrap();
        let mut found: Vec<_> = discovered(&file).unwrap();
        found.sort_by(|a, b| a.url().cmp(b.url()));
        found.dedup();
        assert_eq!(found.len(), MAX_DISCOVERED);
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(discovered(&file).is_err());
    }
}

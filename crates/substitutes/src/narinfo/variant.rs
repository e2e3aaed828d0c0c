//! The files in which a server offers an item's nar.

use std::path::{Component, Path, PathBuf};

use crate::compression::Compression;
use crate::servers::{Place, Server, is_plain, split_scheme};

/// A file that holds the item's nar, as a narinfo lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Where it is.
    pub location: Location,
    /// How the nar is compressed in it.
    pub compression: Compression,
    /// Its size in bytes, as far as the server says.
    pub file_size: Option<u64>,
}

/// Where a file of a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At this absolute `http` or `https` URL.
    Url(String),
    /// In the server's directory, under this relative name without `.` and `..`, to be opened by
    /// [`Server::open`].
    File(PathBuf),
}

impl Location {
    /// What `url` in a narinfo of `server` stands for; `None` if that is nothing that may be
    /// fetched. Only a server that is a directory can have files of this machine, and only those in
    /// that directory.
    pub(super) fn resolve(url: &str, server: &Server) -> Option<Location> {
        if !is_plain(url) {
            return None;
        }
        match (split_scheme(url), server.place()) {
            (Some((scheme, rest)), place) => match (scheme.to_ascii_lowercase().as_str(), place) {
                ("http" | "https", _) => {
                    // As strict as for servers.
                    Server::new(url).ok()?;
                    Some(Location::Url(url.to_owned()))
                }
                ("file", Place::Directory(directory)) => {
                    let path = rest.strip_prefix("//")?;
                    let path = Path::new(path.strip_prefix("localhost").unwrap_or(path));
                    Location::beneath(path.strip_prefix(directory).ok()?)
                }
                _ => None,
            },
            (None, Place::Network) => Some(Location::Url(server.url_of(url))),
            (None, Place::Directory(_)) => Location::beneath(Path::new(url)),
        }
    }

    fn beneath(name: &Path) -> Option<Location> {
        let inside = |component| matches!(component, Component::Normal(_));
        let text = name.to_str()?;
        let plain = !text.is_empty() && !text.contains(['?', '#']);
        // Components leave out a `.' in the middle, which does no harm.
        (plain && name.components().all(inside)).then(|| Location::File(name.to_owned()))
    }
}

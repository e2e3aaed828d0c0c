//! The settings of a client that concern substitutes, by the names that they have in `_NIX_OPTIONS`
//! (`doc/spec/substitutes.md`, section 1).

use std::path::Path;
use std::sync::Arc;

use crate::servers::{self, ListedBy, Server, discovered, discovery_file, parse_list};
use crate::trust::Judge;

/// If this variable of the environment is `yes` (or `YES`, as for Guix), everything is believed, signed or not.
const UNAUTHENTICATED: &str = "GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES";

/// Looks a setting up.
pub type Setting<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether the administrator wants everything to be believed.
pub fn is_unauthenticated() -> bool {
    std::env::var_os(UNAUTHENTICATED).is_some_and(|value| value.eq_ignore_ascii_case("yes"))
}

/// The warning to the administrator if everybody is believed.
pub const UNAUTHENTICATED_WARNING: &str = "GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES is `yes': every \
     substitute server is believed, and whoever is on the way to it decides what is in the store";

/// The warning to users if nobody is believed but this machine itself, or everybody.
pub fn warning(judge: &Judge) -> Option<&'static str> {
    if judge.believes_everybody() {
        Some("authentication and authorization of substitutes disabled!\n")
    } else if judge.believes_nobody() {
        Some(
            "ACL for archive imports seems to be uninitialized, \
             substitutes may be unavailable\n",
        )
    } else {
        None
    }
}

/// The servers to ask: those that were discovered, if that is wanted, and then those of the client,
/// or else the administrator's. `state` is the state directory.
///
/// # Errors
/// A list has something that can't be a server.
pub fn servers(
    setting: Setting<'_>,
    client: ListedBy,
    state: &Path,
) -> Result<Vec<Arc<Server>>, servers::Error> {
    let mut servers = Vec::new();
    if setting("discover").is_some_and(|value| value == "true") {
        // Without the file, nothing was discovered.
        servers = discovered(&discovery_file(state)).unwrap_or_default();
    }
    let own = setting("untrusted-substitute-urls").filter(|urls| !urls.is_empty());
    let listed = match own {
        Some(urls) => parse_list(&urls, client)?,
        None => {
            let urls = setting("substitute-urls").unwrap_or_default();
            parse_list(&urls, ListedBy::Administrator)?
        }
    };
    for server in listed {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

/// Whether the client wants to know how downloads go on, as trace lines.
pub fn wants_traces(setting: Setting<'_>) -> bool {
    let given = setting("untrusted-print-extended-build-trace")
        .or_else(|| setting("print-extended-build-trace"));
    let number = given.and_then(|text| text.trim().parse::<u64>().ok());
    number.is_some_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_servers_replace_the_administrators() {
        let both = |name: &str| match name {
            "substitute-urls" => Some("http://a file:///b".to_owned()),
            "untrusted-substitute-urls" => Some("http://c".to_owned()),
            _ => None,
        };
        let state = Path::new("/nonexistent");
        let urls = |servers: Vec<Arc<Server>>| -> Vec<String> {
            servers
                .iter()
                .map(|server| server.url().to_owned())
                .collect()
        };
        let found = servers(&both, ListedBy::User, state).unwrap();
        assert_eq!(urls(found), ["http://c"]);
        let one = |name: &str| both(name).filter(|_| name == "substitute-urls");
        let found = servers(&one, ListedBy::User, state).unwrap();
        assert_eq!(urls(found), ["http://a", "file:///b"]);
        let none = servers(&|_| None, ListedBy::User, state).unwrap();
        assert_eq!(urls(none), [""; 0]);
    }

    #[test]
    fn traces_are_wanted_by_a_number() {
        let wants = |value: &str| {
            wants_traces(&|name| (name == "print-extended-build-trace").then(|| value.to_owned()))
        };
        assert!(wants("1") && !wants("0") && !wants("yes"));
    }
}

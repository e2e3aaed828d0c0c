//! What each of several servers says of some items, for people who want to know. Nothing is chosen,
//! and nothing is taken from the cache or put there.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXUPPER;
use formats::printable::printable;
use formats::{StoreDir, StorePath};
use gcrypt::{Acl, Sexp, VerifyError};

use crate::narinfo::{MAX_LENGTH, Narinfo, Signature};
use crate::network::{Event, Exchange, Network};
use crate::servers::{Place, Server};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for the network program: longer than it may wait for a server that is busy.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);
/// How much of a key identifies it for a reader, in bytes.
const SHOWN_KEY: usize = 8;

/// What a server says of an item.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It has it.
    Has(Arc<Narinfo>),
    /// It does not have it.
    HasNot,
    /// It says nothing that could be used; the text says why.
    Failed(String),
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It has items of the store with this name.
    Store(String),
    /// Nothing that could be used; the text says why.
    Failed(String),
}

/// Asks servers which store they are for.
///
/// # Errors
/// The process has no descriptors or threads left.
pub fn greet(network: &Network, servers: &[Arc<Server>]) -> io::Result<Vec<Greeting>> {
    const NAME: &str = "nix-cache-info";
    let unanswered = || Greeting::Failed("no answer".to_owned());
    let mut greetings = vec![unanswered(); servers.len()];
    let mut exchange = Exchange::new(network)?;
    exchange.set_patience(PATIENCE);
    let mut asked = HashMap::new();
    for (row, server) in servers.iter().enumerate() {
        match server.place() {
            Place::Network => {
                let request = exchange.get(&server.url_of(NAME), MAX_LENGTH as u64);
                asked.insert(request, row);
            }
            Place::Directory(_) => {
                greetings[row] = match read(server, NAME) {
                    Ok(text) => greeting(&text),
                    Err(error) => Greeting::Failed(error.to_string()),
                };
            }
        }
    }
    while let Some((request, event)) = exchange.wait(Some(SILENCE_LIMIT))? {
        let Some(&row) = asked.get(&request) else {
            continue;
        };
        greetings[row] = match event {
            Event::Response {
                status: 200, body, ..
            } => greeting(&body),
            Event::Response { status, .. } => Greeting::Failed(format!("HTTP status {status}")),
            Event::Failed(error) => Greeting::Failed(error.to_string()),
            _ => continue,
        };
    }
    Ok(greetings)
}

fn greeting(text: &[u8]) -> Greeting {
    let text = String::from_utf8_lossy(text);
    let store = text.lines().find_map(|line| line.strip_prefix("StoreDir:"));
    match store {
        Some(store) => Greeting::Store(printable(store.trim()).into_owned()),
        None => Greeting::Failed("it is no substitute server".to_owned()),
    }
}

/// Asks every server for every item. The result has a row for each server.
///
/// # Errors
/// The process has no descriptors or threads left.
pub fn survey(
    network: &Network,
    store: &StoreDir,
    servers: &[Arc<Server>],
    items: &[StorePath],
) -> io::Result<Vec<Vec<Answer>>> {
    let unanswered = || Answer::Failed("no answer".to_owned());
    let mut answers = vec![vec![unanswered(); items.len()]; servers.len()];
    let mut exchange = Exchange::new(network)?;
    exchange.set_patience(PATIENCE);
    let mut asked = HashMap::new();
    for (row, server) in servers.iter().enumerate() {
        for (column, item) in items.iter().enumerate() {
            let name = Server::narinfo_name(item.hash_part());
            match server.place() {
                Place::Network => {
                    let request = exchange.get(&server.url_of(&name), MAX_LENGTH as u64);
                    asked.insert(request, (row, column));
                }
                Place::Directory(_) => {
                    answers[row][column] = match read(server, &name) {
                        Ok(text) => understood(&text, item, store, server),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Answer::HasNot,
                        Err(error) => Answer::Failed(error.to_string()),
                    };
                }
            }
        }
    }
    while let Some((request, event)) = exchange.wait(Some(SILENCE_LIMIT))? {
        let Some(&(row, column)) = asked.get(&request) else {
            continue;
        };
        answers[row][column] = match event {
            Event::Response {
                status: 200, body, ..
            } => understood(&body, &items[column], store, &servers[row]),
            // Guix's server answers 202 while it is still compressing the item.
            Event::Response {
                status: 202 | 404 | 410,
                ..
            } => Answer::HasNot,
            Event::Response { status, .. } => Answer::Failed(format!("HTTP status {status}")),
            Event::Failed(error) => Answer::Failed(error.to_string()),
            _ => continue,
        };
    }
    Ok(answers)
}

fn read(server: &Server, name: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = server.open(name)?;
    file.take(MAX_LENGTH as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn understood(text: &[u8], item: &StorePath, store: &StoreDir, server: &Arc<Server>) -> Answer {
    match Narinfo::parse(text, item, store, server) {
        Ok(narinfo) => Answer::Has(Arc::new(narinfo)),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Whether a narinfo is believed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This key signed it, which is authorised.
    Authorised(String),
    /// This key signed it, which is not authorised.
    Unauthorised(String),
    /// There is a signature, of something else or of nothing.
    Invalid,
    /// There is no signature that could count.
    Unsigned,
}

impl Standing {
    /// Of this narinfo, if these keys are authorised.
    pub fn of(narinfo: &Narinfo, acl: &Acl) -> Standing {
        let Some(signature) = narinfo.signature() else {
            return Standing::Unsigned;
        };
        let key = || key_of(signature).unwrap_or_else(|| "unknown".to_owned());
        match gcrypt::verify(signature.text(), acl) {
            Ok(hash) if &hash == signature.signed() => Standing::Authorised(key()),
            Err(VerifyError::Unauthorized(_)) => Standing::Unauthorised(key()),
            _ => Standing::Invalid,
        }
    }
}

/// A short name for the key of a signature.
fn key_of(signature: &Signature) -> Option<String> {
    key_name(&Sexp::parse(signature.text()).ok()?)
}

/// A short name for a public key, or for that in a signature: the beginning of the number that is
/// the key, such as `8D156F295D24B0D9`.
pub fn key_name(key: &Sexp) -> Option<String> {
    let key = key.find(c"public-key")?;
    let number = key.find(c"q").or_else(|| key.find(c"n"))?;
    let bytes = number.atom_at(1)?;
    Some(HEXUPPER.encode(&bytes[..bytes.len().min(SHOWN_KEY)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_their_beginning() {
        let name = |text: &str| key_name(&Sexp::parse(text).unwrap());
        let key = "(public-key (ecc (curve Ed25519) (q #8D156F295D24B0D9A86FA5741A840FF2#)))";
        assert_eq!(name(key).as_deref(), Some("8D156F295D24B0D9"));
        let key = format!("(signature (data) {key})");
        assert_eq!(name(&key).as_deref(), Some("8D156F295D24B0D9"));
        let key = "(public-key (rsa (n #00AB#) (e #010001#)))";
        assert_eq!(name(key).as_deref(), Some("00AB"));
        assert_eq!(name("(public-key (ecc))"), None);
        assert_eq!(name("(x)"), None);
    }
}

//! What each of several servers says of some items, for people who want to know. Nothing is chosen,
//! and nothing is taken from the cache or put there.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXUPPER;
use formats::printable::printable;
use formats::{StoreDir, StorePath};
use gcrypt::{Acl, Sexp, VerifyError};
use system::errno;

use crate::cache::is_temporary;
use crate::narinfo::{MAX_LENGTH, Narinfo, Signature};
use crate::network::{ErrorKind, Event, Exchange, Network, is_busy};
use crate::servers::{Place, Server};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for the network program: longer than it may wait for a server that is busy.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);
/// Where a server says which store it is for.
const CACHE_INFO: &str = "nix-cache-info";
/// Why there is no answer, if nothing is known.
const NO_ANSWER: &str = "no answer";
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
    /// It answers, but not which store it is for; the text says what is wrong with its answer.
    Unknown(String),
    /// It doesn't answer, or only that something is wrong with it; the text says why.
    Failed(String),
}

/// All that a server has said.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of itself, if it was asked that.
    pub greeting: Option<Greeting>,
    /// Of each item.
    pub answers: Vec<Answer>,
    /// Why it was asked for nothing more, if it can't be reached or doesn't answer. What it had not
    /// answered fails for this reason.
    pub given_up: Option<String>,
}

/// Which question a request is: about an item, or about the server itself.
#[derive(Clone, Copy)]
enum Question {
    Item(usize),
    Itself,
}

/// A server that is being asked.
struct Asked<'a> {
    server: &'a Arc<Server>,
    report: Report,
    /// How many questions it has not answered yet.
    open: usize,
    has_answered: bool,
}

/// Asks every server for every item and, if it `greets` them, which store they are for. `tell` gets the
/// number of each server, and its report, when that is whole: servers that don't answer come last.
///
/// # Errors
/// The process has no descriptors or threads left.
pub fn survey(
    network: &Network,
    store: &StoreDir,
    servers: &[Arc<Server>],
    items: &[StorePath],
    greets: bool,
    tell: &mut dyn FnMut(usize, Report),
) -> io::Result<()> {
    let mut exchange = Exchange::new(network)?;
    exchange.set_patience(PATIENCE);
    let mut requests = HashMap::new();
    let mut asked = HashMap::new();
    for (row, server) in servers.iter().enumerate() {
        if let Place::Directory(directory) = server.place() {
            tell(row, look_into(directory, server, store, items, greets));
            continue;
        }
        let mut ask = |name: &str, question| {
            let request = exchange.get(&server.url_of(name), MAX_LENGTH as u64);
            requests.insert(request, (row, question));
        };
        if greets {
            ask(CACHE_INFO, Question::Itself);
        }
        for (column, item) in items.iter().enumerate() {
            let name = Server::narinfo_name(item.hash_part());
            ask(&name, Question::Item(column));
        }
        let unanswered = Answer::Failed(NO_ANSWER.to_owned());
        let new = Asked {
            server,
            report: Report {
                greeting: greets.then(|| Greeting::Failed(NO_ANSWER.to_owned())),
                answers: vec![unanswered; items.len()],
                given_up: None,
            },
            open: items.len() + usize::from(greets),
            has_answered: false,
        };
        asked.insert(row, new);
    }
    while let Some((request, event)) = exchange.wait(Some(SILENCE_LIMIT))? {
        let Some(&(row, question)) = requests.get(&request) else {
            continue;
        };
        let Some(server) = asked.get_mut(&row) else {
            continue;
        };
        let Some(reason) = server.take(question, event, items, store) else {
            continue;
        };
        requests.remove(&request);
        if let Some(reason) = reason {
            requests.retain(|&request, &mut (other, question)| {
                if other != row {
                    return true;
                }
                exchange.cancel(request);
                server.fail(question, &reason);
                false
            });
            server.report.given_up = Some(reason);
        }
        if server.open == 0 || server.report.given_up.is_some() {
            if let Some(server) = asked.remove(&row) {
                tell(row, server.report);
            }
        }
    }
    let mut silent: Vec<(usize, Asked<'_>)> = asked.into_iter().collect();
    silent.sort_by_key(|(row, _)| *row);
    for (row, mut server) in silent {
        server.report.given_up = Some(NO_ANSWER.to_owned());
        tell(row, server.report);
    }
    Ok(())
}

impl Asked<'_> {
    /// Takes an event. `None` if it is none that ends a request; otherwise whether, and why, the server
    /// is to be asked for nothing more.
    fn take(
        &mut self,
        question: Question,
        event: Event,
        items: &[StorePath],
        store: &StoreDir,
    ) -> Option<Option<String>> {
        let (reason, is_dead, is_silent) = match event {
            Event::Response { status, body, .. } if !is_temporary(status) => {
                self.has_answered = true;
                self.answer(question, status, &body, items, store);
                (None, false, false)
            }
            // By these it says that it is busy; it was asked several times.
            Event::Response { status, .. } => (
                Some(format!("HTTP status {status}")),
                false,
                is_busy(status),
            ),
            Event::Failed(error) => {
                let kind = error.kind();
                let no_program = matches!(kind, ErrorKind::ProgramMissing | ErrorKind::ProgramDied);
                let is_dead = no_program || error.is_unreachable();
                (Some(error.to_string()), is_dead, kind == ErrorKind::Timeout)
            }
            _ => return None,
        };
        self.open -= 1;
        if let Some(reason) = &reason {
            self.fail(question, reason);
        }
        // One that answers others may have trouble with this question only.
        Some(reason.filter(|_| is_dead || is_silent && !self.has_answered))
    }

    fn answer(
        &mut self,
        question: Question,
        status: u32,
        body: &[u8],
        items: &[StorePath],
        store: &StoreDir,
    ) {
        match (question, status) {
            (Question::Itself, 200) => self.report.greeting = Some(greeting(body)),
            (Question::Itself, _) => {
                let text = format!("HTTP status {status} for `{CACHE_INFO}'");
                self.report.greeting = Some(Greeting::Unknown(text));
            }
            (Question::Item(column), 200) => {
                self.report.answers[column] = understood(body, &items[column], store, self.server);
            }
            // Guix's server answers 202 while it is still compressing the item.
            (Question::Item(column), 202 | 404 | 410) => {
                self.report.answers[column] = Answer::HasNot;
            }
            (Question::Item(column), _) => {
                self.report.answers[column] = Answer::Failed(format!("HTTP status {status}"));
            }
        }
    }

    fn fail(&mut self, question: Question, reason: &str) {
        match question {
            Question::Itself => self.report.greeting = Some(Greeting::Failed(reason.to_owned())),
            Question::Item(column) => {
                self.report.answers[column] = Answer::Failed(reason.to_owned());
            }
        }
    }
}

/// What is in a directory of this machine that is a server.
fn look_into(
    directory: &Path,
    server: &Arc<Server>,
    store: &StoreDir,
    items: &[StorePath],
    greets: bool,
) -> Report {
    let greet = || match read(server, CACHE_INFO) {
        Ok(text) => greeting(&text),
        Err(error) => {
            let reason = format!("`{CACHE_INFO}': {}", errno::message(&error));
            match directory.is_dir() {
                true => Greeting::Unknown(reason),
                false => Greeting::Failed(reason),
            }
        }
    };
    let answer = |item: &StorePath| {
        let name = Server::narinfo_name(item.hash_part());
        match read(server, &name) {
            Ok(text) => understood(&text, item, store, server),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Answer::HasNot,
            Err(error) => Answer::Failed(errno::message(&error)),
        }
    };
    Report {
        greeting: greets.then(greet),
        answers: items.iter().map(answer).collect(),
        given_up: None,
    }
}

fn greeting(text: &[u8]) -> Greeting {
    let text = String::from_utf8_lossy(text);
    let store = text.lines().find_map(|line| line.strip_prefix("StoreDir:"));
    match store {
        Some(store) => Greeting::Store(printable(store.trim()).into_owned()),
        None => Greeting::Unknown(format!("its `{CACHE_INFO}' names none")),
    }
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

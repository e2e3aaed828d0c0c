//! What Guix's daemon asks: one line each.

use std::io::{BufRead, Read};

use anyhow::{Context, bail};
use formats::store_path::{StoreDir, StorePath};

/// The longest request, in bytes: a question for several hundred thousand items.
const LIMIT: u64 = 64 << 20;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Which of these have substitutes.
    Have(Vec<StorePath>),
    /// What is known of them.
    Info(Vec<StorePath>),
    /// Fetch an item to a place in the store.
    Substitute {
        /// The item.
        path: StorePath,
        /// Its own path or, if it is to be repaired, another one.
        destination: StorePath,
    },
}

impl Request {
    /// The next request; `None` at the end of input.
    pub(super) fn read(
        input: &mut dyn BufRead,
        store: &StoreDir,
    ) -> anyhow::Result<Option<Request>> {
        let mut line = String::new();
        let length = input.take(LIMIT).read_line(&mut line);
        if length.context("cannot read a request")? == 0 {
            return Ok(None);
        }
        let Some(line) = line.strip_suffix('\n') else {
            bail!("a request is incomplete or too long");
        };
        Request::parse(line, store).map(Some)
    }

    fn parse(line: &str, store: &StoreDir) -> anyhow::Result<Request> {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next();
        let paths = words
            .map(|word| store.parse(word))
            .collect::<Result<Vec<StorePath>, _>>()?;
        Ok(match (kind, &paths[..]) {
            (Some("have"), _) => Request::Have(paths),
            (Some("info"), _) => Request::Info(paths),
            (Some("substitute"), [path, destination]) => Request::Substitute {
                path: path.clone(),
                destination: destination.clone(),
            },
            _ => bail!("unknown request"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_daemon() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let path = |name: &str| store.join(&format!("{}-{name}", "0".repeat(32))).unwrap();
        let (a, b) = (path("a"), path("a.tmp"));
        let text = format!("have {a} {b} \ninfo \nsubstitute {a} {b}\n");
        let mut input = text.as_bytes();
        let mut next = || Request::read(&mut input, &store).unwrap();
        assert_eq!(next(), Some(Request::Have(vec![a.clone(), b.clone()])));
        assert_eq!(next(), Some(Request::Info(vec![])));
        let (path, destination) = (a, b);
        assert_eq!(next(), Some(Request::Substitute { path, destination }));
        assert_eq!(next(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let store = StoreDir::new("/gnu/store").unwrap();
        for text in [
            "\n",
            "hello\n",
            "have /etc/passwd\n",
            "substitute\n",
            "have",
            "info ../x\n",
        ] {
            assert!(
                Request::read(&mut text.as_bytes(), &store).is_err(),
                "{text}"
            );
        }
    }
}

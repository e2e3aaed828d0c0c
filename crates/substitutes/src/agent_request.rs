//! What Guix's daemon asks `guix substitute`: one line each (`doc/spec/substitutes.md`, section 2).
//!
//! ```
//! use formats::StoreDir;
//! use substitutes::agent_request::Request;
//!
//! let store = StoreDir::new("/gnu/store").unwrap();
//! let item = "/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-x";
//! let request = Request::parse(format!("have {item} \n").as_bytes(), &store);
//! assert_eq!(request, Some(Request::Have(vec![store.parse(item).unwrap()])));
//! ```

use std::io::{self, BufRead, Read};

use formats::printable::printable;
use formats::store_path::{StoreDir, StorePath};

/// The longest line, in bytes: room for as many items as are looked up at once.
const LINE_LIMIT: u64 = 64 << 20;

/// How much of a request is shown in an error.
const SHOWN: usize = 100;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Which of these items are available?
    Have(Vec<StorePath>),
    /// What is known of these items?
    Info(Vec<StorePath>),
    /// Fetch an item to that place.
    Substitute {
        /// The item.
        path: StorePath,
        /// The name in the store directory that it gets: its own, or a temporary one if a damaged
        /// item is repaired.
        destination: StorePath,
    },
}

impl Request {
    /// Parses a line; `None` if it isn't a request. What can't be the name of an item is left out:
    /// there is no substitute for it.
    pub fn parse(line: &[u8], store: &StoreDir) -> Option<Request> {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let request = words.next()?;
        let mut paths = words.map(|word| store.parse(word));
        match request {
            "have" => Some(Request::Have(paths.flatten().collect())),
            "info" => Some(Request::Info(paths.flatten().collect())),
            "substitute" => match (paths.next()?, paths.next()?, paths.next()) {
                (Ok(path), Ok(destination), None) => {
                    Some(Request::Substitute { path, destination })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The lines of a stream, each of 64 MiB at most.
pub struct Requests<R>(R);

impl<R: BufRead> Requests<R> {
    /// The lines of `stream`.
    pub fn new(stream: R) -> Requests<R> {
        Requests(stream)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The stream can't be read, or the line is too long.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let stream = &mut self.0;
        stream.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if line.len() as u64 == LINE_LIMIT {
            let text = "the daemon's request is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok((!line.is_empty()).then_some(line))
    }
}

/// A request as it can be shown.
pub fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    printable(text.trim_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let item = |name: &str| store.join(&format!("{}-{name}", "0".repeat(32))).unwrap();
        let (a, b) = (item("a"), item("b"));
        let parse = |line: &str| Request::parse(line.as_bytes(), &store);
        assert_eq!(
            parse(&format!("have {a} {b} \n")),
            Some(Request::Have(vec![a.clone(), b.clone()]))
        );
        assert_eq!(
            parse(&format!("info {a} /etc/passwd \n")),
            Some(Request::Info(vec![a.clone()]))
        );
        assert_eq!(parse("info \n"), Some(Request::Info(vec![])));
        let destination = item("a.tmp");
        assert_eq!(
            parse(&format!("substitute {a} {destination}\n")),
            Some(Request::Substitute {
                path: a.clone(),
                destination
            })
        );
        for odd in [
            String::new(),
            "\n".to_owned(),
            "has x".to_owned(),
            format!("substitute {a}\n"),
            format!("substitute {a} /tmp/a\n"),
            format!("substitute {a} {b}/c\n"),
            format!("substitute {a} {b} {a}\n"),
        ] {
            assert_eq!(parse(&odd), None, "{odd}");
        }
    }

    proptest! {
        /// Whatever is read names items of the store only, and is read again as it would be written.
        #[test]
        fn what_is_read_is_a_request(line in line()) {
            let store = StoreDir::new("/gnu/store").unwrap();
            if let Some(request) = Request::parse(&line, &store) {
                let written = written(&request);
                prop_assert_eq!(Request::parse(written.as_bytes(), &store), Some(request));
            }
            let shown = shown(&line);
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }

        #[test]
        fn streams_are_cut_into_lines(stream in proptest::collection::vec(0u8..20, 0..200)) {
            let mut requests = Requests::new(&stream[..]);
            let mut read = Vec::new();
            while let Some(line) = requests.next_line().unwrap() {
                prop_assert!(!line[..line.len() - 1].contains(&b'\n'));
                read.extend(line);
            }
            prop_assert_eq!(read, stream);
        }
    }

    /// Words that a request may have, and others, in any order.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let item = format!("/gnu/store/{}-a", "0".repeat(32));
        let word = prop_oneof![
            Just("have".to_owned()),
            Just("info".to_owned()),
            Just("substitute".to_owned()),
            Just(item.clone()),
            Just(format!("{item}/b")),
            Just("/gnu/store/".to_owned()),
            Just("\n".to_owned()),
            "\\PC{0,8}",
            ".{0,4}",
        ];
        let words = proptest::collection::vec(word, 0..6);
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![words.prop_map(|words| words.join(" ").into_bytes()), bytes]
    }

    fn written(request: &Request) -> String {
        let words = |paths: &[StorePath]| -> String {
            paths.iter().map(|path| format!("{path} ")).collect()
        };
        match request {
            Request::Have(paths) => format!("have {}\n", words(paths)),
            Request::Info(paths) => format!("info {}\n", words(paths)),
            Request::Substitute { path, destination } => {
                format!("substitute {path} {destination}\n")
            }
        }
    }

    #[test]
    fn lines_end_with_the_stream() {
        let mut requests = Requests::new(&b"a\nb"[..]);
        assert_eq!(requests.next_line().unwrap().unwrap(), b"a\n");
        assert_eq!(requests.next_line().unwrap().unwrap(), b"b");
        assert_eq!(requests.next_line().unwrap(), None);
        let mut endless = Requests::new(io::BufReader::new(io::repeat(b'x')));
        assert!(endless.next_line().is_err());
    }
}

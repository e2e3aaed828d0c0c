//! The daemon's requests (`doc/spec/hook-protocol.md`, sections 4, 5 and 8).
//!
//! Standard input is read without a buffer, byte by byte, so that what follows a line stays in the
//! pipe for the process that reads it next. Only after `# accept`, when only the two lines of paths
//! follow, is it read in large pieces, to its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use formats::{StoreDir, StorePath};

/// The maximum length of a request line, in bytes.
const LINE_LIMIT: usize = 64 << 10;
/// The maximum length of the two lines of paths, in bytes.
const PATHS_LIMIT: u64 = 1 << 30;

/// Why a request could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("failed to read from the daemon: {0}")]
    Io(#[from] io::Error),
    /// Not a valid request.
    #[error("invalid request line: {0}")]
    Invalid(String),
    /// Not a store path.
    #[error("invalid store item in the daemon's list: {0}")]
    Path(#[from] formats::store_path::Error),
    /// The two lines of paths are missing or truncated.
    #[error("the daemon did not say what to transfer")]
    Incomplete,
}

/// A request to build a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether the daemon could immediately build it locally.
    pub am_willing: bool,
    /// The system on which to build it.
    pub system: String,
    /// The file name of the `.drv`.
    pub derivation: String,
    /// The features that the machine must have.
    pub features: Vec<String>,
}

impl Request {
    /// Parses a line, without its newline.
    pub fn parse(line: &[u8]) -> Result<Request, Error> {
        let invalid = || {
            Error::Invalid(
                String::from_utf8_lossy(line)
                    .escape_debug()
                    .take(200)
                    .collect(),
            )
        };
        let text = std::str::from_utf8(line).map_err(|_| invalid())?;
        let mut words = text.splitn(4, ' ');
        let (Some(willing), Some(system), Some(derivation), Some(features)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(invalid());
        };
        let system_char =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        let graphic = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace());
        let right = matches!(willing, "0" | "1")
            && !system.is_empty()
            && system.chars().all(system_char)
            && derivation.starts_with('/')
            && derivation.ends_with(".drv")
            && graphic(derivation)
            && graphic(features);
        if !right {
            return Err(invalid());
        }
        let features = features.split(',').filter(|name| !name.is_empty());
        Ok(Request {
            am_willing: willing == "1",
            system: system.to_owned(),
            derivation: derivation.to_owned(),
            features: features.map(str::to_owned).collect(),
        })
    }
}

/// The hook's standard input, on which the daemon sends requests.
pub struct Input(File);

impl Input {
    /// Reads from this descriptor.
    pub fn new(fd: OwnedFd) -> Input {
        Input(File::from(fd))
    }

    /// The next request; `None` if there are no more.
    pub fn request(&mut self) -> Result<Option<Request>, Error> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) if line.is_empty() => return Ok(None),
                Ok(0) => return Request::parse(&line).map(Some),
                Ok(_) if byte == *b"\n" => return Request::parse(&line).map(Some),
                Ok(_) if line.len() < LINE_LIMIT => line.push(byte[0]),
                Ok(_) => return Err(Error::Invalid("too long".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The inputs and outputs of a build: the two lines after `# accept`.
    pub fn paths(&mut self, store: &StoreDir) -> Result<(Vec<StorePath>, Vec<StorePath>), Error> {
        let mut text = Vec::new();
        (&self.0).take(PATHS_LIMIT).read_to_end(&mut text)?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let (Some(inputs), Some(outputs), Some(_)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(Error::Incomplete);
        };
        let parse = |line: &[u8]| -> Result<Vec<StorePath>, Error> {
            let words = line
                .split(|byte| *byte == b' ')
                .filter(|word| !word.is_empty());
            words.map(|word| Ok(store.parse(word)?)).collect()
        };
        Ok((parse(inputs)?, parse(outputs)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn requests_are_read_as_guix_reads_them() {
        let request = Request::parse(b"1 x86_64-linux /gnu/store/x.drv kvm,,big").unwrap();
        assert!(request.am_willing);
        assert_eq!(request.features, ["kvm", "big"]);
        assert!(
            Request::parse(b"0 x86_64-linux /gnu/store/x.drv ")
                .unwrap()
                .features
                .is_empty()
        );
        for bad in [
            &b"2 x /s/x.drv "[..],
            b"0 x /s/x.drv",
            b"0 X /s/x.drv ",
            b"0 x s/x.drv ",
            b"0 x /s/x ",
            b"\xff",
        ] {
            assert!(Request::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// What Guix's daemon wrote to hooks (`vectors/README.md`).
    #[test]
    fn requests_of_guix() {
        let store = StoreDir::new("/gnu/store").unwrap();
        // The file, how many requests it has, and the numbers of inputs and outputs.
        for (recorded, requests, paths) in [
            (&include_bytes!("vectors/decline")[..], 1, None),
            (include_bytes!("vectors/features"), 1, None),
            (include_bytes!("vectors/accept"), 1, Some((5, 2))),
            (include_bytes!("vectors/postpone-accept"), 2, Some((5, 2))),
        ] {
            let (reader, writer) = system::pipe::pipe().unwrap();
            File::from(writer).write_all(recorded).unwrap();
            let mut input = Input::new(reader);
            for _ in 0..requests {
                let request = input.request().unwrap().unwrap();
                assert!(request.am_willing);
                assert_eq!(request.system, "x86_64-linux");
                let wants_features = request.derivation.ends_with("-offloaded-features.drv");
                let features: &[&str] = match wants_features {
                    true => &["kvm", "big-parallel"],
                    false => &[],
                };
                assert_eq!(request.features, features);
            }
            match paths {
                None => assert!(input.request().unwrap().is_none()),
                Some(counts) => {
                    let (inputs, outputs) = input.paths(&store).unwrap();
                    assert_eq!((inputs.len(), outputs.len()), counts);
                }
            }
        }
    }

    #[test]
    fn nothing_is_read_beyond_a_line() {
        let (reader, writer) = system::pipe::pipe().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"0 x /s/x.drv \nrest").unwrap();
        let mut input = Input::new(reader);
        assert!(input.request().unwrap().is_some());
        drop(writer);
        let mut rest = String::new();
        input.0.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest");
    }
}

//! The command line of a worker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

/// How long to wait for the keeper's hello.
const PATIENCE: Duration = Duration::from_secs(60);

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The daemon's program; otherwise the one beside this program.
    pub daemon: Option<PathBuf>,
    /// The socket of a daemon that runs there anyway.
    pub socket: Option<PathBuf>,
    /// What the names of the files of a key pair begin with; otherwise a pair is made.
    pub key: Option<PathBuf>,
    /// Where the worker makes its directory; otherwise in `TMPDIR`, or `/tmp`.
    pub directory: Option<PathBuf>,
    /// How long to wait for the keeper's hello.
    pub patience: Duration,
}

impl Options {
    pub fn parse(words: &[&str]) -> Result<Options> {
        let mut options = Options {
            daemon: None,
            socket: None,
            key: None,
            directory: None,
            patience: PATIENCE,
        };
        for word in words {
            let file = |value: &str| -> Result<Option<PathBuf>> {
                let path = PathBuf::from(value);
                if !path.is_absolute() {
                    bail!("`{word}': not an absolute file name");
                }
                Ok(Some(path))
            };
            match word.split_once('=') {
                Some(("--daemon", value)) => options.daemon = file(value)?,
                Some(("--socket", value)) => options.socket = file(value)?,
                Some(("--key", value)) => options.key = file(value)?,
                Some(("--directory", value)) => options.directory = file(value)?,
                Some(("--patience", value)) => match value.parse::<u32>() {
                    Ok(seconds) if seconds > 0 => {
                        options.patience = Duration::from_secs(seconds.into());
                    }
                    _ => bail!("`{word}': not a number of seconds from 1 to {}", u32::MAX),
                },
                _ => bail!("worker: unknown option `{word}'"),
            }
        }
        let own = [&options.daemon, &options.key, &options.directory];
        if options.socket.is_some() && own.iter().any(|option| option.is_some()) {
            bail!(
                "--socket is for a daemon that has its store and its keys: no other option goes with it"
            );
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_files_and_seconds() {
        let options = Options::parse(&["--daemon=/d", "--key=/k=1", "--patience=3"]).unwrap();
        assert_eq!(options.daemon, Some("/d".into()));
        assert_eq!(options.key, Some("/k=1".into()));
        assert_eq!(options.patience, Duration::from_secs(3));
        let error = |words: &[&str]| Options::parse(words).unwrap_err().to_string();
        assert!(error(&["--daemon=d"]).contains("absolute"));
        for bad in ["x", "", "0", "-1", "4294967296"] {
            let option = format!("--patience={bad}");
            assert!(
                error(&[&option]).contains("not a number of seconds"),
                "{bad}"
            );
        }
        assert!(error(&["--frobnicate"]).contains("`--frobnicate'"));
        assert!(error(&["--socket=/s", "--key=/k"]).contains("no other option"));
    }
}

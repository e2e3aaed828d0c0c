//! The log file of a build (`doc/spec/store-formats.md`, section 6): the builder's output,
//! compressed, in `LOG/drvs/XX/REST`.
//!
//! What is written can be read after [`FLUSH_INTERVAL`] at the latest, so that a running build can
//! be followed, and that little is lost if the daemon is killed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;
use formats::store_path::StorePath;

use crate::request_error::RequestError;
use crate::settings::LogCompression;

/// How long a compressor may keep output to itself.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

enum Writer {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<File>>),
    Bzip2(Box<BzEncoder<File>>),
}

impl Writer {
    fn bzip2(file: File) -> Writer {
        Writer::Bzip2(Box::new(BzEncoder::new(file, bzip2::Compression::best())))
    }

    /// Makes what was written readable. Returns the writer for what follows.
    fn flushed(mut self) -> io::Result<Writer> {
        match &mut self {
            Writer::Plain(file) => file.flush()?,
            Writer::Gzip(encoder) => encoder.flush()?,
            // A block is readable once the stream has ended. More streams may follow in a file.
            Writer::Bzip2(_) => {
                let Writer::Bzip2(encoder) = self else {
                    return Ok(self);
                };
                return encoder.finish().map(Writer::bzip2);
            }
        }
        Ok(self)
    }
}

/// An open log file, or none if no log is kept.
pub(super) struct LogFile {
    name: String,
    writer: Option<Writer>,
    /// When something was written that may not be readable yet.
    unflushed_since: Option<Instant>,
}

impl LogFile {
    /// Creates the log file of a build of `derivation` below the log directory, replacing an older
    /// one. Without a directory, no log is kept.
    pub(super) fn create(
        directory: Option<&Path>,
        derivation: &StorePath,
        compression: LogCompression,
    ) -> Result<LogFile, RequestError> {
        let Some(directory) = directory else {
            return Ok(LogFile {
                name: String::new(),
                writer: None,
                unflushed_since: None,
            });
        };
        let (prefix, rest) = derivation
            .base_name()
            .split_at_checked(2)
            .unwrap_or((derivation.base_name(), ""));
        let suffix = match compression {
            LogCompression::None => "",
            LogCompression::Gzip => ".gz",
            LogCompression::Bzip2 => ".bz2",
        };
        // The double slash is Guix's; clients see the name in traces.
        let directory = format!("{}/drvs/{prefix}/", directory.display());
        let name = format!("{directory}/{rest}{suffix}");
        let failed = |e: io::Error| RequestError::new(format!("creating log file `{name}': {e}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o777)
            .create(&directory)
            .map_err(failed)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o666)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(&name)
            .map_err(failed)?;
        let writer = match compression {
            LogCompression::None => Writer::Plain(BufWriter::new(file)),
            LogCompression::Gzip => {
                Writer::Gzip(Box::new(GzEncoder::new(file, flate2::Compression::best())))
            }
            LogCompression::Bzip2 => Writer::bzip2(file),
        };
        Ok(LogFile {
            name,
            writer: Some(writer),
            unflushed_since: None,
        })
    }

    /// The file's name for trace lines; empty if no log is kept.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends to the log.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), RequestError> {
        let (result, is_readable) = match &mut self.writer {
            None => (Ok(()), true),
            Some(Writer::Plain(file)) => (file.write_all(data).and_then(|()| file.flush()), true),
            Some(Writer::Gzip(encoder)) => (encoder.write_all(data), false),
            Some(Writer::Bzip2(encoder)) => (encoder.write_all(data), false),
        };
        if !is_readable && self.unflushed_since.is_none() {
            self.unflushed_since = Some(Instant::now());
        }
        result.map_err(|e| self.not_written(&e))
    }

    /// How long [`LogFile::flush_if_due`] will have nothing to do, unless more is written.
    pub(super) fn until_flush(&self) -> Duration {
        let since = self.unflushed_since;
        since.map_or(Duration::MAX, |since| {
            FLUSH_INTERVAL.saturating_sub(since.elapsed())
        })
    }

    /// Makes readable what was written some time ago.
    pub(super) fn flush_if_due(&mut self) -> Result<(), RequestError> {
        if self.until_flush() > Duration::ZERO {
            return Ok(());
        }
        self.unflushed_since = None;
        if let Some(writer) = self.writer.take() {
            self.writer = Some(writer.flushed().map_err(|e| self.not_written(&e))?);
        }
        Ok(())
    }

    fn not_written(&self, error: &io::Error) -> RequestError {
        RequestError::new(format!("writing to log file `{}': {error}", self.name))
    }

    /// Flushes and closes the log.
    pub(super) fn close(mut self) -> Result<(), RequestError> {
        let result = match self.writer.take() {
            None => Ok(()),
            Some(Writer::Plain(mut file)) => file.flush(),
            Some(Writer::Gzip(encoder)) => encoder.finish().map(drop),
            Some(Writer::Bzip2(encoder)) => encoder.finish().map(drop),
        };
        result.map_err(|e| RequestError::new(format!("closing log file `{}': {e}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn logs_are_found_where_clients_look() {
        let store = formats::store_path::StoreDir::new("/gnu/store").expect("store");
        let drv = store
            .parse("/gnu/store/abcdfghijklmnpqrsvwxyz0123456789-x.drv")
            .expect("path");
        let dir = tempfile::tempdir().expect("dir");
        for (compression, suffix) in [
            (LogCompression::None, ""),
            (LogCompression::Gzip, ".gz"),
            (LogCompression::Bzip2, ".bz2"),
        ] {
            for text in ["a longer first log\n", "hello\n"] {
                let mut log = LogFile::create(Some(dir.path()), &drv, compression).expect("create");
                log.write(text.as_bytes()).expect("write");
                log.close().expect("close");
            }
            let name = dir.path().join(format!(
                "drvs/ab/cdfghijklmnpqrsvwxyz0123456789-x.drv{suffix}"
            ));
            let file = File::open(name).expect("open");
            let mut text = String::new();
            match compression {
                LogCompression::None => (&file).read_to_string(&mut text),
                LogCompression::Gzip => {
                    flate2::read::GzDecoder::new(file).read_to_string(&mut text)
                }
                LogCompression::Bzip2 => {
                    bzip2::read::BzDecoder::new(file).read_to_string(&mut text)
                }
            }
            .expect("read");
            assert_eq!(text, "hello\n");
        }
        let mut log = LogFile::create(None, &drv, LogCompression::Gzip).expect("no log");
        assert_eq!(log.name(), "");
        log.write(b"lost").expect("write");
        assert_eq!(log.until_flush(), Duration::MAX);
    }

    #[test]
    fn what_was_written_can_be_read_before_the_end() {
        let store = formats::store_path::StoreDir::new("/gnu/store").expect("store");
        let drv = store
            .parse("/gnu/store/abcdfghijklmnpqrsvwxyz0123456789-x.drv")
            .expect("path");
        for compression in [LogCompression::Gzip, LogCompression::Bzip2] {
            let dir = tempfile::tempdir().expect("dir");
            let mut log = LogFile::create(Some(dir.path()), &drv, compression).expect("create");
            assert_eq!(log.until_flush(), Duration::MAX);
            let readable = |log: &LogFile| {
                let file = File::open(log.name()).expect("open");
                let mut text = Vec::new();
                // A stream of gzip has no end yet.
                let _ = match compression {
                    LogCompression::Bzip2 => {
                        bzip2::read::MultiBzDecoder::new(file).read_to_end(&mut text)
                    }
                    _ => flate2::read::GzDecoder::new(file).read_to_end(&mut text),
                };
                String::from_utf8(text).expect("UTF-8")
            };
            for (piece, whole) in [("one\n", "one\n"), ("two\n", "one\ntwo\n")] {
                log.write(piece.as_bytes()).expect("write");
                while log.until_flush() > Duration::ZERO {
                    assert!(log.until_flush() <= FLUSH_INTERVAL);
                    std::thread::sleep(log.until_flush());
                }
                log.flush_if_due().expect("flush");
                assert_eq!(log.until_flush(), Duration::MAX);
                assert_eq!(readable(&log), whole);
            }
        }
    }
}

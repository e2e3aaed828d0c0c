//! The log file of a build (`doc/spec/store-formats.md`, section 6): the builder's output,
//! compressed, in `LOG/drvs/XX/REST`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;
use formats::store_path::StorePath;

use crate::request_error::RequestError;
use crate::settings::LogCompression;

enum Writer {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<File>>),
    Bzip2(Box<BzEncoder<File>>),
}

/// An open log file, or none if no log is kept.
pub(super) struct LogFile {
    name: String,
    writer: Option<Writer>,
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
            LogCompression::Bzip2 => {
                Writer::Bzip2(Box::new(BzEncoder::new(file, bzip2::Compression::best())))
            }
        };
        Ok(LogFile {
            name,
            writer: Some(writer),
        })
    }

    /// The file's name for trace lines; empty if no log is kept.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends to the log.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), RequestError> {
        let result = match &mut self.writer {
            None => Ok(()),
            Some(Writer::Plain(file)) => file.write_all(data).and_then(|()| file.flush()),
            Some(Writer::Gzip(encoder)) => encoder.write_all(data),
            Some(Writer::Bzip2(encoder)) => encoder.write_all(data),
        };
        result.map_err(|e| RequestError::new(format!("writing to log file `{}': {e}", self.name)))
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
        let log = LogFile::create(None, &drv, LogCompression::Gzip).expect("no log");
        assert_eq!(log.name(), "");
    }
}

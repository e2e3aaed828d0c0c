//! Decompressing, on a thread for each item that is being fetched.
//!
//! The memory of a decoder is bounded: windows of zstd are at most 128 MiB (what `zstd -d` accepts,
//! too), dictionaries of xz and lzip at most 64 MiB (their highest levels have that, and half of it).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use substitutes::Compression;
use substitutes::network::RequestId;

use super::notes::{Note, NoteSender, What};
use super::outcome::Outcome;
use super::output::Output;
use super::stream::{Stream, StreamReader};

/// The base-two logarithm of the largest window of zstd.
const ZSTD_WINDOW: u32 = 27;
/// The largest dictionary of lzip, in bytes.
const LZIP_DICTIONARY: u64 = 64 << 20;
/// The most memory of an xz decoder, in KiB: its largest dictionary, and what it needs besides.
const XZ_MEMORY: u32 = 66 << 10;
/// How many bytes are written to the pipe at once.
const BUFFER: usize = 64 << 10;
/// The stack of a thread that decompresses.
const STACK: usize = 256 << 10;

/// Where compressed bytes come from.
pub enum Input {
    /// A transfer.
    Stream(Arc<Stream>),
    /// A file.
    File(OwnedFd),
}

/// Starts a thread that decompresses `input` into `output`, leaving out what was written there
/// before, and sends a note when it has ended.
pub fn start(
    request: RequestId,
    decoder: u32,
    input: Input,
    compression: Compression,
    output: Arc<Output>,
    notes: NoteSender,
) -> io::Result<()> {
    let note = move |what| Note {
        request,
        decoder,
        what,
    };
    let thread = std::thread::Builder::new()
        .name("decode".to_owned())
        .stack_size(STACK);
    thread.spawn(move || {
        let room = notes.clone();
        let run = || match input {
            Input::Stream(stream) => {
                let on_room = move || room.send(note(What::Room));
                let reader = StreamReader::new(stream.clone(), on_room);
                match decode(reader, compression, &output) {
                    Outcome::Corrupt(_) if stream.is_abandoned() => Outcome::Abandoned,
                    outcome => outcome,
                }
            }
            Input::File(file) => {
                let reader = NotedErrors::new(File::from(file));
                let mut reader = BufReader::with_capacity(BUFFER, reader);
                let outcome = decode(&mut reader, compression, &output);
                match (reader.get_mut().failure.take(), outcome) {
                    (Some(error), Outcome::Corrupt(_)) => Outcome::Unreadable(error),
                    (_, outcome) => outcome,
                }
            }
        };
        // Decoders are others' code, and what they read is made by anybody.
        let outcome = catch_unwind(AssertUnwindSafe(run));
        let outcome = outcome
            .unwrap_or_else(|_| Outcome::Corrupt(io::Error::other("the decoder has failed")));
        // The pipe is closed before anybody hears of the end.
        drop(output);
        notes.send(note(What::Ended(outcome)));
    })?;
    Ok(())
}

/// A file that remembers why it couldn't be read: decoders report this as they report bad input.
struct NotedErrors {
    file: File,
    failure: Option<io::Error>,
}

impl NotedErrors {
    fn new(file: File) -> NotedErrors {
        NotedErrors {
            file,
            failure: None,
        }
    }
}

impl Read for NotedErrors {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(io::Error::from(error.kind()));
            }
        })
    }
}

fn decode(input: impl BufRead, compression: Compression, output: &Output) -> Outcome {
    match decoder(input, compression) {
        Ok(decoder) => copy(decoder, output),
        Err(error) => Outcome::Corrupt(error),
    }
}

/// Copies to the pipe what wasn't written there before.
fn copy(mut decoder: impl Read, output: &Output) -> Outcome {
    let mut known = output.written();
    let mut buffer = vec![0; BUFFER];
    while output.left() > 0 {
        let count = match decoder.read(&mut buffer) {
            Ok(0) => return Outcome::Short,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Outcome::Short,
            Err(error) => return Outcome::Corrupt(error),
        };
        let skipped = known.min(count as u64);
        known -= skipped;
        if let Err(error) = output.write(&buffer[skipped as usize..count]) {
            return Outcome::Output(error);
        }
    }
    Outcome::Complete
}

/// The decompressed contents of `input`, which may consist of several members.
fn decoder<'a>(
    mut input: impl BufRead + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY)),
        Compression::Lzip => {
            // The decoder has no limit for what the header asks for.
            let mut header = Vec::new();
            input.by_ref().take(LZIP_HEADER).read_to_end(&mut header)?;
            if lzip_dictionary(&header).is_some_and(|size| size > LZIP_DICTIONARY) {
                return Err(io::Error::other("the dictionary is too large"));
            }
            Box::new(lzma_rust2::LzipReader::new(
                Cursor::new(header).chain(input),
            ))
        }
    })
}

/// The length of the header of lzip, in bytes (the lzip manual, "File format").
const LZIP_HEADER: u64 = 6;

/// The base size of the dictionary that a header of lzip asks for, if it is whole.
fn lzip_dictionary(header: &[u8]) -> Option<u64> {
    1u64.checked_shl((header.get(5)? & 0x1f).into())
}

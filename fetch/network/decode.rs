//! Decompressing, on a thread for each item that is being fetched.
//!
//! What a decoder needs of memory for its window or dictionary is known before it is made, and taken from
//! the budget (`budget`). Where a file has several parts, each says what it needs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use substitutes::Compression;
use substitutes::network::RequestId;

use super::budget::Claim;
use super::lzip_members::lzip;
use super::members::{Member, Members};
use super::notes::{Note, NoteSender, What};
use super::outcome::Outcome;
use super::output::Output;
use super::stream::{Stream, StreamReader};
use super::xz_streams::xz;
use super::zstd_frames::ZstdFrames;

/// What a decoder of bzip2 needs, in bytes.
const BZIP2: u64 = 4 << 20;
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
/// before, and sends a note when it has ended. Its memory is `claim`'s.
pub fn start(
    request: RequestId,
    decoder: u32,
    input: Input,
    compression: Compression,
    output: Arc<Output>,
    claim: Arc<Claim>,
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
                match decode(reader, compression, &output, &claim) {
                    Outcome::Corrupt(_) if stream.is_abandoned() => Outcome::Abandoned,
                    outcome => outcome,
                }
            }
            Input::File(file) => {
                let reader = NotedErrors::new(File::from(file));
                let mut reader = BufReader::with_capacity(BUFFER, reader);
                let outcome = decode(&mut reader, compression, &output, &claim);
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
        // The decoder is gone.
        claim.give_back();
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

fn decode(
    input: impl BufRead,
    compression: Compression,
    output: &Output,
    claim: &Claim,
) -> Outcome {
    match decoder(input, compression, output.size() + BUFFER as u64, claim) {
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

impl<R: BufRead> Member for flate2::bufread::GzDecoder<R> {
    type Input = R;

    fn finish(self) -> io::Result<R> {
        Ok(self.into_inner())
    }
}

impl<R: BufRead> Member for bzip2::bufread::BzDecoder<R> {
    type Input = R;

    fn finish(self) -> io::Result<R> {
        Ok(self.into_inner())
    }
}

/// Begins with a member, unless this is the end.
fn begin<R: BufRead, M>(mut input: R, decoder: fn(R) -> M) -> io::Result<Option<M>> {
    let is_end = input.fill_buf()?.is_empty();
    Ok((!is_end).then(|| decoder(input)))
}

/// The decompressed contents of `input`, which may consist of several members. No more than
/// `contents` bytes of it are read.
fn decoder<'a>(
    input: impl BufRead + 'a,
    compression: Compression,
    contents: u64,
    claim: &'a Claim,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(Members::new(input, |input| {
            begin(input, flate2::bufread::GzDecoder::new)
        })),
        Compression::Bzip2 => {
            claim.take_for_window(BZIP2)?;
            Box::new(Members::new(input, |input| {
                begin(input, bzip2::bufread::BzDecoder::new)
            }))
        }
        Compression::Zstd => Box::new(ZstdFrames::new(input, contents, claim)),
        Compression::Lzip => Box::new(lzip(input, contents, claim)),
        Compression::Xz => Box::new(xz(input, claim)),
    })
}

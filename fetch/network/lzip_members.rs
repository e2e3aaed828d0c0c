//! Decompressing lzip (the lzip manual, "File format"), member by member: memory for the dictionary of
//! each is taken before there is a decoder for it.
//!
//! The decoder of LZMA is another's; it has no limit for what a member may ask for. A dictionary
//! larger than the contents is of no use, so a small item takes little memory.

use std::io::{self, Read};

use flate2::Crc;
use lzma_rust2::LzmaReader;

use super::budget::Claim;

/// `LZIP`, the version, and the coded size of the dictionary.
const HEADER: usize = 6;
const MAGIC: &[u8] = b"LZIP\x01";
/// A checksum, the size of the contents, and that of the member.
const TRAILER: usize = 20;
/// The smallest dictionary, and the largest that can be written, in bytes.
const DICTIONARIES: std::ops::RangeInclusive<u64> = 4 << 10..=512 << 20;
/// Properties of LZMA that lzip always has: literal context and position bits, position bits.
const PROPERTIES: (u32, u32, u32) = (3, 0, 2);
/// A dictionary has so many bytes more than the contents: more may be decompressed than is wanted.
const RESERVE: u64 = 1 << 20;

/// The decompressed contents of members.
pub struct LzipMembers<'a, R> {
    claim: &'a Claim,
    /// No more bytes than this are read.
    contents: u64,
    state: State<R>,
}

enum State<R> {
    Between(Source<R>),
    Within(Box<Member<R>>),
    Ended,
}

struct Member<R> {
    reader: LzmaReader<Source<R>>,
    checksum: Crc,
    size: u64,
}

/// The compressed bytes, of which some were read too early.
struct Source<R> {
    input: R,
    early: Vec<u8>,
    at: usize,
    /// How many were read of the member.
    count: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut early = &self.early[self.at..];
        let count = match early.is_empty() {
            true => self.input.read(buffer)?,
            false => early.read(buffer)?,
        };
        if !self.early.is_empty() {
            self.at = (self.at + count).min(self.early.len());
        }
        self.count += count as u64;
        Ok(count)
    }
}

impl<R> Source<R> {
    /// Puts back what was read of it last.
    fn put_back(&mut self, mut bytes: Vec<u8>) {
        self.count -= bytes.len() as u64;
        bytes.extend_from_slice(&self.early[self.at..]);
        (self.early, self.at) = (bytes, 0);
    }
}

impl<'a, R: Read> LzipMembers<'a, R> {
    /// The contents of `input`, of which no more than `contents` bytes are read; `claim` is for
    /// them alone.
    pub fn new(input: R, contents: u64, claim: &'a Claim) -> LzipMembers<'a, R> {
        let source = Source {
            input,
            early: Vec::new(),
            at: 0,
            count: 0,
        };
        LzipMembers {
            claim,
            contents,
            state: State::Between(source),
        }
    }

    /// Begins with the next member, if there is one.
    fn begin(&self, mut source: Source<R>) -> io::Result<State<R>> {
        source.count = 0;
        let mut header = Vec::with_capacity(HEADER);
        source
            .by_ref()
            .take(HEADER as u64)
            .read_to_end(&mut header)?;
        if header.is_empty() {
            return Ok(State::Ended);
        }
        let dictionary = dictionary(&header)?;
        let enough = self.contents.saturating_add(RESERVE);
        let dictionary = dictionary.min(enough);
        self.claim.take_for_window(dictionary)?;
        let (literal_context, literal_position, position) = PROPERTIES;
        let reader = LzmaReader::new(
            source,
            u64::MAX,
            literal_context,
            literal_position,
            position,
            dictionary as u32,
            None,
        )?;
        Ok(State::Within(Box::new(Member {
            reader,
            checksum: Crc::new(),
            size: 0,
        })))
    }
}

impl<R: Read> Member<R> {
    /// Checks what follows the contents.
    fn finish(self) -> io::Result<Source<R>> {
        let (mut source, early) = self.reader.into_parts();
        source.put_back(early);
        let mut trailer = [0; TRAILER];
        source.read_exact(&mut trailer)?;
        let mut rest = &trailer[..];
        let mut number = |length: usize| {
            let (field, after) = rest.split_at(length);
            rest = after;
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(field);
            u64::from_le_bytes(bytes)
        };
        let found = [number(4), number(8), number(8)];
        let expected = [self.checksum.sum().into(), self.size, source.count];
        match found == expected {
            true => Ok(source),
            false => Err(io::Error::other("a member is not what its end says")),
        }
    }
}

impl<R: Read> Read for LzipMembers<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // An error is the end.
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(source) => self.begin(source)?,
                State::Within(mut member) => match member.reader.read(buffer)? {
                    0 => State::Between(member.finish()?),
                    count => {
                        member.checksum.update(&buffer[..count]);
                        member.size += count as u64;
                        self.state = State::Within(member);
                        return Ok(count);
                    }
                },
            };
        }
    }
}

/// The size of the dictionary that a header asks for.
fn dictionary(header: &[u8]) -> io::Result<u64> {
    let code = match header {
        [start @ .., code] if start == MAGIC => *code,
        _ if header.len() < HEADER => return Err(io::ErrorKind::UnexpectedEof.into()),
        _ => return Err(io::Error::other("it is not compressed by lzip")),
    };
    let base = 1u64 << (code & 0x1f);
    let size = base - base / 16 * u64::from(code >> 5);
    match DICTIONARIES.contains(&size) {
        true => Ok(size),
        false => Err(io::Error::other("the size of the dictionary is invalid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_large_a_dictionary_is() {
        // The example of the manual is 0xd3, for 320 KiB.
        for (code, expected) in [
            (0x0c, Some(4 << 10)),
            (0xd3, Some(320 << 10)),
            (0x17, Some(8 << 20)),
            (0x1d, Some(512 << 20)),
            (0x0b, None),
            (0x2c, None),
            (0x1e, None),
        ] {
            let header = [MAGIC, &[code]].concat();
            assert_eq!(dictionary(&header).ok(), expected, "{code:x}");
        }
        for header in [&b"LZIP"[..], b"LZIP\x00\x17", b"rubbish"] {
            assert!(dictionary(header).is_err());
        }
    }
}

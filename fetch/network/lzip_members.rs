//! Decompressing lzip (the lzip manual, "File format"), member by member: memory for the dictionary of
//! each is taken before there is a decoder for it.
//!
//! The decoder of LZMA is another's; it has no limit for what a member may ask for. A dictionary
//! larger than the contents is of no use, so a small item takes little memory.

use std::io::{self, Read};

use flate2::Crc;
use lzma_rust2::LzmaReader;

use super::budget::Claim;
use super::members::{Member, Members, read_up_to};

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

/// The decompressed contents of `input`, of which no more than `contents` bytes are read; `claim` is for
/// them alone.
pub fn lzip<'a>(input: impl Read + 'a, contents: u64, claim: &'a Claim) -> impl Read + 'a {
    let source = Source {
        input,
        early: Vec::new(),
        at: 0,
        count: 0,
    };
    Members::new(source, move |source| begin(source, contents, claim))
}

/// A member that is being decompressed.
struct LzipMember<R> {
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

/// Begins with the next member, if there is one.
fn begin<R: Read>(
    mut source: Source<R>,
    contents: u64,
    claim: &Claim,
) -> io::Result<Option<LzipMember<R>>> {
    source.count = 0;
    let mut header = Vec::with_capacity(HEADER);
    read_up_to(HEADER, &mut header, &mut source)?;
    if header.is_empty() {
        return Ok(None);
    }
    let dictionary = dictionary(&header)?;
    let enough = contents.saturating_add(RESERVE);
    let dictionary = dictionary.min(enough);
    claim.take_for_window(dictionary)?;
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
    Ok(Some(LzipMember {
        reader,
        checksum: Crc::new(),
        size: 0,
    }))
}

impl<R: Read> Read for LzipMember<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.checksum.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

impl<R: Read> Member for LzipMember<R> {
    type Input = Source<R>;

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

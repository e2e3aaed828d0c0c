//! Decompressing xz (the .xz file format), stream by stream: memory for the dictionary of each is taken
//! before there is a decoder for it.
//!
//! The decoder is another's. It would decompress further streams by itself, but by recursion for each
//! that is empty; and it keeps an index in memory, however long that is.

use std::io::{self, Chain, Cursor, Read};

use lzma_rust2::XzReader;

use super::budget::Claim;
use super::members::{Member, Members, read_up_to};
use super::xz_blocks;

/// What a decoder needs besides its dictionary, in bytes; its own estimate has to be less.
const BESIDES: u64 = 256 << 10;
/// How many bytes are read for nothing, as those of an index are: a hundred thousand blocks.
const FRUITLESS: u64 = 512 << 10;
/// What is between streams is a multiple of so many zeros.
const PADDING: usize = 4;

/// The decompressed contents of `input`; `claim` is for them alone.
pub fn xz<'a>(input: impl Read + 'a, claim: &'a Claim) -> impl Read + 'a {
    let input = Limited { input, left: 0 };
    let mut is_first = true;
    Members::new(input, move |input| {
        let may_pad = !std::mem::take(&mut is_first);
        begin(input, may_pad, claim)
    })
}

/// The compressed bytes, of which only some are read in one go.
struct Limited<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("it has too much that isn't contents"));
        }
        let most = buffer.len().min(self.left as usize);
        let count = self.input.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A stream that is being decompressed.
struct XzStream<R: Read>(XzReader<Chain<Cursor<Vec<u8>>, Limited<R>>>);

impl<R: Read> Read for XzStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.inner_mut().get_mut().1.left = FRUITLESS;
        self.0.read(buffer)
    }
}

impl<R: Read> Member for XzStream<R> {
    type Input = Limited<R>;

    fn finish(self) -> io::Result<Limited<R>> {
        // The beginning is part of every stream that is whole.
        let (_beginning, input) = self.0.into_inner().into_inner();
        Ok(input)
    }
}

/// Begins with the next stream, if there is one, after padding that others than the first may have.
fn begin<R: Read>(
    mut input: Limited<R>,
    may_pad: bool,
    claim: &Claim,
) -> io::Result<Option<XzStream<R>>> {
    input.left = FRUITLESS;
    let mut beginning = Vec::new();
    loop {
        read_up_to(PADDING, &mut beginning, &mut input)?;
        if beginning.is_empty() {
            return Ok(None);
        }
        if !may_pad || beginning != [0; PADDING] {
            break;
        }
        beginning.clear();
    }
    for length in [|_: &[u8]| xz_blocks::START, xz_blocks::length] {
        read_up_to(length(&beginning), &mut beginning, &mut input)?;
    }
    let dictionary = xz_blocks::dictionary(&beginning);
    claim.take_for_window(dictionary)?;
    // The blocks after the first one need no more, or are refused.
    let limit = ((dictionary + BESIDES) >> 10) as u32;
    let input = Cursor::new(beginning).chain(input);
    Ok(Some(XzStream(XzReader::new_mem_limit(input, false, limit))))
}

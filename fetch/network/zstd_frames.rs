//! Decompressing zstd (RFC 8878), frame by frame: memory for the window of each is taken before
//! libzstd sees the frame.
//!
//! A window larger than the contents is of no use, and is made smaller in the frame's header. So a
//! small item takes little memory, however it was compressed.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::budget::{Claim, LARGEST_WINDOW};
use super::members::{Empty, read_up_to};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The magic number of a frame to skip, but for the lower half of its first byte.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The first bytes of a frame, which say how long its header is: the magic number and the descriptor.
const START: usize = 5;
/// Where a header has the size of the window, unless the frame has only one segment.
const WINDOW: usize = 5;
/// No window is made smaller than this, in bytes: blocks are not larger.
const LEAST_WINDOW: u64 = 1 << 20;
/// Windows begin with this exponent.
const LEAST_EXPONENT: u32 = 10;

/// The decompressed contents of frames.
pub struct ZstdFrames<'a, R> {
    input: R,
    claim: &'a Claim,
    /// No more bytes than this are read.
    contents: u64,
    decoder: Option<Decoder<'static>>,
    /// The window that there is memory for.
    window: u64,
    /// The beginning of a frame, and how much of it libzstd has seen.
    header: Vec<u8>,
    seen: usize,
    is_in_frame: bool,
    empty: Empty,
}

impl<'a, R: BufRead> ZstdFrames<'a, R> {
    /// The contents of `input`, of which no more than `contents` bytes are read; `claim` is for
    /// them alone.
    pub fn new(input: R, contents: u64, claim: &'a Claim) -> ZstdFrames<'a, R> {
        ZstdFrames {
            input,
            claim,
            contents,
            decoder: None,
            window: 0,
            header: Vec::new(),
            seen: 0,
            is_in_frame: false,
            empty: Empty::default(),
        }
    }

    /// Reads the header of the next frame, and has a decoder ready for it; `false` at the end.
    fn begin_frame(&mut self) -> io::Result<bool> {
        self.header.clear();
        self.seen = 0;
        read_up_to(START, &mut self.header, &mut self.input)?;
        if self.header.is_empty() {
            return Ok(false);
        }
        check_magic(&self.header)?;
        let length = header_length(&self.header);
        read_up_to(length, &mut self.header, &mut self.input)?;
        let window = narrow(&mut self.header, self.contents);
        if self.decoder.is_none() || window > self.window {
            self.decoder = None;
            self.claim.take_for_window(window)?;
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(LARGEST_WINDOW.ilog2()))?;
            self.decoder = Some(decoder);
            self.window = window;
        }
        self.is_in_frame = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for ZstdFrames<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.is_in_frame && !self.begin_frame()? {
            return Ok(0);
        }
        let mut output = OutBuffer::around(buffer);
        // What didn't fit into the last buffer comes first, and needs no input.
        let mut needs_input = false;
        while output.pos() == 0 {
            let Some(decoder) = &mut self.decoder else {
                return Ok(0);
            };
            let from_header = self.seen < self.header.len();
            let bytes = match (from_header, needs_input) {
                (true, _) => &self.header[self.seen..],
                (false, false) => &[],
                (false, true) => self.input.fill_buf()?,
            };
            if needs_input && !from_header && bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = InBuffer::around(bytes);
            let left = decoder.run(&mut input, &mut output)?;
            let used = input.pos();
            match from_header {
                true => self.seen += used,
                false => self.input.consume(used),
            }
            needs_input = true;
            if left == 0 {
                self.is_in_frame = false;
                self.empty.add()?;
                if output.pos() == 0 && !self.begin_frame()? {
                    return Ok(0);
                }
            }
        }
        self.empty.reset();
        Ok(output.pos())
    }
}

/// Refuses what isn't a frame: libzstd may know formats that came before it, whose windows nobody has taken
/// memory for.
fn check_magic(start: &[u8]) -> io::Result<()> {
    let Some([first, rest @ ..]) = start.first_chunk::<4>() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let is_frame = start.starts_with(&MAGIC);
    match is_frame || first & 0xf0 == SKIPPABLE[0] && *rest == SKIPPABLE[1..] {
        true => Ok(()),
        false => Err(io::Error::other("it is not compressed by zstd")),
    }
}

/// How long the header is of which these are the first bytes.
fn header_length(start: &[u8]) -> usize {
    let descriptor = match start {
        [magic @ .., descriptor] if magic == MAGIC => *descriptor,
        // It is skipped, and has no window.
        _ => return start.len(),
    };
    let of_window = usize::from(!is_single(descriptor));
    let of_dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    START + of_window + of_dictionary + length_of_size(descriptor)
}

/// Whether the frame has only one segment, and so no window but its contents.
fn is_single(descriptor: u8) -> bool {
    descriptor & 0x20 != 0
}

/// How many bytes say how large the contents are.
fn length_of_size(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(is_single(descriptor)),
        flag => 1 << flag,
    }
}

/// The size of the window that a header asks for; it is made smaller there where the contents are.
fn narrow(header: &mut [u8], contents: u64) -> u64 {
    if header.len() <= START || header[..MAGIC.len()] != MAGIC {
        return 0;
    }
    let descriptor = header[MAGIC.len()];
    if is_single(descriptor) {
        let mut size = [0; 8];
        let length = length_of_size(descriptor);
        let Some(at) = header.len().checked_sub(length) else {
            return 0;
        };
        size[..length].copy_from_slice(&header[at..]);
        return u64::from_le_bytes(size) + if length == 2 { 256 } else { 0 };
    }
    let base = 1u64 << (LEAST_EXPONENT + u32::from(header[WINDOW] >> 3));
    let window = base + base / 8 * u64::from(header[WINDOW] & 7);
    let enough = contents
        .saturating_add(LEAST_WINDOW)
        .checked_next_power_of_two();
    match enough {
        Some(enough) if enough < window => {
            header[WINDOW] = ((enough.ilog2() - LEAST_EXPONENT) << 3) as u8;
            enough
        }
        _ => window,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_large_a_window_is() {
        // Descriptor, what follows, and the window for contents of 100 bytes and of 1 GiB.
        for (descriptor, rest, small, large) in [
            (0x00, &[0x00][..], 1 << 10, 1 << 10),
            (0x04, &[0x68], 1 << 21, 1 << 23),
            (0x04, &[0x6f], 1 << 21, (1 << 23) / 8 * 15),
            (0x04, &[0x88], 1 << 21, 1 << 27),
            (0x00, &[0xf8], 1 << 21, 1 << 31),
            (0x80, &[0x88, 1, 2, 3, 4], 1 << 21, 1 << 27),
            (0x03, &[0x88, 1, 2, 3, 4], 1 << 21, 1 << 27),
            (0x20, &[77], 77, 77),
            (0x60, &[0, 1], 512, 512),
            (0xa1, &[9, 0, 0, 1, 0], 1 << 16, 1 << 16),
            (0xe0, &[0, 0, 0, 0, 1, 0, 0, 0], 1 << 32, 1 << 32),
        ] {
            for (contents, expected) in [(100, small), (1 << 30, large)] {
                let mut header = [&MAGIC[..], &[descriptor], rest].concat();
                assert_eq!(header_length(&header[..START]), header.len(), "{header:x?}");
                assert_eq!(narrow(&mut header, contents), expected, "{header:x?}");
                assert_eq!(narrow(&mut header, 1 << 40), expected, "{header:x?}");
            }
        }
        // A frame that is skipped, other bytes, and too few.
        for bytes in [&[0x50, 0x2a, 0x4d, 0x18, 9][..], b"rubbish", &MAGIC, b""] {
            assert_eq!(narrow(&mut bytes.to_vec(), 1), 0);
        }
    }
}

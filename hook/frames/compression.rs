//! Compression of the bytes in channels: one stream of zstd for each direction, whose pieces are the
//! payloads of data frames.

use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::error::FrameError;
use super::{DATA_LIMIT, PAYLOAD_LIMIT};

/// The level: fast enough for any network.
const LEVEL: i32 = 1;
/// The base-two logarithm of how far back the stream refers, which is what either side keeps.
const WINDOW_LOG: u32 = 20;
/// Less than this is not worth it, in bytes.
const LEAST: usize = 200;
/// How many pieces are sent as they are after one that did not become shorter.
const REST: u32 = 15;

/// Compresses pieces, as long as that makes them shorter.
pub(super) struct Compressor {
    encoder: Encoder<'static>,
    /// How many pieces are sent as they are.
    rest: u32,
}

impl Compressor {
    pub fn new() -> io::Result<Compressor> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Compressor { encoder, rest: 0 })
    }

    /// Appends the next piece of the stream, which has these bytes. Returns false, and appends
    /// nothing, if they are to be sent as they are.
    pub fn append(&mut self, bytes: &[u8], target: &mut Vec<u8>) -> io::Result<bool> {
        if bytes.len() < LEAST || bytes.len() > DATA_LIMIT {
            return Ok(false);
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Ok(false);
        }
        let start = target.len();
        target.resize(start + PAYLOAD_LIMIT, 0);
        let written = self.compress(bytes, &mut target[start..])?;
        target.truncate(start + written);
        // It has become a part of the stream now, whatever its length is.
        if written + written / 16 >= bytes.len() {
            self.rest = REST;
        }
        Ok(true)
    }

    fn compress(&mut self, bytes: &[u8], target: &mut [u8]) -> io::Result<usize> {
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(target);
        while input.pos() < bytes.len() {
            let before = (input.pos(), output.pos());
            self.encoder.run(&mut input, &mut output)?;
            if (input.pos(), output.pos()) == before {
                return Err(io::Error::other("a compressed piece has no end"));
            }
        }
        while self.encoder.flush(&mut output)? > 0 {
            if output.pos() == PAYLOAD_LIMIT {
                return Err(io::Error::other("a compressed piece is too long"));
            }
        }
        Ok(output.pos())
    }
}

/// Decompresses pieces.
pub(super) struct Decompressor {
    decoder: Decoder<'static>,
    plain: Vec<u8>,
}

impl Decompressor {
    pub fn new() -> io::Result<Decompressor> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Decompressor {
            decoder,
            plain: vec![0; PAYLOAD_LIMIT + 1],
        })
    }

    /// The bytes of the next piece.
    pub fn decompress(&mut self, piece: &[u8]) -> Result<&[u8], FrameError> {
        let failed = |error: io::Error| FrameError::Compression(error.to_string());
        let mut input = InBuffer::around(piece);
        let mut output = OutBuffer::around(&mut self.plain[..]);
        loop {
            let before = (input.pos(), output.pos());
            self.decoder.run(&mut input, &mut output).map_err(failed)?;
            if output.pos() > PAYLOAD_LIMIT {
                return Err(FrameError::Bomb);
            }
            // What is left in the decoder comes out, too.
            if (input.pos(), output.pos()) == before {
                break;
            }
        }
        if input.pos() < piece.len() {
            return Err(FrameError::Compression("its end is missing".to_owned()));
        }
        let length = output.pos();
        Ok(&self.plain[..length])
    }
}

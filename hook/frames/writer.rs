//! Writing the greeting and frames.

use std::io::{self, Write};

use super::compression::Compressor;
use super::frame::{HEADER, Header, Kind};
use super::greeting::greeting;
use super::{DATA_LIMIT, PAYLOAD_LIMIT};

/// Writes frames, each with a single call: what lies in between may delay a second one.
pub struct FrameWriter<W> {
    sink: W,
    frame: Vec<u8>,
    compressor: Option<Compressor>,
}

impl<W: Write> FrameWriter<W> {
    /// A writer of this stream, which compresses nothing yet.
    pub fn new(sink: W) -> FrameWriter<W> {
        FrameWriter {
            sink,
            frame: Vec::new(),
            compressor: None,
        }
    }

    /// Compresses the bytes of channels from now on.
    pub fn compress(&mut self) -> io::Result<()> {
        self.compressor = Some(Compressor::new()?);
        Ok(())
    }

    /// Writes the greeting.
    pub fn greet(&mut self) -> io::Result<()> {
        self.sink.write_all(&greeting())?;
        self.sink.flush()
    }

    /// Writes a frame, whose payload has at most [`PAYLOAD_LIMIT`] bytes, and [`DATA_LIMIT`] if it is
    /// data.
    pub fn write(&mut self, kind: Kind, channel: u16, payload: &[u8]) -> io::Result<()> {
        let limit = match kind {
            Kind::Data => DATA_LIMIT,
            _ => PAYLOAD_LIMIT,
        };
        if payload.len() > limit {
            let text = format!(
                "a {} frame of {} bytes is too long",
                kind.name(),
                payload.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.frame.clear();
        self.frame.resize(HEADER, 0);
        let compressed = match (&mut self.compressor, kind) {
            (Some(compressor), Kind::Data) => compressor.append(payload, &mut self.frame)?,
            _ => false,
        };
        if !compressed {
            self.frame.extend_from_slice(payload);
        }
        let header = Header {
            kind,
            compressed,
            channel,
            length: self.frame.len() - HEADER,
        };
        self.frame[..HEADER].copy_from_slice(&header.encode());
        self.sink.write_all(&self.frame)?;
        self.sink.flush()
    }
}

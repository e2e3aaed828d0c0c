//! Messages as they are on the socket: a word with the length in bytes, a multiple of 8, and the
//! message.

use super::limits::BODY_LIMIT;

/// The longest message, in bytes.
const LIMIT: usize = BODY_LIMIT as usize + (512 << 10);
/// The length of a frame's header, in bytes.
const HEADER: usize = 8;
/// The size of an empty buffer that is kept for the next messages, in bytes.
const KEPT: usize = 256 << 10;

/// A frame that no honest program sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("a message of {0} bytes is too long")]
    TooLong(u64),
    /// Not a number of whole words.
    #[error("a message of {0} bytes isn't a number of whole words")]
    Odd(u64),
}

/// Cuts what arrives into messages. It never holds much more than the longest message.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Where the first message begins that wasn't taken.
    start: usize,
}

impl Frames {
    /// Adds bytes that have arrived. Take all messages before adding more.
    pub fn add(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = Vec::new(); // after a long message
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if all of it has arrived.
    pub fn take(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some(header) = rest.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u64::from_le_bytes(*header);
        if length > LIMIT as u64 {
            return Err(FrameError::TooLong(length));
        }
        if length % 8 != 0 {
            return Err(FrameError::Odd(length));
        }
        let length = length as usize;
        if rest.len() < HEADER + length {
            return Ok(None);
        }
        let begin = self.start + HEADER;
        self.start = begin + length;
        Ok(Some(&self.buffer[begin..begin + length]))
    }

    /// Whether a message has begun to arrive, and its end is missing.
    pub fn is_partial(&self) -> bool {
        self.start < self.buffer.len()
    }
}

/// Appends a frame with the message that `write` appends.
pub(super) fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let header = out.len();
    out.extend_from_slice(&[0; HEADER]);
    write(out);
    let length = (out.len() - header - HEADER) as u64;
    out[header..header + HEADER].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_arrive_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..20), 0..20),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            let messages: Vec<Vec<u8>> = messages
                .into_iter()
                .map(|words| words.into_iter().flat_map(u64::to_le_bytes).collect())
                .collect();
            let mut stream = Vec::new();
            for message in &messages {
                append(&mut stream, |out| out.extend_from_slice(message));
            }
            let (mut frames, mut arrived) = (Frames::default(), Vec::new());
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, other) = rest.split_at(rest.len().min(*cut));
                frames.add(piece);
                while let Some(message) = frames.take().unwrap() {
                    arrived.push(message.to_vec());
                }
                rest = other;
            }
            prop_assert!(!frames.is_partial());
            prop_assert_eq!(arrived, messages);
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_noticed_before_the_message() {
        let mut frames = Frames::default();
        frames.add(&u64::MAX.to_le_bytes());
        assert_eq!(frames.take(), Err(FrameError::TooLong(u64::MAX)));
        let mut frames = Frames::default();
        frames.add(&9u64.to_le_bytes());
        assert_eq!(frames.take(), Err(FrameError::Odd(9)));
    }
}

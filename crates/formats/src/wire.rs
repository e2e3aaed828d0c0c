//! The encoding shared by nars, export streams and the worker protocol: words of 8 bytes,
//! little-endian, and byte strings padded with zeros to a multiple of 8.
//!
//! Reading never allocates much more than was received, and every string has a limit. Documented in
//! Guix's `nix/libutil/serialise.cc`.

use std::io::{self, Read, Write};

use bstr::BString;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed or ended too early.
    #[error("{}", describe(.0))]
    Io(#[from] io::Error),
    /// A number doesn't fit 32 bits.
    #[error("implementation cannot deal with > 32-bit integers")]
    Integer,
    /// A string or list is longer than allowed here.
    #[error("string is too long: {length} bytes where at most {limit} are allowed")]
    TooLong {
        /// The announced length.
        length: u64,
        /// The allowed length.
        limit: u64,
    },
    /// Padding that isn't all zeros.
    #[error("non-zero padding")]
    Padding,
    /// Invalid UTF-8 where text is required.
    #[error("`{0}' is no text")]
    NotText(BString),
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected end-of-file".to_owned(),
        _ => error.to_string(),
    }
}

impl Error {
    /// Whether the data ended early.
    pub fn is_eof(&self) -> bool {
        matches!(self, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// The number of padding bytes after a string of `length` bytes.
pub const fn padding(length: u64) -> usize {
    ((8 - length % 8) % 8) as usize
}

/// How many bytes to reserve before announced data has arrived.
const PREALLOCATE: u64 = 64 * 1024;

/// Reading the encoding. Implemented for every [`Read`], which should be buffered.
pub trait ReadExt: Read {
    /// A whole word.
    #[inline]
    fn read_u64(&mut self) -> Result<u64, Error> {
        let mut word = [0; 8];
        self.read_exact(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Reads a word that has to fit 32 bits.
    #[inline]
    fn read_int(&mut self) -> Result<u32, Error> {
        u32::try_from(self.read_u64()?).map_err(|_| Error::Integer)
    }

    /// Reads the length of a string, at most `limit`.
    #[inline]
    fn read_length(&mut self, limit: u64) -> Result<u64, Error> {
        let length = u64::from(self.read_int()?);
        if length > limit {
            Err(Error::TooLong { length, limit })
        } else {
            Ok(length)
        }
    }

    /// Reads the padding after a string of `length` bytes.
    #[inline]
    fn read_padding(&mut self, length: u64) -> Result<(), Error> {
        let mut zeros = [0; 8];
        let zeros = &mut zeros[..padding(length)];
        self.read_exact(zeros)?;
        if zeros.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(Error::Padding)
        }
    }

    /// Reads a byte string of at most `limit` bytes.
    fn read_bytes(&mut self, limit: u64) -> Result<BString, Error> {
        let length = self.read_length(limit)?;
        let mut bytes = Vec::with_capacity(length.min(PREALLOCATE) as usize);
        if length <= PREALLOCATE {
            bytes.resize(length as usize, 0);
            self.read_exact(&mut bytes)?;
        } else if <&mut Self as Read>::take(self, length).read_to_end(&mut bytes)? as u64 != length
        {
            return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.read_padding(length)?;
        Ok(bytes.into())
    }

    /// Reads a string of at most `limit` bytes that has to be valid UTF-8.
    fn read_string(&mut self, limit: u64) -> Result<String, Error> {
        String::from_utf8(self.read_bytes(limit)?.into())
            .map_err(|error| Error::NotText(error.into_bytes().into()))
    }

    /// Reads a short byte string without allocating; an error if it doesn't fit `buffer`.
    fn read_token<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let length = self.read_length(buffer.len() as u64)?;
        let token = &mut buffer[..length as usize];
        self.read_exact(token)?;
        self.read_padding(length)?;
        Ok(token)
    }
}

impl<R: Read + ?Sized> ReadExt for R {}

/// Writing the encoding. Implemented for every [`Write`], which should be buffered.
pub trait WriteExt: Write {
    /// A word.
    #[inline]
    fn write_u64(&mut self, value: u64) -> io::Result<()> {
        self.write_all(&value.to_le_bytes())
    }

    /// Writes a boolean as a word.
    #[inline]
    fn write_bool(&mut self, value: bool) -> io::Result<()> {
        self.write_u64(value.into())
    }

    /// Writes the padding after a string of `length` bytes.
    #[inline]
    fn write_padding(&mut self, length: u64) -> io::Result<()> {
        self.write_all(&[0; 8][..padding(length)])
    }

    /// A byte string.
    fn write_bytes(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        let length = u32::try_from(bytes.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "string of more than 4 GiB")
        })?;
        self.write_u64(length.into())?;
        self.write_all(bytes)?;
        self.write_padding(length.into())
    }

    /// Writes a list of byte strings, preceded by its length.
    fn write_strings<I>(&mut self, strings: I) -> io::Result<()>
    where
        I: IntoIterator<IntoIter: ExactSizeIterator, Item: AsRef<[u8]>>,
    {
        let strings = strings.into_iter();
        self.write_u64(strings.len() as u64)?;
        for string in strings {
            self.write_bytes(string)?;
        }
        Ok(())
    }
}

impl<W: Write + ?Sized> WriteExt for W {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout() {
        let mut out = Vec::new();
        out.write_u64(0x0102).unwrap();
        out.write_bytes("abc").unwrap();
        out.write_bytes("").unwrap();
        assert_eq!(
            out,
            b"\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0abc\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn refusals() {
        let word = |value: u64| value.to_le_bytes().to_vec();
        assert!(matches!(
            (&word(1 << 32)[..]).read_int(),
            Err(Error::Integer)
        ));
        assert!(matches!(
            (&word(9)[..]).read_bytes(8),
            Err(Error::TooLong { .. })
        ));
        let unpadded = [&word(1)[..], b"a\0\0\0\0\0\0\x01"].concat();
        assert!(matches!((&unpadded[..]).read_bytes(8), Err(Error::Padding)));
        // A length that exceeds memory, without data.
        assert!(
            (&word(u32::MAX.into())[..])
                .read_bytes(u64::MAX)
                .unwrap_err()
                .is_eof()
        );
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..100), number: u64) {
            let mut out = Vec::new();
            out.write_bytes(&bytes).unwrap();
            out.write_u64(number).unwrap();
            prop_assert_eq!(out.len() % 8, 0);
            let mut input = &out[..];
            prop_assert_eq!(input.read_bytes(100).unwrap(), bytes);
            prop_assert_eq!(input.read_u64().unwrap(), number);
        }
    }
}

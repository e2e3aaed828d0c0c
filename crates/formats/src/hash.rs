//! Hashes: an algorithm and its digest, computed while data streams through.
//!
//! In the store, a hash is written in hexadecimal or in [`base32`]; the length tells which.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::Digest;

use crate::base32;

/// Why a hash or the name of an algorithm could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name that isn't in [`Algorithm::ALL`].
    #[error("unknown hash type `{0}'")]
    UnknownAlgorithm(String),
    /// Neither the hexadecimal nor the base-32 length.
    #[error("hash `{text}' has wrong length for hash type `{algorithm}'")]
    Length {
        /// The text.
        text: String,
        /// The expected algorithm.
        algorithm: Algorithm,
    },
    /// The length in hexadecimal is wrong for the algorithm.
    #[error(
        "invalid {} hash '{text}' ({} bytes but expected {})",
        algorithm.libgcrypt_name(), text.len() / 2, algorithm.size()
    )]
    Size {
        /// The text.
        text: String,
        /// The expected algorithm.
        algorithm: Algorithm,
    },
    /// The length is right, but there are invalid characters.
    #[error("invalid hash `{0}'")]
    Digits(String),
}

/// A hash algorithm that Guix's daemon supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Sha3_256,
    Sha3_512,
    Blake2s256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Algorithm; 7] = [
        Algorithm::Md5,
        Algorithm::Sha1,
        Algorithm::Sha256,
        Algorithm::Sha512,
        Algorithm::Sha3_256,
        Algorithm::Sha3_512,
        Algorithm::Blake2s256,
    ];

    /// Its name in libgcrypt, which Guix uses in messages.
    const fn libgcrypt_name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha512 => "SHA512",
            Algorithm::Sha3_256 => "SHA3-256",
            Algorithm::Sha3_512 => "SHA3-512",
            Algorithm::Blake2s256 => "BLAKE2S_256",
        }
    }

    /// Its name in derivations and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "md5",
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Sha3_256 => "sha3-256",
            Algorithm::Sha3_512 => "sha3-512",
            Algorithm::Blake2s256 => "blake2s-256",
        }
    }

    /// The length of its digests in bytes.
    pub const fn size(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 | Algorithm::Sha3_256 | Algorithm::Blake2s256 => 32,
            Algorithm::Sha512 | Algorithm::Sha3_512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| Error::UnknownAlgorithm(name.to_owned()))
    }
}

/// The longest digest of all algorithms.
const MAX_SIZE: usize = 64;

/// A digest and its algorithm.
///
/// ```
/// use formats::{Algorithm, Hash};
///
/// let hash = Hash::sha256("hello, world\n");
/// assert_eq!(hash.base32(), "0830jxydl86c7qf54zx9mvfn73vdsvfyksy44bvxnvd0c8vzjgw5");
/// assert_eq!(Hash::parse(Algorithm::Sha256, &hash.hex())?, hash);
/// # Ok::<(), formats::hash::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash {
    algorithm: Algorithm,
    /// Only the first `algorithm.size()` bytes are used; the others are zero.
    bytes: [u8; MAX_SIZE],
}

impl Hash {
    /// Wraps a digest computed elsewhere; `None` if its length is wrong for the algorithm.
    pub fn new(algorithm: Algorithm, digest: &[u8]) -> Option<Hash> {
        let mut bytes = [0; MAX_SIZE];
        (digest.len() == algorithm.size()).then(|| {
            bytes[..digest.len()].copy_from_slice(digest);
            Hash { algorithm, bytes }
        })
    }

    /// The hash of `data`.
    pub fn of(algorithm: Algorithm, data: impl AsRef<[u8]>) -> Hash {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data.as_ref());
        hasher.finish().0
    }

    /// The SHA-256 of `data`.
    pub fn sha256(data: impl AsRef<[u8]>) -> Hash {
        Hash::of(Algorithm::Sha256, data)
    }

    /// Parses a hash in hexadecimal or base-32, depending on its length.
    pub fn parse(algorithm: Algorithm, text: &str) -> Result<Hash, Error> {
        let digest = if text.len() == algorithm.size() * 2 {
            HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
        } else if text.len() == base32::encoded_length(algorithm.size()) {
            base32::decode(text)
        } else {
            return Err(Error::Length {
                text: shorten(text),
                algorithm,
            });
        };
        digest
            .and_then(|digest| Hash::new(algorithm, &digest))
            .ok_or_else(|| Error::Digits(text.to_owned()))
    }

    /// Parses `ALGORITHM:HASH`, as the database and the substituter write it.
    pub fn parse_prefixed(text: &str) -> Result<Hash, Error> {
        let (name, digits) = text
            .split_once(':')
            .ok_or_else(|| Error::UnknownAlgorithm(shorten(text)))?;
        Hash::parse(name.parse()?, digits)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// In lower-case hexadecimal.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.bytes())
    }

    /// In the store's base-32.
    pub fn base32(&self) -> String {
        base32::encode(self.bytes())
    }

    /// As Guix shows hashes to users: MD5 in hexadecimal, others in base-32.
    pub fn hex_or_base32(&self) -> String {
        if self.algorithm == Algorithm::Md5 {
            self.hex()
        } else {
            self.base32()
        }
    }

    /// The digest folded to `N` bytes; store paths have hashes folded to 20 bytes.
    pub fn compress<const N: usize>(&self) -> [u8; N] {
        let mut folded = [0; N];
        for (position, byte) in self.bytes().iter().enumerate() {
            folded[position % N] ^= byte;
        }
        folded
    }
}

/// `ALGORITHM:HEX`, as in the database.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shortens a text that may be very long for an error message.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The state of each algorithm; large ones are boxed, so that a [`Hasher`] is cheap to move.
#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Sha3_256(Box<sha3::Sha3_256>),
    Sha3_512(Box<sha3::Sha3_512>),
    Blake2s256(Box<blake2::Blake2s256>),
}

/// A writer that hashes what is written to it and counts the bytes.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

impl Hasher {
    /// A hasher without any data yet.
    pub fn new(algorithm: Algorithm) -> Hasher {
        let state = match algorithm {
            Algorithm::Md5 => State::Md5(Digest::new()),
            Algorithm::Sha1 => State::Sha1(Digest::new()),
            Algorithm::Sha256 => State::Sha256(Digest::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Digest::new())),
            Algorithm::Sha3_256 => State::Sha3_256(Box::new(Digest::new())),
            Algorithm::Sha3_512 => State::Sha3_512(Box::new(Digest::new())),
            Algorithm::Blake2s256 => State::Blake2s256(Box::new(Digest::new())),
        };
        Hasher { state, size: 0 }
    }

    /// A hasher for SHA-256, which the store uses nearly everywhere.
    pub fn sha256() -> Hasher {
        Hasher::new(Algorithm::Sha256)
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        match &mut self.state {
            State::Md5(state) => state.update(data),
            State::Sha1(state) => state.update(data),
            State::Sha256(state) => state.update(data),
            State::Sha512(state) => state.update(data),
            State::Sha3_256(state) => state.update(data),
            State::Sha3_512(state) => state.update(data),
            State::Blake2s256(state) => state.update(data),
        }
    }

    /// The number of bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hash of all data, and the number of bytes.
    pub fn finish(self) -> (Hash, u64) {
        fn done(algorithm: Algorithm, digest: &[u8]) -> Hash {
            let mut bytes = [0; MAX_SIZE];
            bytes[..digest.len()].copy_from_slice(digest);
            Hash { algorithm, bytes }
        }
        let hash = match self.state {
            State::Md5(state) => done(Algorithm::Md5, &state.finalize()),
            State::Sha1(state) => done(Algorithm::Sha1, &state.finalize()),
            State::Sha256(state) => done(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => done(Algorithm::Sha512, &state.finalize()),
            State::Sha3_256(state) => done(Algorithm::Sha3_256, &state.finalize()),
            State::Sha3_512(state) => done(Algorithm::Sha3_512, &state.finalize()),
            State::Blake2s256(state) => done(Algorithm::Blake2s256, &state.finalize()),
        };
        (hash, self.size)
    }
}

impl Write for Hasher {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that hashes what is read through it.
pub struct HashReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> HashReader<R> {
    /// Hashes what will be read from `inner` with `algorithm`.
    pub fn new(inner: R, algorithm: Algorithm) -> Self {
        HashReader {
            inner,
            hasher: Hasher::new(algorithm),
        }
    }

    /// The reader, with the hash and the size of what was read.
    pub fn finish(self) -> (R, Hash, u64) {
        let (hash, size) = self.hasher.finish();
        (self.inner, hash, size)
    }

    /// The hash and the size of what was read so far.
    pub fn current(&self) -> (Hash, u64) {
        self.hasher.clone().finish()
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A writer that hashes what is written through it.
pub struct HashWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> HashWriter<W> {
    /// Hashes what will be written to `inner` with `algorithm`.
    pub fn new(inner: W, algorithm: Algorithm) -> Self {
        HashWriter {
            inner,
            hasher: Hasher::new(algorithm),
        }
    }

    /// The writer, with the hash and the size of what was written.
    pub fn finish(self) -> (W, Hash, u64) {
        let (hash, size) = self.hasher.finish();
        (self.inner, hash, size)
    }

    /// The hash and the size of what was written so far.
    pub fn current(&self) -> (Hash, u64) {
        self.hasher.clone().finish()
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hasher.update(&data[..count]);
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = self.inner.write_vectored(slices)?;
        let mut left = count;
        for slice in slices {
            let part = left.min(slice.len());
            self.hasher.update(&slice[..part]);
            left -= part;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of the empty string, from the standards' own test vectors.
    const OF_NOTHING: [(Algorithm, &str); 7] = [
        (Algorithm::Md5, "d41d8cd98f00b204e9800998ecf8427e"),
        (Algorithm::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (
            Algorithm::Sha256,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            Algorithm::Sha512,
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ),
        (
            Algorithm::Sha3_256,
            "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a",
        ),
        (
            Algorithm::Sha3_512,
            "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a6\
             15b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26",
        ),
        (
            Algorithm::Blake2s256,
            "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9",
        ),
    ];

    #[test]
    fn every_algorithm() {
        for (algorithm, hex) in OF_NOTHING {
            let hash = Hash::of(algorithm, "");
            assert_eq!(hash.hex(), hex);
            assert_eq!(Hash::parse(algorithm, hex), Ok(hash));
            assert_eq!(Hash::parse(algorithm, &hex.to_uppercase()), Ok(hash));
            assert_eq!(Hash::parse(algorithm, &hash.base32()), Ok(hash));
            assert_eq!(Hash::parse_prefixed(&hash.to_string()), Ok(hash));
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert_eq!(
            Hash::sha256("").base32(),
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
        );
    }

    #[test]
    fn refusals_name_their_reason() {
        let error = |text: &str| Hash::parse(Algorithm::Sha1, text).unwrap_err().to_string();
        assert_eq!(
            error("12"),
            "hash `12' has wrong length for hash type `sha1'"
        );
        assert!(error(&"g".repeat(40)).starts_with("invalid hash `ggg"));
        assert_eq!(
            "sha0".parse::<Algorithm>().unwrap_err().to_string(),
            "unknown hash type `sha0'"
        );
    }

    #[test]
    fn readers_and_writers_hash_what_passes() {
        let data = vec![7u8; 100_000];
        let expected = (Hash::sha256(&data), data.len() as u64);
        let mut reader = HashReader::new(&data[..], Algorithm::Sha256);
        let mut writer = HashWriter::new(Vec::new(), Algorithm::Sha256);
        io::copy(&mut reader, &mut writer).unwrap();
        assert_eq!(reader.current(), expected);
        let (copy, hash, size) = writer.finish();
        assert_eq!((hash, size), expected);
        assert_eq!(copy, data);
    }
}

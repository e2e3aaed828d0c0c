//! Data to send: noise, and what compresses as texts do.

use std::io::{self, Read};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How many words the text has.
const WORDS: usize = 4000;

/// Bytes that can't be compressed.
pub struct Noise(StdRng);

impl Noise {
    /// Different ones for each number.
    pub fn new(number: u64) -> Noise {
        Noise(StdRng::seed_from_u64(number))
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.fill(buffer);
        Ok(buffer.len())
    }
}

/// Lines of words, of which some are frequent: zstd makes about a third of it.
pub struct Text {
    random: StdRng,
    words: Vec<String>,
    left: Vec<u8>,
}

impl Text {
    /// Another one for each number.
    pub fn new(number: u64) -> Text {
        let mut random = StdRng::seed_from_u64(number);
        let words = (0..WORDS).map(|_| {
            let length = random.random_range(1..12);
            let letters = (0..length).map(|_| char::from(random.random_range(b'a'..=b'z')));
            letters.collect()
        });
        let words = words.collect();
        Text {
            random,
            words,
            left: Vec::new(),
        }
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.len() < buffer.len() {
            let chance: f64 = self.random.random();
            let word = (WORDS as f64).powf(chance) - 1.0;
            self.left.extend(self.words[word as usize].as_bytes());
            let is_last = self.random.random_range(0..12) == 0;
            self.left.push(if is_last { b'\n' } else { b' ' });
        }
        buffer.copy_from_slice(&self.left[..buffer.len()]);
        self.left.drain(..buffer.len());
        Ok(buffer.len())
    }
}

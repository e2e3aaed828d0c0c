//! The base-32 of the store: least significant digit last, an alphabet without `e o t u`.
//!
//! Digit *k*, counted from the end, holds bits 5*k* to 5*k*+4 of the bytes taken as one
//! little-endian number.

/// The 32 digits; a digit's value is its position.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks, in [`VALUES`], a byte that is no digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a digit, or [`NO_DIGIT`].
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        values[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// Whether `byte` is a digit of this alphabet.
#[inline]
pub const fn is_digit(byte: u8) -> bool {
    VALUES[byte as usize] != NO_DIGIT
}

/// How many digits stand for `bytes` bytes.
pub const fn encoded_length(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        (bytes * 8 - 1) / 5 + 1
    }
}

/// The digits of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_length(bytes.len()));
    for digit in (0..encoded_length(bytes.len())).rev() {
        let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
        let low = u16::from(bytes[byte]);
        let high = u16::from(bytes.get(byte + 1).copied().unwrap_or(0));
        let value = ((high << 8 | low) >> shift) & 31;
        text.push(char::from(ALPHABET[usize::from(value)]));
    }
    text
}

/// The bytes that `text` stands for, or `None` if it holds anything but digits, has a length
/// that no number of bytes has, or sets bits past the last byte.
pub fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let text = text.as_ref();
    let length = text.len() * 5 / 8;
    if encoded_length(length) != text.len() {
        return None;
    }
    let mut bytes = vec![0u8; length];
    for (digit, &character) in text.iter().rev().enumerate() {
        let value = VALUES[usize::from(character)];
        if value == NO_DIGIT {
            return None;
        }
        let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
        let shifted = u16::from(value) << shift;
        bytes[byte] |= (shifted & 0xff) as u8;
        match (bytes.get_mut(byte + 1), (shifted >> 8) as u8) {
            (_, 0) => {}
            (Some(next), carry) => *next |= carry,
            (None, _) => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[0xff]), "7z");
        assert_eq!(decode("7z"), Some(vec![0xff]));
        assert_eq!(decode("zz"), None, "bits past the last byte");
        assert_eq!(decode("7e"), None, "not a digit");
        assert_eq!(decode("7"), None, "no whole byte");
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_length(bytes.len()));
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in "[0-9a-z]{0,60}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}

//! The store's base-32: least significant digit last, with an alphabet without `e o t u`.
//!
//! Digit *k*, counted from the end, holds bits 5*k* to 5*k*+4 of the bytes taken as one
//! little-endian number. That is `data-encoding`'s least-significant-bit-first order, with the
//! digits reversed.

use data_encoding::Encoding;
use data_encoding_macro::new_encoding;

/// The 32 digits; a digit's value is its position.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The same digits, the least significant first.
const REVERSED: Encoding = new_encoding! {
    symbols: "0123456789abcdfghijklmnpqrsvwxyz",
    bit_order: LeastSignificantFirst,
};

/// Whether each byte is a digit.
const IS_DIGIT: [bool; 256] = {
    let mut is_digit = [false; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        is_digit[ALPHABET[i] as usize] = true;
        i += 1;
    }
    is_digit
};

/// Whether `byte` is a digit of this alphabet.
#[inline]
pub const fn is_digit(byte: u8) -> bool {
    IS_DIGIT[byte as usize]
}

/// The number of digits that encode `bytes` bytes.
pub const fn encoded_length(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// The digits of `bytes`.
///
/// ```
/// assert_eq!(formats::base32::encode(&[0xff, 0x01]), "00gz");
/// ```
pub fn encode(bytes: &[u8]) -> String {
    let mut digits = REVERSED.encode(bytes).into_bytes();
    digits.reverse();
    // The digits are ASCII: this cannot fail.
    String::from_utf8(digits).unwrap_or_default()
}

/// The bytes that `text` encodes, or `None` if it has characters that aren't digits, a length that
/// no number of bytes encodes to, or bits set past the last byte.
///
/// ```
/// assert_eq!(formats::base32::decode("00gz"), Some(vec![0xff, 0x01]));
/// assert_eq!(formats::base32::decode("zzzz"), None);
/// ```
pub fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let mut text = text.as_ref().to_vec();
    text.reverse();
    REVERSED.decode(&text).ok()
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

//! The values of settings: numbers in C++'s syntax, and booleans.

use std::collections::BTreeMap;

use bstr::{BString, ByteSlice};

use super::error::Error;

/// The maximum number of times a build is repeated.
pub const MAX_REPEAT: u32 = 10_000;

/// The largest argument of `--rounds`.
const MAX_ROUNDS: u64 = MAX_REPEAT as u64 + 1;

/// Settings by name, as texts.
pub type NamedSettings = BTreeMap<BString, BString>;

/// The words of a text, which are separated by blanks.
pub fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| b" \t\n\r".contains(byte))
        .filter(|word| !word.is_empty())
}

/// Parses the setting `name` into `result`, which is unchanged if the setting isn't set.
pub fn read_integer<N: Integer>(
    named: &NamedSettings,
    name: &str,
    result: &mut N,
) -> Result<(), Error> {
    if let Some(text) = named.get(name.as_bytes().as_bstr()) {
        *result = parse_integer(text).ok_or_else(|| Error::Integer(name.to_owned()))?;
    }
    Ok(())
}

/// Parses the setting `name` into `result`, which is unchanged if the setting isn't set.
pub fn read_boolean(named: &NamedSettings, name: &str, result: &mut bool) -> Result<(), Error> {
    if let Some(text) = named.get(name.as_bytes().as_bstr()) {
        *result = match text.as_bytes() {
            b"true" => true,
            b"false" => false,
            _ => {
                return Err(Error::Boolean {
                    name: name.to_owned(),
                    value: text.to_string(),
                });
            }
        };
    }
    Ok(())
}

/// Checks the argument of an option that becomes the setting `name`.
pub fn check_integer<N: Integer>(name: &'static str, text: &BString) -> Result<(), Error> {
    match sign_and_magnitude(text) {
        None => Err(Error::NotInteger {
            name,
            value: text.to_string(),
        }),
        Some((negative, magnitude)) => match N::from_sign_and_magnitude(negative, magnitude) {
            Some(_) => Ok(()),
            None => Err(Error::TooLarge {
                name,
                limit: N::LARGEST,
            }),
        },
    }
}

/// Parses the argument of `--rounds`. A negative number counts as 0; in Guix, it wraps and then no
/// build works.
pub fn parse_rounds(text: &BString) -> Result<u64, Error> {
    if text.is_empty() {
        return Ok(0);
    }
    match sign_and_magnitude(text) {
        Some((false, magnitude)) if magnitude <= MAX_ROUNDS => Ok(magnitude),
        Some((false, _)) => Err(Error::Argument(format!(
            "{text}: too many rounds; {MAX_ROUNDS} at most"
        ))),
        Some((true, _)) => Ok(0),
        None => Err(Error::Argument(format!("{text}: invalid number of rounds"))),
    }
}

fn parse_integer<N: Integer>(text: &[u8]) -> Option<N> {
    let (negative, magnitude) = sign_and_magnitude(text)?;
    N::from_sign_and_magnitude(negative, magnitude)
}

/// Parses a number as a C++ stream does: leading blanks, a sign, decimal digits, and nothing else.
/// The first value is whether the number is negative.
fn sign_and_magnitude(text: &[u8]) -> Option<(bool, u64)> {
    let text = text.trim_start_with(|character| character.is_ascii_whitespace());
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((negative, digits.to_str().ok()?.parse().ok()?))
}

/// The integer types of settings. As in C++, a negative number wraps if the type is unsigned.
pub trait Integer: Sized {
    /// The largest number.
    const LARGEST: u64;

    /// `None` if the number is too large for the type.
    fn from_sign_and_magnitude(negative: bool, magnitude: u64) -> Option<Self>;
}

impl Integer for u32 {
    const LARGEST: u64 = u32::MAX as u64;

    fn from_sign_and_magnitude(negative: bool, magnitude: u64) -> Option<u32> {
        let magnitude = u32::try_from(magnitude).ok()?;
        Some(if negative {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }
}

impl Integer for u64 {
    const LARGEST: u64 = u64::MAX;

    fn from_sign_and_magnitude(negative: bool, magnitude: u64) -> Option<u64> {
        Some(if negative {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }
}

impl Integer for i64 {
    const LARGEST: u64 = i64::MAX as u64;

    fn from_sign_and_magnitude(negative: bool, magnitude: u64) -> Option<i64> {
        if negative {
            0i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_by_a_stream_of_cpp() {
        assert_eq!(parse_integer(b" \t7"), Some(7_u32));
        assert_eq!(parse_integer(b"+007"), Some(7_u64));
        assert_eq!(parse_integer(b"-1"), Some(u32::MAX));
        assert_eq!(parse_integer(b"-1"), Some(u64::MAX));
        assert_eq!(parse_integer(b"-1"), Some(-1_i64));
        for bad in ["", " ", "-", "1 ", "0x10", "1.5", "- 1", "--1", "\u{661}"] {
            assert_eq!(parse_integer::<i64>(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_integer::<i64>(b"\xff1"), None);
    }

    #[test]
    fn integers_that_are_too_large_are_refused() {
        assert_eq!(parse_integer(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_integer::<u32>(b"4294967296"), None);
        assert_eq!(parse_integer::<u32>(b"-4294967296"), None);
        assert_eq!(parse_integer(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_integer::<u64>(b"18446744073709551616"), None);
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_integer::<i64>(b"9223372036854775808"), None);
        assert_eq!(parse_integer::<i64>(b"-9223372036854775809"), None);
    }

    #[test]
    fn values_that_nobody_set_stay() {
        let named: NamedSettings = [("n".into(), "2".into()), ("b".into(), "false".into())].into();
        let (mut number, mut truth) = (1_u32, true);
        read_integer(&named, "other", &mut number).unwrap();
        read_boolean(&named, "other", &mut truth).unwrap();
        assert_eq!((number, truth), (1, true));
        read_integer(&named, "n", &mut number).unwrap();
        read_boolean(&named, "b", &mut truth).unwrap();
        assert_eq!((number, truth), (2, false));
        let error = read_boolean(&named, "n", &mut truth).unwrap_err();
        assert_eq!(
            error.to_string(),
            "configuration option `n' should be either `true' or `false', not `2'"
        );
    }

    #[test]
    fn rounds() {
        for (text, rounds) in [("", 0), ("3", 3), (" 3", 3), ("-3", 0)] {
            assert_eq!(parse_rounds(&text.into()), Ok(rounds), "{text:?}");
        }
        assert!(parse_rounds(&"x".into()).is_err());
        assert_eq!(parse_rounds(&"10001".into()), Ok(10_001));
        assert!(parse_rounds(&"10002".into()).is_err());
    }
}

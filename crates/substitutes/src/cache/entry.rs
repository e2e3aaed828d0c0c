//! The form of a file in the cache: one Scheme datum (`doc/spec/substitutes.md`, section 4).
//!
//! ```
//! use substitutes::cache::entry::{Age, read, write};
//!
//! let age = Age { date: 1_795_823_724, ttl: 120 };
//! let file = write("http://example.org", age, None);
//! assert_eq!(
//!     file,
//!     "(narinfo (version 2) (cache-uri \"http://example.org\") (date 1795823761) (ttl 120) (value #f))"
//! );
//! assert_eq!(read(file.as_bytes(), "http://example.org"), Some((age, None)));
//! ```

use std::fmt::Write;

/// The most that a file of the cache may hold, in bytes: a narinfo of which every byte is escaped.
pub const MAX_FILE: u64 = 8 << 20;

/// The offset of the clock in cached dates from Unix time, in seconds. Guix takes them from a clock
/// that counts leap seconds, as of the last one (2017).
const LEAP_SECONDS: u64 = 37;

/// The longest time for which an answer is kept, in seconds: long enough, and far from overflows.
const MAX_TTL: u64 = 1 << 40;

/// When an answer was received, and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// In seconds since 1970, as Unix counts them.
    pub date: u64,
    /// In seconds.
    pub ttl: u64,
}

impl Age {
    /// Whether the answer still holds at the Unix time `now`. Not if it comes from the future,
    /// further than clocks differ.
    pub fn is_fresh(self, now: u64) -> bool {
        now <= self.date.saturating_add(self.ttl) && self.date <= now.saturating_add(3600)
    }
}

/// Writes the file: what the server `url` said, or that it doesn't have the item.
pub fn write(url: &str, age: Age, text: Option<&str>) -> String {
    let mut file = String::with_capacity(text.map_or(0, str::len) * 5 / 4 + url.len() + 128);
    file.push_str("(narinfo (version 2) (cache-uri ");
    write_string(&mut file, url);
    let (date, ttl) = (write_time(age.date), age.ttl.min(MAX_TTL));
    // Writing to a string cannot fail.
    let _ = write!(file, ") (date {date}) (ttl {ttl}) (value ");
    match text {
        Some(text) => write_string(&mut file, text),
        None => file.push_str("#f"),
    }
    file.push_str("))");
    file
}

/// Reads a file of the cache that is about the server `url`.
pub fn read(file: &[u8], url: &str) -> Option<(Age, Option<String>)> {
    let (age, cached_url, mut reader) = read_start(file)?;
    if cached_url != url {
        return None;
    }
    let text = match reader.peek()? {
        b'"' => Some(reader.string()?),
        _ => reader.word("#f").map(|()| None)?,
    };
    reader.close()?;
    reader.close()?;
    Some((age, text))
}

/// Reads the age only; the file may be cut in the middle of the narinfo.
pub fn read_age(file: &[u8]) -> Option<Age> {
    read_start(file).map(|(age, ..)| age)
}

/// The Unix time `time` as the cache has it.
pub fn write_time(time: u64) -> String {
    time.saturating_add(LEAP_SECONDS).to_string()
}

/// The Unix time that the cache has as `text`.
pub fn read_time(text: &[u8]) -> Option<u64> {
    Reader { rest: text }.number()?.checked_sub(LEAP_SECONDS)
}

/// Reads everything in front of the value.
fn read_start(file: &[u8]) -> Option<(Age, String, Reader<'_>)> {
    let mut reader = Reader { rest: file };
    reader.open("narinfo")?;
    reader.open("version")?;
    reader.word("2")?;
    reader.close()?;
    reader.open("cache-uri")?;
    let url = reader.string()?;
    reader.close()?;
    reader.open("date")?;
    let date = read_time(reader.token()?)?;
    reader.close()?;
    reader.open("ttl")?;
    let ttl = reader.number()?.min(MAX_TTL);
    reader.close()?;
    reader.open("value")?;
    Some((Age { date, ttl }, url, reader))
}

/// A string literal that every Guile reads the same, whatever its locale: ASCII only.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            _ => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:06x}"),
                };
            }
        }
    }
    out.push('"');
}

/// Reads Scheme's tokens, as far as the cache has them.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// The next byte that isn't a blank.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.rest = &self.rest[1..])
    }

    fn close(&mut self) -> Option<()> {
        self.byte(b')')
    }

    /// An opening parenthesis and a symbol.
    fn open(&mut self, symbol: &str) -> Option<()> {
        self.byte(b'(')?;
        self.word(symbol)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        (self.token()? == word.as_bytes()).then_some(())
    }

    fn number(&mut self) -> Option<u64> {
        let token = self.token()?;
        let digits = !token.is_empty() && token.iter().all(u8::is_ascii_digit);
        if digits {
            std::str::from_utf8(token).ok()?.parse().ok()
        } else {
            None
        }
    }

    /// A symbol, a number or `#f`.
    fn token(&mut self) -> Option<&[u8]> {
        self.peek()?;
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"()\"".contains(byte);
        let end = self.rest.iter().position(ends).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }

    /// A string literal.
    fn string(&mut self) -> Option<String> {
        self.byte(b'"')?;
        let mut bytes = Vec::new();
        loop {
            let plain = self.rest.iter().position(|byte| b"\"\\".contains(byte))?;
            bytes.extend_from_slice(&self.rest[..plain]);
            let ended = self.rest[plain] == b'"';
            self.rest = &self.rest[plain + 1..];
            if ended {
                return String::from_utf8(bytes).ok();
            }
            let (&escape, rest) = self.rest.split_first()?;
            self.rest = rest;
            let c = match escape {
                b'"' | b'\\' | b'|' | b'(' => char::from(escape),
                b'0' => '\0',
                b'a' => '\x07',
                b'b' => '\x08',
                b'f' => '\x0c',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'v' => '\x0b',
                b'x' => self.code(2)?,
                b'u' => self.code(4)?,
                b'U' => self.code(6)?,
                // A continued line.
                b'\n' => continue,
                _ => return None,
            };
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// A character by the hexadecimal digits of its code.
    fn code(&mut self, digits: usize) -> Option<char> {
        let (digits, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        char::from_u32(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "http://example.org";

    #[test]
    fn answers_hold_for_their_time() {
        let age = Age {
            date: 1000,
            ttl: 10,
        };
        for (now, fresh) in [(0, true), (999, true), (1010, true), (1011, false)] {
            assert_eq!(age.is_fresh(now), fresh, "{now}");
        }
        let future = Age {
            date: 10_000,
            ttl: 10,
        };
        assert!(!future.is_fresh(10_000 - 3601) && future.is_fresh(10_000 - 3600));
        let forever = Age {
            date: 1000,
            ttl: u64::MAX,
        };
        assert!(forever.is_fresh(u64::MAX - 1));
        let written = write(URL, forever, None);
        assert!(read_age(written.as_bytes()).unwrap().ttl < 1 << 41);
    }

    #[test]
    fn only_what_guix_writes_is_read() {
        let good = "(narinfo (version 2) (cache-uri \"U\") (date 100) (ttl 5) (value \"x\"))";
        let expected = Some((Age { date: 63, ttl: 5 }, Some("x".to_owned())));
        assert_eq!(read(good.as_bytes(), "U"), expected);
        assert_eq!(read(good.replace(' ', " \n\t").as_bytes(), "U"), expected);
        for (from, to) in [
            ("U", "V"),
            ("narinfo", "nar"),
            ("version 2", "version 1"),
            ("date 100", "date 36"),
            ("date 100", "date -100"),
            ("date 100", "date 1e2"),
            ("date 100", "date"),
            ("ttl 5", "ttl #f"),
            ("ttl", "tll"),
            ("\"x\"", "#t"),
            ("\"x\"", "\"\\q\""),
            ("\"x\"", "\"\\ud800\""),
            ("\"x\"", "\"\\x1\""),
            ("\"x\"", "\"\\x+1\""),
            ("\"x\"", "\"x"),
            ("\"x\"))", "\"x\")"),
        ] {
            assert_eq!(
                read(good.replacen(from, to, 1).as_bytes(), "U"),
                None,
                "{to}"
            );
        }
        // Cut anywhere, it is no answer; its age is known from the value on.
        let value = good.find("(value").unwrap() + "(value".len();
        for end in 0..good.len() {
            assert_eq!(read(&good.as_bytes()[..end], "U"), None);
            assert_eq!(
                read_age(&good.as_bytes()[..end]).is_some(),
                end >= value,
                "{end}"
            );
        }
    }

    #[test]
    fn escapes_are_those_of_guile() {
        let literal = r#""\\ \" \| \( \a\b\f\n\r\t\v\0 \x41; \u00e9 \U01f600 a\
  b""#;
        let mut reader = Reader {
            rest: literal.as_bytes(),
        };
        let text = "\\ \" | ( \x07\x08\x0c\n\r\t\x0b\0 A; é 😀 a  b";
        assert_eq!(reader.string().as_deref(), Some(text));
        assert_eq!(reader.rest, b"");
    }

    proptest! {
        #[test]
        fn round_trip(url in "\\PC*", text in proptest::option::of("(?s).*"), date in 0u64..1 << 40, ttl in 0u64..1 << 40) {
            let age = Age { date, ttl };
            let file = write(&url, age, text.as_deref());
            assert!(file.is_ascii());
            assert_eq!(read(file.as_bytes(), &url), Some((age, text)));
            assert_eq!(read_age(file.as_bytes()), Some(age));
        }

        #[test]
        fn nothing_makes_it_panic(start in 0usize..80, rest in proptest::collection::vec(any::<u8>(), 0..60)) {
            let good = write(URL, Age { date: 1000, ttl: 10 }, Some("x"));
            let bytes = [&good.as_bytes()[..start.min(good.len())], &rest].concat();
            let _ = (read(&bytes, URL), read_age(&bytes), read_time(&rest));
        }
    }
}

//! The header lines of a response that matter here (RFC 9110, RFC 9111).

use std::time::SystemTime;

/// What the header of a response says. It begins anew with each response, as after `100 Continue`
/// or the answer of a proxy to `CONNECT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The status, 0 before there is a response.
    pub status: u32,
    /// The length of the body.
    pub length: Option<u64>,
    /// `max-age` of `Cache-Control`.
    pub max_age: Option<u64>,
    /// When the server wants to be asked again.
    retry: Option<Retry>,
    /// What time it is for the server.
    date: Option<SystemTime>,
    /// What `If-Range` may be asked with: a strong entity tag or, without one, the date of the last
    /// change.
    pub validator: Option<String>,
    /// The first byte of a partial body.
    pub range_start: Option<u64>,
    /// Whether the server refuses ranges.
    refuses_ranges: bool,
    has_tag: bool,
}

/// The two forms of `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// After so many seconds.
    After(u64),
    /// At that time.
    At(SystemTime),
}

/// The longest validator that is sent back.
const VALIDATOR_LIMIT: usize = 512;

impl Head {
    /// Whether the body can be continued in the middle.
    pub fn is_resumable(&self) -> bool {
        self.validator.is_some() && !self.refuses_ranges
    }

    /// After how many seconds the server wants to be asked again, if it says so. A date is compared with
    /// the server's own clock, or with `now` where it doesn't tell.
    pub fn retry_after(&self, now: SystemTime) -> Option<u64> {
        match self.retry? {
            Retry::After(seconds) => Some(seconds),
            Retry::At(time) => {
                let left = time.duration_since(self.date.unwrap_or(now));
                Some(left.map_or(0, |left| left.as_secs()))
            }
        }
    }

    /// Takes one line.
    pub fn add(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if line.starts_with("HTTP/") {
            let status = line.split(' ').nth(1);
            *self = Head {
                status: status.and_then(|word| word.parse().ok()).unwrap_or(0),
                ..Head::default()
            };
            return;
        }
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => self.length = value.parse().ok(),
            "cache-control" => self.max_age = max_age(value).or(self.max_age),
            "retry-after" => {
                let after = value.parse().ok().map(Retry::After);
                self.retry = after.or_else(|| httpdate::parse_http_date(value).ok().map(Retry::At));
            }
            "date" => self.date = httpdate::parse_http_date(value).ok(),
            "accept-ranges" => self.refuses_ranges = value.eq_ignore_ascii_case("none"),
            "content-range" => {
                let range = value.strip_prefix("bytes ");
                let start = range.and_then(|range| range.split('-').next());
                self.range_start = start.and_then(|start| start.trim().parse().ok());
            }
            "etag" if value.starts_with('"') && is_validator(value) => {
                self.validator = Some(value.to_owned());
                self.has_tag = true;
            }
            "last-modified" if !self.has_tag && is_validator(value) => {
                self.validator = Some(value.to_owned());
            }
            _ => {}
        }
    }
}

fn is_validator(value: &str) -> bool {
    value.len() <= VALIDATOR_LIMIT && value.chars().all(|c| c.is_ascii() && !c.is_ascii_control())
}

fn max_age(value: &str) -> Option<u64> {
    let mut directives = value.split(',').map(str::trim);
    directives.find_map(|directive| {
        let (name, age) = directive.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("max-age");
        is_it.then(|| age.trim().trim_matches('"').parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[&str]) -> Head {
        let mut head = Head::default();
        for line in lines {
            head.add(line.as_bytes());
        }
        head
    }

    #[test]
    fn what_matters_is_found() {
        let found = head(&[
            "HTTP/1.1 100 Continue\r\n",
            "Cache-Control: max-age=1\r\n",
            "\r\n",
            "HTTP/2 206\r\n",
            "content-length: 90\r\n",
            "Cache-Control: public, Max-Age=3600\r\n",
            "Retry-After: 7\r\n",
            "ETag: \"abc\"\r\n",
            "Last-Modified: Thu, 01 Jan 1970 00:00:01 GMT\r\n",
            "Content-Range: bytes 10-99/100\r\n",
            "\r\n",
        ]);
        assert_eq!(found.status, 206);
        assert_eq!((found.length, found.max_age), (Some(90), Some(3600)));
        assert_eq!(found.retry_after(SystemTime::now()), Some(7));
        assert_eq!(found.validator.as_deref(), Some("\"abc\""));
        assert_eq!(found.range_start, Some(10));
        assert!(found.is_resumable());
    }

    #[test]
    fn a_time_to_ask_again_may_be_a_date() {
        let retry = "Retry-After: Fri, 27 Nov 2026 07:01:30 GMT";
        // A clock that is wrong makes no difference.
        let found = head(&["HTTP/1.1 503", retry, "Date: Fri, 27 Nov 2026 07:00:00 GMT"]);
        assert_eq!(found.retry_after(SystemTime::UNIX_EPOCH), Some(90));
        let late = head(&["HTTP/1.1 503", "Date: Sat, 28 Nov 2026 07:00:00 GMT", retry]);
        assert_eq!(late.retry_after(SystemTime::UNIX_EPOCH), Some(0));
        let now = httpdate::parse_http_date("Fri, 27 Nov 2026 07:01:29 GMT").unwrap();
        // The older forms, too.
        for retry in [retry, "Retry-After: Friday, 27-Nov-26 07:01:30 GMT"] {
            assert_eq!(head(&["HTTP/1.1 503", retry]).retry_after(now), Some(1));
        }
        let none = head(&["HTTP/1.1 503", "Date: Fri, 27 Nov 2026 07:00:00 GMT"]);
        assert_eq!(none.retry_after(now), None);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        let found = head(&[
            "HTTP/1.1 OK",
            "Content-Length: -1",
            "Cache-Control: max-age=99999999999999999999999",
            "Retry-After: tomorrow",
            "Date: 27.11.2026",
            "ETag: W/\"weak\"",
            "Content-Range: bytes */100",
            "no colon",
            "\u{fffd}: \u{fffd}",
        ]);
        assert_eq!(found, Head::default());
        assert!(!found.is_resumable());
        let refusing = head(&["HTTP/1.1 200 OK", "ETag: \"x\"", "Accept-Ranges: none"]);
        assert!(!refusing.is_resumable());
    }
}

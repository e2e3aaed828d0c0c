//! How much of the history is kept.

use std::fmt;
use std::time::Duration;

const VARIABLE: &str = "GUIX_OFFLOAD_HISTORY";
/// One day.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The most days, and the most rows, that can be asked for.
const MOST_DAYS: u32 = 36_500;
const MOST_ROWS: u32 = 10_000_000;

/// How old rows may become, and how many there may be of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Older ones are deleted.
    pub age: Duration,
    /// Of more, the oldest are deleted.
    pub rows: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            age: 90 * DAY,
            rows: 100_000,
        }
    }
}

impl Limits {
    /// The environment variable that has them, for daemons and hooks.
    pub const VARIABLE: &str = VARIABLE;

    /// The limits in the environment; without a word there, the usual ones.
    pub fn from_environment() -> Result<Option<Limits>, String> {
        let text = std::env::var_os(Limits::VARIABLE).unwrap_or_default();
        let limits = Limits::parse(&text.to_string_lossy());
        limits.map_err(|error| format!("{}: {error}", Limits::VARIABLE))
    }

    /// Parses `no` (nothing is remembered), `yes`, `DAYS` or `DAYS,ROWS`.
    ///
    /// ```
    /// use farm::history::Limits;
    ///
    /// assert_eq!(Limits::parse("no"), Ok(None));
    /// assert_eq!(Limits::parse("yes"), Ok(Some(Limits::default())));
    /// assert_eq!(Limits::parse("30,5000").unwrap().unwrap().rows, 5000);
    /// assert!(Limits::parse("0").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Option<Limits>, String> {
        match text {
            "no" => return Ok(None),
            "" | "yes" => return Ok(Some(Limits::default())),
            _ => {}
        }
        let (days, rows) = match text.split_once(',') {
            Some((days, rows)) => (number(days, MOST_DAYS), number(rows, MOST_ROWS)),
            None => (number(text, MOST_DAYS), Some(Limits::default().rows)),
        };
        match (days, rows) {
            (Some(days), Some(rows)) => Ok(Some(Limits {
                age: days * DAY,
                rows,
            })),
            _ => Err(format!(
                "'{text}': expected `yes', `no', DAYS (up to {MOST_DAYS}) or DAYS,ROWS (up to {MOST_ROWS})"
            )),
        }
    }
}

/// As [`Limits::parse`] reads them.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.age.as_secs() / DAY.as_secs(), self.rows)
    }
}

fn number(text: &str, most: u32) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    number.filter(|number| (1..=most).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_days_and_rows() {
        let of = |days, rows| {
            Ok(Some(Limits {
                age: days * DAY,
                rows,
            }))
        };
        assert_eq!(Limits::parse("7"), of(7, 100_000));
        assert_eq!(Limits::default().to_string(), "90,100000");
        assert_eq!(Limits::parse("90,100000"), of(90, 100_000));
        assert_eq!(Limits::parse("36500,10000000"), of(36_500, 10_000_000));
        assert_eq!(Limits::parse(""), of(90, 100_000));
        for bad in [
            "-1",
            "+1",
            "1.5",
            "36501",
            "7,",
            ",7",
            "7,0",
            "7,10000001",
            "7,7,7",
            "off",
            " 7",
        ] {
            assert!(Limits::parse(bad).is_err(), "{bad}");
        }
    }
}

//! Sizes as Guix's daemon and its client print them: not a format, but text that people compare.
//! Documented in `doc/spec/store-formats.md`, section 11.

use std::fmt;

/// A number of bytes, in the daemon's messages: the unit follows from the size, and numbers of one
/// list stand under each other.
///
/// ```
/// use formats::size::Aligned;
/// assert_eq!(Aligned(1024).to_string(), "1024  bytes");
/// assert_eq!(Aligned(9 << 18).to_string(), "   2.25 MiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aligned(pub i64);

impl Aligned {
    /// A size that can't be negative; what no message can show is shown as the largest.
    #[must_use]
    pub fn new(bytes: u64) -> Aligned {
        Aligned(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

/// A number of bytes in whole units, rounded to even where it is halfway.
///
/// ```
/// use formats::size::Rounded;
/// assert_eq!(Rounded(1000).to_string(), "1000 bytes");
/// assert_eq!(Rounded(95 << 20).to_string(), "95 MiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded(pub u64);

/// The unit of a size, and its power of two; `None` for bytes. A whole unit is still written in the
/// smaller one.
fn unit(bytes: u64) -> Option<(u32, &'static str)> {
    let units = ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"];
    let powers = [60, 50, 40, 30, 20, 10];
    powers
        .into_iter()
        .zip(units)
        .find(|(power, _)| bytes > 1 << power)
}

impl fmt::Display for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match unit(self.0.max(0).unsigned_abs()) {
            None => write!(f, "{:>4}  bytes", self.0),
            Some((power, unit)) => {
                let number = self.0 as f64 / (1_u64 << power) as f64;
                write!(f, "{number:>7.2} {unit}")
            }
        }
    }
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match unit(self.0) {
            None => write!(f, "{} bytes", self.0),
            Some((power, unit)) => {
                let number = self.0 as f64 / (1_u64 << power) as f64;
                write!(f, "{} {unit}", number.round_ties_even())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Both tables were printed by Guix of March 2026.
    #[test]
    fn as_the_daemon_aligns_them() {
        for (bytes, text) in [
            (0, "   0  bytes"),
            (-4096, "-4096  bytes"),
            (1024, "1024  bytes"),
            (1025, "   1.00 KiB"),
            (2_338_325, "   2.23 MiB"),
            (1 << 30, "1024.00 MiB"),
            (i64::MAX, "   8.00 EiB"),
        ] {
            assert_eq!(Aligned(bytes).to_string(), text);
        }
    }

    #[test]
    fn as_the_client_rounds_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 bytes"),
            (1024, "1024 bytes"),
            (1535, "1 KiB"),
            (1536, "2 KiB"),
            (2560, "2 KiB"),
            (99_999, "98 KiB"),
            (1 << 20, "1024 KiB"),
            ((1 << 20) + 1, "1 MiB"),
            (12_345_678_901, "11 GiB"),
            (1 << 50, "1024 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Rounded(bytes).to_string(), text);
        }
    }
}

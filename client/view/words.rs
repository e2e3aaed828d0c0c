//! Times and reasons in few words.

use std::time::Duration;

use farm::status::End;
use formats::printable::printable;

/// A time as a clock shows it: `0:07`, `12:34`, `1:02:03`.
pub fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `5 to 12 min left`.
pub fn left(end: &End) -> String {
    let (earliest, unit) = rough(end.earliest_s);
    let (latest, last_unit) = rough(end.latest_s);
    match (unit == last_unit, earliest == latest) {
        (true, true) => format!("about {latest} {unit} left"),
        (true, false) => format!("{earliest} to {latest} {unit} left"),
        _ => format!("{earliest} {unit} to {latest} {last_unit} left"),
    }
}

/// A time as a small number of its unit.
fn rough(seconds: u64) -> (u64, &'static str) {
    match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    }
}

/// What something waits for, by the name of the reason (`doc/spec/farm-status.md`).
pub fn reason(name: &str) -> String {
    let words = match name {
        "inputs" => "for inputs",
        "turn" => "for their next step",
        "other-client" => "for another client's build",
        "stopping" => "for the end of an attempt",
        "lock" => "for a lock",
        "slot" => "for a slot",
        "limit" => "for descriptors",
        "build-user" => "for a build user",
        "hook-turn" | "hook-answer" => "for the hook",
        "machine" => "for a machine",
        "fair-share" => "for other clients' share",
        name => return printable(name).into_owned(),
    };
    words.to_owned()
}

/// The same as [`clock`], of a duration.
pub fn clock_of(time: Duration) -> String {
    clock(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(clock(7), "0:07");
        assert_eq!(clock(754), "12:34");
        assert_eq!(clock(3723), "1:02:03");
        let left = |earliest_s, latest_s| {
            left(&End {
                earliest_s,
                latest_s,
            })
        };
        assert_eq!(left(300, 720), "5 to 12 min left");
        assert_eq!(left(40, 140), "40 s to 2 min left");
        assert_eq!(left(300, 330), "about 5 min left");
    }
}

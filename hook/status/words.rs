//! The state of a machine in words, for whatever shows it to people.

use system::clock::unix_time;

use super::machine_status::MachineStatus;

/// Whether a machine gets builds, or why it gets none. Errors quote what it has said.
pub fn state(one: &MachineStatus) -> String {
    if let Some(drained) = &one.drained {
        let mut text = "drained".to_owned();
        if drained.since > 0 {
            let seconds = unix_time().saturating_sub(drained.since);
            text += &format!(" for {}", duration(seconds));
        }
        let reasons = [&drained.reason, &one.error];
        for reason in reasons.into_iter().flatten() {
            text += &format!(": {reason}");
        }
        return text;
    }
    match (&one.error, one.set_aside_s) {
        (Some(error), _) => error.clone(),
        (None, 0) => match &one.unsuitable {
            Some(reason) => format!("gets nothing: {reason}"),
            None if one.slots == 0 => "gets nothing: its parallel-builds is 0".to_owned(),
            None => "ready".to_owned(),
        },
        (None, seconds) => format!(
            "set aside for {seconds} s: {}",
            one.last_error.as_deref().unwrap_or("")
        ),
    }
}

/// A time, in the largest unit of which there are two.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_small_number_of_its_unit() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}

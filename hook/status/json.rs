//! The status as JSON.

use formats::printable::is_unprintable;

use super::machine_status::MachineStatus;

/// A list with an object for each machine.
pub fn json(machines: &[MachineStatus]) -> String {
    // Nothing in it can fail to be written.
    let text = serde_json::to_string_pretty(machines).unwrap_or_default();
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // JSON requires that only of the first 32, but terminals obey others, too.
        if c != '\n' && is_unprintable(c) {
            safe += &format!("\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    safe
}

//! The status as JSON.

use formats::printable::printable_json;

use super::machine_status::MachineStatus;

/// A list with an object for each machine.
pub fn json(machines: &[MachineStatus]) -> String {
    // Nothing in it can fail to be written.
    let text = serde_json::to_string_pretty(machines).unwrap_or_default();
    printable_json(&text) + "\n"
}

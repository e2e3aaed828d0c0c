//! Words about requests, builds and times, for people.

use std::time::Duration;

use farm::status::{Client, Running};
use formats::printable::printable;
use formats::store_path::name_without_hash;
use indicatif::HumanDuration;

/// Whose a request is.
pub(super) fn who(client: &Client) -> String {
    match (client.uid, &client.address) {
        (Some(uid), _) => match system::ids::user_by_id(uid) {
            Ok(Some(account)) => format!("{} (uid {uid})", printable(&account.name)),
            _ => format!("uid {uid}"),
        },
        (None, Some(address)) => printable(address).into_owned(),
        (None, None) => "an unknown client".to_owned(),
    }
}

/// The cells of a row about something that runs: what, where, for how long, and for how long usually.
pub(super) fn build_row(build: &Running) -> [String; 4] {
    let usually = match (build.usual_s, build.long_s) {
        (Some(usual), Some(long)) if long > usual => {
            format!("{}, at times {}", time_of(usual), time_of(long))
        }
        (Some(usual), _) => time_of(usual),
        (None, _) => "unknown".to_owned(),
    };
    let place = match build.place.as_str() {
        "hook" => "by the hook",
        "fetch" => "fetched",
        place => place.strip_prefix("machine ").unwrap_or(place),
    };
    [
        name(&build.path),
        place.to_owned(),
        time_of(build.elapsed_s),
        usually,
    ]
}

/// What people call an item: its name, without directory, hash and `.drv`.
pub fn name(path: &str) -> String {
    let name = name_without_hash(path);
    printable(name.strip_suffix(".drv").unwrap_or(name)).into_owned()
}

/// A time, for people.
pub(super) fn time_of(seconds: u64) -> String {
    HumanDuration(Duration::from_secs(seconds)).to_string()
}

//! The document (`doc/spec/dashboard.md`). The fields are those of the JSON.
//!
//! Names and messages are others' words. Control characters in them are shown as escapes; markup is markup.

use std::collections::BTreeMap;

use farm::status::Machine as ToldMachine;
use formats::printable::printable;
use hook::machines::Machine;
use hook::status::known::Known;
use serde::Serialize;
use serde_json::value::RawValue;

use super::interval::INTERVAL;

/// How many bytes of a message are shown.
const MESSAGE: usize = 300;

/// What comes before the document in an event.
pub const EVENT: &str = "event: farm\ndata: ";
/// What comes after it.
pub const END: &str = "\n\n";

/// The document.
#[derive(Serialize)]
pub struct Document<'a> {
    version: u32,
    time: u64,
    pub host: &'a str,
    pub error: Option<String>,
    #[serde(serialize_with = "list")]
    pub requests: Option<&'a RawValue>,
    pub unlisted_requests: u64,
    pub users: &'a BTreeMap<u32, String>,
    #[serde(serialize_with = "list")]
    pub machines: Option<&'a RawValue>,
    pub machines_error: Option<&'a str>,
    pub unlisted_machines: u64,
    /// How many of the machines' past states are left out, and of how many the reason is.
    pub unlisted_states: u64,
    pub unlisted_reasons: u64,
    pub history_error: Option<String>,
    #[serde(serialize_with = "list")]
    pub failures: Option<&'a RawValue>,
    interval_s: u64,
    #[serde(serialize_with = "list")]
    pub throughput: Option<&'a RawValue>,
}

/// A machine.
#[derive(Default, Serialize)]
pub struct Row<'a> {
    name: &'a str,
    port: u16,
    slots: u32,
    slots_used: u64,
    state: &'a str,
    why_not: Option<String>,
    drained: bool,
    drained_since: Option<u64>,
    systems: Option<&'a [String]>,
    speed: Option<f64>,
    generated: Option<bool>,
    pool: Option<bool>,
    load: Option<f64>,
    free_space: Option<u64>,
    asked: Option<u64>,
    builds: Option<u64>,
    failed_builds: Option<u64>,
    failures: Option<u64>,
    last_error: Option<String>,
    #[serde(serialize_with = "list")]
    states: Option<&'a RawValue>,
}

/// What isn't known is an empty list.
fn list<S: serde::Serializer>(value: &Option<&RawValue>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.collect_seq([(); 0]),
    }
}

impl<'a> Row<'a> {
    /// A machine of which we can read what hooks know.
    pub fn known(
        machine: &'a Machine,
        known: &Known,
        is_generated: bool,
        states: Option<&'a RawValue>,
    ) -> Row<'a> {
        let health = &known.health;
        let is_known = health.cores > 0;
        Row {
            name: &machine.name,
            port: machine.port,
            slots: machine.parallel_builds,
            slots_used: known.standing.building.len() as u64,
            state: known.standing.condition.name(),
            why_not: known.standing.why_not.as_deref().map(text),
            drained: known.drained.is_some(),
            drained_since: known
                .drained
                .as_ref()
                .map(|drained| drained.since)
                .filter(|time| *time > 0),
            systems: Some(&machine.systems),
            speed: Some(machine.speed),
            generated: Some(is_generated),
            pool: Some(machine.pool.is_some()),
            // The hundredths, so that the document stays the same as long as they do.
            load: is_known.then(|| (health.normalized_load() * 100.0).round() / 100.0),
            free_space: is_known.then_some(health.free_bytes),
            asked: is_known.then_some(health.asked),
            builds: Some(health.builds),
            failed_builds: Some(health.failed_builds),
            failures: Some(health.all_failures),
            last_error: health.last_error.as_deref().map(text),
            states,
        }
    }

    /// A machine of which only the daemon tells.
    pub fn told(machine: &'a ToldMachine, states: Option<&'a RawValue>) -> Row<'a> {
        Row {
            name: &machine.name,
            port: machine.port,
            slots: machine.slots,
            slots_used: machine.slots_used,
            state: &machine.state,
            why_not: machine.why_not.as_deref().map(text),
            drained: machine.state == "drained",
            states,
            ..Row::default()
        }
    }
}

impl<'a> Document<'a> {
    /// Nothing is known yet at this time.
    pub fn new(time: u64, host: &'a str, users: &'a BTreeMap<u32, String>) -> Document<'a> {
        Document {
            version: 1,
            time,
            host,
            error: None,
            requests: None,
            unlisted_requests: 0,
            users,
            machines: None,
            machines_error: None,
            unlisted_machines: 0,
            unlisted_states: 0,
            unlisted_reasons: 0,
            history_error: None,
            failures: None,
            interval_s: INTERVAL,
            throughput: None,
        }
    }

    /// The document as an event, in one line.
    pub fn event(&self) -> Vec<u8> {
        let mut text = EVENT.as_bytes().to_vec();
        // Nothing in it can fail to be written.
        let _ = serde_json::to_writer(&mut text, self);
        // A line feed can only be between values that a daemon has written.
        for byte in &mut text[EVENT.len()..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        text.extend_from_slice(END.as_bytes());
        text
    }
}

/// What an event says but for the time.
pub fn without_time(event: &[u8]) -> &[u8] {
    const NEXT: &[u8] = b",\"host\":";
    let mut places = event.windows(NEXT.len());
    let start = places.position(|words| words == NEXT).unwrap_or(0);
    &event[start..]
}

/// A message, not too long, without control characters.
pub fn text(text: &str) -> String {
    shortened(text, MESSAGE)
}

/// A message without control characters, of so many bytes at most. One that was cut ends in an ellipsis.
pub fn shortened(text: &str, bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    let mut short = String::new();
    // The end of what leaves room for the ellipsis.
    let mut end = 0;
    for character in text.chars() {
        short += &printable(character.encode_utf8(&mut [0; 4]));
        if short.len() > bytes {
            short.truncate(end);
            short += ELLIPSIS;
            return short;
        }
        if short.len() + ELLIPSIS.len() <= bytes {
            end = short.len();
        }
    }
    short
}

/// A value as JSON.
pub fn raw<T: Serialize>(value: &T) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_alone_is_no_news() {
        let users = BTreeMap::new();
        let event = |time, host| Document::new(time, host, &users).event();
        let (one, other) = (event(1, "h"), event(20, "h"));
        assert!(one.starts_with(b"event: farm\ndata: {\"version\":1,\"time\":1,\"host\":\"h\","));
        assert_eq!(without_time(&one), without_time(&other));
        assert_ne!(
            without_time(&one),
            without_time(&event(1, ",\"host\":\"h\""))
        );
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(shortened("abc\n", 5), "abc\\n");
        assert_eq!(shortened("abcdef", 5), "ab…");
        assert_eq!(shortened("ab\u{202e}\u{202e}", 12), "ab…");
        assert_eq!(text(&"€".repeat(1000)).len(), MESSAGE);
        assert!(text(&"\u{1b}".repeat(1000)).ends_with("}…"));
    }
}

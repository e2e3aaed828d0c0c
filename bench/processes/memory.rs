//! How much memory programs take that a daemon runs.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs `work`. Returns also the most memory, in bytes, that any process below `ancestor` has had
/// whose command line has one of `words`.
pub fn peak<T>(ancestor: u32, words: &[&str], work: impl FnOnce() -> T) -> (T, u64) {
    let (peak, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let now = processes(ancestor, words).filter_map(high_water_mark).max();
                peak.fetch_max(now.unwrap_or_default(), Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
        });
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        result
    });
    (result, peak.into_inner())
}

/// The processes below `ancestor` whose command line has one of `words`.
fn processes(ancestor: u32, words: &[&str]) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(move |&id| {
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut given = line.split('\0');
        given.any(|word| words.contains(&word)) && is_below(id, ancestor)
    })
}

fn is_below(mut id: u32, ancestor: u32) -> bool {
    while let Some(parent) = field(id, "PPid:") {
        if parent == u64::from(ancestor) {
            return true;
        }
        id = parent as u32;
    }
    false
}

/// The most memory that a process has had, in bytes.
fn high_water_mark(id: u32) -> Option<u64> {
    field(id, "VmHWM:").map(|kilobytes| kilobytes << 10)
}

/// A number in the status of a process.
fn field(id: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

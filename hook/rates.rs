//! How fast the lines to machines are: the last transfers that were large enough to tell, kept in
//! `health.json`.

use std::time::Duration;

use farm::placement::RATES_KEPT;

use crate::directories::HookDirectories;
use crate::health::Health;
use crate::machines::Machine;

/// Transfers of fewer bytes are over too soon for their rate to mean anything.
const WORTH_MEASURING: u64 = 256 << 10;

/// Remembers how long it took to send items to a machine.
pub fn sent(directories: &HookDirectories, machine: &Machine, bytes: u64, took: Duration) {
    remember(directories, machine, bytes, took, |health| {
        &mut health.rates_there
    });
}

/// Remembers how long it took to fetch outputs from a machine.
pub fn retrieved(directories: &HookDirectories, machine: &Machine, bytes: u64, took: Duration) {
    remember(directories, machine, bytes, took, |health| {
        &mut health.rates_back
    });
}

/// Remembers how long a machine took to get items from its substitute servers: of the bytes that it
/// `wanted`, it got so many. If those are less than half, the servers aren't worth waiting for.
pub fn fetched(
    directories: &HookDirectories,
    machine: &Machine,
    wanted: u64,
    got: u64,
    took: Duration,
) {
    if wanted >= WORTH_MEASURING {
        let bytes = if got >= wanted / 2 { got } else { 0 };
        let change = |health: &mut Health| add(&mut health.rates_fetched, bytes, took);
        Health::update(directories, machine, change);
    }
}

fn remember(
    directories: &HookDirectories,
    machine: &Machine,
    bytes: u64,
    took: Duration,
    rates: fn(&mut Health) -> &mut Vec<f64>,
) {
    if bytes >= WORTH_MEASURING {
        Health::update(directories, machine, |health| {
            add(rates(health), bytes, took)
        });
    }
}

/// Adds a transfer to the rates of the last ones, in bytes per second.
fn add(rates: &mut Vec<f64>, bytes: u64, took: Duration) {
    rates.push(bytes as f64 / took.as_secs_f64().max(0.001));
    let surplus = rates.len().saturating_sub(RATES_KEPT);
    rates.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, machine};

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_last_large_transfers_are_remembered() {
        let (_state, directories) = directories();
        let machine = machine("m");
        for seconds in (0..10).rev() {
            sent(&directories, &machine, MIB, Duration::from_secs(seconds));
            sent(&directories, &machine, 1000, Duration::from_secs(seconds));
        }
        retrieved(&directories, &machine, 4 * MIB, Duration::from_secs(2));
        let health = Health::load(&directories, &machine);
        let seconds = health.rates_there.iter().map(|rate| MIB as f64 / rate);
        let seconds: Vec<f64> = seconds.map(|time| (time * 1000.0).round()).collect();
        assert_eq!(seconds, [5000.0, 4000.0, 3000.0, 2000.0, 1000.0, 1.0]);
        assert_eq!(health.rates_back, [2.0 * MIB as f64]);
    }

    #[test]
    fn servers_that_have_little_have_no_rate() {
        let (_state, directories) = directories();
        let machine = machine("m");
        let took = Duration::from_secs(1);
        fetched(&directories, &machine, 4 * MIB, 4 * MIB, took);
        fetched(&directories, &machine, 4 * MIB, MIB, took);
        fetched(&directories, &machine, 1000, 1000, took);
        let health = Health::load(&directories, &machine);
        assert_eq!(health.rates_fetched, [4.0 * MIB as f64, 0.0]);
    }

    #[test]
    fn a_file_with_more_of_them_is_no_harm() {
        let mut rates = vec![1.0; 1000];
        add(&mut rates, 5, Duration::from_secs(1));
        assert_eq!(rates.len(), RATES_KEPT);
        assert_eq!(rates[RATES_KEPT - 2..], [1.0, 5.0]);
    }
}

//! The build machines of a simulated farm.

use std::collections::VecDeque;

use farm::placement::RATES_KEPT;
use rand::RngExt;
use rand::rngs::StdRng;

/// A build machine.
#[derive(Debug)]
pub struct Machine {
    /// Its relative speed.
    pub speed: f64,
    /// How many builds it takes at a time.
    pub slots: usize,
    /// How many builds make its load 1.
    pub cores: usize,
    /// What its own line carries, in bytes each second.
    pub line: f64,
    /// How many slots are taken.
    pub taken: usize,
    /// Whether it answers.
    pub is_up: bool,
    /// Which items it has.
    has: Vec<u64>,
    /// The attempts whose inputs are to be sent, the first of which are being sent; and how many bytes they
    /// had still to send when they were put there.
    pub uploads: VecDeque<(usize, u64)>,
    /// The attempts that it has, and when each is thought to end, in seconds.
    pub ends: Vec<(usize, f64)>,
    /// The attempts whose outputs are to be fetched, the first of which is.
    pub downloads: VecDeque<usize>,
    /// The rates of the last transfers there.
    pub rates_there: Rates,
    /// Those of the last transfers back.
    pub rates_back: Rates,
}

/// The last few rates that were measured, in bytes each second.
#[derive(Debug, Default)]
pub struct Rates(VecDeque<f64>);

/// Transfers of fewer bytes tell nothing about a line.
const TELLING: u64 = 256 << 10;

impl Rates {
    /// Adds what a transfer has shown.
    pub fn add(&mut self, bytes: u64, seconds: f64) {
        if bytes < TELLING || seconds <= 0.0 {
            return;
        }
        if self.0.len() == RATES_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(bytes as f64 / seconds);
    }

    /// What is to be expected.
    pub fn typical(&mut self) -> Option<f64> {
        farm::placement::typical_rate(self.0.make_contiguous())
    }
}

impl Machine {
    /// A machine that has none of so many items.
    pub fn new(speed: f64, slots: usize, line: f64, items: usize) -> Machine {
        Machine {
            speed,
            slots,
            cores: slots,
            line,
            taken: 0,
            is_up: true,
            has: vec![0; items.div_ceil(64)],
            uploads: VecDeque::new(),
            downloads: VecDeque::new(),
            ends: Vec::new(),
            rates_there: Rates::default(),
            rates_back: Rates::default(),
        }
    }

    /// Whether it has an item.
    pub fn has(&self, item: u32) -> bool {
        self.has[item as usize / 64] >> (item % 64) & 1 == 1
    }

    /// Gives it an item.
    pub fn give(&mut self, item: u32) {
        self.has[item as usize / 64] |= 1 << (item % 64);
    }

    /// Whether it can take a build.
    pub fn is_free(&self) -> bool {
        self.is_up && self.taken < self.slots
    }
}

/// So many machines of one kind; `items` is the number of all items.
pub fn alike(count: usize, items: usize) -> Vec<Machine> {
    (0..count)
        .map(|_| Machine::new(1.0, 4, 125e6, items))
        .collect()
}

/// So many machines of several kinds, as a farm has them that has grown; `items` is the number of all items.
pub fn mixed(count: usize, items: usize, random: &mut StdRng) -> Vec<Machine> {
    const SPEEDS: [f64; 4] = [0.5, 1.0, 1.0, 2.0];
    const SLOTS: [usize; 3] = [2, 4, 8];
    // Every fifth is behind a line of 20 Mbit/s, the others have 1 Gbit/s.
    const LINES: [f64; 5] = [2.5e6, 125e6, 125e6, 125e6, 125e6];
    let machine = |number: usize| {
        let speed = SPEEDS[random.random_range(0..SPEEDS.len())];
        let slots = SLOTS[random.random_range(0..SLOTS.len())];
        Machine::new(speed, slots, LINES[number % LINES.len()], items)
    };
    (0..count).map(machine).collect()
}

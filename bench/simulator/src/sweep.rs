//! The same derivations on farms of several sizes; each is simulated several times, with other random numbers, since one
//! build of hours on a slow machine makes a difference.

use comfy_table::{CellAlignment, Table, presets};

use crate::report::{Compared, PARTS, Setting, compare};
use crate::simulation::Outcome;

/// How often each farm is simulated.
const TIMES: u64 = 3;

/// What came of it, for each number of machines.
pub struct Sweep(Vec<Size>);

/// A number of machines, and what came of it each time.
struct Size {
    machines: usize,
    compared: Vec<Compared>,
}

/// One of the two ways to choose, of a comparison.
type Way = fn(&Compared) -> &Outcome;

/// A number that says how good an outcome is.
type Figure = fn(&Compared, &Outcome) -> f64;

/// The figures: what they are called, and the files of their plots.
pub const FIGURES: &[(&str, &str, Figure)] = &[
    (
        "time for everything, times the bound",
        "farm-time",
        |compared, outcome| outcome.makespan / compared.bounds.largest(),
    ),
    ("sent to machines, TB", "farm-sent", |_, outcome| {
        outcome.sent as f64 / 1e12
    }),
    ("decisions a second", "farm-decisions", |_, outcome| {
        outcome.decisions as f64 / outcome.deciding.as_secs_f64()
    }),
];

/// The ways to choose.
pub const WAYS: [(&str, Way); 2] = [
    ("ours", |compared| &compared.ours),
    ("first come", |compared| &compared.first),
];

/// Simulates a setting with these numbers of machines.
pub fn sweep(setting: &Setting, machines: &[usize]) -> Sweep {
    let with = |&machines: &usize| {
        let one = |time: u64| {
            compare(&Setting {
                machines,
                seed: setting.seed + time,
                ..setting.clone()
            })
        };
        Size {
            machines,
            compared: (0..TIMES).map(one).collect(),
        }
    };
    Sweep(machines.iter().map(with).collect())
}

impl Sweep {
    /// The median of a figure for each number of machines.
    pub fn curve(&self, figure: Figure, way: Way) -> Vec<(f64, f64)> {
        let point = |size: &Size| {
            let figures = (size.compared.iter()).map(|compared| figure(compared, way(compared)));
            let mut figures: Vec<f64> = figures.collect();
            figures.sort_by(f64::total_cmp);
            (size.machines as f64, figures[figures.len() / 2])
        };
        self.0.iter().map(point).collect()
    }

    /// All figures.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let machines = self
            .0
            .iter()
            .map(|one| format!("{} machines", one.machines));
        table
            .load_preset(presets::ASCII_MARKDOWN)
            .set_header(std::iter::once(String::new()).chain(machines));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for &(what, _, figure) in FIGURES {
            for (name, way) in WAYS {
                let cell = |(_, value): (f64, f64)| match value {
                    large if large >= 100.0 => format!("{large:.0}"),
                    value => format!("{value:.2}"),
                };
                let cells = self.curve(figure, way).into_iter().map(cell);
                table.add_row(std::iter::once(format!("{what}, {name}")).chain(cells));
            }
        }
        for &(what, part) in PARTS {
            for (name, way) in WAYS {
                let cell = |size: &Size| {
                    let share = |one: &Compared| part(&way(one).chain) / one.bounds.largest();
                    let sum: f64 = size.compared.iter().map(share).sum();
                    format!("{:.2}", sum / size.compared.len() as f64)
                };
                let what = format!("of it, mean: {what}, {name}");
                table.add_row(std::iter::once(what).chain(self.0.iter().map(cell)));
            }
        }
        table
    }
}

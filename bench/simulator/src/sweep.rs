//! The same derivations on farms of several sizes.

use comfy_table::{CellAlignment, Table, presets};

use crate::report::{Compared, Setting, compare};
use crate::simulation::Outcome;

/// What came of it, for each number of machines.
pub struct Sweep(Vec<Compared>);

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
        compare(&Setting {
            machines,
            ..setting.clone()
        })
    };
    Sweep(machines.iter().map(with).collect())
}

impl Sweep {
    /// A figure for each number of machines.
    pub fn curve(&self, figure: Figure, way: Way) -> Vec<(f64, f64)> {
        let point = |compared: &Compared| {
            let machines = compared.setting.machines as f64;
            (machines, figure(compared, way(compared)))
        };
        self.0.iter().map(point).collect()
    }

    /// All figures.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let machines = self
            .0
            .iter()
            .map(|one| format!("{} machines", one.setting.machines));
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
        table
    }
}

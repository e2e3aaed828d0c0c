//! Draws what has happened, as vector pictures.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::report::Compared;
use crate::simulation::Outcome;

/// How many points a curve has.
const POINTS: usize = 400;

/// Draws how many slots were taken when.
pub fn draw(compared: &Compared, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("creating {}", directory.display()))?;
    let file = directory.join("slots.svg");
    let picture = SVGBackend::new(&file, (800, 360)).into_drawing_area();
    picture.fill(&WHITE)?;
    let hours = compared.first.makespan.max(compared.ours.makespan) / 3600.0;
    let mut chart = ChartBuilder::on(&picture)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..hours, 0.0..compared.slots as f64)?;
    chart
        .configure_mesh()
        .x_desc("hours")
        .y_desc("slots taken")
        .draw()?;
    let curves = [
        ("ours", &compared.ours, BLUE),
        ("first come", &compared.first, RED),
    ];
    for (name, outcome, colour) in curves {
        chart
            .draw_series(LineSeries::new(curve(outcome, hours), &colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    let bound = compared.bounds.largest() / 3600.0;
    let height = compared.slots as f64;
    chart
        .draw_series(LineSeries::new([(bound, 0.0), (bound, height)], &BLACK))?
        .label("bound")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    picture
        .present()
        .with_context(|| format!("writing {}", file.display()))
}

/// How many slots were taken on average in each of [`POINTS`] parts of the time.
fn curve(outcome: &Outcome, hours: f64) -> Vec<(f64, f64)> {
    let part = hours * 3600.0 / POINTS as f64;
    let mut sums = vec![0.0; POINTS];
    for change in outcome.busy.windows(2) {
        let [(from, taken), (to, _)] = change else {
            continue;
        };
        let mut at = *from;
        while at < *to {
            let index = ((at / part) as usize).min(POINTS - 1);
            let end = if index + 1 == POINTS {
                *to
            } else {
                to.min((index + 1) as f64 * part)
            };
            sums[index] += *taken as f64 * (end - at);
            if end <= at {
                break; // a rounding error
            }
            at = end;
        }
    }
    let point = |(index, sum): (usize, f64)| ((index as f64 + 0.5) * part / 3600.0, sum / part);
    sums.into_iter().enumerate().map(point).collect()
}

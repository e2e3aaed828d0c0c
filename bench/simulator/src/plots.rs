//! Draws what has happened, as vector pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::fairness::Shared;
use crate::report::Compared;
use crate::simulation::Outcome;
use crate::sweep::{FIGURES, Sweep, WAYS};

/// Draws the curves of both ways in a chart, whose type depends on its scales.
macro_rules! draw_curves {
    ($chart:expr, $curves:expr, $what:expr, $legend:expr) => {{
        $chart
            .configure_mesh()
            .x_desc("machines")
            .x_labels(3)
            .x_label_formatter(&|machines| format!("{machines:.0}"))
            .disable_x_mesh()
            .y_desc($what)
            .draw()?;
        for ((name, curve), colour) in $curves.into_iter().zip([BLUE, RED]) {
            let points = curve.clone().into_iter();
            $chart.draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?;
            $chart
                .draw_series(LineSeries::new(curve, &colour))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        $chart
            .configure_series_labels()
            .position($legend)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
    }};
}

/// Adds the legend, and writes the picture.
fn finish<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    picture: &DrawingArea<SVGBackend<'a>, Shift>,
    file: &Path,
) -> Result<()> {
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    picture
        .present()
        .with_context(|| format!("writing {}", file.display()))
}

/// How many points a curve has.
const POINTS: usize = 400;

/// Draws how many slots were taken when.
pub fn draw(compared: &Compared, directory: &Path) -> Result<()> {
    let file = file_in(directory, "slots.svg")?;
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
    finish(&mut chart, &picture, &file)
}

/// Draws how much longer each of the small clients takes than with its share for itself.
pub fn draw_shares(shared: &Shared, directory: &Path) -> Result<()> {
    let file = file_in(directory, "clients.svg")?;
    let picture = SVGBackend::new(&file, (800, 360)).into_drawing_area();
    picture.fill(&WHITE)?;
    let slowdowns = shared
        .ways
        .iter()
        .map(|(_, outcome)| shared.slowdowns(outcome));
    let slowdowns: Vec<Vec<f64>> = slowdowns.collect();
    let all = || slowdowns.iter().flatten().copied();
    let (least, most) = (all().fold(1.0, f64::min), all().fold(1.0, f64::max));
    let minutes: Vec<f64> = shared.arrivals.iter().map(|time| time / 60.0).collect();
    let width = minutes.last().copied().unwrap_or(1.0) * 1.05;
    let mut chart = ChartBuilder::on(&picture)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..width, (least / 1.5..most * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("minutes until a client arrives")
        .y_desc("times as long as with its share")
        .draw()?;
    chart.draw_series(LineSeries::new([(0.0, 1.0), (width, 1.0)], &BLACK))?;
    let colours = [BLUE, RED, MAGENTA];
    for (((name, _), slowdowns), colour) in shared.ways.iter().zip(&slowdowns).zip(colours) {
        let points = minutes.iter().copied().zip(slowdowns.iter().copied());
        chart
            .draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?
            .label(*name)
            .legend(move |place| Circle::new(place, 4, colour.filled()));
    }
    finish(&mut chart, &picture, &file)
}

/// Draws each figure by the number of machines.
pub fn draw_sizes(sweep: &Sweep, directory: &Path) -> Result<()> {
    for &(what, name, figure) in FIGURES {
        let file = file_in(directory, &format!("{name}.svg"))?;
        let picture = SVGBackend::new(&file, (800, 360)).into_drawing_area();
        picture.fill(&WHITE)?;
        let curves = WAYS.map(|(name, way)| (name, sweep.curve(figure, way)));
        let all = || curves.iter().flat_map(|(_, curve)| curve);
        let widest = all().map(|(machines, _)| *machines).fold(1.0, f64::max);
        let narrowest = all().map(|(machines, _)| *machines).fold(widest, f64::min);
        let highest = all().map(|(_, value)| *value).fold(0.0, f64::max);
        let lowest = all().map(|(_, value)| *value).fold(highest, f64::min);
        // What differs by more than a factor of 100 needs another scale.
        let bottom = if highest > 100.0 * lowest {
            lowest / 2.0
        } else {
            0.0
        };
        let machines = (narrowest / 1.1..widest * 1.1).log_scale();
        let mut builder = ChartBuilder::on(&picture);
        builder
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(72);
        if bottom > 0.0 {
            let mut chart =
                builder.build_cartesian_2d(machines, (bottom..highest * 2.0).log_scale())?;
            draw_curves!(chart, curves, what, SeriesLabelPosition::LowerLeft);
        } else {
            let mut chart = builder.build_cartesian_2d(machines, 0.0..highest * 1.1)?;
            draw_curves!(chart, curves, what, SeriesLabelPosition::UpperLeft);
        }
        picture
            .present()
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The path of a file in a directory, which is made if there is none.
fn file_in(directory: &Path, name: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory.join(name))
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

//! What is compared, and which ratios are wanted.

use std::io::Read;
use std::time::Duration;

use crate::entry::Entry;
use crate::site::{NODES, Site};
use crate::text::{Noise, Text};

/// A build through Slurm, and what it is compared with.
pub struct Comparison {
    /// Its name.
    pub name: &'static str,
    /// The time through Slurm.
    pub ours: fn(&Site, usize) -> Duration,
    /// The time of the reference.
    pub reference: fn(&Site, usize) -> Duration,
    /// The largest ratio that is wanted.
    pub wanted: f64,
    /// The maximum number of rounds.
    pub rounds: usize,
    /// Whether it takes minutes.
    pub long: bool,
}

impl Comparison {
    const fn new(
        name: &'static str,
        ours: fn(&Site, usize) -> Duration,
        reference: fn(&Site, usize) -> Duration,
        wanted: f64,
    ) -> Comparison {
        Comparison {
            name,
            ours,
            reference,
            wanted,
            rounds: usize::MAX,
            long: false,
        }
    }

    const fn long(self, rounds: usize) -> Comparison {
        Comparison {
            rounds,
            long: true,
            ..self
        }
    }
}

/// All comparisons.
pub const COMPARISONS: &[Comparison] = &[
    Comparison::new(
        "first build; `srun true' and cold SSH",
        first,
        first_ssh,
        1.5,
    ),
    Comparison::new(
        "build in a job that is there; warm SSH",
        warm,
        warm_ssh,
        1.3,
    ),
    Comparison::new(
        "100 builds, four nodes; four SSH machines",
        many,
        many_ssh,
        1.5,
    )
    .long(2),
    // 80 % of its speed.
    Comparison::new("128 MiB; `srun cat'", small_noise, small_noise_cat, 1.25),
    Comparison::new(
        "128 MiB of text, compressed; `srun cat'",
        small_text,
        small_text_cat,
        1.0,
    ),
    Comparison::new("1 GiB; `srun cat'", noise, noise_cat, 1.25).long(2),
    Comparison::new("1 GiB of text, compressed; `srun cat'", text, text_cat, 1.0).long(2),
];

fn same(entry: Entry) -> Entry {
    entry
}

/// On an idle cluster, with nothing of the last job.
fn first(site: &Site, round: usize) -> Duration {
    site.end_jobs();
    site.use_slurm(0, same);
    let time = site.build(&format!("first-{round}"), 1, &[]);
    site.end_jobs();
    time
}

fn first_ssh(site: &Site, round: usize) -> Duration {
    let job = site.trivial_job();
    site.end_connections();
    site.use_ssh(1);
    job + site.build(&format!("first-ssh-{round}"), 1, &[])
}

fn warm(site: &Site, round: usize) -> Duration {
    site.use_slurm(600, same);
    site.build(&format!("before-warm-{round}"), 1, &[]);
    site.build(&format!("warm-{round}"), 1, &[])
}

fn warm_ssh(site: &Site, round: usize) -> Duration {
    site.use_ssh(1);
    site.build(&format!("before-warm-ssh-{round}"), 1, &[]);
    site.build(&format!("warm-ssh-{round}"), 1, &[])
}

/// With nothing warm.
fn many(site: &Site, round: usize) -> Duration {
    site.end_jobs();
    site.use_slurm(600, same);
    let time = site.build(&format!("many-{round}"), 100, &[]);
    site.end_jobs();
    time
}

fn many_ssh(site: &Site, round: usize) -> Duration {
    site.end_connections();
    site.use_ssh(NODES);
    site.build(&format!("many-ssh-{round}"), 100, &[])
}

/// Half a MiB for each item.
const ITEM: u64 = 1 << 19;
const SMALL: u64 = 128 << 20;
const LARGE: u64 = 1 << 30;

/// The time of a build that needs new inputs, in a job that is there.
fn inputs(
    site: &Site,
    name: &str,
    size: u64,
    contents: &mut dyn Read,
    entry: fn(Entry) -> Entry,
) -> Duration {
    site.end_jobs();
    site.use_slurm(600, entry);
    let items = site.add(size / ITEM, ITEM, contents);
    site.build(&format!("before-{name}"), 1, &[]);
    site.build(name, 1, &items)
}

fn uncompressed(site: &Site, size: u64, round: usize) -> Duration {
    let mut noise = Noise::new(size + round as u64);
    inputs(
        site,
        &format!("noise-{size}-{round}"),
        size,
        &mut noise,
        same,
    )
}

fn compressed(site: &Site, size: u64, round: usize) -> Duration {
    let mut text = Text::new(size + round as u64);
    let compress = |entry: Entry| entry.plain("transfer-compression", "3");
    inputs(
        site,
        &format!("text-{size}-{round}"),
        size,
        &mut text,
        compress,
    )
}

fn small_noise(site: &Site, round: usize) -> Duration {
    uncompressed(site, SMALL, round)
}

fn small_text(site: &Site, round: usize) -> Duration {
    compressed(site, SMALL, round)
}

fn noise(site: &Site, round: usize) -> Duration {
    uncompressed(site, LARGE, round)
}

fn text(site: &Site, round: usize) -> Duration {
    compressed(site, LARGE, round)
}

fn small_noise_cat(site: &Site, _: usize) -> Duration {
    site.cat(SMALL, &mut Noise::new(0))
}

fn small_text_cat(site: &Site, _: usize) -> Duration {
    site.cat(SMALL, &mut Text::new(0))
}

fn noise_cat(site: &Site, _: usize) -> Duration {
    site.cat(LARGE, &mut Noise::new(0))
}

fn text_cat(site: &Site, _: usize) -> Duration {
    site.cat(LARGE, &mut Text::new(0))
}

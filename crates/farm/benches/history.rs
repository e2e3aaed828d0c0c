//! Criterion benchmarks of the history: what a build pays for its row, and what readers pay.
#![allow(missing_docs)] // What criterion_group! makes has none.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use farm::ItemName;
use farm::history::{
    Attempt, AttemptResult, Filter, Kind, Limits, Reader, Times, Writer, WriterOptions,
};

/// How many rows there are: as many as may be.
const ROWS: u32 = 100_000;
/// How many different things are built.
const NAMES: u32 = 5000;
const PATIENCE: Duration = Duration::from_secs(60);

fn attempt(number: u32) -> Attempt {
    let item = format!("package{}-1.{number}", number % NAMES);
    Attempt {
        time: 1_800_000_000 + u64::from(number),
        derivation: format!("7jhl46sxb6yi6ppz8kka0hlsm1ih0qlg-{item}.drv"),
        item: ItemName::of(&item),
        system: "x86_64-linux".to_owned(),
        machine: format!("build-{}.example.org:22", number % 50),
        speed: 1.0,
        kind: Kind::Build,
        times: Times {
            built: Duration::from_millis(u64::from(number)),
            ..Times::default()
        },
        bytes_sent: 1 << 20,
        bytes_retrieved: 1 << 22,
        result: AttemptResult::Done,
        reason: String::new(),
    }
}

fn writer(directory: &Path) -> Writer {
    Writer::new(WriterOptions {
        directory: directory.to_owned(),
        limits: Limits::default(),
        patience: PATIENCE,
        warn: Arc::new(|line| panic!("{line}")),
    })
}

/// A history of [`ROWS`].
fn full_history(directory: &Path) {
    for first in (0..ROWS).step_by(500) {
        let writer = writer(directory);
        for number in first..first + 500 {
            writer.attempt(attempt(number), None);
        }
        writer.finish();
    }
}

fn benchmarks(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    full_history(directory);
    let mut group = criterion.benchmark_group("history of 100,000 rows");

    // A hook opens the database while its build runs, and waits for the row at its end.
    group.bench_function("a hook's row, until it is written", |bencher| {
        let opened = || {
            let writer = writer(directory);
            writer.prepare();
            std::thread::sleep(Duration::from_millis(10));
            writer
        };
        let write = |writer: Writer| {
            writer.attempt(attempt(1), None);
            writer.finish();
        };
        bencher.iter_batched(opened, write, BatchSize::PerIteration);
    });
    // A daemon's build only hands it over.
    group.bench_function("a daemon's row, until it is handed over", |bencher| {
        bencher.iter_custom(|count| {
            let mut time = Duration::ZERO;
            for first in (0..count).step_by(500) {
                let writer = writer(directory);
                let rows = (first..count.min(first + 500)).map(|_| attempt(1));
                let rows: Vec<Attempt> = rows.collect();
                let begun = Instant::now();
                for row in rows {
                    writer.attempt(row, None);
                }
                time += begun.elapsed();
                writer.finish();
            }
            time
        });
    });
    let read = || {
        let reader = Reader::open(directory, PATIENCE).expect("it can be read");
        reader.expect("it is there")
    };
    let reader = read();
    group.bench_function("open, and the last 32 builds of one name", |bencher| {
        let filter = Filter {
            name: Some("package77".to_owned()),
            system: Some("x86_64-linux".to_owned()),
            result: Some(AttemptResult::Done),
            limit: Some(32),
            ..Filter::default()
        };
        bencher.iter(|| read().attempts(black_box(&filter)));
    });
    group.bench_function("learn everything", |bencher| {
        bencher.iter(|| reader.estimates().expect("it can be read"));
    });
    group.bench_function("the last 30 rows", |bencher| {
        let filter = Filter {
            limit: Some(30),
            ..Filter::default()
        };
        bencher.iter(|| reader.attempts(black_box(&filter)));
    });
    let estimates = reader.estimates().expect("it can be read");
    group.bench_function("one estimate of what is known", |bencher| {
        let item = attempt(77).item;
        bencher.iter(|| estimates.estimate(black_box(&item), "x86_64-linux"));
    });
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(20).without_plots();
    targets = benchmarks
}
criterion_main!(all);

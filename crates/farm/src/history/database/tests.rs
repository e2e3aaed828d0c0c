use rusqlite::Connection;

use super::super::record::{Kind, State, Times};
use super::*;
use crate::ItemName;

const NOW: u64 = 1_800_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn attempt(time: u64) -> Row {
    let attempt = Attempt {
        time,
        derivation: "x-hello-2.12.drv".to_owned(),
        item: ItemName::of("hello-2.12"),
        system: "x86_64-linux".to_owned(),
        machine: "build-1:22".to_owned(),
        speed: 1.0,
        kind: Kind::Build,
        times: Times::default(),
        bytes_sent: 0,
        bytes_retrieved: 0,
        result: AttemptResult::Done,
        reason: String::new(),
    };
    Row::Attempt(attempt, None)
}

fn state(time: u64) -> Row {
    Row::State(MachineState {
        time,
        machine: "build-1:22".to_owned(),
        state: State::Ready,
        reason: String::new(),
        load: f64::NAN,
        cores: 4,
        free_bytes: u64::MAX,
        slots: 2,
    })
}

fn open(directory: &Path, rows: u32) -> Database {
    let limits = Limits {
        rows,
        ..Limits::default()
    };
    let (database, message) = Database::open(directory, limits, PATIENCE).unwrap();
    assert_eq!(message, None);
    database
}

fn times(database: &Database, table: &str) -> Vec<u64> {
    let connection: &Connection = &database.connection;
    let query = format!("select time from {table} order by id");
    let mut select = connection.prepare(&query).unwrap();
    let times = select.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    times.map(|time| time.unwrap() as u64).collect()
}

#[test]
fn the_newest_rows_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = open(directory.path(), 5);
    for time in 0..20 {
        assert_eq!(database.write(&[attempt(time), state(time)]).unwrap(), None);
    }
    for table in TABLES {
        assert_eq!(times(&database, table), [15, 16, 17, 18, 19]);
    }
    // A smaller limit takes effect little by little, so that no write takes long.
    let rows: Vec<Row> = (0..1000).map(attempt).collect();
    let mut database = open(directory.path(), 2000);
    database.write(&rows).unwrap();
    let mut database = open(directory.path(), 5);
    for left in [806, 607, 408, 209, 10, 5, 5] {
        database.write(&[attempt(1)]).unwrap();
        assert_eq!(times(&database, "attempts").len(), left);
    }
}

#[test]
fn rows_are_deleted_for_their_age_an_hour_after_it_is_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = open(directory.path(), 10_000);
    let old = NOW - 91 * DAY;
    // More than are deleted at once; and two from the future.
    let mut rows: Vec<Row> = (0..500).map(|_| attempt(old)).collect();
    rows.extend([
        attempt(NOW + 1000 * DAY),
        attempt(NOW),
        state(old),
        state(NOW),
    ]);
    database.write(&rows).unwrap();
    let count = |database: &Database| times(database, "attempts").len();
    for (now, left) in [
        (NOW, 502),
        (NOW + DAY - 1, 502),
        (NOW + DAY, 502),
        (NOW + DAY + HOUR - 1, 502),
        (NOW + DAY + HOUR, 302),
        (NOW + DAY + HOUR, 102),
        (NOW + DAY + HOUR, 2),
        (NOW + DAY + HOUR, 2),
    ] {
        database.prune_at(now).unwrap();
        assert_eq!(count(&database), left, "{}", now - NOW);
    }
    assert_eq!(times(&database, "states"), [NOW]);
    assert_eq!(times(&database, "attempts"), [NOW + 1000 * DAY, NOW]);
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = open(directory.path(), 10_000);
    database.write(&[attempt(NOW - DAY), attempt(NOW)]).unwrap();
    let year = 365 * DAY;
    for now in [
        NOW,
        // Far ahead, and back; at the epoch, and back.
        NOW + 30 * year,
        NOW + 30 * year + HOUR - 1,
        NOW + 10,
        0,
        NOW + 20,
        NOW + 2 * DAY,
        NOW + 30 * year,
        NOW + 2 * DAY + HOUR,
    ] {
        database.prune_at(now).unwrap();
        assert_eq!(times(&database, "attempts").len(), 2, "{now}");
    }
}

#[test]
fn numbers_are_kept_as_far_as_sqlite_can() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = open(directory.path(), 10);
    database
        .write(&[attempt(u64::MAX), state(u64::MAX)])
        .unwrap();
    assert_eq!(times(&database, "states"), [i64::MAX as u64]);
}

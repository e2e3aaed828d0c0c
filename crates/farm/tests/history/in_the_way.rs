//! Files that are damaged, gone, of others, or something else.

use super::*;

#[test]
fn a_damaged_database_is_put_aside() {
    let damage: [fn(&Path); 3] = [
        |file| {
            fs::write(
                file,
                "this is no database, but long enough to be taken for one".repeat(99),
            )
            .unwrap()
        },
        |file| {
            // The root of the table of attempts.
            let mut data = fs::read(file).unwrap();
            data[4096..8192].fill(0xff);
            fs::write(file, data).unwrap();
        },
        |file| {
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(4096)
                .unwrap()
        },
    ];
    for damage in damage {
        let place = Place::new();
        place.write("hello-1");
        damage(&place.file());
        let damaged = fs::read(place.file()).unwrap();
        fs::write(place.file().with_extension("sqlite-journal"), "old").unwrap();
        // Several find it at the same time.
        std::thread::scope(|scope| {
            for version in 2..5 {
                let place = &place;
                scope.spawn(move || place.write(&format!("hello-{version}")));
            }
        });
        let said = place.said();
        assert!(
            said.len() == 1 && said[0].contains("begun anew"),
            "{said:?}"
        );
        let aside = place.directory().join("history.sqlite.corrupt");
        assert!(fs::read(&aside).unwrap() == damaged);
        let mut versions = place.versions();
        versions.sort();
        assert_eq!(versions, ["2", "3", "4"]);
    }
}

#[test]
fn damage_while_it_is_open() {
    let place = Place::new();
    let writer = place.writer(PATIENT);
    writer.attempt(attempt("hello-1"), None);
    while !place.file().exists() || place.versions().is_empty() {
        std::thread::yield_now();
    }
    // As if a disk had written zeros, and another process had noticed the change.
    let mut data = fs::read(place.file()).unwrap();
    data[4096..].fill(0);
    data[24..28].copy_from_slice(&99u32.to_be_bytes());
    data[92..96].copy_from_slice(&99u32.to_be_bytes());
    fs::write(place.file(), data).unwrap();
    writer.attempt(attempt("hello-2"), None);
    writer.finish();
    assert_eq!(place.versions(), ["2"]);
    let said = place.said();
    assert!(
        said.len() == 1 && said[0].contains("begun anew"),
        "{said:?}"
    );
}

#[test]
fn a_reader_of_a_damaged_database_says_so() {
    let place = Place::new();
    place.write("hello-1");
    fs::write(place.file(), "x".repeat(5000)).unwrap();
    let error = Reader::open(&place.directory(), PATIENT).err().unwrap();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(!place.directory().join("history.sqlite.corrupt").exists());
}

#[test]
fn it_can_be_deleted_at_any_time() {
    let place = Place::new();
    let writer = place.writer(PATIENT);
    for version in 1..4 {
        writer.attempt(attempt(&format!("hello-{version}")), None);
        while !place.file().exists() || place.versions().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(place.versions(), [version.to_string()]);
        fs::remove_file(place.file()).unwrap();
    }
    fs::remove_dir_all(place.directory()).unwrap();
    writer.attempt(attempt("hello-4"), None);
    writer.finish();
    assert_eq!(place.versions(), ["4"]);
    assert_eq!(place.said(), [""; 0]);
}

#[test]
fn a_newer_database_is_left_alone() {
    let place = Place::new();
    place.write("hello-1");
    let connection = Connection::open(place.file()).unwrap();
    connection
        .execute_batch("pragma user_version = 7; drop table attempts")
        .unwrap();
    drop(connection);
    place.refuses("has version 7, and this program knows version 1");
    let error = Reader::open(&place.directory(), PATIENT).err().unwrap();
    assert!(matches!(error, Error::Newer { version: 7, .. }), "{error}");
}

#[test]
fn another_programs_database_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    let connection = Connection::open(place.file()).unwrap();
    connection
        .execute_batch("create table bookmarks (x)")
        .unwrap();
    drop(connection);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(place.file(), mode).unwrap();
    place.refuses("is another program's database");
}

#[test]
fn something_else_in_its_place_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    // What the link leads to is a good history.
    let other = Place::new();
    other.write("hello-1");
    symlink(other.file(), place.file()).unwrap();
    place.refuses("is not a regular file");
    assert_eq!(other.versions(), ["1"]);
    assert!(Reader::open(&place.directory(), PATIENT).is_err());
    fs::remove_file(place.file()).unwrap();
    symlink("/nonexistent", place.file()).unwrap();
    place.refuses("is not a regular file");
    fs::remove_file(place.file()).unwrap();
    nix::unistd::mkfifo(&place.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.refuses("is not a regular file");
    fs::remove_file(place.file()).unwrap();
    fs::create_dir(place.file()).unwrap();
    place.refuses("is not a regular file");
}

#[test]
fn a_fifo_in_place_of_the_lock_holds_no_reader_up() {
    let place = Place::new();
    place.write("hello-1");
    let lock = place.file().with_extension("lock");
    fs::remove_file(&lock).unwrap();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Reader::open(&place.directory(), PATIENT).err().unwrap();
    assert!(matches!(error, Error::NotAFile(_)), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let place = Place::new();
    fs::write(place.directory(), "").unwrap();
    place.refuses("offload");
}

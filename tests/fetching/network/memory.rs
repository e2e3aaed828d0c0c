//! The memory of decoders: users share it, and who finds too little waits.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread::{JoinHandle, spawn};

use substitutes::Compression;
use substitutes::network::{ErrorKind, Event, Exchange, Fetch, Source};

use super::fixture::{Program, compress, file, last_events, next, noise, url};
use crate::harness::web_server::WebServer;

const MIB: u64 = 1 << 20;

/// So many zeros, compressed by zstd with a window of two to the power of `exponent`.
fn zeros(size: u64, exponent: u32) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-1", "-c", &format!("--long={exponent}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = spawn(move || {
        let piece = vec![0; MIB as usize];
        (0..size / MIB).try_for_each(|_| stdin.write_all(&piece))
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Starts to fetch something of which nobody reads anything yet.
fn fetch(exchange: &mut Exchange, url: Source, size: u64) -> File {
    let (reader, writer) = system::pipe::pipe().unwrap();
    let sources = vec![url];
    exchange.fetch(Fetch { sources, size }, writer);
    reader.into()
}

/// Reads everything; returns how much that is.
fn count(mut pipe: File) -> JoinHandle<u64> {
    spawn(move || {
        let (mut buffer, mut total) = (vec![0; MIB as usize], 0);
        loop {
            match pipe.read(&mut buffer).unwrap() {
                0 => return total,
                count => total += count as u64,
            }
        }
    })
}

#[track_caller]
fn all_finish(exchange: &mut Exchange) {
    for event in last_events(exchange).into_values() {
        assert!(matches!(event, Event::Finished { .. }), "{event:?}");
    }
}

#[test]
fn who_finds_no_memory_waits_and_holds_up_no_other_user() {
    // Eighteen windows of 128 MiB are more than the program may have.
    const LARGE: u64 = 140 * MIB;
    const ORDINARY: u64 = 20 * MIB;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("large"), zeros(LARGE, 27)).unwrap();
    fs::write(directory.path().join("ordinary"), zeros(ORDINARY, 23)).unwrap();
    let server = WebServer::start(directory.path());
    let source = |name: &str| url(server.url(name), Compression::Zstd);
    let program = Program::new();
    let mut greedy = program.exchange_of(1);
    let pipes: Vec<File> = (0..18)
        .map(|_| fetch(&mut greedy, source("large"), LARGE))
        .collect();
    let mut started = 0;
    while started < 18 {
        match next(&mut greedy).1 {
            Event::Started { .. } => started += 1,
            Event::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // Nobody reads what comes, so those who have memory keep it.
    let mut other = program.exchange_of(2);
    let others: Vec<_> = [("ordinary", ORDINARY); 8]
        .into_iter()
        .chain([("large", LARGE)])
        .map(|(name, size)| (count(fetch(&mut other, source(name), size)), size))
        .collect();
    all_finish(&mut other);
    for (reader, size) in others {
        assert_eq!(reader.join().unwrap(), size);
    }
    let readers: Vec<_> = pipes.into_iter().map(count).collect();
    all_finish(&mut greedy);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), LARGE);
    }
    let most = 6 * 129 * 1024;
    assert!(program.peak_kib() < most, "{} KiB", program.peak_kib());
    assert_eq!(program.starts(), 1);
}

#[test]
fn what_waits_for_memory_can_be_cancelled() {
    const LARGE: u64 = 140 * MIB;
    let bytes = zeros(LARGE, 27);
    let program = Program::new();
    let mut exchange = program.exchange_of(1);
    let source = || Source::File {
        file: file(&bytes),
        compression: Compression::Zstd,
    };
    let mut pipes: Vec<File> = (0..6)
        .map(|_| fetch(&mut exchange, source(), LARGE))
        .collect();
    for _ in 0..6 {
        assert!(matches!(next(&mut exchange).1, Event::Started { .. }));
    }
    drop(exchange);
    for pipe in &mut pipes {
        pipe.read_to_end(&mut Vec::new()).unwrap();
    }
    let mut exchange = program.exchange_of(1);
    let reader = count(fetch(&mut exchange, source(), LARGE));
    all_finish(&mut exchange);
    assert_eq!((reader.join().unwrap(), program.starts()), (LARGE, 1));
}

#[test]
fn what_needs_more_than_there_is_for_any_item_is_refused() {
    let program = Program::new();
    let zstd = b"\x28\xb5\x2f\xfd\x00\xa8rubbish".to_vec();
    let lzip = b"LZIP\x01\x1drubbish".to_vec();
    let second = [compress(&noise(100_000), Compression::Lzip), lzip.clone()].concat();
    let xz = b"\xfd7zXZ\0\0\x01\0\0\0\0\x02\0\x21\x01\x20\0\0\0\0\0\0\0\0\0".to_vec();
    for (bytes, compression, needed) in [
        (zstd, Compression::Zstd, "2048 MiB"),
        (lzip, Compression::Lzip, "512 MiB"),
        (second, Compression::Lzip, "512 MiB"),
        (xz, Compression::Xz, "256 MiB"),
    ] {
        let source = Source::File {
            file: file(&bytes),
            compression,
        };
        let fetched = program.fetch(vec![source], 3 << 30);
        // After a first member that was good, the file is tried once more, and is read already.
        let first = fetched.failed_sources().first().map(|(_, error)| *error);
        let error = first.unwrap_or_else(|| fetched.error());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let words =
            format!("it takes a window of {needed}, and the largest that is allowed has 128 MiB");
        assert!(error.text().contains(&words), "{error}");
    }
    assert!(program.peak_kib() < 32 << 10, "{} KiB", program.peak_kib());
    assert_eq!(program.starts(), 1);
}

#[test]
fn small_items_take_little_memory_however_they_were_compressed() {
    let size = 2 * MIB;
    let bytes = zeros(size, 27);
    // lzip's own program would write a smaller dictionary for so little.
    let mut lzip = compress(&vec![0; size as usize], Compression::Lzip);
    lzip[5] = 0x1d;
    let program = Program::new();
    for (bytes, compression) in [(bytes, Compression::Zstd), (lzip, Compression::Lzip)] {
        let mut exchange = program.exchange_of(1);
        let pipes: Vec<File> = (0..12)
            .map(|_| {
                let file = file(&bytes);
                fetch(&mut exchange, Source::File { file, compression }, size)
            })
            .collect();
        for _ in 0..12 {
            assert!(matches!(next(&mut exchange).1, Event::Started { .. }));
        }
        let readers: Vec<_> = pipes.into_iter().map(count).collect();
        all_finish(&mut exchange);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), size);
        }
    }
    assert!(program.peak_kib() < 64 << 10, "{} KiB", program.peak_kib());
}

#[test]
fn two_users_who_keep_all_they_can_have_leave_the_largest_window_to_a_third() {
    const LARGE: u64 = 140 * MIB;
    let bytes = zeros(LARGE, 27);
    let program = Program::new();
    let source = || Source::File {
        file: file(&bytes),
        compression: Compression::Zstd,
    };
    let mut holders = [1, 2].map(|user| program.exchange_of(user));
    let mut pipes: Vec<File> = (holders.iter_mut())
        .flat_map(|exchange| [(); 2].map(|()| fetch(exchange, source(), LARGE)))
        .collect();
    for pipe in &mut pipes {
        // They have their windows then, and keep them: nobody reads on.
        pipe.read_exact(&mut [0]).unwrap();
    }
    let mut third = program.exchange_of(3);
    let reader = count(fetch(&mut third, source(), LARGE));
    all_finish(&mut third);
    assert_eq!((reader.join().unwrap(), program.starts()), (LARGE, 1));
}

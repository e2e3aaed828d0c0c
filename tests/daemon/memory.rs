//! How much memory large items and many clients take.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::slice::from_ref;

use formats::Algorithm;
use formats::nar::Sink;
use protocol::operations::GcAction;

use crate::harness::is_ours;
use crate::items::*;
use crate::support::*;

/// How large a large file is.
const LARGE: u64 = 256 << 20;

/// How much the daemon may take for it. (Guix's takes all that is added into memory.)
fn limit_kib() -> u64 {
    if is_ours() { 64 << 10 } else { u64::MAX }
}

/// Yields a MiB of noise over and over.
struct Noise {
    block: Vec<u8>,
    at: usize,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.block[self.at..];
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        self.at = (self.at + count) % self.block.len();
        Ok(count)
    }
}

#[test]
fn large_items_pass_through_little_memory() {
    let fixture = Fixture::new();
    fixture.install_keys();
    let mut client = fixture.client();
    let path = client
        .add_to_store("large", true, Algorithm::Sha256, |writer| {
            writer.regular(
                false,
                LARGE,
                &mut Noise {
                    block: noise(1, 1 << 20),
                    at: 0,
                },
            )
        })
        .unwrap();
    assert!(
        fixture.peak_kib() < limit_kib(),
        "adding took {} KiB",
        fixture.peak_kib()
    );
    let archive = fixture.site.path("archive");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&archive).unwrap());
    client.export_paths([&path], true, &mut out).unwrap();
    out.flush().unwrap();
    drop(out);
    assert!(fs::metadata(&archive).unwrap().len() > LARGE);
    assert!(
        fixture.peak_kib() < limit_kib(),
        "exporting took {} KiB",
        fixture.peak_kib()
    );
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        from_ref(&path)
    );
    let mut source = BufReader::with_capacity(1 << 20, File::open(&archive).unwrap());
    assert_eq!(client.import_paths(&mut source).unwrap(), from_ref(&path));
    assert!(
        fixture.peak_kib() < limit_kib(),
        "importing took {} KiB",
        fixture.peak_kib()
    );
    assert_eq!(fs::metadata(path.as_path()).unwrap().len(), LARGE);
    fs::remove_file(archive).unwrap();
    assert!(!client.verify_store(true, false).unwrap());
    assert!(
        fixture.peak_kib() < limit_kib(),
        "verifying took {} KiB",
        fixture.peak_kib()
    );
}

#[test]
fn many_clients_take_little_memory_and_leave_nothing() {
    let fixture = Fixture::new();
    let daemon = &fixture.daemon;
    drop(fixture.client());
    let before = (daemon.open_files(), daemon.threads());
    let mut clients: Vec<_> = (0..150).map(|_| fixture.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        add_text(client, "text", &number.to_string(), &[]);
    }
    drop(clients);
    assert!(
        fixture.peak_kib() < limit_kib(),
        "{} KiB",
        fixture.peak_kib()
    );
    daemon.wait_until(|| daemon.open_files() <= before.0 + 4, "to close files");
    daemon.wait_until(|| daemon.threads() <= before.1, "to end sessions");
    assert_eq!(
        collect(&mut fixture.client(), GcAction::DeleteDead, &[])
            .paths
            .len(),
        150
    );
}

//! A farm that the simulator has written (`bench/simulator/src/farm_files.rs`), for the dashboard to look at. It reads the
//! machine file, the history and the hook's files as if they were of a real one. Only what a daemon would tell comes
//! from a program that takes its place: nothing is built.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use protocol::Operation;
use protocol::frames::{DAEMON_MAGIC, LAST};
use simulator::farm_files;
use simulator::report::Setting;
use system::lock::{LockFile, Mode};

use super::browser::Dashboard;
use crate::fixture::{Fixture, GUIX_CLIENT};

/// A farm that has worked for a day, and what looks at it.
pub struct Simulated {
    pub dashboard: Dashboard,
    /// What the daemon would tell.
    pub status: serde_json::Value,
    pub slots: usize,
    // Slots are taken as long as somebody locks their files.
    _taken: Vec<LockFile>,
    _fixture: Fixture,
}

impl Simulated {
    /// Simulates so many machines, and starts a dashboard.
    pub fn new(machines: usize) -> Simulated {
        system::open_files::raise_limit().unwrap();
        let fixture = Fixture::with_options(&["--no-substitutes"]);
        let directory = fixture.site.path("simulated");
        let setting = Setting {
            machines,
            waits: false,
            alike: false,
            derivations: 30 * machines,
            line: 1250e6,
            between_failures: 20.0 * 3600.0,
            seed: 1,
        };
        farm_files::write(&setting, &directory).unwrap();
        let configuration = fixture.site.configuration().join("machines.toml");
        fs::rename(directory.join("machines.toml"), configuration).unwrap();
        let offload = fixture.site.state().join("offload");
        let _ = fs::remove_dir_all(&offload);
        fs::rename(directory.join("offload"), &offload).unwrap();
        let taken: Vec<LockFile> = slot_files(&offload).iter().map(|file| lock(file)).collect();
        let status = fs::read(directory.join("status.json")).unwrap();
        let socket = directory.join("socket");
        serve(&socket, status.clone());
        let mut command = fixture.site.command(GUIX_CLIENT);
        command
            .args(["dashboard", "--listen=127.0.0.1:0"])
            .env("GUIX_DAEMON_SOCKET", &socket)
            .env_remove("GUIX_OFFLOAD_MACHINES")
            .stdout(Stdio::piped());
        Simulated {
            dashboard: Dashboard::of(command.spawn().unwrap()),
            status: serde_json::from_slice(&status).unwrap(),
            slots: taken.len(),
            _taken: taken,
            _fixture: fixture,
        }
    }
}

/// The files of slots that are taken.
fn slot_files(offload: &Path) -> Vec<PathBuf> {
    let machines = fs::read_dir(offload).unwrap();
    let files = machines.filter_map(|machine| fs::read_dir(machine.ok()?.path()).ok());
    let files = files.flatten().map(|file| file.unwrap().path());
    files
        .filter(|file| file.file_name().unwrap() != "health.json")
        .collect()
}

fn lock(file: &Path) -> LockFile {
    let lock = LockFile::open(file).unwrap();
    assert!(lock.try_lock(Mode::Exclusive).unwrap());
    lock
}

/// Takes the place of a daemon: tells what it is to tell, and nothing else.
fn serve(socket: &Path, status: Vec<u8>) {
    let listener = UnixListener::bind(socket).unwrap();
    let status: Arc<[u8]> = status.into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let status = status.clone();
            // An error is the end of the connection.
            std::thread::spawn(move || answer(stream, &status));
        }
    });
}

fn answer(mut stream: UnixStream, status: &[u8]) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut number = || -> io::Result<u64> {
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let mut send = |numbers: &[u64], rest: &[u8]| -> io::Result<()> {
        let mut message: Vec<u8> = numbers.iter().flat_map(|one| one.to_le_bytes()).collect();
        message.extend(rest);
        message.resize(message.len().next_multiple_of(8), 0);
        stream.write_all(&message)
    };
    // Magic number, version, no processor, space in reserve.
    for _ in 0..4 {
        number()?;
    }
    send(&[DAEMON_MAGIC.into(), 0x164, LAST], b"")?;
    loop {
        let operation = number()?;
        if operation != u64::from(Operation::QueryFarmStatus.number()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        send(&[LAST, status.len() as u64], status)?;
    }
}

#[test]
fn a_simulated_farm_is_shown_as_a_real_one() {
    let farm = Simulated::new(50);
    let document = farm
        .dashboard
        .wait_until(|document| document["error"].is_null());
    assert_eq!(document["machines_error"], serde_json::Value::Null);
    assert_eq!(document["history_error"], serde_json::Value::Null);
    assert_eq!(document["requests"], farm.status["requests"]);
    let machines = document["machines"].as_array().unwrap();
    assert_eq!(machines.len(), 50);
    let used = machines
        .iter()
        .map(|one| one["slots_used"].as_u64().unwrap());
    assert_eq!(used.sum::<u64>() as usize, farm.slots);
    let of_day = |one: &&serde_json::Value| one["states"].as_array().unwrap().len() > 1;
    assert!(machines.iter().filter(of_day).count() > 25, "{machines:#?}");
    assert!(!document["failures"].as_array().unwrap().is_empty());
    let busy = document["throughput"].as_array().unwrap();
    let busy = busy.iter().filter(|one| one["busy_s"].as_u64() > Some(0));
    assert!(busy.count() > 120);
    farm.dashboard.stop();
}

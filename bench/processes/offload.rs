//! Offloading, from a client's request to its reply, over a real sshd.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::hash::Algorithm;
use formats::nar::Sink;
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::{SetOptions, Target};

use crate::Task;
use crate::farm::Farm;
use crate::hook::ask;
use crate::work::{Noise, build, derivation};

/// The tasks, by the number of machines in the farm.
pub const TASKS: &[(usize, &[Task<Farm>])] = &[
    (
        1,
        &[
            Task::new("hook, from its start to `# accept', warm", accept),
            Task::new("offload a trivial build, cold", cold),
            Task::new("offload a trivial build, warm", warm),
            Task::new("offload, 20 ms of delay", delayed).rounds(3),
            Task::counting(
                "offload 3 builds with one input: bytes sent / missing",
                shared,
            )
            .rounds(3),
            Task::new("ssh cat of 1 GiB", cat).rounds(3).long(),
            Task::new("offload with inputs of 1 GiB", closure)
                .rounds(3)
                .long(),
        ],
    ),
    (
        4,
        &[
            Task::new("offload 100 trivial builds to four machines", many)
                .rounds(1)
                .long(),
        ],
    ),
];

/// A client that requests offloading.
pub fn client(farm: &Farm) -> Result<Connection> {
    let mut daemon = farm.head.connect()?;
    let mut options = SetOptions {
        use_build_hook: Some(true),
        ..SetOptions::default()
    };
    options.set("build-poll-interval", "1");
    daemon.set_options(&options)?;
    Ok(daemon)
}

/// The time to build some derivations, each of which has `sources`.
pub fn offload(farm: &Farm, count: usize, name: &str, sources: &[StorePath]) -> Result<Duration> {
    let mut daemon = client(farm)?;
    let mut targets = Vec::new();
    for number in 0..count {
        let name = format!("{name}-{number}");
        let (drv, _) = derivation(&farm.head, &mut daemon, &name, sources)?;
        targets.push(Target::from(drv));
    }
    build(&mut daemon, targets)
}

fn cold(farm: &Farm, round: usize) -> Result<Duration> {
    // The inputs that all builds need are already there.
    offload(farm, 1, &format!("before-cold-{round}"), &[])?;
    farm.forget()?;
    offload(farm, 1, &format!("cold-{round}"), &[])
}

fn warm(farm: &Farm, round: usize) -> Result<Duration> {
    offload(farm, 1, &format!("before-warm-{round}"), &[])?;
    offload(farm, 1, &format!("warm-{round}"), &[])
}

fn delayed(farm: &Farm, round: usize) -> Result<Duration> {
    farm.configure(Some(Duration::from_millis(10)))?;
    let name = format!("delayed-{round}");
    let time =
        offload(farm, 1, &format!("before-{name}"), &[]).and_then(|_| offload(farm, 1, &name, &[]));
    farm.configure(None)?;
    time
}

fn accept(farm: &Farm, round: usize) -> Result<Duration> {
    offload(farm, 1, &format!("before-accept-{round}"), &[])?;
    let mut daemon = farm.head.connect()?;
    let (drv, _) = derivation(&farm.head, &mut daemon, "to-accept", &[])?;
    Ok(ask(&farm.head, &drv, 1, "# accept")?[0])
}

fn many(farm: &Farm, round: usize) -> Result<Duration> {
    offload(farm, 100, &format!("many-{round}"), &[])
}

/// Builds three derivations that share an input. Returns how many bytes are sent for each that was
/// missing.
fn shared(farm: &Farm, round: usize) -> Result<f64> {
    const SHARED: u64 = 64 << 20;
    const OWN: u64 = 1 << 20;
    const BUILDS: u64 = 3;
    let sent = farm.configure(Some(Duration::ZERO))?;
    let [sent] = &sent[..] else {
        bail!("not one machine");
    };
    offload(farm, 1, &format!("before-shared-{round}"), &[])?;
    let mut daemon = client(farm)?;
    let mut add = |number: u64, size: u64| {
        let mut noise = Noise(((round as u64 + 1) << 50) + (number << 20));
        daemon.add_to_store("input", true, Algorithm::Sha256, |writer| {
            writer.regular(false, size, &mut noise)
        })
    };
    let common = add(0, SHARED)?;
    let own: Vec<_> = (1..=BUILDS).map(|number| add(number, OWN)).collect();
    let mut targets = Vec::new();
    for (number, own) in own.into_iter().enumerate() {
        let sources = [common.clone(), own?];
        let name = format!("shared-{round}-{number}");
        let (drv, _) = derivation(&farm.head, &mut daemon, &name, &sources)?;
        targets.push(Target::from(drv));
    }
    let before = sent.load(Ordering::Relaxed);
    build(&mut daemon, targets)?;
    let sent = sent.load(Ordering::Relaxed) - before;
    farm.configure(None)?;
    Ok(sent as f64 / (SHARED + BUILDS * OWN) as f64)
}

/// The number of items to send, and their size.
const ITEMS: u64 = 2000;
const SIZE: u64 = (1 << 30) / ITEMS;

fn closure(farm: &Farm, round: usize) -> Result<Duration> {
    let mut daemon = farm.head.connect()?;
    let items = (0..ITEMS)
        .map(|number| {
            let mut noise = Noise(((round as u64 + 1) << 40) + (number << 20));
            Ok(
                daemon.add_to_store("item", true, Algorithm::Sha256, |writer| {
                    writer.regular(false, SIZE, &mut noise)
                })?,
            )
        })
        .collect::<Result<Vec<_>>>()?;
    offload(farm, 1, &format!("before-closure-{round}"), &[])?;
    offload(farm, 1, &format!("closure-{round}"), &items)
}

/// The bytes are written to a file on the machine, as items would be.
fn cat(farm: &Farm, _: usize) -> Result<Duration> {
    let mut noise = vec![0; 1 << 20];
    Noise(1).read_exact(&mut noise)?;
    let file = farm.head.path("cat");
    let begun = Instant::now();
    let mut ssh = farm
        .ssh(&format!("cat > {}", file.display()))?
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = ssh.stdin.take().context("no pipe")?;
    let sent = (0..1024).try_for_each(|_| input.write_all(&noise));
    drop(input);
    let status = ssh.wait()?;
    sent.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })?;
    if !status.success() {
        bail!("ssh failed: {status}");
    }
    Ok(begun.elapsed())
}

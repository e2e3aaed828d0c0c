//! How a machine is: one remote command that tells all, over the shared connection.

use std::time::{Duration, Instant, SystemTime};

use super::link::Link;
use super::session::{self, Session, quote};
use super::{Error, Vitals};

const DOING: &str = "asking how it is";
/// What the command's answer begins with: shells' start-up files may print before.
const READY: &str = "guix-offload-ready";
/// The longest answer.
const MOST: usize = 16 << 10;
/// A disk with less is full, as in Guix.
const FULL: u64 = 10 << 20;
/// How long an answer is waited for that can be done without.
const QUICK: Duration = Duration::from_secs(10);

/// Asks.
pub(super) fn probe(link: &Link, deadline: Instant) -> Result<Vitals, Error> {
    let store = quote(link.home.store.as_str());
    // It waits for a line, so that the round trip is timed without the start of a shell.
    let script = format!(
        "echo {READY}; read -r x; echo clock $(date +%s.%N); echo load $(cat /proc/loadavg); \
         echo cores $(nproc || getconf _NPROCESSORS_ONLN); \
         echo disk $({{ df -Pk {store} || df -Pk /; }} 2>/dev/null | tail -n 1); \
         echo kernel $(uname -sr); echo architecture $(uname -m); echo host $(uname -n); echo end"
    );
    let mut session = Session::start(link, DOING, &script, true, deadline)?;
    let mut answer = Answer::default();
    answer.wait_for(&mut session, READY, deadline)?;
    let (asked, asked_at) = (Instant::now(), SystemTime::now());
    if let Some(input) = &mut session.input {
        std::io::Write::write_all(input, b"go\n").map_err(|error| session.lost(&error))?;
    }
    answer.wait_for(&mut session, "clock ", deadline)?;
    let round_trip = asked.elapsed();
    answer.wait_for(&mut session, "end", deadline)?;
    let (code, said) = session.wait(deadline)?;
    if code != 0 {
        return Err(session::refusal(link.name(), DOING, code, &said));
    }
    answer
        .vitals(round_trip, asked_at)
        .ok_or_else(|| Error::Lost {
            machine: link.name().to_owned(),
            doing: DOING.to_owned(),
            reason: "its answer makes no sense".to_owned(),
        })
}

/// Whether the file system of its store has no space left, as far as can be told: a build that
/// failed there may not be to blame.
pub(super) fn is_full(link: &Link) -> bool {
    let (doing, deadline) = ("asking for free space", Instant::now() + QUICK);
    let script = format!("df -Pk {} | tail -n 1", quote(link.home.store.as_str()));
    session::run(link, doing, &script, b"", 4096, deadline)
        .ok()
        .and_then(|reply| free_bytes(&String::from_utf8_lossy(&reply.output)))
        .is_some_and(|free| free < FULL)
}

#[derive(Default)]
struct Answer {
    text: Vec<u8>,
    /// Where what is waited for begins at the earliest.
    position: usize,
}

impl Answer {
    /// Reads on until there is a line that begins with `word`.
    fn wait_for(
        &mut self,
        session: &mut Session,
        word: &str,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            while let Some(length) = self.text[self.position..].iter().position(|&b| b == b'\n') {
                let line = &self.text[self.position..self.position + length];
                let found = line.starts_with(word.as_bytes());
                self.position += length + 1;
                if found {
                    return Ok(());
                }
            }
            let count = match session.read(&mut buffer, deadline)? {
                // Why is on standard error, but what counts is that there is no answer.
                0 => return Err(session.lost(&std::io::Error::other("the command ended early"))),
                count if self.text.len() + count > MOST => {
                    return Err(session.lost(&std::io::Error::other("it answers too much")));
                }
                count => count,
            };
            self.text.extend_from_slice(&buffer[..count]);
        }
    }

    fn vitals(&self, round_trip: Duration, asked_at: SystemTime) -> Option<Vitals> {
        let text = String::from_utf8_lossy(&self.text);
        let (_, text) = text.split_once(READY)?;
        let line = |word: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
                .map(str::trim)
        };
        let first = |word: &str| line(word)?.split_whitespace().next();
        let theirs: f64 = first("clock")?.parse().ok()?;
        let ours = asked_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .as_secs_f64()
            + round_trip.as_secs_f64() / 2.0;
        Some(Vitals {
            load: first("load")?.parse().ok()?,
            cores: first("cores")?.parse().ok().filter(|cores| *cores > 0)?,
            free_bytes: free_bytes(line("disk")?)?,
            round_trip,
            clock_offset: theirs - ours,
            kernel: line("kernel")?.to_owned(),
            architecture: line("architecture")?.to_owned(),
            host_name: line("host")?.to_owned(),
        })
    }
}

/// From a line of `df -Pk`: file system, blocks, used, available, capacity, mount point.
fn free_bytes(line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // A file system's name may have blanks; the capacity is the only percentage.
    let capacity = fields.iter().rposition(|field| field.ends_with('%'))?;
    let available: u64 = fields.get(capacity.checked_sub(1)?)?.parse().ok()?;
    available.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = b"motd\nguix-offload-ready\nclock 1000.5\nload 0.50 0.40 0.30 1/2 3\ncores 4\n\
            disk /dev/sda 1000 400 600 40% /gnu\nkernel Linux 6.1\narchitecture x86_64\nhost b\nend\n";
        let answer = Answer {
            text: text.to_vec(),
            position: 0,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(990);
        let vitals = answer.vitals(Duration::from_secs(1), at).unwrap();
        assert_eq!((vitals.load, vitals.cores), (0.5, 4));
        assert_eq!(vitals.free_bytes, 600 * 1024);
        assert_eq!(vitals.clock_offset, 10.0);
        assert_eq!(vitals.kernel, "Linux 6.1");
        let none = Answer {
            text: b"guix-offload-ready\nclock x\nend\n".to_vec(),
            position: 0,
        };
        assert!(none.vitals(Duration::ZERO, at).is_none());
    }
}

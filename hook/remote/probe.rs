//! Load, free space, clock and kernel of a machine, determined by one command over the shared
//! connection.

use std::time::{Duration, Instant, SystemTime};

use system::clock::since_epoch;

use super::destination::Destination;
use super::error::Error;
use super::remote_command::{self, RemoteCommand};
use super::shell::quote;

/// How long a machine may take to report its load and free space.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

const DOING: &str = "asking how it is";
/// The maximum size of the output, in bytes.
const OUTPUT_LIMIT: usize = 16 << 10;
/// A file system with fewer free bytes is full, as in Guix.
const FULL: u64 = 10 << 20;
/// The timeout for an answer that is useful but not required.
const OPTIONAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Machines with fewer free bytes get no builds, as in Guix.
pub const REQUIRED_FREE_BYTES: u64 = 100 << 20;

/// What a machine reports about itself.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// Load average of the last minute, as the kernel reports it.
    pub load: f64,
    /// Processors.
    pub cores: u32,
    /// Free bytes on the file system of the store.
    pub free_bytes: u64,
    /// The time from a request to its reply, over a connection that is already open.
    pub round_trip: Duration,
    /// The number of seconds that its clock is ahead of ours.
    pub clock_offset: f64,
    /// Kernel and its release.
    pub kernel: String,
    /// Architecture.
    pub architecture: String,
    /// Its own host name.
    pub host_name: String,
}

/// Asks a machine for its vitals.
pub(super) fn probe(destination: &Destination, deadline: Instant) -> Result<Vitals, Error> {
    let store = quote(destination.directories.store.as_str());
    // The script waits for a line, so that the round trip doesn't include starting a shell.
    let script = format!(
        "read -r x; echo clock $(date +%s.%N); echo load $(cat /proc/loadavg); \
         echo cores $(nproc || getconf _NPROCESSORS_ONLN); \
         echo disk $({{ df -Pk {store} || df -Pk /; }} 2>/dev/null | tail -n 1); \
         echo kernel $(uname -sr); echo architecture $(uname -m); echo host $(uname -n); echo end"
    );
    let mut remote_command = RemoteCommand::start(destination, DOING, &script, true, deadline)?;
    let mut answer = Answer::default();
    let (asked, asked_at) = (Instant::now(), SystemTime::now());
    if let Some(input) = &mut remote_command.stdin {
        std::io::Write::write_all(input, b"go\n").map_err(|error| remote_command.lost(&error))?;
    }
    answer.wait_for(&mut remote_command, "clock ", deadline)?;
    let round_trip = asked.elapsed();
    answer.wait_for(&mut remote_command, "end", deadline)?;
    let (code, stderr) = remote_command.wait(deadline)?;
    if code != 0 {
        return Err(remote_command::failure(
            destination.name(),
            DOING,
            code,
            &stderr,
        ));
    }
    answer
        .vitals(round_trip, asked_at)
        .ok_or_else(|| Error::Lost {
            machine: destination.name().to_owned(),
            doing: DOING.to_owned(),
            reason: "its answer cannot be parsed".to_owned(),
        })
}

/// Whether the file system of its store is known to be full, in blocks or inodes: then a build may
/// have failed for lack of space.
pub(super) fn is_full(destination: &Destination) -> bool {
    let (doing, deadline) = ("asking for free space", Instant::now() + OPTIONAL_TIMEOUT);
    let store = quote(destination.directories.store.as_str());
    let script = format!("df -Pk {store} | tail -n 1; df -Pi {store} | tail -n 1");
    let reply = remote_command::run(destination, doing, &script, b"", 4096, deadline);
    reply.is_ok_and(|reply| is_full_according_to(&String::from_utf8_lossy(&reply.stdout)))
}

/// Whether so many free bytes are too few for a build.
pub(super) fn is_little(free: u64) -> bool {
    free < FULL
}

/// From the last lines of `df -Pk` and `df -Pi`.
fn is_full_according_to(text: &str) -> bool {
    let mut lines = text.lines();
    let (space, files) = (lines.next(), lines.next());
    space.and_then(free_bytes).is_some_and(|free| free < FULL)
        // A file system without a fixed number of inodes has `-' there, not a percentage.
        || files.and_then(free_bytes).is_some_and(|free| free == 0)
}

/// The output of the script.
#[derive(Default)]
struct Answer {
    text: Vec<u8>,
    /// The end of the lines that were already processed.
    position: usize,
}

impl Answer {
    /// Reads until a line begins with `word`.
    fn wait_for(
        &mut self,
        remote_command: &mut RemoteCommand,
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
            let count = match remote_command.read(&mut buffer, deadline)? {
                // The reason is on standard error, but what matters is that there is no answer.
                0 => {
                    return Err(
                        remote_command.lost(&std::io::Error::other("the command ended early"))
                    );
                }
                count if self.text.len() + count > OUTPUT_LIMIT => {
                    return Err(
                        remote_command.lost(&std::io::Error::other("its output is too long"))
                    );
                }
                count => count,
            };
            self.text.extend_from_slice(&buffer[..count]);
        }
    }

    fn vitals(&self, round_trip: Duration, asked_at: SystemTime) -> Option<Vitals> {
        let text = String::from_utf8_lossy(&self.text);
        let line = |word: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
                .map(str::trim)
        };
        let first = |word: &str| line(word)?.split_whitespace().next();
        // Not infinite and not NaN, which JSON has no words for.
        let number = |word: &str| -> Option<f64> {
            let number: f64 = first(word)?.parse().ok()?;
            number.is_finite().then_some(number)
        };
        let theirs = number("clock")?;
        let ours = (since_epoch(asked_at) + round_trip / 2).as_secs_f64();
        Some(Vitals {
            load: number("load")?,
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
    // A file system's name may contain blanks; the capacity is the only percentage.
    let capacity = fields.iter().rposition(|field| field.ends_with('%'))?;
    let available: u64 = fields.get(capacity.checked_sub(1)?)?.parse().ok()?;
    available.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_of_data_or_of_files() {
        let space = |blocks: u64| format!("/dev/sda 100000 50000 {blocks} 40% /gnu\n");
        let files = |free: u64| format!("/dev/sda 1000 400 {free} 40% /gnu\n");
        let full = |text: &str| is_full_according_to(text);
        assert!(!full(&format!("{}{}", space(20_000), files(1))));
        assert!(full(&format!("{}{}", space(10_000), files(1))));
        assert!(full(&format!("{}{}", space(20_000), files(0))));
        assert!(!full(&format!("{}btrfs 0 0 0 - /gnu\n", space(20_000))));
        assert!(!full("") && full(&space(0)));
    }

    #[test]
    fn an_answer_is_read() {
        let text = b"clock 1000.5\nload 0.50 0.40 0.30 1/2 3\ncores 4\n\
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
            text: b"clock x\nend\n".to_vec(),
            position: 0,
        };
        assert!(none.vitals(Duration::ZERO, at).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_or_refused(
            words in proptest::collection::vec(
                "(clock|load|cores|disk|kernel|architecture|host)?\
                 ( ([0-9]{1,24}(\\.[0-9]*)?|-1|[0-9]{1,3}%|NaN|inf|\\PC{0,6})){0,6}",
                0..12,
            ),
        ) {
            let answer = Answer {
                text: words.join("\n").into_bytes(),
                position: 0,
            };
            let vitals = answer.vitals(Duration::from_secs(1), SystemTime::now());
            assert!(vitals.is_none_or(|vitals| vitals.cores > 0 && vitals.load.is_finite()));
        }
    }
}

//! What no choice can beat.

use crate::graph::Graph;
use crate::machines::Machine;

/// Lower bounds of the time that everything takes, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The longest chain, on the fastest machine.
    pub path: f64,
    /// All work, divided among all slots.
    pub work: f64,
    /// All outputs, over the head's line or those of all machines.
    pub bytes: f64,
}

impl Bounds {
    /// The bounds for a graph that is built by these machines, over the head's line.
    pub fn new(graph: &Graph, machines: &[Machine], line: f64) -> Bounds {
        let fastest = machines
            .iter()
            .map(|machine| machine.speed)
            .fold(0.0, f64::max);
        let capacity: f64 = (machines.iter())
            .map(|machine| machine.slots as f64 * machine.speed)
            .sum();
        let lines: f64 = machines.iter().map(|machine| machine.line).sum();
        let paths = graph.longest_paths(|number| graph.derivations[number].seconds / fastest);
        let seconds: f64 = graph.derivations.iter().map(|one| one.seconds).sum();
        let bytes: u64 = graph.derivations.iter().map(|one| one.bytes).sum();
        Bounds {
            path: paths.into_iter().fold(0.0, f64::max),
            work: seconds / capacity,
            bytes: bytes as f64 / lines.min(line),
        }
    }

    /// The largest.
    pub fn largest(&self) -> f64 {
        self.path.max(self.work).max(self.bytes)
    }
}

//! What is known about schedulers: their commands, and what they say.

/// What is known about a scheduler. Command lines have placeholders
/// ([`crate::machines::template`]).
pub struct Preset {
    /// The command whose standard input and output reach the worker.
    pub command: &'static [&'static str],
    /// The command that ends the job.
    pub cancel: &'static [&'static str],
    /// The command whose first line of output is the reason why a job waits; none if jobs never wait.
    pub pending: &'static [&'static str],
    /// What the command prints if there is no room.
    pub busy: &'static [&'static str],
    /// What the command prints if the scheduler does not answer.
    pub unreachable: &'static [&'static str],
    /// What the command prints when the job uses more than it has asked for.
    pub exhausted: &'static [&'static str],
    /// What the command prints when the job has lasted as long as it may.
    pub out_of_time: &'static [&'static str],
    /// What the command prints when the node of the job fails.
    pub lost: &'static [&'static str],
    /// The reasons for which a job would wait for ever, and what they mean.
    pub hopeless: &'static [(&'static str, &'static str)],
}

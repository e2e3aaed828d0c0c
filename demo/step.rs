//! What a plan consists of, and the file that has it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One derivation of the plan.
pub struct Step {
    /// A description of what it does.
    pub name: String,
    /// Its file.
    pub drv: String,
    /// What it makes.
    pub output: String,
}

/// Writes the plan to a file, a line for each step.
pub fn save(steps: &[Step], file: &Path) -> Result<()> {
    let lines: String = steps
        .iter()
        .map(|step| format!("{}\t{}\t{}\n", step.name, step.output, step.drv))
        .collect();
    fs::write(file, lines).with_context(|| format!("cannot write {}", file.display()))
}

/// Reads what [`save`] wrote.
pub fn load(file: &Path) -> Result<Vec<Step>> {
    let lines =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    lines
        .lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut field = || fields.next().with_context(|| format!("bad line {line:?}"));
            Ok(Step {
                name: field()?,
                output: field()?,
                drv: field()?,
            })
        })
        .collect()
}

//! Which systems' programs a machine can run.

/// Systems whose programs also run on another system's processors, in 32-bit mode.
const NARROW: [(&str, &str); 2] = [
    ("i686-linux", "x86_64-linux"),
    ("armhf-linux", "aarch64-linux"),
];

/// Whether `system` is the 32-bit counterpart of `own`, whose kernel can run its programs.
pub fn is_32_bit_counterpart(system: &str, own: &str) -> bool {
    NARROW.contains(&(system, own))
}

/// Whether a machine of the system `own` runs programs for `system` without emulation.
pub fn runs_natively(system: &str, own: &str) -> bool {
    system == own || is_32_bit_counterpart(system, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_programs_run_on_wide_machines_and_not_the_other_way_round() {
        assert!(runs_natively("i686-linux", "x86_64-linux"));
        assert!(runs_natively("x86_64-linux", "x86_64-linux"));
        assert!(!runs_natively("x86_64-linux", "i686-linux"));
        assert!(!runs_natively("armhf-linux", "x86_64-linux"));
        assert!(!is_32_bit_counterpart("armhf-linux", "armhf-linux"));
    }
}

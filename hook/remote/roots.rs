//! The links that keep items on a build machine from being collected, where there is no
//! connection to its daemon that could.
//!
//! They are in a directory of their own, below the machine's GC roots, or below our user's
//! profiles if only that can be written to. Its name, `offload-HOST-TAG-PID-NUMBER`, tells whose
//! they are: those of a process of this host that is no more are removed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};

use formats::Hash;
use system::process::process_exists;

use super::Home;
use super::session::quote;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// `offload-HOST-TAG-`: hosts may have the same name, or share it with their containers, but not
/// the tag.
pub(super) fn prefix(home: &Home) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host: String = host
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.' || *c == '_')
        .collect();
    let mut identity = fs::read("/etc/machine-id").unwrap_or_default();
    identity.extend_from_slice(home.directory.as_os_str().as_bytes());
    format!("offload-{host}-{}-", &Hash::sha256(identity).base32()[..8])
}

/// A name for this process's next directory.
pub(super) fn name(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

/// Those of `names` that a process of ours left which is no more.
pub(super) fn stale<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_stale = |name: &&str| {
        let numbers = name.strip_prefix(prefix).and_then(|n| n.split_once('-'));
        let Some((Ok(pid), Ok(_))) = numbers.map(|(pid, n)| (pid.parse::<i32>(), n.parse::<u32>()))
        else {
            return false;
        };
        !process_exists(pid)
    };
    names.filter(is_stale).map(str::to_owned).collect()
}

/// Shell words: finds the directory `$d` for our directories among those where roots may be.
/// `state` is the state directory unless the environment there says otherwise.
pub(super) fn find_directory(state: &str) -> String {
    let state = quote(state);
    format!(
        "s=${{GUIX_STATE_DIRECTORY:-{state}}}; mkdir -p \"$s/gcroots/tmp\" 2>/dev/null; \
         for d in \"$s/gcroots/tmp\" \"$s/profiles/per-user/$(id -un)\" ''; do \
         if [ -d \"$d\" ] && [ -w \"$d\" ]; then break; fi; done"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_stale() {
        let ours = std::process::id();
        // Process 1 lives; no process has this number.
        let names = [
            format!("offload-h-t-{ours}-0"),
            "offload-h-t-1-0".to_owned(),
            "offload-h-t-2147483647-0".to_owned(),
            "offload-h-t-2147483647-x".to_owned(),
            "offload-h-t-2147483647".to_owned(),
            "offload-other-t-2147483647-0".to_owned(),
        ];
        let stale = stale("offload-h-t-", names.iter().map(String::as_str));
        assert_eq!(stale, ["offload-h-t-2147483647-0"]);
    }
}

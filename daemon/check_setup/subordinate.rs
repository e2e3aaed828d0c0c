//! The group `kvm` in the user namespaces of builds, which an unprivileged daemon gets by `newgidmap` and
//! a line of `/etc/subgid` (newgidmap(1), subgid(5)). Builds work without.

use std::fs;

use system::ids;
use system::process::find_program;

use super::advice;
use super::findings::Findings;

/// The file with the group ids that users may map.
const SUBGID: &str = "/etc/subgid";

pub fn check(findings: &mut Findings) {
    let uid = ids::effective_uid();
    if uid == 0 {
        return;
    }
    let Ok(Some(kvm)) = ids::group_by_name("kvm") else {
        return;
    };
    let user = ids::user_name(uid);
    if !is_member(uid, kvm.gid) {
        return findings.note(
            format!("`{user}' is not in the group `kvm': builds do not have it"),
            Some(advice::as_root(&format!("usermod -a -G kvm {user}"))),
        );
    }
    if find_program("newgidmap").is_none() {
        return findings.note(
            "no `newgidmap': builds do not have the group `kvm'",
            Some(advice::install("uidmap")),
        );
    }
    let lines = fs::read_to_string(SUBGID).unwrap_or_default();
    if maps(&lines, &user, uid, kvm.gid) {
        findings.right("builds can have the group `kvm'");
    } else {
        let gid = kvm.gid;
        findings.note(
            format!("`{SUBGID}' does not let {user} map the group `kvm': builds do not have it"),
            Some(advice::as_root(&format!(
                "sh -c 'echo {user}:{gid}:1 >>{SUBGID}'"
            ))),
        );
    }
}

fn is_member(uid: u32, gid: u32) -> bool {
    let Ok(Some(account)) = ids::user_by_id(uid) else {
        return false;
    };
    ids::groups_of(&account.name, account.gid).is_ok_and(|groups| groups.contains(&gid))
}

/// Whether these lines, `USER:FIRST:COUNT`, give the user this group id.
fn maps(lines: &str, user: &str, uid: u32, gid: u32) -> bool {
    lines.lines().any(|line| {
        let mut words = line.split(':');
        let owner = words.next().unwrap_or_default();
        let mut number = || {
            words
                .next()
                .and_then(|word| word.trim().parse::<u32>().ok())
        };
        let (Some(first), Some(count)) = (number(), number()) else {
            return false;
        };
        (owner == user || owner.parse() == Ok(uid))
            && gid.checked_sub(first).is_some_and(|offset| offset < count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_subgid() {
        let maps = |lines| maps(lines, "guix-daemon", 990, 104);
        assert!(maps("alice:100000:65536\nguix-daemon:104:1\n"));
        assert!(maps("990:100:5\n"));
        assert!(!maps("guix-daemon:104:0\n"));
        assert!(!maps("guix-daemon:105:1\nguix-daemon:100:4\nalice:104:1\n"));
        assert!(!maps("guix-daemon:104\nguix-daemon::1\n\n:::"));
    }
}

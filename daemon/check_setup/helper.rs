//! With `--fetcher=guix`: whether `guix substitute` can be kept from writing where it must not.

use std::os::fd::OwnedFd;

use system::pipe;

use super::findings::Findings;
use crate::building::sandbox::{ForkServer, HelperPlan, start_helper};
use crate::settings::Settings;
use crate::spawner::Spawner;

pub fn check(settings: &Settings, findings: &mut Findings) {
    if settings.fetcher.is_ours() || settings.fetcher.lack().is_some() {
        return;
    }
    let state = settings.directories.state.join("substitute");
    let plan = HelperPlan {
        // Something that is there, ends at once and prints nothing that is seen.
        program: "/proc/self/exe".into(),
        arguments: vec!["--version".into()],
        environment: Vec::new(),
        writable: vec![state.into()],
        hidden: Vec::new(),
    };
    let spawner = Spawner::default();
    let fork_server = ForkServer::new(move |program| spawner.start(program));
    let null = pipe::null().map(OwnedFd::from);
    let started = null.and_then(|null| start_helper(&plan, [&null; 3], &fork_server));
    match started.map(|helper| helper.weakness) {
        Ok(None) => {
            findings.right("`guix substitute' has a view of this machine that is read-only")
        }
        Ok(Some(weakness)) => findings.note(
            format!("`guix substitute' is not confined as it should be: {weakness}"),
            Some("guix-daemon --fetcher=guix-fetch".to_owned()),
        ),
        Err(error) => findings.wrong(
            format!("`guix substitute' cannot be started: {error}"),
            "guix-daemon --fetcher=guix-fetch",
        ),
    }
}

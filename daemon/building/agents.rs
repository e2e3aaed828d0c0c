//! Starting `guix substitute`, which is confined as the [sandbox](super::sandbox) can.

use std::path::Path;
use std::sync::Arc;

use super::sandbox::{ForkServer, HelperPlan, WeaknessLog, start_helper};
use crate::substituter::{AgentProgram, StartAgent};

/// What starts it, where `configuration` is the directory of keys.
pub(super) fn starter(fork_server: Arc<ForkServer>, configuration: &Path) -> Box<StartAgent> {
    // It has to read public keys only.
    let secret = configuration.join("signing-key.sec");
    let weaknesses = WeaknessLog::default();
    Box::new(move |agent: AgentProgram| {
        let plan = HelperPlan {
            program: agent.guix.clone().into(),
            arguments: vec!["substitute".into(), agent.mode.argument().into()],
            environment: vec![("_NIX_OPTIONS".into(), agent.options.into())],
            writable: agent.writable.into_iter().map(Into::into).collect(),
            hidden: vec![secret.clone().into()],
        };
        let descriptors = [&agent.requests, &agent.log, &agent.replies];
        let helper = start_helper(&plan, descriptors, &fork_server)?;
        if let Some(weakness) = &helper.weakness {
            weaknesses.log(&format!("{} substitute", agent.guix.display()), weakness);
        }
        Ok(helper.child)
    })
}

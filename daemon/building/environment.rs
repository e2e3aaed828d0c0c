//! The environment variables of a builder (`doc/spec/build-environment.md`, section 3).

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use bstr::{BString, ByteSlice};

use super::job::Job;
use super::sandbox::BuildDirectory;
use crate::request_error::RequestError;

/// The builder's whole environment; for a builtin, the variables added to the daemon's own.
pub(super) fn of(
    job: &Job,
    directory: &BuildDirectory,
) -> Result<BTreeMap<BString, BString>, RequestError> {
    let mut environment: BTreeMap<BString, BString> = BTreeMap::new();
    let mut set = |name: &str, value: &[u8]| {
        environment.insert(name.into(), value.into());
    };
    set("NIX_STORE", job.engine.store.dir().as_str().as_bytes());
    if job.derivation.builtin().is_some() {
        let options = job.session.pack().map_err(RequestError::new)?;
        set("_NIX_OPTIONS", &options);
        // A builtin may write to no other directory.
        set("TMPDIR", directory.outside().as_os_str().as_bytes());
        return Ok(environment);
    }
    set("PATH", b"/path-not-set");
    set("HOME", b"/homeless-shelter");
    set(
        "NIX_BUILD_CORES",
        job.session.build_cores.to_string().as_bytes(),
    );
    for (name, value) in &job.derivation.environment {
        environment.insert(name.clone(), value.clone());
    }
    for name in ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
        let value = directory.inside().as_os_str().as_bytes();
        environment.insert(name.into(), value.into());
    }
    if job.is_fixed_output() {
        for name in job.words("impureEnvVars") {
            let value = std::env::var_os(name.to_os_str_lossy()).unwrap_or_default();
            environment.insert(name.into(), value.as_bytes().into());
        }
    }
    Ok(environment)
}

//! Keys, and which keys are authorised.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use authority::Keys;
use store::Directories;
use substitutes::survey::key_name;
use system::{errno, ids};

use super::advice;
use super::findings::Findings;

pub fn check(directories: &Directories, findings: &mut Findings) {
    let directory = &directories.configuration;
    let secret = directory.join("signing-key.sec");
    match fs::metadata(&secret) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.note(
            "no key: nothing can be exported, and nothing offloaded",
            Some("guix-client archive --generate-key".to_owned()),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // The ACL is there, too.
            return findings.wrong(
                format!(
                    "{} cannot look into `{}'",
                    ids::user_name(ids::effective_uid()),
                    directory.display()
                ),
                advice::as_root(&format!("chmod a+rx {}", directory.display())),
            );
        }
        Err(error) => findings.wrong(
            format!("the key `{}': {}", secret.display(), errno::message(&error)),
            format!("ls -l {}", secret.display()),
        ),
        Ok(metadata) => secret_key(directories, &secret, &metadata, findings),
    }
    acl(directory, findings);
}

fn secret_key(
    directories: &Directories,
    secret: &Path,
    metadata: &Metadata,
    findings: &mut Findings,
) {
    if metadata.permissions().mode() & 0o077 != 0 {
        return findings.wrong(
            format!("others can read the key `{}'", secret.display()),
            format!("chmod 400 {}", secret.display()),
        );
    }
    if is_forbidden(secret) {
        return unreadable_key(directories, secret, findings);
    }
    let directory = &directories.configuration;
    match gcrypt::KeyPair::load(directory) {
        Ok(_) => findings.right("the keys for signing"),
        // They are left, in case something can still be made of them.
        Err(error) => findings.wrong(
            format!("the keys for signing: {error}"),
            format!(
                "mkdir -p {0}/old-keys && mv -b {0}/signing-key.* {0}/old-keys/ && guix-client archive \
                 --generate-key  # a new key, to be authorized anew elsewhere",
                directory.display()
            ),
        ),
    }
}

/// A key that only its owner can read: that should be who owns the store, as the daemon does.
fn unreadable_key(directories: &Directories, secret: &Path, findings: &mut Findings) {
    let uid = ids::effective_uid();
    let user = ids::user_name(uid);
    let store = fs::metadata(directories.store.as_path());
    match store.map(|store| store.uid()) {
        Ok(owner) if owner != uid => {
            let owner = ids::user_name(owner);
            findings.note(
                format!(
                    "whether the key `{}' is right is unknown: {user} may not read it",
                    secret.display()
                ),
                Some(advice::as_root(&format!(
                    "runuser -u {owner} -- guix-daemon --check-setup"
                ))),
            );
        }
        _ => findings.wrong(
            format!(
                "{user}, as whom the daemon runs, may not read the key `{}': nothing can be exported, and \
                 nothing offloaded",
                secret.display()
            ),
            advice::as_root(&format!(
                "chown {user} {} {}",
                secret.display(),
                secret.with_extension("pub").display()
            )),
        ),
    }
}

/// Whether this user may not read a file.
pub(super) fn is_forbidden(file: &Path) -> bool {
    File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn acl(directory: &Path, findings: &mut Findings) {
    let file = directory.join("acl");
    let Ok(metadata) = fs::metadata(&file) else {
        return findings.note(
            "no ACL: only what is signed by this machine is imported, and no substitute server is asked",
            Some("guix-client archive --authorize < KEY.pub".to_owned()),
        );
    };
    if metadata.mode() & 0o022 != 0 {
        findings.wrong(
            format!(
                "others can change whose signatures are accepted, `{}'",
                file.display()
            ),
            format!("chmod 644 {}", file.display()),
        );
    }
    if is_forbidden(&file) {
        return findings.wrong(
            format!(
                "{} may not read whose signatures are accepted, `{}'",
                ids::user_name(ids::effective_uid()),
                file.display()
            ),
            advice::as_root(&format!("chmod 644 {}", file.display())),
        );
    }
    match Keys::new(directory).authorised() {
        Ok(authorised) => {
            let acl = authorised.acl();
            let names: Vec<String> = acl.keys().iter().filter_map(key_name).collect();
            let keys = advice::number(acl.len(), "key");
            findings.right(format!("the ACL accepts {keys}: {}", names.join(", ")));
            if authorised.is_at_most_own() {
                findings.note(
                    "no substitute server is asked: no key is authorised but this machine's own",
                    Some("guix-client archive --authorize < KEY.pub".to_owned()),
                );
            }
        }
        Err(error) => findings.wrong(
            format!("the ACL `{}': {error}", file.display()),
            format!(
                "mv {0} {0}.old && guix-client archive --authorize < KEY.pub",
                file.display()
            ),
        ),
    }
}

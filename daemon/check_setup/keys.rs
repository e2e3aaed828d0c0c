//! Keys, and which keys are authorised.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use authority::Keys;
use store::Directories;
use substitutes::survey::key_name;

use super::findings::Findings;

pub fn check(directories: &Directories, findings: &mut Findings) {
    let directory = &directories.configuration;
    let secret = directory.join("signing-key.sec");
    match fs::metadata(&secret) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.note(
            "no key: nothing can be exported, and nothing offloaded",
            Some("guix-client archive --generate-key".to_owned()),
        ),
        Err(error) => findings.wrong(
            format!("the key `{}': {error}", secret.display()),
            format!("ls -l {}", secret.display()),
        ),
        Ok(metadata) => {
            if metadata.permissions().mode() & 0o077 != 0 {
                findings.wrong(
                    format!("others can read the key `{}'", secret.display()),
                    format!("chmod 400 {}", secret.display()),
                );
            } else {
                key_pair(directory, findings);
            }
        }
    }
    acl(directory, findings);
}

fn key_pair(directory: &Path, findings: &mut Findings) {
    match gcrypt::KeyPair::load(directory) {
        Ok(_) => findings.right("the keys for signing"),
        Err(error) => findings.wrong(
            format!("the keys for signing: {error}"),
            format!(
                "rm {0}/signing-key.* && guix-client archive --generate-key  # a new key, to be \
                 authorized anew elsewhere",
                directory.display()
            ),
        ),
    }
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
    match Keys::new(directory).authorised() {
        Ok(authorised) => {
            let acl = authorised.acl();
            let names: Vec<String> = acl.keys().iter().filter_map(key_name).collect();
            let text = format!("the ACL accepts {} keys: {}", acl.len(), names.join(", "));
            findings.right(text);
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

//! Sockets that a builder leaves in a directory that is kept.

use super::*;
use crate::failures::{NOBODY, build_as_nobody};

#[test]
fn a_socket_in_a_kept_directory_belongs_to_the_client_and_harms_nobody() {
    let setup = Setup::new(&[]);
    let Attacker {
        mut client,
        program,
    } = Attacker::new(&setup);
    let script = format!(
        "mkdir a z; {program} make-socket a/socket; chmod 4777 a/socket; echo here >z/note; exit 1"
    );
    let drv = client.write(Script::new("kept", &script).source(&program));
    let said = build_as_nobody(&setup, &drv.path);
    assert!(said.contains("keeping build directory"), "{said}");
    let kept = setup.site.path("tmp/guix-build-kept.drv-0");
    for file in ["", "a", "a/socket", "z", "z/note"] {
        let metadata = fs::symlink_metadata(kept.join(file)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (NOBODY, NOBODY), "{file}");
        assert_eq!(metadata.mode() & 0o6002, 0, "{file}: {:o}", metadata.mode());
    }
}

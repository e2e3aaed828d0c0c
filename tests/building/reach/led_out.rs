//! Builders of a daemon that isn't root, which a user leads out of their sandboxes: by a socket in a
//! directory that builds are shown, he hands them a descriptor.

use std::os::fd::AsRawFd;
use std::time::Duration;

use protocol::client::Connection;
use system::poll::wait_readable;
use system::socket::{receive_with_fds, send_with_fds};

use super::*;
use crate::unprivileged::unprivileged;

/// How long the builder may take to connect.
const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn a_builder_that_is_led_to_the_daemons_socket_is_not_trusted() {
    if !is_ours() {
        return; // Guix's believes that it is its own user
    }
    let setup = unprivileged();
    let name = setup.gate().join("socket");
    let listener = UnixListener::bind(&name).unwrap();
    fs::set_permissions(&name, fs::Permissions::from_mode(0o777)).unwrap();
    let socket = setup.site.socket();
    let directory = fs::File::open(socket.parent().unwrap()).unwrap();
    for how in ["and-stay", "and-leave"] {
        let Attacker {
            mut client,
            program,
        } = Attacker::new(&setup);
        let script = format!("{program} come-in {} {how}; echo >$out", name.display());
        let drv = client.write(Script::new(how, &script).source(&program));
        let building = client.start(&[&drv]);
        assert!(wait_readable(&listener, Some(TIMEOUT)).unwrap());
        let (builder, _) = listener.accept().unwrap();
        builder.set_read_timeout(Some(TIMEOUT)).unwrap();
        send_with_fds(&builder, b"x", &[directory.as_raw_fd()]).unwrap();
        let (_, fds) = receive_with_fds(&builder, &mut [0; 4]).unwrap();
        let [stream] = <[_; 1]>::try_from(fds).unwrap();
        let store = formats::StoreDir::new(setup.site.store().to_str().unwrap()).unwrap();
        let mut led = Connection::over_unix(stream.into(), &store, &Options::default()).unwrap();
        let refused = led.verify_store(true, true).unwrap_err().to_string();
        assert!(
            refused.contains("you are not privileged to repair"),
            "{how}: {refused}"
        );
        drop(builder);
        building.finish().1.succeeded();
    }
    if nix::unistd::geteuid().is_root() {
        let said = setup.daemon.messages();
        assert!(said.contains("others can write there"), "{said}");
    }
}

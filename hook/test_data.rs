//! Data for unit tests.

use formats::StoreDir;

use crate::directories::HookDirectories;
use crate::machines::{Machine, Place, Pool, TransportChoice};

/// A machine with this name, and the default of every field.
pub fn machine(name: &str) -> Machine {
    Machine {
        name: name.to_owned(),
        port: 22,
        systems: vec!["x86_64-linux".to_owned()],
        user: "offload".to_owned(),
        private_key: None,
        host_key: "ssh-ed25519 AAAA".to_owned(),
        daemon_socket: "/var/guix/daemon-socket/socket".to_owned(),
        overload_threshold: Some(0.8),
        parallel_builds: 1,
        speed: 1.0,
        features: Vec::new(),
        mandatory_features: Vec::new(),
        transport: TransportChoice::Auto,
        ssh_config: None,
        transfer_compression: None,
        cores: None,
        program: None,
        use_substitutes: false,
        pool: None,
        place: Place::default(),
    }
}

/// A pool with this name and command, and the default of every other field.
pub fn pool(name: &str, command: &[&str]) -> (Machine, Pool) {
    let pool = Pool {
        command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        ..Pool::default()
    };
    let machine = Machine {
        transport: TransportChoice::Command,
        pool: Some(Box::new(pool.clone())),
        ..machine(name)
    };
    (machine, pool)
}

/// Directories of a hook, with an empty state directory that is removed when dropped.
pub fn directories() -> (tempfile::TempDir, HookDirectories) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let directories = HookDirectories {
        state: state.path().to_owned(),
        store: StoreDir::new("/gnu/store").expect("a store directory"),
        configuration: "/nonexistent".into(),
        user_home: "/nonexistent".into(),
        history: None,
    };
    (state, directories)
}

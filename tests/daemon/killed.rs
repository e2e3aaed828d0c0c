//! A daemon that is killed at any moment has lost nothing that it acknowledged, and leaves nothing
//! that the next collection does not remove.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use formats::export::Fields;
use formats::{StoreDir, StorePath};
use gcrypt::KeyPair;
use protocol::client::{Connection, Error};
use protocol::operations::GcAction;

use crate::harness::Site;
use crate::items::*;
use crate::support::*;

const OPTIONS: &[&str] = &["--no-substitutes"];

/// The history of one store over the lives of its daemons.
struct History<'a> {
    dir: StoreDir,
    state: &'a Path,
    keys: &'a KeyPair,
    /// Acknowledged items with a root.
    lasting: Mutex<BTreeSet<StorePath>>,
}

impl History<'_> {
    /// Records an acknowledged item; makes it a root if it `lasts`.
    fn acknowledged(&self, path: StorePath, name: &str, lasts: bool) {
        if lasts {
            symlink(path.as_path(), self.state.join("gcroots").join(name)).unwrap();
            self.lasting.lock().unwrap().insert(path);
        }
    }

    /// Adds and imports until the daemon is killed.
    fn add(&self, client: &mut Connection, salt: u64) -> Result<(), Error> {
        for round in 0..10_000_u64 {
            let name = format!("{salt:x}-{round}");
            let lasts = round % 3 == 0;
            let text = client.add_text_to_store(&name, name.clone(), [].into())?;
            self.acknowledged(text.clone(), &format!("{name}-text"), lasts);
            // Large enough to be unpacked, deduplicated, and moved.
            let size = if round % 2 == 0 { 9_000 } else { 400_000 };
            let tree = Tree::Directory(vec![
                ("own", Tree::file(noise(salt + round, size))),
                ("same", Tree::file(noise(round % 5, 20_000))),
            ]);
            let path = add_tree(client, &name, &tree)?;
            self.acknowledged(path, &format!("{name}-tree"), round % 4 == 0);
            let path = self.dir.join(&format!("{:032}-{name}", 0)).unwrap();
            let fields = Fields {
                path: path.clone(),
                references: [text].into(),
                deriver: None,
            };
            let item = Item {
                nar: tree.nar(),
                fields,
            };
            client.import_paths(&mut item.archive(Some(self.keys)).as_slice())?;
            self.acknowledged(path, &format!("{name}-import"), round % 5 == 0);
        }
        Ok(())
    }
}

#[test]
fn a_daemon_that_is_killed_loses_nothing_and_leaves_nothing() {
    let kills = std::env::var("DAEMON_TEST_KILLS").map_or(30, |kills| kills.parse().unwrap());
    let mut fixture = Fixture::with(Site::new(), OPTIONS);
    let keys = fixture.install_keys();
    drop(fixture.client());
    let state = fixture.site.state();
    let dir = fixture.dir();
    let history = History {
        dir,
        state: &state,
        keys: &keys,
        lasting: Mutex::default(),
    };
    for round in 0..kills {
        let mut clients = [fixture.client(), fixture.client(), fixture.client()];
        std::thread::scope(|scope| {
            let [one, two, collector] = &mut clients;
            for (worker, client) in [one, two].into_iter().enumerate() {
                let salt = (round * 10 + worker as u64) << 20;
                let history = &history;
                scope.spawn(move || {
                    history.add(client, salt).expect_err("the daemon is killed");
                });
            }
            scope.spawn(|| {
                while try_collect(collector, GcAction::DeleteDead, &[]).is_ok()
                    && collector.optimise_store(&mut |_| {}).is_ok()
                {}
            });
            std::thread::sleep(Duration::from_millis(rand::random_range(5..250)));
            fixture.kill();
        });
        fixture = fixture.restart(OPTIONS);
        let mut client = fixture.client();
        let log = listen(&mut client);
        let errors = client.verify_store(true, false).unwrap();
        let log = take(&log);
        assert!(!errors && !log.contains("disappeared"), "{log}");
        let lasting = history.lasting.lock().unwrap();
        let valid = client.query_valid_paths(lasting.clone()).unwrap();
        let lost: Vec<_> = lasting.difference(&valid).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        for path in lasting.iter().rev().take(20) {
            assert_canonical(path.as_path());
        }
    }
    assert!(!history.lasting.lock().unwrap().is_empty());
    let mut client = fixture.client();
    collect(&mut client, GcAction::DeleteDead, &[]);
    let valid = client.query_all_valid_paths().unwrap();
    assert!(valid.is_superset(&history.lasting.lock().unwrap()));
    let names: BTreeSet<String> = valid
        .iter()
        .map(|path| path.base_name().to_owned())
        .collect();
    let mut left = fixture.entries_and_locks();
    left.remove("trash");
    assert_eq!(left, names);
    assert!(!client.verify_store(true, false).unwrap());
}

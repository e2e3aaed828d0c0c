//! `guix-client manual`: the man pages and completions of `make doc`.

use std::fs;

use crate::fixture::Fixture;

#[test]
fn pages_and_completions_are_written() {
    let fixture = Fixture::new();
    let run = fixture.run(&["manual", "made"]);
    run.succeeds().prints_nothing().says_nothing();
    let read = |name: &str| fs::read_to_string(fixture.file("made").join(name)).unwrap();
    let page = read("man/guix-client.1");
    assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    assert!(
        page.contains("GUIX_DAEMON_SOCKET") && page.contains("guix\\-daemon(1)"),
        "{page}"
    );
    assert!(read("man/guix-client-gc.1").contains("list\\-dead"));
    assert!(read("man/guix-client-offload-status.1").contains("prometheus"));
    for name in ["guix-client.bash", "_guix-client", "guix-client.fish"] {
        let completions = read(&format!("completions/{name}"));
        for word in ["archive", "list-dead", "keep-failed"] {
            assert!(completions.contains(word), "{word} in {name}");
        }
    }
}

#[test]
fn where_they_cannot_be_written_that_is_named() {
    let fixture = Fixture::new();
    fixture.write("file", "");
    fixture
        .run(&["manual", "file"])
        .fails("guix-client manual: error: ");
    fixture.run(&["manual"]).fails("required");
}

//! A substitute program that fails: the request continues without substitutes.

use formats::StorePath;
use protocol::operations::MaybeSubstitutable;

use super::*;
use crate::harness::derivations::Drv;

/// The daemon's single warning about a program that dies instead of replying.
const WARNING: &str = "substitute' died unexpectedly";

/// A daemon whose `guix` is this shell script.
fn with_guix(script: &str) -> Setup {
    let site = Site::new();
    let program = site.path("guix");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Setup::with_substitutes(site.env("GUIX", program), &[])
}

/// Two derivations, of which the second needs the first.
fn pair(client: &mut Client) -> (Drv, Drv) {
    let first = client.write(Script::new("first", "echo 1 >$out"));
    let script = format!("cat {} >$out", first.out());
    let second = client.write(Script::new("second", &script).input(&first, "out"));
    (first, second)
}

/// A `guix` that has a substitute for the output `path`, but dies when it should fetch it.
fn dies_while_fetching(path: &StorePath) -> String {
    format!(
        "case \"$*\" in
             \"substitute --query\")
                 while read -r question paths; do
                     case \" $paths \" in
                         *\" {path} \"*) printf '%s\\n\\n0\\n10\\n10\\n' {path} >&4;;
                     esac
                     echo >&4
                 done;;
             \"substitute --substitute\")
                 read -r word path destination
                 echo half >\"$destination\"
                 echo the server is on fire >&2
                 kill -9 $$;;
         esac"
    )
}

#[test]
fn a_program_that_fails_when_asked_costs_a_warning() {
    if !is_ours() {
        return;
    }
    for script in [
        "echo no such command >&2; exit 1",
        "read -r line; echo nonsense >&4; exec sleep 100",
    ] {
        let setup = with_guix(script);
        let mut client = setup.client();
        let (_, second) = pair(&mut client);
        let built = client.build(&[&second]);
        built.succeeded();
        let warnings = built.log.matches("; going on without substitutes").count();
        assert_eq!(warnings, 1, "{}", built.log);
        assert_eq!(fs::read_to_string(second.out().as_path()).unwrap(), "1\n");
        // Also for clients' queries.
        let asked = [setup.store_path(second.path.as_str())].into();
        let found = client.connection.query_substitutable_path_infos(asked);
        assert_eq!(found.unwrap(), []);
        let question = protocol::operations::QuerySubstitutablePathInfo {
            path: second.path.as_str().into(),
        };
        let found = client.connection.call(&question).unwrap();
        assert_eq!(found, MaybeSubstitutable(None));
    }
}

#[test]
fn a_program_that_dies_while_fetching_is_a_failed_substitute() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    let program = site.path("guix");
    fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let setup = Setup::with_substitutes(site.env("GUIX", &program), &[]);
    let mut client = setup.client();
    let (first, second) = pair(&mut client);
    let script = dies_while_fetching(first.out());
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    let built = client.build(&[&second]);
    built.failed(1, "try `--fallback'");
    built.said("the server is on fire");
    built.said(WARNING);
    assert!(!first.out().as_path().exists());
    client.set(|options| options.fallback = true);
    let built = client.build(&[&second]);
    built.succeeded();
    built.said(WARNING);
    assert_eq!(fs::read_to_string(second.out().as_path()).unwrap(), "1\n");
}

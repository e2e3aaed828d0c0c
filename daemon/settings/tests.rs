//! Tests of [`super`].

use super::session_settings::SUBSTITUTE_URLS;
use super::*;
use crate::options;

fn directories() -> Directories {
    Directories::from_variables(&store::compiled_directories!(), |_| None).unwrap()
}

fn try_settings(arguments: &[&str]) -> Result<Settings, Error> {
    let line = ["guix-daemon"]
        .into_iter()
        .chain(arguments.iter().copied())
        .map(OsString::from);
    let options::Parsed::Serve(given) = options::parse(line) else {
        panic!("{arguments:?}")
    };
    let mut settings = Settings::new(directories(), given)?;
    settings.apply_named()?;
    Ok(settings)
}

fn session(arguments: &[&str]) -> SessionSettings {
    SessionSettings::clone(&try_settings(arguments).unwrap().session)
}

fn error(arguments: &[&str]) -> String {
    try_settings(arguments).unwrap_err().to_string()
}

#[test]
fn defaults() {
    let settings = session(&[]);
    assert_eq!((settings.max_build_jobs, settings.build_cores), (1, 0));
    assert_eq!(
        (settings.max_silent_time, settings.build_timeout),
        (3600, 86400)
    );
    assert!(settings.use_chroot && settings.auto_optimise_store && settings.use_substitutes);
    assert!(settings.gc_keep_derivations && !settings.gc_keep_outputs);
    assert_eq!(settings.build_repeat(), Ok(0));
    assert_eq!(
        settings.pack().unwrap(),
        format!("build-use-substitutes=true\nsubstitute-urls={SUBSTITUTE_URLS}\n")
    );
}

#[test]
fn options_become_settings() {
    let settings = session(&[
        "-c4",
        "-M0",
        "--timeout=5",
        "--max-silent-time=6",
        "--rounds=3",
        "--chroot-directory=/a",
        "--chroot-directory=/b=/c",
        "--no-substitutes",
        "--gc-keep-outputs",
        "--gc-keep-derivations=NO",
        "--disable-deduplication",
        "--system=armhf-linux",
        "--lose-logs",
    ]);
    assert_eq!((settings.build_cores, settings.max_build_jobs), (4, 0));
    assert_eq!((settings.build_timeout, settings.max_silent_time), (5, 6));
    assert_eq!(settings.build_repeat(), Ok(2));
    let extra: Vec<&[u8]> = settings.words("build-extra-chroot-dirs").collect();
    assert_eq!(extra, [b"/a".as_slice(), b"/b=/c"]);
    assert!(!settings.use_substitutes && settings.substitute_urls().is_empty());
    assert!(settings.gc_keep_outputs && !settings.gc_keep_derivations);
    assert!(!settings.auto_optimise_store && !settings.keep_log);
    assert_eq!(settings.system, "armhf-linux");
}

#[test]
fn numbers_are_read_as_in_guix() {
    assert_eq!(session(&["--cores= 7"]).build_cores, 7);
    assert_eq!(session(&["--cores=-1"]).build_cores, u32::MAX);
    assert_eq!(session(&["--timeout=-1"]).build_timeout, -1);
    for bad in ["x", "", "1 ", "0x10"] {
        assert_eq!(
            error(&[&format!("--cores={bad}")]),
            format!(
                "configuration setting `build-cores' should have an integer value, not `{bad}'"
            )
        );
    }
    for (option, name, limit) in [
        (
            "--max-jobs=4294967296",
            "build-max-jobs",
            u64::from(u32::MAX),
        ),
        (
            "--timeout=9223372036854775808",
            "build-timeout",
            i64::MAX as u64,
        ),
    ] {
        let expected = format!("configuration setting `{name}' should be at most {limit}");
        assert_eq!(error(&[option]), expected);
    }
    for (rounds, repeat) in [("--rounds=0", 0), ("--rounds=", 0), ("--rounds=1", 0)] {
        assert_eq!(session(&[rounds]).build_repeat(), Ok(repeat), "{rounds}");
    }
    assert_eq!(error(&["--rounds=x"]), "x: invalid number of rounds");
    assert_eq!(
        error(&["--rounds=10002"]),
        "10002: too many rounds; 10001 at most"
    );
}

#[test]
fn bad_arguments_are_named() {
    assert_eq!(
        error(&["--discover=maybe"]),
        "'maybe': invalid Boolean value"
    );
    assert_eq!(error(&["--gc-keep-outputs="]), "'': invalid Boolean value");
    assert_eq!(
        error(&["--log-compression=lz"]),
        "lz: unknown compression type"
    );
    assert_eq!(error(&["--system="]), "'': not a system type");
    for (urls, reason) in [
        ("foo", "foo: invalid URI"),
        ("https://a b", "b: invalid URI"),
        ("ftp://a", "ftp://a: unsupported server URI scheme"),
    ] {
        assert_eq!(
            error(&[&format!("--substitute-urls={urls}")]),
            format!("'--substitute-urls': {reason}")
        );
    }
    for urls in ["", " ", "http://a file:///b"] {
        session(&[&format!("--substitute-urls={urls}")]);
    }
    for number in ["0", "-1", "", "x", "1.5", "4294967296"] {
        assert_eq!(
            error(&[&format!("--max-substitutions={number}")]),
            format!(
                "'--max-substitutions': expected a whole number from 1 to 4294967295, not `{number}'"
            )
        );
    }
    let settings = try_settings(&["--max-substitutions=1"]).unwrap();
    assert_eq!(settings.max_substitutions, 1);
    for bad in ["", " ", "a", "/a=b", "a=/b", "/a b"] {
        assert_eq!(
            error(&[&format!("--chroot-directory={bad}")]),
            format!("'{bad}': not an absolute directory name")
        );
    }
}

#[test]
fn the_administrator_turns_hooks_off() {
    let allowed = cfg!(have_daemon_offload_hook);
    assert_eq!(session(&[]).hook_allowed, allowed);
    for option in ["--no-offload", "--no-build-hook"] {
        let settings = session(&[option]);
        assert!(!settings.hook_allowed && !settings.use_build_hook);
    }
}

#[test]
fn helper_programs_get_no_forged_settings() {
    let mut settings = session(&[]);
    settings.set("untrusted-a", "1\nbuild-use-chroot=false");
    assert_eq!(settings.pack(), Err(Error::Unpackable));
}

#[test]
fn the_clients_substitute_urls_come_first() {
    let mut settings = session(&[]);
    settings.set("untrusted-substitute-urls", " a\tb ");
    assert_eq!(settings.substitute_urls(), ["a", "b"]);
    settings.set("untrusted-substitute-urls", "");
    assert_eq!(settings.substitute_urls().len(), 2);
}

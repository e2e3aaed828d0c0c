//! Compile-time configuration: whether the offload hook works on the target, and where the programs
//! are installed. Also compiles the builder of `guix-client build --hello`.
//!
//! There are three sources: the environment (`ac_cv_guix_cbips_support_setvbuf`, a cache variable as
//! in Autoconf), `config.status.toml`, which `autoconf-compat/configure` has written, and a probe,
//! `autoconf-compat/unbuffered-pipe.c`, which is compiled and run here; the first that has an answer
//! decides. The results are the cfg `have_daemon_offload_hook` and the environment variables that
//! `store::compiled_directories!()` and `--version` read.
//!
//! The packages in demo/ and doc/ have this build script, too, for the environment variables.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::de::{DeTable, DeValue};

/// The cache variable that replaces the probe.
const OVERRIDE: &str = "ac_cv_guix_cbips_support_setvbuf";
/// The environment variable that names another file than `config.status.toml`.
const STATUS_FILE: &str = "GUIX_CONFIG_STATUS";
const PROBE: &str = "autoconf-compat/unbuffered-pipe.c";
const HELLO: &str = "client/hello.c";

/// Keys of `config.status.toml`, the environment variables that they set, and the defaults.
const DIRECTORIES: &[(&str, &str, &str)] = &[
    ("storedir", "GUIX_STORE_DIR", "/gnu/store"),
    ("guix_statedir", "GUIX_STATE_DIR", "/var/guix"),
    ("guix_logdir", "GUIX_LOG_DIR", "/var/log/guix"),
    ("guix_sysconfdir", "GUIX_CONFIGURATION_DIR", "/etc/guix"),
    ("bindir", "GUIX_BIN_DIR", "/usr/local/bin"),
    ("libexecdir", "GUIX_LIBEXEC_DIR", "/usr/local/libexec"),
];

/// What `configure` has decided: texts, and what is true or false.
type Table = BTreeMap<String, Value>;

enum Value {
    Text(String),
    Truth(bool),
    Other,
}

fn main() {
    if let Err(reason) = enter_top().and_then(|()| configure()) {
        eprintln!("build.rs: {reason}");
        std::process::exit(1);
    }
}

/// Goes to the top of the tree, to which the names of files here are relative.
fn enter_top() -> Result<(), String> {
    if !is_programs() {
        env::set_current_dir("..").map_err(|error| format!("cannot enter ..: {error}"))?;
    }
    Ok(())
}

/// Whether this is the build script of the programs.
fn is_programs() -> bool {
    env::var("CARGO_PKG_NAME").is_ok_and(|name| name == "guix-daemon")
}

/// Runs this again when `file` changes. Cargo takes names as relative to the package.
fn watch(file: &Path) {
    let top = if is_programs() { "" } else { "../" };
    println!("cargo:rerun-if-changed={top}{}", file.display());
}

fn configure() -> Result<(), String> {
    watch(Path::new("build.rs"));
    let status = read_status()?;

    for (key, variable, default) in DIRECTORIES {
        let value = text(&status, key)?.unwrap_or(default);
        if !value.starts_with('/') || value.contains(['\n', '\0']) {
            return Err(format!("{key} = {value:?} is not an absolute file name"));
        }
        println!("cargo:rustc-env={variable}={value}");
    }

    let system = match text(&status, "guix_system")? {
        Some(system) => system.to_owned(),
        None => guix_system(),
    };
    println!("cargo:rustc-env=GUIX_SYSTEM={system}");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=GUIX_VERSION={version}");

    println!("cargo:rustc-check-cfg=cfg(have_daemon_offload_hook)");
    let wanted = match status.get("daemon_offload") {
        None => true,
        Some(Value::Truth(value)) => *value,
        Some(_) => return Err("daemon_offload must be true or false".to_owned()),
    };
    if !is_programs() {
        return Ok(());
    }
    if wanted && unbuffered_pipes_work(&status)? {
        println!("cargo:rustc-cfg=have_daemon_offload_hook");
    }
    compile_hello()
}

/// The table that `configure` has written, or an empty one if it was not run.
fn read_status() -> Result<Table, String> {
    println!("cargo:rerun-if-env-changed={STATUS_FILE}");
    let file = match env::var_os(STATUS_FILE) {
        Some(file) => PathBuf::from(file),
        None => {
            // Cargo would run this program every time while a watched file does not exist, so
            // the file is watched once it is there; `configure` touches build.rs after writing it.
            let file = PathBuf::from("config.status.toml");
            if !file.exists() {
                return Ok(Table::new());
            }
            file
        }
    };
    watch(&file);
    let contents = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let table =
        DeTable::parse(&contents).map_err(|error| format!("{}: {error}", file.display()))?;
    let value = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(truth) => Value::Truth(*truth),
        _ => Value::Other,
    };
    let entries = table.get_ref().iter();
    Ok(entries
        .map(|(key, found)| (key.get_ref().to_string(), value(found.get_ref())))
        .collect())
}

fn text<'a>(status: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match status.get(key) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key} in config.status.toml must be a string")),
    }
}

/// The target's Guix system type, such as `x86_64-linux`.
fn guix_system() -> String {
    let of = |name: &str| env::var(name).unwrap_or_default();
    let little = of("CARGO_CFG_TARGET_ENDIAN") == "little";
    let architecture = match of("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86" => "i686".to_owned(),
        "arm" => "armhf".to_owned(),
        "powerpc64" if little => "powerpc64le".to_owned(),
        "mips64" if little => "mips64el".to_owned(),
        other => other.to_owned(),
    };
    match of("CARGO_CFG_TARGET_OS").as_str() {
        "hurd" if architecture == "i686" => "i586-gnu".to_owned(),
        "hurd" => format!("{architecture}-gnu"),
        other => format!("{architecture}-{other}"),
    }
}

/// Whether an unbuffered C stream reads no more from a pipe than it was asked for on the target: by
/// the cache variable, by what is known of the target if its programs cannot run here, or by the
/// probe.
fn unbuffered_pipes_work(status: &Table) -> Result<bool, String> {
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    watch(Path::new(PROBE));

    if let Some(answer) = env::var_os(OVERRIDE).filter(|answer| !answer.is_empty()) {
        return yes_or_no(&answer.to_string_lossy());
    }
    if let Some(answer) = text(status, OVERRIDE)? {
        return yes_or_no(answer);
    }
    let target = env::var("TARGET").unwrap_or_default();
    if env::var("HOST").is_ok_and(|host| host != target) {
        return Ok(known_answer(&target));
    }
    probe()
}

fn yes_or_no(answer: &str) -> Result<bool, String> {
    match answer {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(format!("{OVERRIDE} must be `yes' or `no', not {other:?}")),
    }
}

/// For cross builds: yes for the C libraries on which the probe is known to succeed, and otherwise
/// no, which is safe and can be overridden by the cache variable.
fn known_answer(target: &str) -> bool {
    let known = ["-linux-gnu", "-linux-musl"];
    let answer = known.iter().any(|libc| target.contains(libc));
    if !answer {
        println!(
            "cargo:warning=cross-compiling for {target}, about which nothing is known: \
             offloading is left out; set {OVERRIDE}=yes to build it in"
        );
    }
    answer
}

/// Compiles the builder of `guix-client build --hello`, which uses no library. Where that is not
/// possible, the file is empty, and the client says that it has no such builder.
fn compile_hello() -> Result<(), String> {
    watch(Path::new(HELLO));
    let program = output_directory()?.join("hello");
    let flags = [
        "-Os",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-fno-pie",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-s",
    ];
    if let Err(reason) = compile(Path::new(HELLO), &program, &flags) {
        println!("cargo:warning=`guix-client build --hello' is left out: {reason}");
        fs::write(&program, "")
            .map_err(|error| format!("cannot write {}: {error}", program.display()))?;
    }
    Ok(())
}

fn output_directory() -> Result<PathBuf, String> {
    Ok(PathBuf::from(
        env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?,
    ))
}

/// Compiles and runs the C program.
fn probe() -> Result<bool, String> {
    let program = output_directory()?.join("unbuffered-pipe");
    compile(Path::new(PROBE), &program, &[])
        .map_err(|reason| format!("{reason}; set {OVERRIDE}=yes or no"))?;

    let run = Command::new(&program)
        .output()
        .map_err(|error| format!("cannot run the probe {}: {error}", program.display()))?;
    match run.status.code() {
        Some(0) => Ok(true),
        Some(1) => {
            println!(
                "cargo:warning=unbuffered streams read ahead on this system: \
                 the daemon is built without offloading"
            );
            Ok(false)
        }
        _ => Err(format!(
            "the probe {} did not answer ({}): {}; set {OVERRIDE}=yes or no",
            program.display(),
            run.status,
            String::from_utf8_lossy(&run.stderr).trim_end()
        )),
    }
}

fn compile(source: &Path, program: &Path, flags: &[&str]) -> Result<(), String> {
    let mut build = cc::Build::new();
    let compiler = build
        .cargo_metadata(false)
        .try_get_compiler()
        .map_err(|error| format!("cannot find a C compiler: {error}"))?;
    let mut command = compiler.to_command();
    command.args(flags).arg("-o").arg(program).arg(source);
    let failure = |reason: String| Err(format!("cannot compile {}: {reason}", source.display()));
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => failure(
            String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => failure(format!(
            "{} is not installed",
            command.get_program().to_string_lossy()
        )),
        Err(error) => failure(error.to_string()),
    }
}

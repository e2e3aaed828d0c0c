//! The outputs of a successful build.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use formats::Hash;

use super::*;

#[test]
fn an_output_is_registered_with_its_references_its_deriver_and_its_log() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let used = client.text("used", "I am needed at run time\n", &[]);
    let unused = client.text("unused", "I am not\n", &[]);
    let script = "echo to the log; echo to it as well >&2
                  mkdir $out; echo $used $out >$out/file; ln -s $unused-not $out/link";
    let drv = client.write(
        Script::new("example", script)
            .source(&used)
            .source(&unused)
            .variable("used", used.as_str())
            // Its hash part is not that of the item.
            .variable("unused", unused.as_str().replace(unused.hash_part(), "x")),
    );
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("to the log\nto it as well\n");

    let info = client.info(drv.out());
    assert_eq!(info.references, BTreeSet::from([used, drv.out().clone()]));
    assert_eq!(info.deriver.as_ref(), Some(&drv.path));
    assert!(info.nar_size > 0);
    assert_eq!(
        kept_log(&setup.site, &drv.path),
        "to the log\nto it as well\n"
    );

    let metadata = fs::symlink_metadata(drv.out().as_path()).unwrap();
    // Guix's daemon leaves the uppermost directory writable for its owner.
    let mode = metadata.mode() & if is_ours() { 0o7777 } else { 0o7577 };
    assert_eq!((mode, metadata.mtime(), metadata.uid()), (0o555, 1, 0));
    let file = fs::symlink_metadata(drv.out().as_path().join("file")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.mtime(), file.uid()),
        (0o444, 1, 0)
    );
}

#[test]
fn the_registered_hash_is_that_of_the_nar() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("file", "printf hello >$out"));
    client.build(&[&drv]).succeeded();
    let nar = formats::nar::of_file(false, b"hello");
    let info = client.info(drv.out());
    assert_eq!(
        (info.hash, info.nar_size),
        (Hash::sha256(&nar), nar.len() as u64)
    );
}

#[test]
fn two_outputs_may_refer_to_each_other_one_way() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = "mkdir $out $lib; echo library >$lib/data; ln -s $lib/data $out/data";
    let drv = client.write(Script::new("two", script).output("lib"));
    client.build(&[&drv]).succeeded();
    let lib = drv.output("lib").clone();
    assert_eq!(lib.name(), "two-lib");
    assert_eq!(
        client.info(drv.out()).references,
        BTreeSet::from([lib.clone()])
    );
    assert_eq!(client.info(&lib).references, BTreeSet::new());
    assert_eq!(client.info(&lib).deriver, Some(drv.path));
}

#[test]
fn outputs_that_refer_to_each_other_both_ways_are_refused() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| {
        options.keep_going = true;
        options.print_build_trace = Some(true);
    });
    let drv = client.write(Script::new("two", "echo $lib >$out; echo $out >$lib").output("lib"));
    let other = client.write(Script::new("other", "echo other >$out"));
    let built = client.build(&[&drv, &other]);
    // It fails like a build: the others' builds continue.
    built.failed(1, &format!("build of `{}' failed", drv.path));
    let reason = "cycle detected in the references of `";
    built.said(reason);
    built.said(&format!("@ build-failed {} - 1 {reason}", drv.path));
    assert!(!client.is_valid(drv.out()) && !client.is_valid(drv.output("lib")));
    assert!(client.is_valid(other.out()));
}

#[test]
fn a_chain_of_derivations_is_built_in_order() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let mut last = client.write(Script::new("link-0", "echo 0 >$out"));
    for number in 1..5 {
        let script = format!("cat $last >$out; echo {number} >>$out");
        let script = Script::new(&format!("link-{number}"), &script);
        let script = script
            .input(&last, "out")
            .variable("last", last.out().as_str());
        last = client.write(script);
    }
    client.build(&[&last]).succeeded();
    assert_eq!(
        fs::read_to_string(last.out().as_path()).unwrap(),
        "0\n1\n2\n3\n4\n"
    );
    // What is built already is not built again.
    let again = client.build(&[&last]);
    again.succeeded();
    assert_eq!(again.log, "");
}

#[test]
fn what_a_dependency_refers_to_can_be_seen_but_what_was_needed_to_build_it_cannot() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let runtime = client.text("runtime", "seen\n", &[]);
    let tool = client.text("tool", "not seen\n", &[]);
    let script = Script::new("middle", "echo $runtime >$out; cat $tool");
    let middle = client.write(
        script
            .source(&runtime)
            .source(&tool)
            .variable("runtime", runtime.as_str())
            .variable("tool", tool.as_str()),
    );
    let script = "cat $(cat $middle) >$out; for f in $NIX_STORE/*; do echo seen: $f; done";
    let top = client.write(
        Script::new("top", script)
            .input(&middle, "out")
            .variable("middle", middle.out().as_str()),
    );
    let built = client.build(&[&top]);
    built.succeeded();
    assert_eq!(fs::read_to_string(top.out().as_path()).unwrap(), "seen\n");
    let seen = built.log.lines().filter(|line| line.starts_with("seen: "));
    let seen: Vec<_> = seen
        .filter(|line| !line.ends_with(top.out().as_str()))
        .collect();
    let expected: BTreeSet<String> = [client.busybox(), &runtime, middle.out()]
        .into_iter()
        .map(|path| format!("seen: {path}"))
        .collect();
    assert_eq!(
        seen,
        expected.iter().map(String::as_str).collect::<Vec<_>>()
    );
}

#[test]
fn only_the_wanted_outputs_of_a_dependency_can_be_seen() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let below = client.write(Script::new("below", "echo >$out; echo >$doc").output("doc"));
    let script = Script::new("above", "test -e $lib; ! test -e $doc; echo >$out");
    let above = client.write(
        script
            .input(&below, "out")
            .variable("lib", below.out().as_str())
            .variable("doc", below.output("doc").as_str()),
    );
    client.build(&[&above]).succeeded();
}

#[test]
fn equal_files_of_outputs_share_their_space() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = "mkdir $out; seq 3000 >$out/one; seq 3000 >$out/two";
    let drv = client.write(Script::new("equal", script));
    client.build(&[&drv]).succeeded();
    let inode = |name: &str| fs::metadata(drv.out().as_path().join(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
}

#[test]
fn logs_are_compressed_unless_told_otherwise() {
    let setup = Setup::new(&["--log-compression=gzip"]);
    let mut client = setup.client();
    let drv = client.write(Script::new("logged", "echo kept; echo >$out"));
    client.build(&[&drv]).succeeded();
    let (first, rest) = drv.path.base_name().split_at(2);
    let file = setup
        .site
        .log()
        .join("drvs")
        .join(first)
        .join(format!("{rest}.gz"));
    let mut text = String::new();
    let file = fs::File::open(file).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "kept\n");
}

#[test]
fn traces_tell_of_the_build() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.set("multiplexed-build-output", "true"));
    let drv = client.write(Script::new("traced", "echo hello; echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    let system = env!("GUIX_SYSTEM");
    let start = format!("@ build-started {} - {system} ", drv.path);
    let line = built
        .log
        .lines()
        .find(|line| line.starts_with(&start))
        .expect("build-started");
    let mut words = line[start.len()..].split(' ');
    let (log, pid) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(fs::read_to_string(log).unwrap(), "hello\n");
    built.said(&format!("@ build-log {pid} 6\nhello\n"));
    built.said(&format!("@ build-succeeded {} -\n", drv.path));
}

#[test]
fn nothing_is_left_beside_the_outputs() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("tidy", "echo temporary >file; echo >$out"));
    client.build(&[&drv]).succeeded();
    let mut expected = [drv.out(), &drv.path, client.busybox()].map(|path| path.base_name());
    expected.sort_unstable();
    let mut found = setup.store_names();
    found.retain(|name| name != ".links");
    assert_eq!(found, expected);
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn an_output_that_no_nar_reader_takes_is_refused() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    // In steps, because of the kernel's limit for paths. The first directory is the output itself.
    let nested = |depth: usize| {
        let (step, rest) = ("d/".repeat(1000), "d/".repeat(depth - 2001));
        format!(
            "mkdir $out; cd $out; mkdir -p {step}; cd -P {step}; mkdir -p {step}; cd -P {step}; mkdir -p {rest}"
        )
    };
    let drv = client.write(Script::new("deep", &nested(2048)));
    client.build(&[&drv]).succeeded();
    let unknown = Hash::sha256(b"something else");
    for script in [
        Script::new("deeper", &nested(2049)),
        Script::new("deeper-fixed", &nested(2049)).fixed(true, unknown),
    ] {
        let drv = client.write(script);
        let built = client.build(&[&drv]);
        built.failed(1, &format!("build of `{}' failed", drv.path));
        built.said("are nested deeper than 2048\n");
        built.said(&format!("@ build-failed {} - 1 directories in `", drv.path));
        assert!(!client.is_valid(drv.out()));
    }
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

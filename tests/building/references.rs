//! Which references outputs may have, and what builders are told about references.

use super::*;

#[test]
fn allowed_and_disallowed_references() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let deep = client.text("deep", "deep\n", &[]);
    let item = client.text("item", &format!("{deep}\n"), &[&deep]);
    let other = client.text("other", "other\n", &[]);
    let both = format!("{item} {other}");
    // The references of the output, the variable, its value, and the expected error.
    let cases: [(&str, &str, &str, Option<&str>); 14] = [
        ("$item", "allowedReferences", item.as_str(), None),
        ("$item", "allowedReferences", &both, None),
        (
            "$item",
            "allowedReferences",
            other.as_str(),
            Some(item.as_str()),
        ),
        ("$item", "allowedReferences", "", Some(item.as_str())),
        ("nothing", "allowedReferences", "", None),
        ("$out", "allowedReferences", "out", None),
        ("$out", "allowedReferences", item.as_str(), Some("self")),
        (
            "$item",
            "disallowedReferences",
            item.as_str(),
            Some(item.as_str()),
        ),
        ("$item", "disallowedReferences", other.as_str(), None),
        ("$item", "disallowedReferences", deep.as_str(), None),
        ("$out", "disallowedReferences", "out", Some("self")),
        (
            "$item",
            "allowedRequisites",
            item.as_str(),
            Some(deep.as_str()),
        ),
        (
            "$item",
            "disallowedRequisites",
            deep.as_str(),
            Some(deep.as_str()),
        ),
        ("$item", "disallowedRequisites", other.as_str(), None),
    ];
    for (number, (refers_to, variable, value, complaint)) in cases.into_iter().enumerate() {
        let script = Script::new(
            &format!("case-{number}"),
            &format!("echo {refers_to} >$out"),
        );
        let drv = client.write(
            script
                .source(&item)
                .source(&other)
                .variable("item", item.as_str())
                .variable(variable, value),
        );
        let built = client.build(&[&drv]);
        match complaint {
            None => built.succeeded(),
            Some(path) => {
                let path = if path == "self" {
                    drv.out().as_str()
                } else {
                    path
                };
                built.failed(1, &format!("build of `{}' failed", drv.path));
                let text = "is not allowed to refer to path";
                built.said(&format!("output (`{}') {text} `{path}'", drv.out()));
            }
        }
        assert_eq!(client.is_valid(drv.out()), complaint.is_none());
    }
}

#[test]
fn a_specifier_that_names_nothing_is_an_error() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = Script::new("odd", "echo >$out").variable("allowedReferences", "nonsense");
    let drv = client.write(script);
    let built = client.build(&[&drv]);
    built.failed(1, "failed");
    built.said("derivation contains an invalid reference specifier `nonsense'");
}

#[test]
fn the_references_graph_is_a_file_in_the_build_directory() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let leaf = client.text("leaf", "leaf\n", &[]);
    let node = client.text("node", &format!("{leaf}\n"), &[&leaf]);
    let script = "cat graph >$out; cat other >>$out; test -f $NIX_BUILD_TOP/graph";
    let drv = client.write(Script::new("graph", script).source(&node).variable(
        "exportReferencesGraph",
        format!("graph {node}\n other {leaf}/x"),
    ));
    client.build(&[&drv]).succeeded();
    let item = |path: &formats::StorePath, references: &[&formats::StorePath]| {
        let mut text = format!("{path}\n\n{}\n", references.len());
        references
            .iter()
            .for_each(|path| text += &format!("{path}\n"));
        (path.clone(), text)
    };
    let mut graph = [item(&leaf, &[]), item(&node, &[&leaf])];
    graph.sort();
    let expected = format!("{}{}{}", graph[0].1, graph[1].1, item(&leaf, &[]).1);
    // It contains no new reference: all are inputs.
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), expected);
}

#[test]
fn the_graph_of_a_derivation_has_its_outputs() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let below = client.write(Script::new("below", "echo >$out"));
    client.build(&[&below]).succeeded();
    let script = Script::new("graph", "grep -v '^[0-9]*$' graph >$out");
    let drv = client.write(
        script
            .input(&below, "out")
            .source(&below.path)
            .variable("exportReferencesGraph", format!("graph {}", below.path)),
    );
    client.build(&[&drv]).succeeded();
    let text = fs::read_to_string(drv.out().as_path()).unwrap();
    for path in [&below.path, below.out(), client.busybox()] {
        assert!(text.contains(path.as_str()), "{path}: {text}");
    }
}

#[test]
fn a_bad_references_graph_is_refused_before_the_build() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let invalid = format!(
        "{}/{}-nowhere",
        setup.site.store().display(),
        "0".repeat(32)
    );
    let busybox = client.busybox().clone();
    for (number, graph) in [
        "graph".to_owned(),
        "graph /etc/passwd".to_owned(),
        format!("graph {invalid}"),
        format!("../graph {busybox}"),
        format!("/etc/graph {busybox}"),
    ]
    .into_iter()
    .enumerate()
    {
        let script = format!("echo >{}/built; echo >$out", setup.gate().display());
        let script = Script::new(&format!("bad-{number}"), &script);
        let drv = client.write(script.variable("exportReferencesGraph", graph.as_str()));
        let built = client.build(&[&drv]);
        assert!(built.result.is_err(), "{graph}: {built:?}");
        assert!(!setup.gate().join("built").exists(), "{graph}");
    }
}

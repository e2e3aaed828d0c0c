//! Which file imports which, read from the sources and compared with the picture in a page.
//!
//! Usage: arrows [--write] TOP PAGE
//!
//! An *arrow* goes from a file that names something to the file that defines it, by `use` or by a
//! path in the code (`crate::`, `super::`, `self::`, a module's or a crate's name). A name that a
//! module re-exports leads to where it is defined, and re-exporting alone is no arrow; nor is what
//! is compiled for tests only.
//!
//! The page has blocks that begin with ```` ```arrows DIRECTORY ````. A line `a → b, c` there says
//! that the file or directory `a` of DIRECTORY imports its neighbours `b` and `c`. A line imports
//! from lines below it only. In the block of the directory `.` the lines are crates.
//!
//! Exit status 1 if a block differs from the sources, or if files of a crate import each other in a
//! cycle. With `--write` the blocks are made anew. With `ARROWS_LIST` in the environment every arrow
//! is printed, with a line that makes it.

mod sources;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs, process};

use sources::{Arrow, Sources};

/// What stands for FILE in the block of DIRECTORY, if it is below that.
fn entry<'a>(file: &'a str, directory: &str) -> Option<&'a str> {
    let below = file.strip_prefix(directory)?.strip_prefix('/')?;
    Some(
        below
            .split('/')
            .next()
            .unwrap_or(below)
            .trim_end_matches(".rs"),
    )
}

type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A cycle of the graph, if it has one: its members in order, the first one again at the end.
fn cycle<'a>(graph: &Graph<'a>) -> Option<Vec<&'a str>> {
    let mut left: BTreeSet<&str> = graph.keys().copied().collect();
    // Take away what imports nothing that is left, until nothing changes.
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|name| graph[*name].iter().all(|to| !left.contains(to)))
            .copied()
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name| !free.contains(name));
    }
    let mut path = vec![*left.first()?];
    loop {
        let next = graph[path[path.len() - 1]]
            .iter()
            .find(|to| left.contains(*to))
            .copied()?;
        if let Some(seen) = path.iter().position(|name| *name == next) {
            let mut cycle = path.split_off(seen);
            cycle.push(next);
            return Some(cycle);
        }
        path.push(next);
    }
}

/// The lines of a block: each imports from lines below it only.
fn lines(graph: &Graph<'_>) -> Vec<String> {
    let width = graph.keys().map(|name| name.len()).max().unwrap_or(0);
    let mut left: BTreeSet<&str> = graph.keys().copied().collect();
    let mut lines = Vec::new();
    while !left.is_empty() {
        let top: Vec<&str> = left
            .iter()
            .filter(|name| !left.iter().any(|other| graph[*other].contains(*name)))
            .copied()
            .collect();
        // In a cycle nothing is on top.
        let top = if top.is_empty() {
            left.iter().copied().collect()
        } else {
            top
        };
        for name in top {
            left.remove(name);
            let to: Vec<&str> = graph[name].iter().copied().collect();
            let line = format!("{name:width$} → {}", to.join(", "));
            lines.push(if to.is_empty() { name.to_owned() } else { line });
        }
    }
    lines
}

fn fail(what: &str) -> ! {
    eprintln!("arrows: {what}");
    process::exit(2);
}

/// Cycles among the files of each crate, in words.
fn cycles(sources: &Sources, arrows: &BTreeMap<Arrow, usize>) -> Vec<String> {
    let mut graphs: BTreeMap<&str, Graph> = BTreeMap::new();
    for (directory, file) in sources.crate_of.iter().zip(&sources.files) {
        let graph = graphs.entry(directory).or_default();
        graph.entry(file).or_default();
    }
    for (from, to) in arrows.keys() {
        if sources.crate_of[*from] == sources.crate_of[*to] {
            let graph = graphs.entry(&sources.crate_of[*from]).or_default();
            let imports = graph.entry(&sources.files[*from]).or_default();
            imports.insert(&sources.files[*to]);
        }
    }
    let mut found = Vec::new();
    for (directory, mut graph) in graphs {
        while let Some(cycle) = cycle(&graph) {
            let mut text = format!("{directory}: files import each other in a cycle:");
            for pair in cycle.windows(2) {
                let number = |name: &str| sources.files.iter().position(|file| file == name);
                let arrow = number(pair[0]).zip(number(pair[1]));
                let line = arrow.and_then(|arrow| arrows.get(&arrow)).unwrap_or(&0);
                text += &format!("\n    {}:{line} imports {}", pair[0], pair[1]);
            }
            found.push(text);
            // Without its first arrow, the next cycle is found.
            if let Some(imports) = graph.get_mut(cycle[0]) {
                imports.remove(cycle[1]);
            }
        }
    }
    found
}

/// The block of DIRECTORY as the sources have it.
fn block(sources: &Sources, arrows: &BTreeMap<Arrow, usize>, directory: &str) -> Vec<String> {
    let name = |file: usize| match directory {
        "." => sources.crate_of[file].rsplit('/').next(),
        _ => entry(&sources.files[file], directory),
    };
    let mut graph = Graph::new();
    for file in 0..sources.files.len() {
        if let Some(name) = name(file) {
            graph.entry(name).or_default();
        }
    }
    for (from, to) in arrows.keys() {
        if let (Some(from), Some(to)) = (name(*from), name(*to)) {
            if from != to {
                graph.entry(from).or_default().insert(to);
            }
        }
    }
    lines(&graph)
}

/// The page with its blocks made anew, and what was wrong with them.
fn compare(
    sources: &Sources,
    arrows: &BTreeMap<Arrow, usize>,
    page: &str,
) -> (String, Vec<String>) {
    let (mut anew, mut wrong, mut blocks) = (String::new(), Vec::new(), 0);
    let mut rest = page.lines();
    while let Some(line) = rest.next() {
        anew += line;
        anew.push('\n');
        let Some(directory) = line.strip_prefix("```arrows ") else {
            continue;
        };
        blocks += 1;
        let drawn: Vec<&str> = rest.by_ref().take_while(|line| *line != "```").collect();
        let wanted = block(sources, arrows, directory.trim());
        if wanted.is_empty() {
            wrong.push(format!("{directory}: no sources are there"));
        }
        for line in wanted.iter().filter(|line| !drawn.contains(&line.as_str())) {
            wrong.push(format!("{directory}: the picture lacks: {line}"));
        }
        for line in drawn
            .iter()
            .filter(|line| !wanted.iter().any(|wanted| wanted == *line))
        {
            wrong.push(format!("{directory}: only in the picture: {line}"));
        }
        if wrong.is_empty() && wanted != drawn {
            wrong.push(format!(
                "{directory}: the lines are in another order: {wanted:#?}"
            ));
        }
        for line in wanted {
            anew += &line;
            anew.push('\n');
        }
        anew += "```\n";
    }
    if blocks == 0 {
        wrong.push("the page has no block of arrows".to_owned());
    }
    (anew, wrong)
}

fn main() {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let write = arguments
        .first()
        .is_some_and(|argument| argument == "--write");
    if write {
        arguments.remove(0);
    }
    let [top, page] = arguments.as_slice() else {
        fail("usage: arrows [--write] TOP PAGE");
    };
    let sources = Sources::read(Path::new(top));
    let arrows = sources.arrows();
    if env::var_os("ARROWS_LIST").is_some() {
        for ((from, to), line) in &arrows {
            println!("{}:{line} → {}", sources.files[*from], sources.files[*to]);
        }
    }
    let text = fs::read_to_string(page).unwrap_or_else(|error| fail(&format!("{page}: {error}")));
    let (anew, differences) = compare(&sources, &arrows, &text);
    let mut wrong = cycles(&sources, &arrows);
    if !write {
        wrong.extend(differences);
    } else if let Err(error) = fs::write(page, anew) {
        fail(&format!("{page}: {error}"));
    }
    for line in &wrong {
        println!("{line}");
    }
    process::exit(i32::from(!wrong.is_empty()));
}

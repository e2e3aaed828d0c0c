//! A picture of a run of the demonstration, as SVG: how it begins, a part of what it prints, and the
//! report at the end.

use std::fmt::Write;

/// Lines with more characters are cut.
const COLUMNS: usize = 96;
/// How many lines of the builds are shown.
const BUILDS: usize = 8;
/// The width of a character, in pixels.
const CHARACTER: f64 = 8.4;
/// The height of a line.
const LINE: f64 = 19.0;

/// The picture of what a run printed.
pub fn draw(output: &str) -> String {
    let lines = chosen(output);
    let width = COLUMNS as f64 * CHARACTER + 40.0;
    let height = lines.len() as f64 * LINE + 70.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n\
         <title>make demo: Lua is built by two build machines</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1e1f26\"/>\n"
    );
    for (x, color) in [(20, "#e5645c"), (40, "#e2b93d"), (60, "#5db85b")] {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"20\" r=\"6\" fill=\"{color}\"/>"
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let text = line.trim_end();
        if text.is_empty() {
            continue;
        }
        let color = match text {
            _ if text.starts_with("$ ") => "#ffffff",
            _ if text.starts_with("demo: ") => "#8fd18d",
            _ => "#c8cad4",
        };
        // Whatever the font: characters below each other stay so.
        let _ = writeln!(
            svg,
            "<text x=\"20\" y=\"{:.0}\" fill=\"{color}\" xml:space=\"preserve\" \
             textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
            55.0 + number as f64 * LINE,
            text.chars().count() as f64 * CHARACTER,
            escaped(text)
        );
    }
    svg + "</svg>\n"
}

/// The lines to show.
fn chosen(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().collect();
    let begins = |start: &'static str| move |line: &&&str| line.starts_with(start);
    let mut chosen = vec!["$ make demo".to_owned()];
    let mut show = |more: &mut dyn Iterator<Item = &&str>| {
        chosen.extend(more.map(|line| cut(line)));
    };
    show(&mut lines.iter().filter(begins("demo: ")));
    let builds = lines.iter().filter(|line| {
        ["sending ", "offloading '", "retrieving ", "done with "]
            .iter()
            .any(|start| line.starts_with(start))
    });
    show(&mut builds.take(BUILDS));
    show(&mut [&"…"].into_iter());
    // The report's second table, and what follows.
    let tables = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.starts_with('┌'));
    let last = tables.map(|(number, _)| number).next_back().unwrap_or(0);
    show(&mut lines[last..].iter());
    chosen
}

fn cut(line: &str) -> String {
    let short = shortened(line);
    if short.chars().count() <= COLUMNS {
        return short;
    }
    short.chars().take(COLUMNS - 1).chain(['…']).collect()
}

/// With the hashes in store names left out, as people write them.
fn shortened(line: &str) -> String {
    const STORE: &str = "/gnu/store/";
    let mut parts = line.split(STORE);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        short += STORE;
        match part.split_at_checked(32) {
            Some((_, rest)) => {
                short.push('…');
                short += rest;
            }
            None => short += part,
        }
    }
    short
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

//! The manual as Texinfo, from which `makeinfo` makes Info: each chapter is a node, its headings
//! are anchors, and headings and options are in the index.

use std::fmt::Write;
use std::mem::take;
use std::path::Path;

use anyhow::Result;
use pulldown_cmark::{Event, Tag, TagEnd};

use crate::book::{self, Book, Chapter, Heading, Target};
use crate::pages::write_whole;

/// The width of a page of Info, in characters.
const WIDTH: usize = 72;
/// The length from which a cell is prose.
const PROSE: usize = 90;
/// The start of a list's item. If code follows it is what the item is about.
const ITEM: &str = "@item\n";

/// Writes it to `file`; the Info file will have the name `info`.
pub fn write(book: &Book, file: &Path, info: &str) -> Result<()> {
    let mut text = format!(
        "\\input texinfo\n@documentencoding UTF-8\n@setfilename {info}\n@settitle {title}\n\
         @dircategory System administration\n@direntry\n\
         * guix-daemon in Rust: ({name}).  {title}.\n@end direntry\n\
         @node Top\n@top {title}\n",
        title = book.title,
        name = info.trim_end_matches(".info"),
    );
    menu(book, None, true, &mut text);
    for (number, chapter) in book.chapters.iter().enumerate() {
        let command = match chapter.parent {
            None => "chapter",
            Some(_) => "section",
        };
        let (node, title) = (node(chapter), escaped(&chapter.title));
        write!(text, "@node {node}\n@{command} {title}\n@cindex {title}\n")?;
        Writer::new(book, chapter).write(&mut text)?;
        menu(book, Some(number), false, &mut text);
    }
    text += "@node Index\n@unnumbered Index\n@printindex cp\n@bye\n";
    write_whole(file, |target| target.write_all(text.as_bytes()))
}

fn menu(book: &Book, parent: Option<usize>, index: bool, text: &mut String) {
    let mut entries = String::new();
    for (_, chapter) in book.sections(parent) {
        entries += &format!("* {}::\n", node(chapter));
    }
    if index {
        entries += "* Index::\n";
    }
    if !entries.is_empty() {
        *text += &format!("@menu\n{entries}@end menu\n\n");
    }
}

/// A chapter's name in Info, where some punctuation has a meaning.
fn node(chapter: &Chapter) -> String {
    let plain = |c: &char| !matches!(c, ',' | ':' | '.' | '(' | ')');
    escaped(&chapter.title.chars().filter(plain).collect::<String>())
}

fn anchor(chapter: &Chapter, heading: &Heading) -> String {
    format!("{} {}", node(chapter), heading.anchor)
}

/// Writes the contents of a chapter.
struct Writer<'a> {
    book: &'a Book,
    chapter: &'a Chapter,
    /// Lists that are open, by the end of their commands.
    lists: Vec<&'static str>,
    /// What was written before the link that is open, and where it leads.
    link: Option<(String, String)>,
}

impl<'a> Writer<'a> {
    fn new(book: &'a Book, chapter: &'a Chapter) -> Self {
        Writer {
            book,
            chapter,
            lists: Vec::new(),
            link: None,
        }
    }

    fn write(&mut self, text: &mut String) -> Result<()> {
        let mut headings = self.chapter.headings.iter();
        let mut events = self.chapter.events();
        while let Some(event) = events.next() {
            match event {
                Event::Start(Tag::Heading { level, .. }) => {
                    // The title was written with the node.
                    let heading = book::heading(level, &mut events, &mut headings);
                    if let Some((depth, heading)) = heading {
                        self.heading(depth, heading, text);
                    }
                }
                Event::Start(Tag::CodeBlock(_)) => code_block(&mut events, text),
                Event::Start(Tag::Table(_)) => {
                    let rows = book::table(&mut events);
                    self.table(&rows, text)?;
                }
                other => self.event(other, text)?,
            }
        }
        Ok(())
    }

    fn heading(&self, depth: usize, heading: &Heading, text: &mut String) {
        let command = if depth == 2 { "heading" } else { "subheading" };
        let title = escaped(&heading.title);
        let anchor = anchor(self.chapter, heading);
        *text += &format!("@anchor{{{anchor}}}\n@{command} {title}\n@cindex {title}\n\n");
    }

    fn event(&mut self, event: Event<'_>, text: &mut String) -> Result<()> {
        match event {
            // Otherwise two hyphens would become one.
            Event::Text(words) => *text += &escaped(&words).replace("--", "-@w{}-"),
            Event::Code(words) => {
                let words = escaped(&words);
                if text.ends_with(ITEM) {
                    writeln!(text, "@cindex @code{{{words}}}")?;
                }
                write!(text, "@code{{{words}}}")?;
            }
            Event::SoftBreak => *text += "\n",
            Event::HardBreak => *text += "@*\n",
            Event::Start(Tag::Emphasis) => *text += "@emph{",
            Event::Start(Tag::Strong) => *text += "@strong{",
            Event::End(TagEnd::Emphasis | TagEnd::Strong) => *text += "}",
            // Pictures are told in words.
            Event::Start(Tag::Image { .. }) => *text += "[Picture: ",
            Event::End(TagEnd::Image) => *text += "]",
            Event::Start(Tag::Link { dest_url, .. }) => {
                let before = take(text);
                self.link = Some((before, dest_url.into_string()));
            }
            Event::End(TagEnd::Link) => {
                if let Some((before, link)) = self.link.take() {
                    let words = std::mem::replace(text, before);
                    *text += &self.reference(&link, &words)?;
                }
            }
            Event::Start(Tag::List(first)) => {
                let kind = match first {
                    Some(_) => "enumerate",
                    None => "itemize",
                };
                self.lists.push(kind);
                write!(text, "\n@{kind}\n")?;
            }
            Event::End(TagEnd::List(_)) => {
                writeln!(text, "@end {}\n", self.lists.pop().unwrap_or_default())?;
            }
            Event::Start(Tag::Item) => *text += ITEM,
            Event::End(TagEnd::Item) => *text += "\n",
            Event::End(TagEnd::Paragraph) => *text += "\n\n",
            _ => {}
        }
        Ok(())
    }

    fn reference(&self, link: &str, words: &str) -> Result<String> {
        let words = words.replace('\n', " ");
        Ok(match self.book.resolve(self.chapter, link)? {
            Target::Web(link) => format!("@uref{{{}, {words}}}", argument(&escaped(link))),
            Target::Chapter(chapter, heading) => {
                let name = heading.map_or_else(|| node(chapter), |one| anchor(chapter, one));
                if words == name {
                    format!("@ref{{{name}}}")
                } else {
                    format!("@ref{{{name}, {}}}", argument(&words))
                }
            }
        })
    }

    /// A table; or a list, where the last column is too long for a column.
    fn table(&mut self, rows: &book::Table<'_>, text: &mut String) -> Result<()> {
        let [header, entries @ ..] = &**rows else {
            return Ok(());
        };
        let last = rows.iter().filter_map(|row| row.last());
        if last.map(|cell| width(cell)).max() > Some(PROSE) {
            return self.list(header, entries, text);
        }
        *text += "\n@multitable @columnfractions";
        for fraction in fractions(rows) {
            write!(text, " {fraction:.2}")?;
        }
        text.push('\n');
        for (number, row) in rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                *text += match (column, number) {
                    (0, 0) => "@headitem ",
                    (0, _) => "@item ",
                    _ => "\n@tab ",
                };
                self.cell(cell, text)?;
            }
            text.push('\n');
        }
        *text += "@end multitable\n\n";
        Ok(())
    }

    fn list(
        &mut self,
        header: &[book::Cell<'_>],
        rows: &[Vec<book::Cell<'_>>],
        text: &mut String,
    ) -> Result<()> {
        *text += "\n@table @asis\n";
        for row in rows {
            let Some((name, sentences)) = book::sentences(header, row) else {
                continue;
            };
            *text += ITEM.trim_end();
            text.push(' ');
            self.cell(name, text)?;
            write!(text, "\n@cindex {}\n", escaped(&book::plain(name)))?;
            for sentence in &sentences {
                self.cell(sentence, text)?;
            }
            text.push('\n');
        }
        *text += "@end table\n\n";
        Ok(())
    }

    fn cell(&mut self, cell: &[Event<'_>], text: &mut String) -> Result<()> {
        (cell.iter()).try_for_each(|event| self.event(event.clone(), text))
    }
}

fn code_block<'a>(events: &mut impl Iterator<Item = Event<'a>>, text: &mut String) {
    *text += "\n@example\n";
    for event in events {
        match event {
            Event::Text(lines) => *text += &escaped(&lines),
            _ => break,
        }
    }
    *text += "@end example\n\n";
}

fn width(cell: &[Event<'_>]) -> usize {
    book::plain(cell).chars().count()
}

/// The widths of a table's columns: as long as their longest cells; if that is too much, the widest
/// ones become narrower, but not than their longest words.
fn fractions(rows: &book::Table<'_>) -> Vec<f64> {
    const MARGIN: usize = 4;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let longest = |column: usize, length: fn(&book::Cell<'_>) -> usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(length).max().unwrap_or(0) + MARGIN
    };
    let word = |cell: &book::Cell<'_>| {
        let text = book::plain(cell);
        let words = text.split_whitespace();
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<(usize, usize)> = (0..columns)
        .map(|column| (longest(column, |cell| width(cell)), longest(column, word)))
        .collect();
    while widths.iter().map(|(width, _)| width).sum::<usize>() > WIDTH {
        let wider = widths.iter_mut().filter(|(width, least)| width > least);
        let Some((widest, _)) = wider.max() else {
            break;
        };
        *widest -= 1;
    }
    let total: usize = widths.iter().map(|(width, _)| width).sum();
    let fraction = |(width, _): &(usize, usize)| *width as f64 / total.max(1) as f64;
    widths.iter().map(fraction).collect()
}

/// Text in which nothing is a command.
fn escaped(text: &str) -> String {
    text.replace('@', "@@")
        .replace('{', "@{")
        .replace('}', "@}")
}

/// Text as an argument, which a comma would end.
fn argument(text: &str) -> String {
    text.replace(',', "@comma{}")
}

//! A chapter of the manual as a man page; its tables become lists.

use std::path::Path;

use anyhow::{Context, Result};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, Tag, TagEnd};

use crate::book::{self, Book, Chapter, Target};
use crate::pages::write_whole;

/// What a page is called, and what it refers to.
pub struct Title {
    /// Its name.
    pub name: &'static str,
    /// Its section of the manual.
    pub section: &'static str,
    /// What it is about, in one line.
    pub about: &'static str,
    /// Other pages.
    pub see_also: &'static str,
}

/// Writes the chapter to `NAME.SECTION` in `directory`.
pub fn write(book: &Book, chapter: &str, title: &Title, directory: &Path) -> Result<()> {
    let chapter = (book.chapters.iter())
        .find(|one| one.name == chapter)
        .with_context(|| format!("there is no chapter {chapter}"))?;
    let mut roff = Roff::new();
    let source = concat!("guix-daemon ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [title.name, title.section, "", source, "GNU Guix"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{} - {}", title.name, title.about))]);
    roff.control("SH", ["DESCRIPTION"]);
    Writer::new(book, chapter).write(&mut roff)?;
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(title.see_also)]);
    let file = directory.join(format!("{}.{}", title.name, title.section));
    write_whole(&file, |target| roff.to_writer(target))
}

/// Writes a page that is another one by a second name.
pub fn write_alias(name: &str, title: &Title, directory: &Path) -> Result<()> {
    let file = directory.join(format!("{name}.{}", title.section));
    let (page, section) = (title.name, title.section);
    write_whole(&file, |target| {
        writeln!(target, ".so man{section}/{page}.{section}")
    })
}

struct Writer<'a> {
    book: &'a Book,
    chapter: &'a Chapter,
    /// What was read of the paragraph.
    line: Vec<Inline>,
    style: fn(String) -> Inline,
}

impl<'a> Writer<'a> {
    fn new(book: &'a Book, chapter: &'a Chapter) -> Self {
        Writer {
            book,
            chapter,
            line: Vec::new(),
            style: roman,
        }
    }

    fn write(&mut self, roff: &mut Roff) -> Result<()> {
        let mut headings = self.chapter.headings.iter();
        let mut events = self.chapter.events();
        while let Some(event) = events.next() {
            match event {
                Event::Start(Tag::Heading { level, .. }) => {
                    match book::heading(level, &mut events, &mut headings) {
                        // NAME has the title.
                        None => {}
                        Some((2, heading)) => {
                            roff.control("SH", [&*heading.title.to_uppercase()]);
                        }
                        Some((_, heading)) => {
                            roff.control("SS", [&*heading.title]);
                        }
                    }
                }
                Event::Start(Tag::CodeBlock(_)) => {
                    roff.control("PP", []);
                    roff.control("RS", ["4"]);
                    roff.control("nf", []);
                    for event in events.by_ref() {
                        let Event::Text(lines) = event else { break };
                        for line in lines.lines() {
                            roff.text([roman(line)]);
                        }
                    }
                    roff.control("fi", []);
                    roff.control("RE", []);
                }
                Event::Start(Tag::Table(_)) => {
                    if let [header, rows @ ..] = &*book::table(&mut events) {
                        for row in rows {
                            self.row(header, row, roff)?;
                        }
                    }
                }
                Event::Start(Tag::Paragraph) => {
                    roff.control("PP", []);
                }
                Event::Start(Tag::Item) => {
                    roff.control("IP", ["\\(bu", "2"]);
                }
                Event::End(TagEnd::Paragraph | TagEnd::Item) => self.end_line(roff),
                other => self.inline(&other)?,
            }
        }
        Ok(())
    }

    fn row(
        &mut self,
        header: &[book::Cell<'_>],
        row: &[book::Cell<'_>],
        roff: &mut Roff,
    ) -> Result<()> {
        let Some((name, sentences)) = book::sentences(header, row) else {
            return Ok(());
        };
        roff.control("TP", []);
        self.cell(name)?;
        self.end_line(roff);
        for sentence in &sentences {
            self.cell(sentence)?;
        }
        self.end_line(roff);
        Ok(())
    }

    fn cell(&mut self, cell: &[Event<'_>]) -> Result<()> {
        cell.iter().try_for_each(|event| self.inline(event))
    }

    fn end_line(&mut self, roff: &mut Roff) {
        if !self.line.is_empty() {
            roff.text(std::mem::take(&mut self.line));
        }
    }

    fn inline(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Text(text) => self.line.push((self.style)(text.to_string())),
            Event::Code(text) => self.line.push(bold(text.to_string())),
            Event::SoftBreak | Event::HardBreak => self.line.push(roman(" ")),
            Event::Start(Tag::Emphasis) => self.style = italic,
            Event::Start(Tag::Strong) => self.style = bold,
            // A reader of man pages has the manual beside them.
            Event::Start(Tag::Link { dest_url, .. }) => {
                if let Target::Chapter(..) = self.book.resolve(self.chapter, dest_url)? {
                    self.style = italic;
                }
            }
            Event::End(TagEnd::Emphasis | TagEnd::Strong | TagEnd::Link) => self.style = roman,
            _ => {}
        }
        Ok(())
    }
}

//! The manual's chapters: `SUMMARY.md`, the pages that it lists, and where links between them lead.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// All chapters, in the order of the summary.
pub struct Book {
    /// The title of the whole.
    pub title: &'static str,
    /// The chapters.
    pub chapters: Vec<Chapter>,
    /// The pictures that are shown, beside the chapters' files.
    pub pictures: Vec<PathBuf>,
}

/// A chapter.
pub struct Chapter {
    /// Its file name, without `.md`.
    pub name: String,
    /// Its title.
    pub title: String,
    /// The chapter that it is a section of.
    pub parent: Option<usize>,
    /// Its headings, without the title.
    pub headings: Vec<Heading>,
    text: String,
}

/// A heading within a chapter.
pub struct Heading {
    /// Its text.
    pub title: String,
    /// Its name in links, unique within the chapter.
    pub anchor: String,
}

/// Where a link leads.
pub enum Target<'a> {
    /// To a chapter, or to a heading there.
    Chapter(&'a Chapter, Option<&'a Heading>),
    /// To the web.
    Web(&'a str),
}

impl Book {
    /// Reads the summary and all pages of `directory`.
    pub fn read(directory: &Path) -> Result<Book> {
        let summary = read(&directory.join("SUMMARY.md"))?;
        let mut chapters: Vec<Chapter> = Vec::new();
        // The chapters that the entry being read is in, and the last entry of each list.
        let mut enclosing: Vec<Option<usize>> = Vec::new();
        for event in parse(&summary) {
            match event {
                Event::Start(Tag::List(_)) => enclosing.push(None),
                Event::End(TagEnd::List(_)) => drop(enclosing.pop()),
                Event::Start(Tag::Link { dest_url, .. }) => {
                    let parent = enclosing.iter().rev().nth(1).copied().flatten();
                    let file = directory.join(&*dest_url);
                    let chapter = Chapter::new(&dest_url, read(&file)?, parent)
                        .with_context(|| format!("in {}", file.display()))?;
                    if let Some(last) = enclosing.last_mut() {
                        *last = Some(chapters.len());
                    }
                    chapters.push(chapter);
                }
                _ => {}
            }
        }
        let pictures = pictures(directory, &chapters)?;
        let book = Book {
            title: "The Guix Build Daemon in Rust",
            chapters,
            pictures,
        };
        book.check_links()?;
        Ok(book)
    }

    /// The sections of a chapter; without one, the chapters that are not sections.
    pub fn sections(&self, parent: Option<usize>) -> impl Iterator<Item = (usize, &Chapter)> {
        let all = self.chapters.iter().enumerate();
        all.filter(move |(_, chapter)| chapter.parent == parent)
    }

    /// Where a link in chapter `from` leads; an error if nowhere.
    pub fn resolve<'a>(&'a self, from: &'a Chapter, link: &'a str) -> Result<Target<'a>> {
        if link.starts_with("https://") {
            return Ok(Target::Web(link));
        }
        let (file, anchor) = match link.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor)),
            None => (link, None),
        };
        let chapter = match file {
            "" => Some(from),
            _ => self.chapters.iter().find(|one| one.file() == file),
        };
        let chapter = chapter.with_context(|| format!("{link} is no page of the manual"))?;
        let heading = anchor.map(|anchor| {
            let found = chapter.headings.iter().find(|one| one.anchor == anchor);
            found.with_context(|| format!("{link}: there is no such heading"))
        });
        Ok(Target::Chapter(chapter, heading.transpose()?))
    }

    fn check_links(&self) -> Result<()> {
        for chapter in &self.chapters {
            for event in chapter.events() {
                if let Event::Start(Tag::Link { dest_url, .. }) = event {
                    self.resolve(chapter, &dest_url)
                        .with_context(|| format!("{}: a dead link", chapter.file()))?;
                }
            }
        }
        Ok(())
    }
}

impl Chapter {
    fn new(file: &str, text: String, parent: Option<usize>) -> Result<Chapter> {
        let name = file
            .strip_suffix(".md")
            .context("not a page of the manual")?;
        let mut headings = headings(&text).into_iter();
        let title = headings.next().context("has no title")?.title;
        let headings: Vec<Heading> = headings.collect();
        let distinct: HashSet<&str> = headings.iter().map(|one| &*one.anchor).collect();
        ensure!(distinct.len() == headings.len(), "has a heading twice");
        Ok(Chapter {
            name: name.to_owned(),
            title,
            parent,
            headings,
            text,
        })
    }

    /// Its file in the source tree.
    pub fn file(&self) -> String {
        format!("{}.md", self.name)
    }

    /// Its text, piece by piece.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        parse(&self.text)
    }
}

/// The files of the pictures that chapters show.
fn pictures(directory: &Path, chapters: &[Chapter]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for chapter in chapters {
        for event in chapter.events() {
            if let Event::Start(Tag::Image { dest_url, .. }) = event {
                let file = directory.join(&*dest_url);
                let is_here = !dest_url.contains('/') && file.is_file();
                ensure!(is_here, "{}: no such picture: {dest_url}", chapter.file());
                found.push(file);
            }
        }
    }
    Ok(found)
}

fn parse(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

fn headings(text: &str) -> Vec<Heading> {
    let mut found = Vec::new();
    let mut inside = None::<String>;
    for event in parse(text) {
        match (event, &mut inside) {
            (Event::Start(Tag::Heading { .. }), _) => inside = Some(String::new()),
            (Event::Text(text) | Event::Code(text), Some(title)) => title.push_str(&text),
            (Event::End(TagEnd::Heading(_)), _) => {
                let title = inside.take().unwrap_or_default();
                let anchor = anchor(&title);
                found.push(Heading { title, anchor });
            }
            _ => {}
        }
    }
    found
}

/// The name of a heading in links, as mdBook and forges make it.
fn anchor(title: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let words: String = title.to_lowercase().chars().filter(kept).collect();
    words.replace(' ', "-")
}

/// Takes the rest of a heading whose start was just read. Returns its depth, from 2, and the next of
/// the chapter's headings; `None` for the title, which is not one of them.
pub fn heading<'a, 'c>(
    level: HeadingLevel,
    events: &mut impl Iterator<Item = Event<'a>>,
    headings: &mut impl Iterator<Item = &'c Heading>,
) -> Option<(usize, &'c Heading)> {
    let _ = events.find(|event| matches!(event, Event::End(TagEnd::Heading(_))));
    match level as usize {
        1 => None,
        depth => headings.next().map(|heading| (depth, heading)),
    }
}

/// What is in a cell of a table.
pub type Cell<'a> = Vec<Event<'a>>;

/// The rows of a table, the header first.
pub type Table<'a> = Vec<Vec<Cell<'a>>>;

/// Takes the rest of a table whose start was just read.
pub fn table<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Table<'a> {
    let mut rows: Table<'a> = Vec::new();
    for event in events {
        match event {
            Event::End(TagEnd::Table) => break,
            Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
            Event::Start(Tag::TableCell) => {
                if let Some(row) = rows.last_mut() {
                    row.push(Vec::new());
                }
            }
            Event::End(TagEnd::TableHead | TagEnd::TableRow | TagEnd::TableCell) => {}
            other => {
                if let Some(cell) = rows.last_mut().and_then(|row| row.last_mut()) {
                    cell.push(other);
                }
            }
        }
    }
    rows
}

/// A row of a table as the name of something, its first cell, and what is to be said of it: the
/// last cell, and then those between, as `Value: 1 to 9'.
pub fn sentences<'r, 'a>(
    header: &[Cell<'a>],
    row: &'r [Cell<'a>],
) -> Option<(&'r Cell<'a>, Vec<Cell<'a>>)> {
    let [name, between @ .., meaning] = row else {
        return None;
    };
    let full_stop = |text: &str| Event::Text(format!(".{text}").into());
    let mut sentences = vec![meaning.clone()];
    for (cell, title) in between.iter().zip(header.get(1..)?) {
        if !cell.is_empty() {
            let mut title = plain(title);
            title[..1].make_ascii_uppercase();
            sentences.push(vec![full_stop(&format!(" {title}: "))]);
            sentences.push(cell.clone());
        }
    }
    sentences.push(vec![full_stop("")]);
    Some((name, sentences))
}

/// The plain text of inline events.
pub fn plain(events: &[Event<'_>]) -> String {
    let text = |event: &Event<'_>| match event {
        Event::Text(text) | Event::Code(text) => text.to_string(),
        Event::SoftBreak | Event::HardBreak => " ".to_owned(),
        _ => String::new(),
    };
    events.iter().map(text).collect()
}

fn read(file: &Path) -> Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    if text.trim().is_empty() {
        bail!("{} is empty", file.display());
    }
    Ok(text)
}

//! The manual as HTML: a file for each chapter, its pictures, and `index.html` with the contents.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Tag, html};

use crate::book::{Book, Chapter, Target};
use crate::pages::write_whole;

const STYLE: &str = include_str!("manual.css");

/// Writes it to `directory`.
pub fn write(book: &Book, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let save = |name: &str, text: String| {
        write_whole(&directory.join(name), |file| {
            file.write_all(text.as_bytes())
        })
    };
    let index = format!("<h1>{}</h1>\n{}", book.title, contents(book, None, None));
    save("index.html", page(book, book.title, None, &index))?;
    for picture in &book.pictures {
        let name = picture.file_name().unwrap_or_default();
        let bytes =
            fs::read(picture).with_context(|| format!("cannot read {}", picture.display()))?;
        write_whole(&directory.join(name), |file| file.write_all(&bytes))?;
    }
    for (number, chapter) in book.chapters.iter().enumerate() {
        let text = body(book, chapter)? + &neighbours(book, number);
        save(
            &file(chapter),
            page(book, &chapter.title, Some(number), &text),
        )?;
    }
    Ok(())
}

fn file(chapter: &Chapter) -> String {
    format!("{}.html", chapter.name)
}

fn page(book: &Book, title: &str, current: Option<usize>, body: &str) -> String {
    let contents = match current {
        Some(_) => contents(book, None, current),
        None => String::new(),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<nav>\n<a href=\"index.html\">{}</a>\n{contents}</nav>\n\
         <main>\n{body}</main>\n</body>\n</html>\n",
        escaped(title),
        book.title,
    )
}

/// A list of the sections of `parent`, and of theirs.
fn contents(book: &Book, parent: Option<usize>, current: Option<usize>) -> String {
    let mut items = String::new();
    for (number, chapter) in book.sections(parent) {
        let here = if current == Some(number) {
            " aria-current=\"page\""
        } else {
            ""
        };
        items += &format!(
            "<li><a href=\"{}\"{here}>{}</a>{}</li>\n",
            file(chapter),
            escaped(&chapter.title),
            contents(book, Some(number), current)
        );
    }
    if items.is_empty() {
        items
    } else {
        format!("<ul>\n{items}</ul>\n")
    }
}

fn body(book: &Book, chapter: &Chapter) -> Result<String> {
    let mut headings = chapter.headings.iter();
    let mut events = Vec::new();
    for event in chapter.events() {
        events.push(match event {
            Event::Start(Tag::Heading {
                level,
                classes,
                attrs,
                ..
            }) if level != HeadingLevel::H1 => Event::Start(Tag::Heading {
                level,
                id: headings.next().map(|one| CowStr::from(&*one.anchor)),
                classes,
                attrs,
            }),
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => Event::Start(Tag::Link {
                link_type,
                dest_url: address(book, chapter, &dest_url)?.into(),
                title,
                id,
            }),
            other => other,
        });
    }
    let mut text = String::new();
    html::push_html(&mut text, events.into_iter());
    Ok(text)
}

fn address(book: &Book, from: &Chapter, link: &str) -> Result<String> {
    Ok(match book.resolve(from, link)? {
        Target::Chapter(chapter, None) => file(chapter),
        Target::Chapter(chapter, Some(heading)) => {
            format!("{}#{}", file(chapter), heading.anchor)
        }
        Target::Web(link) => link.to_owned(),
    })
}

/// Links to the chapters before and after this one.
fn neighbours(book: &Book, number: usize) -> String {
    let link = |name: &str, number: Option<usize>| {
        let chapter = number.and_then(|number| book.chapters.get(number));
        chapter.map_or_else(String::new, |chapter| {
            format!(
                "<a rel=\"{name}\" href=\"{}\">{}</a>\n",
                file(chapter),
                escaped(&chapter.title)
            )
        })
    };
    format!(
        "<footer>\n{}{}</footer>\n",
        link("prev", number.checked_sub(1)),
        link("next", Some(number + 1))
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

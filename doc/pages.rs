//! One man page, and the shell completions, of a program, from its table of options.
//!
//! Shared by `doc/manual.rs` and by `guix-client manual`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Names, and what they mean.
pub type Entries = &'static [(&'static str, &'static str)];

/// A program, and the sections of its page after those that the options make.
pub struct Page {
    /// The table of options.
    pub command: Command,
    /// Environment variables.
    pub environment: Entries,
    /// Files.
    pub files: Entries,
    /// What the exit status means.
    pub exit: &'static str,
    /// Other pages.
    pub see_also: &'static str,
}

impl Page {
    /// Writes `man/` and `completions/` in `directory`.
    pub fn write(mut self, directory: &Path) -> Result<()> {
        let (man, completions) = (directory.join("man"), directory.join("completions"));
        fs::create_dir_all(&man)?;
        fs::create_dir_all(&completions)?;
        // There are pages instead.
        self.command = self.command.disable_help_subcommand(true);
        self.command.build();
        let name = self.command.get_name().to_owned();
        let file = man.join(format!("{name}.1"));
        write_whole(&file, |target| self.render(target))
            .with_context(|| format!("cannot write {}", file.display()))?;
        // A page for each subcommand, to which that of the program refers, and for theirs.
        let shown = |command: &&Command| !command.is_hide_set();
        let mut commands: Vec<&Command> = self.command.get_subcommands().filter(shown).collect();
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().filter(shown));
            let page = command.get_display_name().unwrap_or_default();
            let file = man.join(format!("{page}.1"));
            let command = command.clone().display_name(page.to_owned());
            write_whole(&file, |target| titled(command).render(target))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut self.command, &name, &completions)
                .with_context(|| format!("cannot write completions of {name} for {shell}"))?;
        }
        Ok(())
    }

    fn render(&self, target: &mut dyn Write) -> io::Result<()> {
        let man = titled(self.command.clone());
        man.render_title(target)?;
        man.render_name_section(target)?;
        man.render_synopsis_section(target)?;
        man.render_description_section(target)?;
        man.render_options_section(target)?;
        if self.command.has_subcommands() {
            man.render_subcommands_section(target)?;
        }
        let mut rest = Roff::new();
        for (title, entries) in [("ENVIRONMENT", self.environment), ("FILES", self.files)] {
            if entries.is_empty() {
                continue;
            }
            rest.control("SH", [title]);
            for (name, meaning) in entries {
                rest.control("TP", []);
                rest.text([bold(*name)]);
                rest.text([roman(*meaning)]);
            }
        }
        rest.control("SH", ["EXIT STATUS"]);
        rest.text([roman(self.exit)]);
        rest.control("SH", ["SEE ALSO"]);
        rest.text([roman(self.see_also)]);
        rest.to_writer(target)
    }
}

fn titled(command: Command) -> Man {
    Man::new(command)
        .section("1")
        .manual("GNU Guix")
        .source(concat!("guix-daemon ", env!("CARGO_PKG_VERSION")))
}

/// A reader finds the whole page or none.
fn write_whole(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut contents = Vec::new();
    write(&mut contents)?;
    let unfinished = file.with_extension("new");
    fs::write(&unfinished, contents)?;
    fs::rename(&unfinished, file)
}

//! One man page, and the shell completions, of a program, from its table of options.
//!
//! Shared by `doc/manual.rs` and by `guix-client manual`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
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
    /// Values that the completions offer, by the names of options.
    pub values: &'static [(&'static str, &'static [&'static str])],
}

impl Page {
    /// Writes `man/` and `completions/` in `directory`.
    pub fn write(mut self, directory: &Path) -> Result<()> {
        let (man, completions) = (directory.join("man"), directory.join("completions"));
        for directory in [&man, &completions] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        // There are pages instead.
        self.command = self.command.disable_help_subcommand(true);
        self.command.build();
        let name = self.command.get_name().to_owned();
        let file = man.join(format!("{name}.1"));
        write_whole(&file, |target| self.render(target))?;
        // A page for each subcommand, to which that of the program refers, and for theirs.
        let shown = |command: &&Command| !command.is_hide_set();
        let mut commands: Vec<&Command> = self.command.get_subcommands().filter(shown).collect();
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().filter(shown));
            let page = command.get_display_name().unwrap_or_default();
            let file = man.join(format!("{page}.1"));
            let command = command.clone().display_name(page.to_owned());
            write_whole(&file, |target| titled(command).render(target))?;
        }
        let mut completed = self.completed(&self.command);
        for (shell, file) in [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut completed, &name, &mut script);
            if shell == Shell::Bash {
                script = corrected_bash(&String::from_utf8(script)?, &name)?.into();
            }
            write_whole(&completions.join(file), |target| target.write_all(&script))
                .with_context(|| format!("cannot write completions of {name} for {shell}"))?;
        }
        Ok(())
    }

    /// What shells are to complete: no hidden commands and options, and the known values.
    fn completed(&self, command: &Command) -> Command {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let own = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
        let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let mut completed = Command::new(command.get_name().to_owned())
            .about(command.get_about().cloned().unwrap_or_default())
            .disable_help_subcommand(true)
            .args(shown.filter(own).map(|arg| self.completed_arg(arg)))
            .subcommands(subcommands.map(|subcommand| self.completed(subcommand)));
        if let Some(version) = command.get_version() {
            completed = completed.version(version.to_owned());
        }
        completed
    }

    fn completed_arg(&self, arg: &Arg) -> Arg {
        let mut completed = arg.clone();
        if arg.get_short() == Some('?') {
            // fish takes it for a pattern.
            completed = completed.short(None);
        }
        let long = arg.get_long().unwrap_or_default();
        let value = arg.get_value_names().and_then(<[_]>::first);
        if let Some((_, values)) = self.values.iter().find(|(name, _)| *name == long) {
            return completed.value_parser(PossibleValuesParser::new(*values));
        }
        match value.map(|name| name.as_str()) {
            Some("yes/no") => completed.value_parser(PossibleValuesParser::new(["yes", "no"])),
            Some("DIR") => completed.value_hint(ValueHint::DirPath),
            Some("ROOT" | "SOCKET") => completed.value_hint(ValueHint::FilePath),
            Some("N" | "SECONDS" | "LEVEL" | "MIN" | "FREE" | "SYSTEM" | "GROUP" | "URLS") => {
                completed.value_hint(ValueHint::Other)
            }
            _ => completed,
        }
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

/// The generator's script for bash, without two mistakes: it calls the commands of a program with a
/// dash in its name by two names, and does not know that bash makes three words of `--option=value`.
fn corrected_bash(script: &str, program: &str) -> Result<String> {
    let (name, other) = (
        program.replace('-', "__"),
        program.replace('-', "__subcmd__"),
    );
    let words = "    prev=\"$3\"\n";
    let corrected_words = "    prev=\"$3\"
    if [[ \"${cur}\" == = ]]; then
        cur=\"\"
    elif [[ \"${prev}\" == = && ${COMP_CWORD} -ge 2 ]]; then
        prev=\"${COMP_WORDS[COMP_CWORD-2]}\"
    fi
";
    anyhow::ensure!(
        script.contains(words),
        "the completions of {program} for bash are not as expected"
    );
    let script = script.replacen(words, corrected_words, 1);
    Ok(script.replace(&format!("{other}__subcmd__"), &format!("{name}__subcmd__")))
}

fn titled(command: Command) -> Man {
    Man::new(command)
        .section("1")
        .manual("GNU Guix")
        .source(concat!("guix-daemon ", env!("CARGO_PKG_VERSION")))
}

/// Writes a file, of which a reader finds the whole or nothing.
pub fn write_whole(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let whole = || {
        let mut contents = Vec::new();
        write(&mut contents)?;
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, contents)?;
        fs::rename(&unfinished, file)
    };
    whole().with_context(|| format!("cannot write {}", file.display()))
}

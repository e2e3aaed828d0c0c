//! The modules of every crate, the paths that their code mentions, and where each path leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::fail;
use crate::tokens::{Token, attribute, is_name, skip_item, text, tokens};

/// Imports that lead to each other's modules for ever are given up after so many steps.
const STEPS: usize = 20;

/// A module, whether it has a file of its own or not.
#[derive(Default)]
struct Module {
    parent: Option<usize>,
    /// The crate's root module.
    root: usize,
    file: usize,
    children: BTreeMap<String, usize>,
    /// Paths that `use` brings in, by the name they have here.
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Items that are defined here.
    names: BTreeSet<String>,
}

/// A path in the code of a module.
struct Mention {
    module: usize,
    path: Vec<String>,
    line: usize,
}

/// Where a path leads.
#[derive(Clone, Copy)]
enum Place {
    Module(usize),
    /// An item that the module defines.
    Item(usize),
}

/// A file that imports another: their numbers.
pub type Arrow = (usize, usize);

/// All that was read.
#[derive(Default)]
pub struct Sources {
    top: PathBuf,
    /// Names of files, from the top of the tree.
    pub files: Vec<String>,
    /// The directory of each file's crate.
    pub crate_of: Vec<String>,
    modules: Vec<Module>,
    mentions: Vec<Mention>,
    /// The root module of each library, by the name it has in code.
    libraries: BTreeMap<String, usize>,
    /// The module of each macro, by its crate's root and its name.
    macros: BTreeMap<(usize, String), usize>,
}

impl Sources {
    /// Read the programs and crates of the tree.
    pub fn read(top: &Path) -> Sources {
        let mut sources = Sources {
            top: top.to_owned(),
            ..Sources::default()
        };
        let mut crates: Vec<String> = match fs::read_dir(top.join("crates")) {
            Ok(entries) => entries
                .flatten()
                .filter(|entry| entry.path().join("src/lib.rs").exists())
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
            Err(error) => fail(&format!("crates: {error}")),
        };
        crates.sort();
        for name in crates {
            let root = sources.read_crate(&format!("crates/{name}/src/lib.rs"));
            sources.libraries.insert(name.replace('-', "_"), root);
        }
        let root = sources.read_crate("hook/lib.rs");
        sources.libraries.insert("hook".to_owned(), root);
        for program in ["daemon", "hook", "client", "fetch", "demo"] {
            sources.read_crate(&format!("{program}/main.rs"));
        }
        sources
    }

    /// Every file that imports another, with a line that does it.
    pub fn arrows(&self) -> BTreeMap<Arrow, usize> {
        let mut arrows = BTreeMap::new();
        for Mention { module, path, line } in &self.mentions {
            let here = &self.modules[*module];
            let own = path
                .last()
                .filter(|last| here.imports.get(*last) == Some(path));
            let place = self.resolve(*module, path, own.map(String::as_str), 0);
            if let Some(Place::Module(to) | Place::Item(to)) = place {
                let arrow = (here.file, self.modules[to].file);
                if arrow.0 != arrow.1 {
                    arrows.entry(arrow).or_insert(*line);
                }
            }
        }
        arrows
    }

    fn read_crate(&mut self, root: &str) -> usize {
        let directory = root
            .rsplit_once('/')
            .map_or(".", |(directory, _)| directory);
        let directory = directory.trim_end_matches("/src").to_owned();
        let number = self.modules.len();
        self.read_file(root.to_owned(), None, number, &directory);
        number
    }

    /// Read the file of a module, and those of the modules in it. The module's number is returned.
    fn read_file(
        &mut self,
        file: String,
        parent: Option<usize>,
        root: usize,
        crate_directory: &str,
    ) -> usize {
        let source = match fs::read_to_string(self.top.join(&file)) {
            Ok(source) => source,
            Err(error) => fail(&format!("{file}: {error}")),
        };
        let number = self.modules.len();
        self.modules.push(Module {
            parent,
            root,
            file: self.files.len(),
            ..Module::default()
        });
        self.files.push(file);
        self.crate_of.push(crate_directory.to_owned());
        self.read_items(&tokens(&source), number);
        number
    }

    fn read_items(&mut self, tokens: &[Token], top: usize) {
        // For each brace that is open: the module around it, and whether it is a module's own.
        let mut braces: Vec<(usize, bool)> = Vec::new();
        let (mut module, mut path, mut i) = (top, None, 0);
        let mut handed_on: Vec<(String, Mention)> = Vec::new();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        while i < tokens.len() {
            let outside_items = braces.last().is_none_or(|(_, of_module)| *of_module);
            let before = i.checked_sub(1).map_or("", |before| text(tokens, before));
            match text(tokens, i) {
                "#" => {
                    let attribute = attribute(tokens, i);
                    path = attribute.path.or(path);
                    i = attribute.end;
                    if attribute.test_only {
                        i = skip_item(tokens, i);
                        path = None;
                    }
                    continue;
                }
                "use" if outside_items || matches!(before, ";" | "{" | "}") => {
                    let (end, uses) = read_use(tokens, i + 1);
                    for Use { name, path, line } in uses {
                        if outside_items {
                            self.import(module, &name, &path);
                        }
                        let mention = Mention { module, path, line };
                        if matches!(before, "pub" | ")") {
                            handed_on.push((name, mention));
                        } else {
                            self.mentions.push(mention);
                        }
                    }
                    i = end;
                    continue;
                }
                "mod" if outside_items && text(tokens, i + 2) == ";" => {
                    self.read_child(module, text(tokens, i + 1), path.take());
                }
                "mod" if outside_items && text(tokens, i + 2) == "{" => {
                    braces.push((module, true));
                    module = self.add_inline(module, text(tokens, i + 1));
                    i += 2;
                }
                // Who may see an item: the path after `in` is no import.
                "pub" if text(tokens, i + 1) == "(" && text(tokens, i + 2) == "in" => {
                    while i + 1 < tokens.len() && text(tokens, i) != ")" {
                        i += 1;
                    }
                }
                "{" => braces.push((module, false)),
                "}" => module = braces.pop().map_or(module, |(outer, _)| outer),
                "macro_rules" => {
                    let name = text(tokens, i + 2).to_owned();
                    self.macros
                        .insert((self.modules[module].root, name), module);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static"
                    if outside_items =>
                {
                    self.define(module, text(tokens, i + 1));
                }
                name if is_name(name) && before != "::" => {
                    used.insert(name);
                    if text(tokens, i + 1) == "::" {
                        i = self.read_path(tokens, i, module);
                    }
                }
                _ => {}
            }
            i += 1;
        }
        let used = |name: &String| used.contains(name.as_str());
        let imports = handed_on.into_iter().filter(|(name, _)| used(name));
        self.mentions.extend(imports.map(|(_, mention)| mention));
    }

    fn define(&mut self, module: usize, name: &str) {
        self.modules[module].names.insert(name.to_owned());
    }

    fn read_child(&mut self, module: usize, name: &str, path: Option<String>) {
        let Module { file, root, .. } = self.modules[module];
        let parent = &self.files[file];
        let (directory, stem) = parent.rsplit_once('/').unwrap_or((".", parent));
        let child = match path {
            Some(path) => normalise(&format!("{directory}/{path}")),
            None => {
                let directory = match stem {
                    "main.rs" | "lib.rs" | "mod.rs" => directory,
                    _ => parent.trim_end_matches(".rs"),
                };
                let child = format!("{directory}/{name}.rs");
                if self.top.join(&child).exists() {
                    child
                } else {
                    format!("{directory}/{name}/mod.rs")
                }
            }
        };
        let crate_directory = self.crate_of[file].clone();
        let number = self.read_file(child, Some(module), root, &crate_directory);
        self.modules[module]
            .children
            .insert(name.to_owned(), number);
    }

    fn add_inline(&mut self, parent: usize, name: &str) -> usize {
        let number = self.modules.len();
        let Module { file, root, .. } = self.modules[parent];
        self.modules.push(Module {
            parent: Some(parent),
            root,
            file,
            ..Module::default()
        });
        self.modules[parent]
            .children
            .insert(name.to_owned(), number);
        number
    }

    /// The path in the code at `i`; its last token is returned.
    fn read_path(&mut self, tokens: &[Token], mut i: usize, module: usize) -> usize {
        let line = tokens[i].line;
        let mut path = vec![text(tokens, i).to_owned()];
        while text(tokens, i + 1) == "::" && is_name(text(tokens, i + 2)) {
            path.push(text(tokens, i + 2).to_owned());
            i += 2;
        }
        self.mentions.push(Mention { module, path, line });
        i
    }

    fn import(&mut self, module: usize, name: &str, path: &[String]) {
        let here = &mut self.modules[module];
        match path.split_last() {
            Some((last, directory)) if last == "*" => here.globs.push(directory.to_vec()),
            _ => drop(here.imports.insert(name.to_owned(), path.to_vec())),
        }
    }

    /// Where `path` leads from the module `from`. `own` is the name that this very path is imported
    /// under in `from`, which must not stand for itself.
    fn resolve(
        &self,
        from: usize,
        path: &[String],
        own: Option<&str>,
        steps: usize,
    ) -> Option<Place> {
        if steps > STEPS {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(self.modules[from].root, rest, steps),
            "self" => self.descend(from, rest, steps),
            "super" => {
                let (mut module, mut rest) = (self.modules[from].parent?, rest);
                while let [next, further @ ..] = rest {
                    if next != "super" {
                        break;
                    }
                    (module, rest) = (self.modules[module].parent?, further);
                }
                self.descend(module, rest, steps)
            }
            name => {
                let here = &self.modules[from];
                let imported = own != Some(name) && here.imports.contains_key(name);
                if imported || here.children.contains_key(name) || here.names.contains(name) {
                    return if imported {
                        self.descend(from, path, steps)
                    } else {
                        let child = here.children.get(name);
                        child.map_or(Some(Place::Item(from)), |child| {
                            self.descend(*child, rest, steps)
                        })
                    };
                }
                self.by_glob(from, path, steps).or_else(|| {
                    let root = self.libraries.get(name)?;
                    self.descend(*root, rest, steps)
                })
            }
        }
    }

    /// Where `path` leads inside the module: by way of its modules and of what it re-exports.
    fn descend(&self, module: usize, path: &[String], steps: usize) -> Option<Place> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Place::Module(module));
        };
        let here = &self.modules[module];
        if name == "*" {
            return Some(Place::Module(module));
        }
        let child = here.children.get(name);
        if let Some(import) = here.imports.get(name) {
            if child.is_none() || rest.is_empty() {
                return match self.resolve(module, import, Some(name), steps + 1) {
                    Some(Place::Module(there)) => self.descend(there, rest, steps + 1),
                    // From outside the tree: this module hands it on.
                    None if steps > 0 => Some(Place::Item(module)),
                    found => found,
                };
            }
        }
        if let Some(child) = child {
            return self.descend(*child, rest, steps);
        }
        if here.names.contains(name) {
            return Some(Place::Item(module));
        }
        // An exported macro has the path of its crate's root, wherever it is defined.
        if let Some(there) = self.macros.get(&(module, name.clone())) {
            return Some(Place::Item(*there));
        }
        let found = self.by_glob(module, path, steps);
        Some(found.unwrap_or(Place::Item(module)))
    }

    fn by_glob(&self, module: usize, path: &[String], steps: usize) -> Option<Place> {
        self.modules[module].globs.iter().find_map(|glob| {
            match self.resolve(module, glob, None, steps + 1)? {
                Place::Module(there) if there != module => {
                    let Module {
                        names,
                        imports,
                        children,
                        ..
                    } = &self.modules[there];
                    let name = &path[0];
                    let has = names.contains(name)
                        || imports.contains_key(name)
                        || children.contains_key(name);
                    if has {
                        self.descend(there, path, steps + 1)
                    } else {
                        None
                    }
                }
                _ => None,
            }
        })
    }
}

/// One path of a `use`, and the name that it gets.
struct Use {
    name: String,
    path: Vec<String>,
    line: usize,
}

/// The tree after `use`: the token after its semicolon, and its paths.
fn read_use(tokens: &[Token], start: usize) -> (usize, Vec<Use>) {
    let mut uses = Vec::new();
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut alias = None;
    let mut i = start;
    while i < tokens.len() && (i == start || text(tokens, i - 1) != ";") {
        match text(tokens, i) {
            "::" => {}
            "{" => prefixes.push(std::mem::take(&mut path)),
            "as" => {
                alias = Some(text(tokens, i + 1).to_owned());
                i += 1;
            }
            end @ ("," | "}" | ";") => {
                // After a group, or a comma, there is no path to end.
                if !path.is_empty() {
                    let mut whole = prefixes.concat();
                    whole.append(&mut path);
                    if whole.len() > 1 && whole.last().is_some_and(|last| last == "self") {
                        whole.pop();
                    }
                    let last = whole.last().cloned().unwrap_or_default();
                    uses.push(Use {
                        name: alias.take().unwrap_or(last),
                        path: whole,
                        line: tokens[i - 1].line,
                    });
                }
                if end == "}" {
                    prefixes.pop();
                }
            }
            name => path.push(name.to_owned()),
        }
        i += 1;
    }
    (i, uses)
}

/// A file name without `..`.
fn normalise(file: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in file.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

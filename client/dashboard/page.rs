//! The files of the page, which are part of the program.

/// The name under which each is served, its kind, and what is in it.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/style.css", CSS, include_str!("page/style.css")),
    ("/app.js", SCRIPT, include_str!("page/app.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/log.js", SCRIPT, include_str!("page/log.js")),
    ("/machines.js", SCRIPT, include_str!("page/machines.js")),
    ("/plots.js", SCRIPT, include_str!("page/plots.js")),
    ("/requests.js", SCRIPT, include_str!("page/requests.js")),
    ("/table.js", SCRIPT, include_str!("page/table.js")),
    ("/text.js", SCRIPT, include_str!("page/text.js")),
    ("/work.js", SCRIPT, include_str!("page/work.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The kind and the content of the file with this name.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    let mut files = FILES.into_iter();
    files
        .find(|(name, ..)| *name == path)
        .map(|(_, kind, content)| (kind, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_served() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/client/dashboard/page");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = match name.as_str() {
                "index.html" => "/".to_owned(),
                name => format!("/{name}"),
            };
            assert!(file(&path).is_some(), "{path}");
        }
    }
}

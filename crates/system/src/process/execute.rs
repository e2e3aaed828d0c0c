//! Executing an open file.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::fcntl::AtFlags;

/// Replaces this program by an open file, whose name need not be reachable for this process
/// (`execveat(2)`). Only returns if that fails. An interpreter can't be found in this way: for a
/// script that was opened close-on-exec, as all files are, the error is `ENOENT`.
pub fn execute_file(
    file: &File,
    arguments: &[&OsStr],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> io::Error {
    let variable = |(name, value): (OsString, OsString)| {
        let mut text = name.into_vec();
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        CString::new(text)
    };
    let arguments = arguments.iter().map(|word| CString::new(word.as_bytes()));
    let arguments: Result<Vec<_>, _> = arguments.collect();
    let environment: Result<Vec<_>, _> = environment.into_iter().map(variable).collect();
    match (arguments, environment) {
        (Ok(arguments), Ok(environment)) => {
            let flags = AtFlags::AT_EMPTY_PATH;
            match nix::unistd::execveat(file, c"", &arguments, &environment, flags) {
                Err(error) => error.into(),
                Ok(never) => match never {},
            }
        }
        (Err(error), _) | (_, Err(error)) => error.into(),
    }
}

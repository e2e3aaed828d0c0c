//! Commands that correct something, as far as this machine has the programs for them.

use system::process::find_program;

/// How to install a package.
pub fn install(package: &str) -> String {
    if find_program("apt-get").is_some() {
        format!("apt-get install {package}")
    } else {
        format!("install the package {package}")
    }
}

/// How an ordinary user runs a command as root.
pub fn as_root(command: &str) -> String {
    if find_program("sudo").is_some() {
        format!("sudo {command}")
    } else {
        format!("as root: {command}")
    }
}

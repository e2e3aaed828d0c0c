//! A machine file in each of its forms, evaluated. To be run where there is no `guile`: it would be
//! started for every program that needs it, on a file that does not exist.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&form, data)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = ["/none/machines.scm", "/none/machines.toml", "/none/machines"][usize::from(form % 3)];
    match hook::machines::load_text(Path::new(file), text) {
        Ok(list) => {
            for machine in &list.machines {
                assert!(!machine.name.is_empty());
                let _ = machine.key();
            }
            for problem in &list.problems {
                let _ = problem.to_string();
            }
        }
        Err(error) => _ = error.to_string(),
    }
});

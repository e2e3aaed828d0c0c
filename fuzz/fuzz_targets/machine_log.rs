//! What a build machine says during a build, over each of the two transports. However it arrives, it
//! is understood the same.
#![no_main]

#[path = "../../hook/remote/build_output.rs"]
#[allow(dead_code)]
mod build_output;
#[path = "../../hook/remote/command_log.rs"]
#[allow(dead_code)]
mod command_log;
#[path = "../../hook/remote/daemon_log.rs"]
#[allow(dead_code)]
mod daemon_log;

const DERIVATION: &str = "/gnu/store/x.drv";

/// What bytes from 128 on stand for, so that messages are not only found by luck.
const WORDS: [&str; 20] = [
    DERIVATION,
    "\n",
    "The following derivation will be built:",
    "View build log at '",
    "  ",
    "guix-client build: error: build of `",
    "guix build: error: build of `",
    "Could not find build log for '",
    "successfully built ",
    "building of `",
    "build of ",
    "building ",
    "builder for `",
    "' failed with exit code ",
    " timed out after ",
    "@ build-log 1 ",
    "1",
    "note: build failure may have been caused by lack of free disk space\n",
    "guix-offload-frames secret\n",
    "guix-offload-frames ",
];

fn text(data: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in data {
        match byte.checked_sub(128) {
            Some(word) => text.extend(WORDS[usize::from(word) % WORDS.len()].bytes()),
            None => text.push(*byte),
        }
    }
    text
}

fn command(pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut log = command_log::CommandLog::new(&mut out, DERIVATION);
    for piece in pieces {
        log.write(piece).unwrap();
    }
    log.finish().unwrap();
    out
}

/// Builder output, and everything else that is learned.
type Learned = (Vec<u8>, bool, Option<String>, Option<String>);

fn daemon(pieces: &[&[u8]]) -> Learned {
    let mut out = Vec::new();
    let mut log = daemon_log::DaemonLog::new(&mut out, DERIVATION, true);
    for piece in pieces {
        log.write(piece);
    }
    let (full, remark, last) = (log.disk_full, log.remark.take(), log.last_line.take());
    drop(log);
    (out, full, remark, last)
}

fn either(pieces: &[&[u8]]) -> Learned {
    let mut out = Vec::new();
    let mut log = build_output::BuildOutput::new(&mut out, DERIVATION, "secret");
    for piece in pieces {
        log.write(piece).unwrap();
    }
    let ending = log.finish("").unwrap();
    (out, ending.disk_full, ending.remark, ending.last_line)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (cut, data) = data.split_at(data.len().min(2));
    let text = text(data);
    let cut = cut.iter().fold(0, |cut, byte| cut << 8 | usize::from(*byte));
    let (start, end) = text.split_at(cut.min(text.len()));
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    for pieces in [&[start, end][..], &bytes] {
        assert_eq!(command(&[&text]), command(pieces));
        assert_eq!(daemon(&[&text]), daemon(pieces));
        assert_eq!(either(&[&text]), either(pieces));
    }
    assert!(command(&[&text]).len() <= text.len());
});

//! What a build machine says during a build, over each of the two transports. However a daemon's log
//! arrives, it is the same; that of `guix build` is told apart by its words only, by guessing.
#![no_main]

#[path = "../../hook/remote/command_log.rs"]
#[allow(dead_code)]
mod command_log;
#[path = "../../hook/remote/daemon_log.rs"]
#[allow(dead_code)]
mod daemon_log;

fn command(pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut log = command_log::CommandLog::new(&mut out, "/gnu/store/x.drv");
    for piece in pieces {
        log.write(piece).unwrap();
    }
    log.finish().unwrap();
    out
}

fn daemon(pieces: &[&[u8]]) -> (Vec<u8>, Option<String>) {
    let mut out = Vec::new();
    let mut log = daemon_log::DaemonLog::new(&mut out, "/gnu/store/x.drv", true);
    for piece in pieces {
        log.write(piece);
    }
    let remark = log.remark.take();
    drop(log);
    (out, remark)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (start, end) = data.split_at(data.len() / 2);
    assert!(command(&[data]).len() <= data.len());
    assert!(command(&[start, end]).len() <= data.len());
    assert_eq!(daemon(&[data]), daemon(&[start, end]));
});

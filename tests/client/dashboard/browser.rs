//! A running dashboard, and requests to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::harness::{TEST_TIMEOUT, eventually, wait_for};

/// A running dashboard.
pub struct Dashboard {
    pub child: Child,
    pub address: SocketAddr,
    /// The line that it has printed.
    pub url: String,
}

/// What it answers.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Dashboard {
    /// Starts it on a port that is free.
    pub fn start(fixture: &Fixture) -> Dashboard {
        Dashboard::start_with(fixture, &["--listen=127.0.0.1:0"])
    }

    pub fn start_with(fixture: &Fixture, options: &[&str]) -> Dashboard {
        let words = [&["dashboard"], options].concat();
        let mut command = fixture.command(&words);
        let errors = File::create(fixture.site.path("dashboard-errors")).unwrap();
        Dashboard::of(
            command
                .stdout(Stdio::piped())
                .stderr(errors)
                .spawn()
                .unwrap(),
        )
    }

    /// One that has been started, with a pipe as its standard output.
    pub fn of(mut child: Child) -> Dashboard {
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut url)
            .unwrap();
        let address = url
            .trim_end()
            .strip_prefix("http://")
            .and_then(|url| url.strip_suffix('/'));
        let address = address.unwrap_or_else(|| panic!("it says {url:?}"));
        Dashboard {
            child,
            address: address.parse().unwrap(),
            url: url.trim_end().to_owned(),
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    /// Sends a request as it is, and returns all that is answered.
    pub fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        answer(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "Host: localhost\r\n")
    }

    /// A request with these headers.
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
        ))
    }

    /// The document.
    pub fn farm(&self) -> Value {
        let answer = self.get("/api/v1/farm");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Waits until `is_so` of the document.
    #[track_caller]
    pub fn wait_until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let last = std::cell::RefCell::new(Value::Null);
        let so = eventually(|| {
            *last.borrow_mut() = self.farm();
            is_so(&last.borrow())
        });
        let last = last.into_inner();
        assert!(so, "{last:#}");
        last
    }

    /// Follows events.
    pub fn follow(&self, path: &str) -> Events {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Events {
            head,
            reader,
            text: String::new(),
        }
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.child.id())
    }

    pub fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// Ends it by a signal; it must do so as if it had done its work.
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = wait_for(&mut self.child, TEST_TIMEOUT).expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time of a process.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// All that is answered on a connection.
pub fn answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{read:?}: {:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8(bytes[..end + 2].to_vec())
        .unwrap()
        .to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head,
        body: bytes[end + 4..].to_vec(),
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Events that arrive.
pub struct Events {
    pub head: String,
    reader: BufReader<TcpStream>,
    text: String,
}

impl Events {
    /// The next event's name and data; nothing at the end. Comments are left out.
    pub fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                let (name, data) = (field("event: "), field("data: "));
                match (name, data) {
                    (Some(name), Some(data)) => {
                        return Some((name, serde_json::from_str(&data).unwrap()));
                    }
                    _ => continue,
                }
            }
            // A chunk.
            let mut size = String::new();
            self.reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or(0);
            if size == 0 {
                return None;
            }
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            self.text += std::str::from_utf8(&chunk[..size]).unwrap();
        }
    }

    /// Reads documents until `is_so` of one.
    #[track_caller]
    pub fn wait_until(&mut self, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (name, data) = self.next().expect("more events");
            assert_eq!(name, "farm");
            if is_so(&data) {
                return data;
            }
        }
    }

    /// Reads a log until it contains `text`; returns all that was read.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let mut log = String::new();
        while !log.contains(text) {
            let (name, data) = self.next().unwrap_or_else(|| panic!("no more: {log}"));
            assert_eq!(name, "log", "{log}");
            log += data.as_str().unwrap();
        }
        log
    }
}

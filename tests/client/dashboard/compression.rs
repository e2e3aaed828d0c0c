//! Compression, for those that accept it.

use std::io::{BufRead, BufReader, Read, Write};

use flate2::read::GzDecoder;
use serde_json::Value;

use super::browser::Dashboard;
use crate::fixture::Fixture;

const ACCEPT: &str = "Host: localhost\r\nAccept-Encoding: gzip, deflate, br\r\n";

/// The bytes that follow the head of an answer, whose chunks are put together.
struct Chunks<R> {
    reader: R,
    chunk: Vec<u8>,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunk.is_empty() {
            let mut size = String::new();
            self.reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or(0);
            self.chunk = vec![0; size + 2];
            self.reader.read_exact(&mut self.chunk)?;
            self.chunk.truncate(size);
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk[..count]);
        self.chunk.drain(..count);
        Ok(count)
    }
}

#[test]
fn who_accepts_it_gets_documents_and_events_compressed() {
    let fixture = Fixture::new();
    super::bounds::write_machines(&fixture, 1000);
    let dashboard = Dashboard::start(&fixture);
    let all = |document: &Value| document["machines"].as_array().map(Vec::len) == Some(1000);
    dashboard.wait_until(all);
    let plain = dashboard.get("/api/v1/farm");
    assert!(
        plain.head.contains("vary: accept-encoding\r\n"),
        "{}",
        plain.head
    );
    assert!(!plain.head.contains("content-encoding"), "{}", plain.head);
    let answer = dashboard.ask("GET", "/api/v1/farm", ACCEPT);
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-encoding: gzip\r\n"),
        "{}",
        answer.head
    );
    let document: Value = serde_json::from_reader(GzDecoder::new(&answer.body[..])).unwrap();
    assert!(all(&document));
    assert!(
        answer.body.len() * 5 < plain.body.len(),
        "{} of {}",
        answer.body.len(),
        plain.body.len()
    );
    // What is small, or not ours, is as it is.
    for path in ["/", "/metrics", "/api/v1/log?drv=x"] {
        let answer = dashboard.ask("GET", path, ACCEPT);
        assert!(
            !answer.head.contains("content-encoding"),
            "{path}: {}",
            answer.head
        );
    }
    // Each event can be read when it has come, although the stream goes on.
    let mut stream = dashboard.connect();
    let request = format!("GET /api/v1/events HTTP/1.1\r\n{ACCEPT}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    assert!(
        head.to_lowercase().contains("content-encoding: gzip\r\n"),
        "{head}"
    );
    let chunks = Chunks {
        reader,
        chunk: Vec::new(),
    };
    let mut lines = BufReader::new(GzDecoder::new(chunks)).lines();
    let mut documents = lines.by_ref().filter_map(|line| {
        let document: Value = serde_json::from_str(line.unwrap().strip_prefix("data: ")?).unwrap();
        Some(document)
    });
    assert!(all(&documents.next().unwrap()));
    super::bounds::write_machines(&fixture, 3);
    let few = |document: &Value| document["machines"].as_array().map(Vec::len) == Some(3);
    assert!(documents.any(|document| few(&document)));
    dashboard.stop();
}

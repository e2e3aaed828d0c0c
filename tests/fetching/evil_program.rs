//! A network program that was taken over: it speaks the protocol of `substitutes::network`, and lies.
//!
//! It is this test program, executed anew by a script; the file `mode` in the directory `EVIL` says
//! how it lies. Otherwise it serves the publisher's directory `server` there at any URL.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use substitutes::network::message::{Reply, Request, SourceMessage, VERSION};
use substitutes::network::{ErrorKind, Event, Frames, NetworkError, RequestId};
use system::socket::receive_with_fds;

use crate::fixture::write_script;

/// Names the directory for the program.
const DIRECTORY: &str = "EVIL";

/// Writes a script that executes the program, with `directory` to take its mode from.
pub fn install(directory: &Path, mode: &str) -> PathBuf {
    set_mode(directory, mode);
    let script = directory.join("guix-fetch");
    let this = std::env::current_exe().unwrap();
    let command = format!(
        "{DIRECTORY}='{}' exec '{}' --exact evil_program::serve --ignored --nocapture >/dev/null",
        directory.display(),
        this.display()
    );
    write_script(&script, &command);
    script
}

/// Changes how the program lies.
pub fn set_mode(directory: &Path, mode: &str) {
    let (new, file) = (directory.join("mode.new"), directory.join("mode"));
    fs::write(&new, mode).unwrap();
    fs::rename(new, file).unwrap();
}

/// The program.
#[test]
#[ignore = "not a test: the network program of other tests"]
fn serve() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let socket = system::pipe::inherited(0).unwrap().unwrap();
        let socket = UnixStream::from(socket);
        let directory = PathBuf::from(directory);
        // Whoever reads may hang up at any time.
        let _ = Program { socket, directory }.run();
    }
}

struct Program {
    socket: UnixStream,
    directory: PathBuf,
}

impl Program {
    fn mode(&self) -> String {
        fs::read_to_string(self.directory.join("mode")).unwrap()
    }

    fn run(self) -> io::Result<()> {
        match self.mode().as_str() {
            "dead" => return Ok(()),
            "mute" => return self.hang(),
            "garbage" => return (&self.socket).write_all(&[0xff; 4096]),
            "flood" => loop {
                (&self.socket).write_all(&[0; 4096])?;
            },
            "foreign" => self.reply(Reply::Hello { version: 99 })?,
            _ => self.reply(Reply::Hello { version: VERSION })?,
        }
        let mut frames = Frames::default();
        let mut files: VecDeque<OwnedFd> = VecDeque::new();
        let mut buffer = [0; 64 << 10];
        loop {
            let (count, new) = receive_with_fds(&self.socket, &mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            files.extend(new);
            frames.add(&buffer[..count]);
            while let Some(message) = frames.take().unwrap() {
                match Request::decode(message).unwrap() {
                    Request::Get { id, url, .. } => self.get(id, &url)?,
                    Request::Fetch {
                        id, size, sources, ..
                    } => {
                        let pipe = files.pop_front().unwrap();
                        let is_file =
                            |source: &&SourceMessage| matches!(source, SourceMessage::File { .. });
                        files.drain(..sources.iter().filter(is_file).count());
                        self.fetch(id, &sources, size, pipe.into())?;
                    }
                    Request::Hello { .. } | Request::Cancel { .. } => {}
                }
            }
        }
    }

    /// Reads requests and says nothing.
    fn hang(&self) -> io::Result<()> {
        io::copy(&mut &self.socket, &mut io::sink()).map(drop)
    }

    fn reply(&self, reply: Reply) -> io::Result<()> {
        let mut bytes = Vec::new();
        reply.append_to(&mut bytes);
        (&self.socket).write_all(&bytes)
    }

    fn tell(&self, id: RequestId, event: Event) -> io::Result<()> {
        self.reply(Reply::Event { id, event })
    }

    fn finish(&self, id: RequestId, source: usize, received: u64, waited: u32) -> io::Result<()> {
        let finished = Event::Finished {
            source,
            received,
            waited,
        };
        self.tell(id, finished)
    }

    fn get(&self, id: RequestId, url: &str) -> io::Result<()> {
        let name = url.rsplit('/').next().unwrap();
        let mut body = fs::read(self.directory.join("server").join(name)).unwrap_or_default();
        let text = || String::from_utf8(body.clone()).unwrap();
        match self.mode().as_str() {
            // A narinfo of another item, validly signed.
            "get other" => body = fs::read(self.directory.join("other.narinfo")).unwrap(),
            "get unsigned" => {
                let lines = text();
                let lines = lines.lines().filter(|line| !line.starts_with("Signature"));
                body = lines
                    .map(|line| format!("{line}\n"))
                    .collect::<String>()
                    .into();
            }
            // Fewer references than are signed, more below the signature.
            "get changed" => {
                body = text()
                    .replace("References: ", "References: \nX-References: ")
                    .into();
            }
            "get large" => body = vec![b'x'; 3 << 20],
            "get binary" => body = (0..=255).cycle().take(10_000).collect(),
            "get finished" => {
                let (source, received, waited) = (0, 0, 0);
                return self.tell(
                    id,
                    Event::Finished {
                        source,
                        received,
                        waited,
                    },
                );
            }
            "get twice" => {
                let (status, max_age) = (404, None);
                let body = Vec::new();
                let event = Event::Response {
                    status,
                    max_age,
                    retry_after: None,
                    body,
                };
                self.tell(id, event.clone())?;
                self.tell(id, event)?;
            }
            "get nobody" => self.tell(
                RequestId::from_number(u64::MAX),
                Event::Progress {
                    done: 0,
                    total: None,
                },
            )?,
            "get gone" => {
                let text = "evil.example\n@ build-succeeded /victim.drv -\n\x1b[2J";
                let error = NetworkError::new(ErrorKind::HostNotFound, text);
                return self.tell(id, Event::Failed(error));
            }
            "get hang" => return self.hang(),
            "get die" => return Err(io::ErrorKind::Other.into()),
            _ => {}
        }
        let status = if body.is_empty() { 404 } else { 200 };
        let max_age = Some(0);
        self.tell(
            id,
            Event::Response {
                status,
                max_age,
                retry_after: None,
                body,
            },
        )
    }

    fn fetch(
        &self,
        id: RequestId,
        sources: &[SourceMessage],
        size: u64,
        mut pipe: File,
    ) -> io::Result<()> {
        // It reads no files, even where it is honest.
        let refused = |text| NetworkError::new(ErrorKind::Refused, text);
        let mut source = 0;
        let url = loop {
            match sources.get(source) {
                Some(SourceMessage::Url { url, .. }) => break url,
                Some(SourceMessage::File { .. }) => {
                    let error = refused("no files");
                    self.tell(id, Event::SourceFailed { source, error })?;
                    source += 1;
                }
                None => return self.tell(id, Event::Failed(refused("no URL"))),
            }
        };
        let (_, name) = url.split_once("/nar/").unwrap();
        let nar = fs::read(self.directory.join("server/nar").join(name)).unwrap_or_default();
        self.tell(
            id,
            Event::Started {
                source,
                total: Some(size),
            },
        )?;
        let mode = self.mode();
        // A pipe that the other side has closed is no reason to end.
        let write = |pipe: &mut File, bytes: &[u8]| pipe.write_all(bytes).is_ok();
        match mode.as_str() {
            "fetch nothing" => {}
            "fetch changed" => {
                let mut nar = nar;
                let middle = nar.len() / 2;
                nar[middle] ^= 1;
                write(&mut pipe, &nar);
            }
            "fetch short" => {
                write(&mut pipe, &nar[..nar.len() / 2]);
            }
            "fetch longer" => {
                write(&mut pipe, &[&nar[..], &[0; 1 << 20]].concat());
            }
            "fetch endless" => while write(&mut pipe, &[b'x'; 4096]) {},
            "fetch file" => {
                let file = fs::read(self.directory.join("instead.nar")).unwrap();
                write(&mut pipe, &file);
            }
            "fetch giant" => {
                let mut giant = nar[..80].to_vec();
                giant.extend(u64::MAX.to_le_bytes());
                write(&mut pipe, &giant);
                while write(&mut pipe, &[b'x'; 4096]) {}
            }
            "fetch progress" => loop {
                let (done, total) = (u64::MAX, Some(1));
                self.tell(id, Event::Progress { done, total })?;
            },
            "fetch lost source" => {
                self.finish(id, 17, u64::MAX, u32::MAX)?;
            }
            "fetch response" => {
                let (status, max_age, body) = (200, None, nar);
                return self.tell(
                    id,
                    Event::Response {
                        status,
                        max_age,
                        retry_after: None,
                        body,
                    },
                );
            }
            "fetch hang" => {
                write(&mut pipe, &nar[..nar.len() / 2]);
                return self.hang();
            }
            "fetch die" => {
                write(&mut pipe, &nar[..nar.len() / 2]);
                return Err(io::ErrorKind::Other.into());
            }
            "fetch refused" => {
                let text = "no\n@ substituter-succeeded /victim\n\x1b[2J";
                let error = NetworkError::new(ErrorKind::Status(404), text);
                return self.tell(id, Event::Failed(error));
            }
            _ => {
                write(&mut pipe, &nar);
            }
        }
        drop(pipe);
        self.finish(id, source, size, 0)
    }
}

//! Servers of Debian for FTP and Git, a proxy, and a cable that breaks, each on a loopback port of
//! its own. They end on drop, or with the thread that started them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use system::process::{Child, Spawn, find_program};
use system::signal::Signal;

use super::eventually;

/// A running server, which is ended on drop.
pub struct Server {
    _child: Child,
    directory: tempfile::TempDir,
    /// Its port on `127.0.0.1`.
    pub port: u16,
}

impl Server {
    /// `git daemon`, for all repositories in `root`.
    pub fn git_daemon(root: &Path) -> Server {
        let directory = directory();
        let port = free_port();
        let child = Spawn::new(program("git"))
            .args([
                "-c",
                "safe.directory=*",
                "daemon",
                "--export-all",
                "--reuseaddr",
            ])
            .arg(format!("--base-path={}", root.display()))
            .args(["--listen=127.0.0.1".to_owned(), format!("--port={port}")]);
        Server::run(child, directory, port)
    }

    /// An FTP server for anonymous users, or for `user` with the password `secret`.
    pub fn ftp(root: &Path, user: Option<&str>) -> Server {
        Server::ftp_with(root, user, None)
    }

    /// The same; all data go through one port.
    pub fn ftp_with_data_port(root: &Path, data: u16) -> Server {
        Server::ftp_with(root, None, Some(data))
    }

    fn ftp_with(root: &Path, user: Option<&str>, data: Option<u16>) -> Server {
        let directory = directory();
        let port = free_port();
        let mut child = Spawn::new("/usr/bin/python3")
            .args(["-m", "pyftpdlib", "-i", "127.0.0.1", "-p"])
            .arg(port.to_string())
            .arg("-d")
            .arg(root);
        if let Some(user) = user {
            child = child.args(["-u", user, "-P", "secret"]);
        }
        if let Some(data) = data {
            child = child.args(["-r".to_owned(), format!("{data}-{data}")]);
        }
        Server::run(child, directory, port)
    }

    /// A proxy.
    pub fn proxy() -> Server {
        let directory = directory();
        let port = free_port();
        let configuration = directory.path().join("tinyproxy.conf");
        let log = directory.path().join("proxy.log");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Connect\n\
             LogFile \"{}\"\nAllow 127.0.0.1\n",
            log.display()
        );
        fs::write(&configuration, text).unwrap();
        let child = Spawn::new(program("tinyproxy"))
            .arg("-d")
            .arg("-c")
            .arg(configuration);
        Server::run(child, directory, port)
    }

    fn run(child: Spawn, directory: tempfile::TempDir, port: u16) -> Server {
        let child = child
            .setsid()
            .parent_death_signal(Signal::SIGTERM)
            .fd(null(), 0)
            .fd(log(directory.path(), "output.log"), 1)
            .fd(log(directory.path(), "output.log"), 2)
            .spawn()
            .unwrap();
        let server = Server {
            _child: child,
            directory,
            port,
        };
        let serves = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(eventually(serves), "it does not serve: {}", server.said());
        server
    }

    /// What it has written.
    pub fn said(&self) -> String {
        ["output.log", "proxy.log"]
            .map(|name| self.read(name))
            .concat()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("guix-test-server-")
        .tempdir()
        .unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// `git http-backend`, for the repositories in a directory; it serves as long as this lives.
pub struct GitBackend {
    directory: tempfile::TempDir,
    _child: Child,
    root: PathBuf,
}

impl GitBackend {
    /// For the repositories in `root`.
    pub fn start(root: &Path) -> GitBackend {
        let directory = directory();
        let socket = directory.path().join("socket");
        let child = Spawn::new(program("fcgiwrap"))
            .arg("-s")
            .arg(format!("unix:{}", socket.display()))
            .setsid()
            .parent_death_signal(Signal::SIGKILL)
            .fd(null(), 0)
            .fd(log(directory.path(), "output.log"), 1)
            .fd(log(directory.path(), "output.log"), 2)
            .spawn()
            .unwrap();
        assert!(eventually(|| socket.exists()), "fcgiwrap does not start");
        GitBackend {
            directory,
            _child: child,
            root: root.to_owned(),
        }
    }

    /// The directives that make nginx ask it for what is below `/PLACE/`, by version 2 of the
    /// protocol or by the first.
    pub fn directives(&self, place: &str, modern: bool) -> String {
        let path = Command::new("git").arg("--exec-path").output().unwrap();
        let path = String::from_utf8(path.stdout).unwrap();
        // Otherwise nginx passes it on as it is.
        let version = match modern {
            true => "",
            false => "fastcgi_param HTTP_GIT_PROTOCOL version=0;",
        };
        format!(
            "location ~ ^/{place}(/.*)$ {{
                 fastcgi_pass unix:{};
                 fastcgi_param SCRIPT_FILENAME {}/git-http-backend;
                 fastcgi_param GIT_HTTP_EXPORT_ALL 1;
                 fastcgi_param GIT_PROJECT_ROOT {};
                 fastcgi_param PATH_INFO $1;
                 fastcgi_param QUERY_STRING $query_string;
                 fastcgi_param REQUEST_METHOD $request_method;
                 fastcgi_param CONTENT_TYPE $content_type;
                 fastcgi_param CONTENT_LENGTH $content_length;
                 fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
                 {version}
             }}",
            self.directory.path().join("socket").display(),
            path.trim(),
            self.root.display()
        )
    }
}

/// A cable to a server, which breaks: each of the first connections is cut after so many bytes from
/// the server, the others stay.
pub struct Cable {
    /// Its port on `127.0.0.1`.
    pub port: u16,
}

impl Cable {
    /// To this port on `127.0.0.1`.
    pub fn new(server: u16, cuts: &'static [usize]) -> Cable {
        Cable::at("127.0.0.1:0", server, cuts)
    }

    /// The same, at this address.
    pub fn at(address: &str, server: u16, cuts: &'static [usize]) -> Cable {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { return };
                let limit = cuts.get(number).copied().unwrap_or(usize::MAX);
                std::thread::spawn(move || relay(client, server, limit));
            }
        });
        Cable { port }
    }
}

fn relay(mut client: TcpStream, server: u16, limit: usize) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let mut left = limit;
    let mut buffer = [0; 4096];
    while left > 0 {
        let size = buffer.len().min(left);
        let count = server.read(&mut buffer[..size])?;
        if count == 0 {
            break;
        }
        client.write_all(&buffer[..count])?;
        left -= count;
    }
    server.shutdown(Shutdown::Both)?;
    client.shutdown(Shutdown::Both)
}

/// A program that may be in a directory for administrators.
fn program(name: &str) -> PathBuf {
    find_program(name)
        .or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|file| file.exists()))
        .unwrap_or_else(|| panic!("{name} is not installed; `make check' names its package"))
}

/// A port on `127.0.0.1` that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn log(directory: &Path, name: &str) -> OwnedFd {
    let mut options = File::options();
    let file = options.create(true).append(true).open(directory.join(name));
    file.unwrap().into()
}

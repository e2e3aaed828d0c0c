//! A real web server, nginx, on a free port of the loopback device.
//!
//! ```ignore
//! let server = WebServer::start(&directory);               // HTTP/1.1
//! let server = WebServer::with(&directory, Protocol::Http2, "limit_rate 100k;");
//! server.url("nix-cache-info");
//! server.log();                                            // what it was asked for
//! ```

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use system::process::{Child, Spawn, find_program};

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over TCP.
    Http,
    /// HTTP/1.1 over TLS, with a certificate that nobody has signed.
    Https,
    /// HTTP/2 (or 1.1) over TLS.
    Http2,
}

/// A running nginx, which is killed on drop, and ends with the thread that started it.
pub struct WebServer {
    address: String,
    own: tempfile::TempDir,
    _child: Child,
}

impl WebServer {
    /// Serves the files of a directory.
    pub fn start(root: &Path) -> WebServer {
        WebServer::with(root, Protocol::Http, "")
    }

    /// The same, with directives of nginx for the `server` block.
    pub fn with(root: &Path, protocol: Protocol, directives: &str) -> WebServer {
        let own = tempfile::Builder::new()
            .prefix("guix-test-nginx-")
            .tempdir()
            .unwrap();
        // nginx takes over a socket that listens already, so that the port is its own, and clients
        // may connect at once.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (scheme, listen) = match protocol {
            Protocol::Http => ("http", ""),
            Protocol::Https => ("https", "ssl"),
            Protocol::Http2 => ("https", "ssl http2"),
        };
        let mut server = String::new();
        if protocol != Protocol::Http {
            make_certificate(own.path());
            server.push_str("ssl_certificate cert.pem; ssl_certificate_key key.pem;\n");
        }
        server.push_str(directives);
        let mut configuration = String::new();
        if nix::unistd::geteuid().is_root() {
            configuration.push_str("user root;\n");
        }
        write!(
            configuration,
            "daemon off; worker_processes 1; pid pid; error_log error.log;
             worker_rlimit_nofile 4096;
             events {{ worker_connections 2048; }}
             http {{
                 log_format asked '$connection $server_protocol $request_method $request_uri '
                                  '$status $body_bytes_sent range=$http_range '
                                  'authorization=$http_authorization agent=$http_user_agent '
                                  'encoding=$http_accept_encoding cookie=$http_cookie';
                 access_log access.log asked;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 keepalive_requests 100000;
                 default_type application/octet-stream;
                 server {{
                     listen 127.0.0.1:{port} {listen};
                     root {root};
                     {server}
                 }}
             }}\n",
            root = root.canonicalize().unwrap().display(),
        )
        .unwrap();
        fs::write(own.path().join("nginx.conf"), configuration).unwrap();
        fs::write(own.path().join("access.log"), "").unwrap();
        let child = Spawn::new(nginx())
            .args(["-p"])
            .arg(own.path().as_os_str().to_owned())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .env("NGINX", "3;")
            .fd(listener, 3)
            .fd(fs::File::create(own.path().join("output")).unwrap(), 1)
            .fd(fs::File::create(own.path().join("messages")).unwrap(), 2)
            .setsid()
            .parent_death_signal(Signal::SIGTERM)
            .spawn()
            .unwrap_or_else(|error| panic!("nginx: {error}"));
        WebServer {
            address: format!("{scheme}://127.0.0.1:{port}"),
            own,
            _child: child,
        }
    }

    /// The address, without a slash at the end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a file below the directory.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// A line for each request that was answered: the number of the connection, the protocol, method,
    /// path, status, number of bytes of the body, and headers by name.
    pub fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.own.path().join("access.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// How many connections have brought the requests that were answered.
    pub fn connections(&self) -> usize {
        let numbers = self.log();
        let numbers = numbers.iter().map(|line| line.split(' ').next());
        numbers.collect::<std::collections::BTreeSet<_>>().len()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["messages", "error.log"] {
                let text = fs::read_to_string(self.own.path().join(name)).unwrap_or_default();
                eprintln!("--- nginx, {name}:\n{text}---");
            }
        }
    }
}

fn nginx() -> PathBuf {
    let found = find_program("nginx").filter(|found| found.exists());
    found.unwrap_or_else(|| "/usr/sbin/nginx".into())
}

/// Makes `cert.pem` and `key.pem` in a directory.
fn make_certificate(directory: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{output:?}");
}

//! A headless Chromium, driven through chromedriver by the WebDriver protocol (HTTP and JSON), with a home
//! directory of its own. Everything that it starts ends with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system::process::{Child, Spawn, find_program};

use crate::harness::{TEST_TIMEOUT, eventually, skip};

/// Keys, as WebDriver names them.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";

/// What is told to every page before its own scripts: [`Browser::console`] also has what no log shows, and pages
/// can be given farms that no server has.
const BEFORE: &str = include_str!("chromium.js");

/// A browser with one window.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    home: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None`, and the test is skipped, if there is none on this machine.
    pub fn start() -> Option<Browser> {
        for program in ["chromium", "chromedriver"] {
            if find_program(program).is_none() {
                skip(&format!(
                    "needs {program} (Debian: chromium, chromium-driver)"
                ));
                return None;
            }
        }
        let home = tempfile::Builder::new().prefix("guix-browser-").tempdir();
        let home = home.unwrap();
        let driver = driver(home.path());
        let port = port_of(home.path());
        let mut browser = Browser {
            driver,
            port,
            session: String::new(),
            home,
        };
        browser.open_session();
        Some(browser)
    }

    fn open_session(&mut self) {
        let mut arguments = vec![
            "--headless=new".to_owned(),
            format!(
                "--user-data-dir={}",
                self.home.path().join("profile").display()
            ),
            "--window-size=1280,900".to_owned(),
        ];
        let plain = [
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            // Nothing but the test's own servers can be reached.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        arguments.extend(plain.map(str::to_owned));
        if nix::unistd::geteuid().is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = self.ask("POST", "/session", &capabilities);
        session["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut self.session);
        self.devtools("Page.enable", &json!({}));
        self.devtools(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({"source": BEFORE}),
        );
    }

    /// Opens a page, and waits until it is loaded.
    pub fn open(&self, address: &str) {
        self.command("/url", &json!({"url": address}));
    }

    /// What the body of a function of JavaScript returns; in it, `input` is this value.
    #[track_caller]
    pub fn run_with(&self, body: &str, input: &Value) -> Value {
        let script = format!("const input = arguments[0]; {body}");
        self.command("/execute/sync", &json!({"script": script, "args": [input]}))
    }

    /// The value of an expression of JavaScript.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.run_with(&format!("return {expression};"), &Value::Null)
    }

    /// The text that an element shows; empty if there is none like this.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let body = "return document.querySelector(input)?.innerText ?? ''";
        let value = self.run_with(body, &selector.into());
        value.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait_until(&self, expression: &str) {
        let holds = || self.value(expression) == true;
        assert!(
            eventually(holds),
            "never: {expression}\n{}",
            self.text("body")
        );
    }

    /// Waits until an element shows this text.
    #[track_caller]
    pub fn wait_for_text(&self, selector: &str, text: &str) {
        let shows = || self.text(selector).contains(text);
        assert!(
            eventually(shows),
            "{selector} never shows `{text}':\n{}\nconsole: {:?}",
            self.text("body"),
            self.console()
        );
    }

    /// Types keys: text, or constants of this module.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        let source = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.command("/actions", &json!({"actions": [source]}));
    }

    /// Makes it a screen of this many pixels; a telephone's, or not.
    pub fn resize(&self, width: u32, height: u32, telephone: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": telephone});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Has it prefer `dark` colours, or `light` ones.
    pub fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// What the browser has complained of since this was last asked.
    pub fn console(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({"type": "browser"}));
        let mut all: Vec<String> = (entries.as_array().unwrap().iter())
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect();
        let errors = self.value("window.testErrors.splice(0)");
        all.extend(errors.as_array().unwrap().iter().map(Value::to_string));
        all
    }

    /// Writes a picture of what is seen to a file.
    pub fn picture(&self, file: &Path) {
        let answer = self.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        let text = answer["data"].as_str().unwrap();
        let bytes = data_encoding::BASE64.decode(text.as_bytes());
        fs::write(file, bytes.unwrap()).unwrap();
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.command("/goog/cdp/execute", &body)
    }

    /// A command of the session.
    #[track_caller]
    fn command(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        match exchange(self.port, method, path, body) {
            Ok((200, value)) => value,
            other => panic!("{method} {path} {body}: {other:?}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        let _ = exchange(self.port, "DELETE", &path, &json!({}));
        let _ = self.driver.kill_group();
        let _ = self.driver.wait();
        // A browser makes groups of its own.
        let is_over = || {
            let left = processes_of(self.home.path());
            for process in &left {
                let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
            }
            left.is_empty()
        };
        if !eventually(is_over) {
            eprintln!("the browser does not end");
        }
    }
}

/// Starts the driver, which takes a port that is free.
fn driver(home: &Path) -> Child {
    let find = |name| find_program(name).unwrap();
    let mut spawn = match nix::unistd::geteuid().is_root() {
        // All that it starts ends with it, and it ends with us, even if we are killed.
        true => Spawn::new(find("unshare"))
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(find("chromedriver")),
        false => Spawn::new(find("chromedriver")),
    };
    spawn = spawn.arg("--port=0").env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        spawn = spawn.env("PATH", path);
    }
    spawn
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("LC_ALL", "C.UTF-8")
        .fd(File::open("/dev/null").unwrap(), 0)
        .fd(File::create(home.join("output")).unwrap(), 1)
        .fd(File::create(home.join("messages")).unwrap(), 2)
        .setsid()
        .parent_death_signal(Signal::SIGKILL)
        .spawn()
        .unwrap()
}

/// The port that the driver says it has chosen.
fn port_of(home: &Path) -> u16 {
    let port = || {
        let said = fs::read_to_string(home.join("output")).unwrap_or_default();
        let (_, rest) = said.split_once("started successfully on port ")?;
        let (port, _) = rest.split_once('.')?;
        port.parse().ok()
    };
    assert!(
        eventually(|| port().is_some()),
        "chromedriver does not start"
    );
    port().unwrap()
}

/// The processes with this home directory.
fn processes_of(home: &Path) -> Vec<i32> {
    let variable = format!("HOME={}", home.display()).into_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process: &i32| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|one| one == variable)
        })
        .collect()
}

/// Asks the driver: the status of the answer, and its value.
fn exchange(port: u16, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    let deadline = Instant::now() + 2 * TEST_TIMEOUT;
    let body = match method {
        "POST" => body.to_string(),
        _ => String::new(),
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(deadline - Instant::now()))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut length = None;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().ok();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut text = Vec::new();
    reader
        .take(length.unwrap_or(u64::MAX))
        .read_to_end(&mut text)?;
    let mut answer: Value = serde_json::from_slice(&text)?;
    Ok((status.unwrap_or(0), answer["value"].take()))
}

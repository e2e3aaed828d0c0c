//! A headless Chromium, driven through chromedriver by the WebDriver protocol (HTTP and JSON), with a home
//! directory of its own. Everything that it starts ends with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

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
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|at| at.join(program).exists())
            });
            if !found {
                skip(&format!(
                    "needs {program} (Debian: chromium, chromium-driver)"
                ));
                return None;
            }
        }
        let home = tempfile::Builder::new().prefix("guix-browser-").tempdir();
        let home = home.unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env_remove("DISPLAY")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = port_of(&mut driver);
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
        let group = Pid::from_raw(self.driver.id().try_into().unwrap());
        let _ = killpg(group, Signal::SIGKILL);
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

/// The port that the driver says it has chosen.
fn port_of(driver: &mut Child) -> u16 {
    let mut output = BufReader::new(driver.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert!(
            output.read_line(&mut line).unwrap() > 0,
            "chromedriver ends"
        );
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            // It must be able to go on writing.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return port.trim().trim_end_matches('.').parse().unwrap();
        }
    }
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

//! A real Chromium without a window, steered by the DevTools protocol over two pipes: no port, no driver.
//!
//! <https://chromedevtools.github.io/devtools-protocol/>; over pipes, a message ends with NUL.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::env::{DEADLINE, TestEnv, wait_until};

/// As distributions call it.
const PROGRAMS: [&str; 5] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/chrome",
    "/usr/bin/google-chrome",
    "/usr/bin/chromium-headless-shell",
];

/// A browser starts slowly where others work.
const PATIENCE: Duration = DEADLINE.saturating_mul(4);

/// The program; without, on Debian the test fails, and elsewhere it says that it is skipped.
pub fn program() -> Option<&'static str> {
    let found = PROGRAMS.into_iter().find(|program| Path::new(program).exists());
    if found.is_none() {
        let text = "Chromium is missing; on Debian: apt-get install chromium";
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        // Ubuntu's package of that name is only a link to an app store.
        assert!(!system.lines().any(|line| line == "ID=debian"), "{text}");
        eprintln!("SKIPPED: {text}");
    }
    found
}

/// A browser with one page. Dropping it ends it, and all that it started.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last: u64,
    /// What the page did and said, in order.
    events: Vec<Value>,
}

impl Browser {
    pub fn start(env: &TestEnv, program: &str) -> Self {
        let profile = env.path().join("chromium");
        // It talks on descriptors 3 and 4, and says a lot on standard error.
        let mut command = env.command("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>"$LOG""#, program]);
        command.env("LOG", env.path().join("chromium.log"));
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]);
        // It has to start as root, in containers, and with little shared memory; it visits our own page alone.
        command.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let (commands, replies) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(replies).split(0).map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = send.send(serde_json::from_slice(&message).unwrap());
            }
        });
        let mut browser = Self { child, commands, messages, session: String::new(), last: 0, events: Vec::new() };
        browser.attach();
        browser
    }

    fn attach(&mut self) {
        let target = self.ask("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let session = self.ask("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        session["sessionId"].as_str().unwrap().clone_into(&mut self.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.ask(&format!("{domain}.enable"), json!({}));
        }
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = self.session.as_str().into();
        }
        let mut text = command.to_string().into_bytes();
        text.push(0);
        self.commands.write_all(&text).unwrap();
        let start = Instant::now();
        loop {
            let mut message = match self.messages.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the browser ended before it answered {method}"),
            };
            if message["id"] == self.last {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// A window of this size, of a phone where it is narrow.
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.ask("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the user prefers, such as (`prefers-color-scheme`, `dark`).
    pub fn prefer(&mut self, name: &str, value: &str) {
        self.ask("Emulation.setEmulatedMedia", json!({"features": [{"name": name, "value": value}]}));
    }

    pub fn open(&mut self, url: &str) {
        let loaded = self.ask("Page.navigate", json!({"url": url}));
        assert_eq!(loaded["errorText"], Value::Null, "{url}");
    }

    /// The value of an expression in the page; promises are waited for.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let how = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.ask("Runtime.evaluate", how);
        assert_eq!(result["exceptionDetails"], Value::Null, "{expression}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        wait_until(&format!("{expression} holds in the page"), || {
            self.evaluate(&format!("Boolean(document.body) && Boolean({expression})")) == true
        });
    }

    /// What the page complained of: errors of its program and of loading, and violations of its policy.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was said before this answer is here after it.
        self.evaluate("0");
        let bad = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Log.entryAdded") => event["params"]["entry"]["level"] != "verbose",
            _ => false,
        };
        self.events.iter().filter(bad).map(Value::to_string).collect()
    }

    /// What the page asked for over the network.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// The whole page as a PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let how = json!({"format": "png", "captureBeyondViewport": true});
        from_base64(self.ask("Page.captureScreenshot", how)["data"].as_str().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The group has the process's own number; it fails only where all of it ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<_> = text.chars().map_while(|c| DIGITS.find(c)).collect();
    let group = |digits: &[usize]| {
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | *digit as u32) << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[test]
fn base64_is_read() {
    assert_eq!(
        [from_base64("Zm9vYg=="), from_base64("Zm9vYmE="), from_base64("Zm9vYmFy")],
        [&b"foob"[..], b"fooba", b"foobar"]
    );
}

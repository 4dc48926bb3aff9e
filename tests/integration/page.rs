//! The page of a running archiver in a real browser.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::observe::address;
use super::watch::embedded_command;
use crate::support::browser::{self, Browser};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, wait_until, write};

/// Names that would be markup, would turn the text around or would steer a terminal.
const MARKUP: &str = "<img src=x onerror=\"window.pwned=1\">.csv";
const TURNED: &str = "a\u{202e}vsc.exe\u{1b}[31m\nsecond line.csv";
const TURNED_SHOWN: &str = r"a\u{202e}vsc.exe\x1b[31m\nsecond line.csv";
const FAILING: &str = "<svg onload=window.pwned=1> & \"quotes\".csv";

/// A watch of `local/`, and where it is looked at.
pub struct Watched {
    pub running: Running,
    pub address: SocketAddr,
}

/// Watches with `--metrics`; its watches stand when this returns.
#[track_caller]
pub fn watched<'a>(env: &TestEnv, server: &Embedded, arguments: impl IntoIterator<Item = &'a str>) -> Watched {
    let mut command = embedded_command(env, server, ["--metrics=127.0.0.1:0"]);
    let mut running = Running::start(command.args(arguments));
    let address = address(&mut running);
    running.expect_line("watching");
    Watched { running, address }
}

/// A watch with two archived files, files that wait for their markers, and one whose name is taken.
struct Site {
    // In the order in which they have to end.
    browser: Browser,
    running: Running,
    url: String,
    _server: Embedded,
    env: TestEnv,
}

impl Site {
    fn start(env: TestEnv, program: &str) -> Self {
        let server = Embedded::start(&env);
        let local = env.local();
        for name in ["one.csv", "two.csv", FAILING] {
            marked(&local, name);
        }
        write(&env.remote(), Path::new("there").join(FAILING), "somebody else's");
        for name in [MARKUP, TURNED, &"n".repeat(240)] {
            write(&local, name, "waits");
        }
        write(&local, OsStr::from_bytes(b"caf\xe9.csv"), "waits");
        let options = ["--marker={name}.done", "--layout=there", "--on-conflict=fail", "--retries=1"];
        let Watched { running, address } = watched(&env, &server, options);
        let url = format!("http://{address}/");
        let browser = Browser::start(&env, program);
        Self { browser, running, url, _server: server, env }
    }

    fn open(&mut self) {
        self.browser.open(&self.url);
        self.browser.wait_for("document.body.dataset.state === 'ready'");
        // The first answers may come while files are still on their way.
        self.browser
            .wait_for("archived.textContent === '2' && failed.textContent === '1' && waiting.textContent === '4'");
    }

    /// The texts of all cells of a table.
    #[track_caller]
    fn table(&mut self, id: &str) -> Vec<Vec<String>> {
        let rows =
            format!("[...document.querySelectorAll('#{id} tr')].map(tr => [...tr.cells].map(td => td.textContent))");
        serde_json::from_value(self.browser.evaluate(&rows)).unwrap()
    }

    /// Keeps what it looks like below `target/`, for people.
    fn picture(&mut self, name: &str) {
        let picture = self.browser.picture();
        assert!(picture.starts_with(b"\x89PNG"));
        write(Path::new(env!("CARGO_TARGET_TMPDIR")), format!("page/{name}.png"), picture);
    }

    #[track_caller]
    fn assert_no_complaints(&mut self) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

fn marked(root: &Path, name: &str) {
    write(root, name, format!("content of {name}"));
    write(root, format!("{name}.done"), "");
}

#[test]
fn the_page_shows_what_happens_while_it_happens() {
    let Some(program) = browser::program() else { return };
    let mut site = Site::start(TestEnv::new(), program);
    site.open();

    let waiting = site.table("oldest");
    let local = site.env.local();
    let below = |name: &str| format!("{}/{name}", local.display());
    let names: BTreeSet<_> = waiting.iter().map(|cells| cells[0].clone()).collect();
    let expected = [below(MARKUP), below(TURNED_SHOWN), below(&"n".repeat(240)), below(r"caf\xe9.csv")];
    assert_eq!(names, BTreeSet::from(expected), "{waiting:#?}");
    for cells in &waiting {
        assert_eq!(cells[2], "5 B");
        assert!(cells[4].contains("marker") && cells[4].ends_with(".done"), "{cells:?}");
    }
    let failures = site.table("failures");
    assert_eq!(failures.len(), 1, "{failures:#?}");
    assert_eq!(failures[0][0], below(FAILING));
    assert!(failures[0][3].contains("something else has that name"), "{failures:#?}");
    let destinations = site.table("destinations");
    assert!(destinations[0][0].starts_with("sftp://pine@127.0.0.1:") && destinations[0][1] == "up", "{destinations:?}");
    let title = site.browser.evaluate("document.title");
    assert!(title.as_str().unwrap().starts_with("Ready, 4 waiting – archiver "), "{title}");

    // A file that comes and one whose marker comes are seen in the same document.
    site.browser.evaluate("window.same = true");
    marked(&local, "live.csv");
    site.browser.wait_for("archived.textContent === '3'");
    write(&local, format!("{MARKUP}.done"), "");
    site.browser.wait_for("archived.textContent === '4' && waiting.textContent === '3'");
    assert_eq!(site.table("oldest").len(), 3);
    assert_eq!(site.browser.evaluate("window.same"), true);
    // The charts have a sample, at last.
    site.browser.wait_for("document.querySelectorAll('#charts svg .dot, #charts svg .curve').length >= 4");

    assert_eq!(site.browser.evaluate("window.pwned ?? null"), Value::Null);
    assert_eq!(site.browser.evaluate("document.querySelectorAll('img, main svg:not([role=img])').length"), 0);
    site.assert_no_complaints();
    let asked: BTreeSet<_> = site.browser.requests().into_iter().filter(|url| !url.starts_with("data:")).collect();
    assert_eq!(asked, BTreeSet::from([site.url.clone(), format!("{}state.json", site.url)]));

    // The policy is in force: what is injected nevertheless does nothing.
    let injected =
        "new Promise(done => { addEventListener('securitypolicyviolation', event => done(event.violatedDirective));
        const box = document.createElement('div'); box.innerHTML = '<img src=x onerror=\"window.pwned=1\">';
        document.body.append(box); })";
    let violated = site.browser.evaluate(injected);
    assert!(["img-src", "script-src-attr"].contains(&violated.as_str().unwrap()), "{violated}");
    assert_eq!(site.browser.evaluate("window.pwned ?? null"), Value::Null);
}

#[test]
fn the_page_suits_phones_and_readers_and_the_night() {
    let Some(program) = browser::program() else { return };
    let mut site = Site::start(TestEnv::new(), program);
    // Text against what is behind it (WCAG 2.2, 1.4.3).
    let contrasts = "(() => {
        const channels = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const behind = (e) => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } };
        return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
            .filter((e) => !e.closest('script, style, noscript')).map((e) => {
                const style = getComputedStyle(e), [a, b] = [light(channels(e.closest('svg') ? style.fill : style.color)), light(behind(e))];
                return [e.tagName + '.' + e.className + ' ' + e.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; }); })()";
    for (scheme, width, height) in [("light", 1280, 900), ("dark", 1280, 900), ("light", 360, 740), ("dark", 360, 740)]
    {
        site.browser.prefer("prefers-color-scheme", scheme);
        site.browser.resize(width, height);
        site.open();
        // A phone would zoom out for what is wider.
        let room =
            "[innerWidth, Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth)]";
        assert_eq!(site.browser.evaluate(room), json!([width, 0]), "wider than the window");
        let texts: Vec<(String, f64)> = serde_json::from_value(site.browser.evaluate(contrasts)).unwrap();
        assert!(texts.len() > 40, "{texts:?}");
        let faint: Vec<_> = texts.iter().filter(|(_, contrast)| *contrast < 4.5).collect();
        assert!(faint.is_empty(), "{scheme}: {faint:?}");
        // What a screen reader is told stays the same, however the tables are laid out.
        let tree = site.browser.ask("Accessibility.getFullAXTree", json!({}));
        let count = |role: &str| {
            let nodes = tree["nodes"].as_array().unwrap().iter();
            nodes.filter(|node| node["ignored"] == false && node["role"]["value"] == role).count()
        };
        let counts = [count("table"), count("status"), count("columnheader"), count("cell")];
        assert_eq!(counts, [3, 1, 5 + 4 + 3, 4 * 5 + 4 + 3], "{width}");
        site.picture(&format!("{scheme}-{width}"));
    }

    // A long name is cut in its middle, and whole for who tabs to it.
    site.browser.resize(1280, 900);
    site.browser.wait_for("document.querySelectorAll('.path[tabindex]').length > 0");
    wait_until("the focus is on a path", || {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            site.browser.ask("Input.dispatchKeyEvent", key);
        }
        site.browser.evaluate("document.activeElement.className === 'path'") == true
    });
    let whole =
        "[document.activeElement, ...document.activeElement.children].every(e => e.scrollWidth <= e.clientWidth)";
    assert_eq!(site.browser.evaluate(whole), true);
    site.assert_no_complaints();
}

#[test]
fn the_page_says_when_it_knows_nothing_any_more() {
    let Some(program) = browser::program() else { return };
    let mut site = Site::start(TestEnv::new(), program);
    site.open();
    // From here on in haste; and nobody looks.
    let haste = "const later = setTimeout; window.asked = 0; window.setTimeout = (f, ms) => later(f, ms / 100);
        const ask = fetch; window.fetch = (...all) => { window.asked += 1; return ask(...all); }; 0";
    site.browser.evaluate(haste);
    site.browser.wait_for("asked > 2");
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ get: () => {hidden}, configurable: true }});
            document.dispatchEvent(new Event('visibilitychange')); 0"
        )
    };
    site.browser.evaluate(&hide(true));
    site.browser.wait_for("!asking");
    site.browser.evaluate("window.before = asked; new Promise(done => later(done, 300))");
    assert_eq!(site.browser.evaluate("asked - before"), 0, "nobody looks, and it asks");
    site.browser.evaluate(&hide(false));
    site.browser.wait_for("asked > before");
    site.assert_no_complaints();

    let Site { browser, running, .. } = &mut site;
    running.signal(rustix::process::Signal::KILL);
    browser.wait_for("document.body.dataset.state === 'unreachable'");
    let text = browser.evaluate("document.querySelector('#alarm').innerText").as_str().unwrap().to_owned();
    assert!(text.contains("The archiver cannot be reached since ") && text.contains("no connection"), "{text}");
    let status = browser.evaluate("document.querySelector('[role=status]').innerText").as_str().unwrap().to_owned();
    assert!(status.starts_with("Not reachable since "), "{status}");
    assert_eq!(browser.evaluate("document.title"), "Not reachable – archiver");
    // What was known last is still there.
    assert_eq!(browser.evaluate("archived.textContent"), "2");
    site.picture("unreachable");
}

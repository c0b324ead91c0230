//! A real browser that a test drives, over its DevTools protocol.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stillhouse_tests::processes::{on_path, wait_for};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

fn connect(port: u16, path: &str) -> Socket {
    let (socket, _) = tungstenite::connect(format!("ws://127.0.0.1:{port}{path}")).unwrap();
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }
    socket
}

/// What a page did that a test looks at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Exceptions, whatever was written to the console, and what the browser objects to.
    pub(crate) complaints: Vec<String>,
    /// Addresses that were asked for.
    pub(crate) requests: Vec<String>,
}

/// See [`Browser::faint`].
const FAINT: &str = r#"(() => {
  const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const rgb = (text) => { const m = text.match(/[\d.]+/g).map(Number); return m.length < 4 || m[3] > 0 ? m.slice(0, 3) : null; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, .parents, script, style") || !e.checkVisibility()) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
  }
  return faint;
})()"#;

/// One page of a browser without a window.
pub(crate) struct Browser {
    process: Child,
    socket: Socket,
    last: u64,
    pub(crate) seen: Seen,
    _profile: TempDir,
}

impl Browser {
    /// Starts the browser; none where there is none.
    pub(crate) fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let mut chromium = Command::new(on_path("chromium")?);
        chromium.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ]);
        chromium.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        chromium.args([
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--remote-debugging-port=0",
        ]);
        chromium.arg(format!("--user-data-dir={}", profile.path().display()));
        chromium
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = chromium.spawn().unwrap();
        let (port, whole) = wait_for("the browser", || {
            let text = std::fs::read_to_string(profile.path().join("DevToolsActivePort")).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some((port.parse::<u16>().ok()?, path.trim().to_owned()))
        });
        let mut browser = Self {
            process,
            socket: connect(port, &whole),
            last: 0,
            seen: Seen::default(),
            _profile: profile,
        };
        let page = wait_for("a page of the browser", || {
            let targets = browser.call("Target.getTargets", json!({}));
            let page = targets["targetInfos"]
                .as_array()?
                .iter()
                .find(|target| target["type"] == "page")?;
            page["targetId"].as_str().map(str::to_owned)
        });
        browser.socket = connect(port, &format!("/devtools/page/{page}"));
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            let _enabled = browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let call = json!({ "id": self.last, "method": method, "params": params });
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    /// Keeps what matters of an event.
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" => self.seen.complaints.push(params.to_string()),
            // A server that is away is no mistake of the page.
            "Log.entryAdded" if params["entry"]["source"] != "network" => self.seen.complaints.push(params.to_string()),
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                self.seen.requests.push(url.to_owned());
            }
            _ => {}
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{opened}");
        self.wait("the page to be loaded", "document.readyState === 'complete'");
    }

    /// The value of an expression of the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression of the page is true.
    pub(crate) fn wait(&mut self, what: &str, expression: &str) {
        wait_for(what, || (self.value(expression) == true).then_some(()));
    }

    /// Keeps a picture of what is seen.
    pub(crate) fn screenshot(&mut self, file: &Path) {
        use base64::Engine as _;
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let picture = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap());
        std::fs::write(file, picture.unwrap()).unwrap();
    }

    /// The page as it is now.
    pub(crate) fn text(&mut self) -> String {
        let text = self.value("document.documentElement.outerHTML");
        text.as_str().unwrap().to_owned()
    }

    /// Texts that are hard to read on what lies behind them: less than 4.5 to 1.
    pub(crate) fn faint(&mut self) -> Vec<String> {
        serde_json::from_value(self.value(FAINT)).unwrap()
    }

    /// Elements whose role needs a name and that have none.
    pub(crate) fn nameless(&mut self) -> Vec<String> {
        const ROLES: [&str; 8] = [
            "button",
            "textbox",
            "img",
            "image",
            "radio",
            "link",
            "progressbar",
            "region",
        ];
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let named = nodes.filter(|node| node["ignored"] == false);
        let nameless = named.filter(|node| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            ROLES.contains(&role) && node["name"]["value"].as_str().unwrap_or_default().is_empty()
        });
        nameless.map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.process.kill().and_then(|()| self.process.wait());
    }
}

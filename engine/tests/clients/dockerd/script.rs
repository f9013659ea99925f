//! The script: one call a line, sent to a daemon one after the other.
//!
//! ```text
//! NAME [OPTION…] METHOD /path?query [body]
//! ```
//!
//! A body is JSON, `@busybox` (an archive with that image), `@tar:NAME=CONTENT,…` or `@text:…`. `${id:NAME}` is the id that an
//! earlier call was answered, `${call}` the name of this one, `${now}` the time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::answer::{Names, Normal, content};
use super::{Answers, folder};
use crate::harness::{self, busybox_image, parse_answer};
use crate::say;

/// The files in `calls`, in this order.
const CALLS: [&str; 10] =
    ["daemon", "images", "containers", "refused", "files", "networks", "volumes", "build", "older", "prune"];

/// Of calls that do not name one themselves.
const VERSION: &str = "/v1.51";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is said of a call besides its request.
#[derive(Debug, Default)]
struct Options {
    /// Types count, values do not.
    shape: bool,
    /// The path names a version of the API, or none.
    unversioned: bool,
    /// The daemon promises no order.
    sorted: bool,
    /// What it makes is named after the call, and is removed at once if it is made.
    undo: bool,
    /// Repeated until the field at this path has this value.
    until: Option<(String, String)>,
    /// Repeated until the answer has this text in it.
    until_text: Option<String>,
}

#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    options: Options,
    method: &'a str,
    path: &'a str,
    body: &'a str,
}

impl<'a> Call<'a> {
    fn read(line: &'a str) -> Self {
        let (name, mut rest) = line.split_once(' ').unwrap();
        let mut options = Options::default();
        loop {
            let (word, after) = rest.split_once(' ').unwrap();
            rest = after;
            match word {
                "shape" => options.shape = true,
                "unversioned" => options.unversioned = true,
                "sorted" => options.sorted = true,
                "undo" => options.undo = true,
                _ if word.starts_with("until=") => {
                    let (path, value) = word["until=".len()..].split_once('=').unwrap();
                    options.until = Some((path.to_owned(), value.to_owned()));
                }
                _ if word.starts_with("until-text=") => {
                    options.until_text = Some(word["until-text=".len()..].to_owned());
                }
                method => {
                    assert!(method.bytes().all(|byte| byte.is_ascii_uppercase()), "{line}");
                    let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
                    return Self { name, options, method, path, body };
                }
            }
        }
    }
}

/// Sends the whole script, and returns what was answered, without what differs from run to run. `roots` are the daemon's data root
/// and the folder of what does not outlive a boot.
pub(super) fn run(socket: &Path, roots: [&str; 2]) -> Answers {
    let busybox = busybox_image();
    let mut names = Names::new(roots);
    let mut answers = Answers::new();
    let read = |name| fs::read_to_string(folder().join("calls").join(name).with_extension("txt")).unwrap();
    let script: String = CALLS.into_iter().map(read).collect();
    for call in script.lines().filter(|line| !line.starts_with('#')).map(Call::read) {
        let head = head(&call, &names);
        let body = body(&filled(call.body, &call, &names), &busybox);
        let began = Instant::now();
        let (answer, content) = loop {
            let answer = send(socket, call.method, &head, &body);
            let content = content(&answer);
            if reached(&call.options, &content) || began.elapsed() > PATIENCE {
                break (answer, content);
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let took = began.elapsed();
        if took > Duration::from_secs(3) {
            say(&format!("`{}` took {} s", call.name, took.as_secs()));
        }
        names.learn(call.name, &content);
        let mut normal = Normal::new(&answer, content, &names);
        if call.options.shape {
            normal.keep_shape();
        }
        if call.options.undo && answer.status == 201 {
            let (kind, _) = call.path[1..].split_once('/').unwrap();
            let path = format!("{VERSION}/{kind}/{}?force=1&v=1", call.name);
            let nothing = Body { kind: "", bytes: Vec::new() };
            assert_eq!(send(socket, "DELETE", &path, &nothing).status, 204, "{path}");
        }
        if call.options.sorted {
            normal.sort();
        }
        assert!(answers.insert(call.name.to_owned(), normal).is_none(), "`{}` is there twice", call.name);
    }
    answers
}

fn reached(options: &Options, content: &Value) -> bool {
    let is_there = options.until.as_ref().is_none_or(|(path, wanted)| {
        content
            .pointer(path)
            .is_some_and(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned) == *wanted)
    });
    is_there && options.until_text.as_ref().is_none_or(|text| content.to_string().contains(text))
}

/// A text with its variables filled in.
fn filled(text: &str, call: &Call<'_>, names: &Names) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').unwrap();
        filled.push_str(before);
        match variable {
            "call" => filled.push_str(call.name),
            "now" => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                filled.push_str(&format!("{}.{:09}", now.as_secs(), now.subsec_nanos()));
            }
            _ => filled.push_str(names.id_of(variable.strip_prefix("id:").unwrap())),
        }
        rest = after;
    }
    filled + rest
}

/// The path with what may not be in a path as it is written in one.
fn head(call: &Call<'_>, names: &Names) -> String {
    let encoded: String = filled(call.path, call, names)
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ if b"/?&=+-._~:%,".contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    if call.options.unversioned { encoded } else { format!("{VERSION}{encoded}") }
}

struct Body {
    kind: &'static str,
    bytes: Vec<u8>,
}

fn body(text: &str, busybox: &[u8]) -> Body {
    if text == "@busybox" {
        return Body { kind: "application/x-tar", bytes: busybox.to_vec() };
    }
    if let Some(text) = text.strip_prefix("@text:") {
        return Body { kind: "text/plain", bytes: text.into() };
    }
    if let Some(files) = text.strip_prefix("@tar:") {
        return Body { kind: "application/x-tar", bytes: archive(files) };
    }
    Body { kind: if text.is_empty() { "" } else { "application/json" }, bytes: text.into() }
}

fn archive(files: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files.split(',') {
        let (name, content) = file.split_once('=').unwrap();
        let content = content.replace("\\n", "\n");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// An answer that does not come, or that does not end, is one of status 0.
fn send(socket: &Path, method: &str, path: &str, body: &Body) -> harness::Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n");
    if !body.kind.is_empty() {
        head.push_str(&format!("Content-Type: {}\r\n", body.kind));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.bytes.len()));
    let mut bytes = Vec::new();
    // A daemon may refuse a body that it has not read.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body.bytes));
    match stream.read_to_end(&mut bytes) {
        Ok(_) => parse_answer(&bytes),
        Err(_) => None,
    }
    .unwrap_or_else(|| harness::Answer { status: 0, headers: BTreeMap::new(), body: bytes })
}

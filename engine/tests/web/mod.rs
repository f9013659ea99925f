//! A server that does whatever a test tells it to, in an engine's network namespace.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::Engine;

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What it is answered.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// The body goes on like this for ever, in place of its length.
    pub endless: bool,
    /// So long before each piece of 64 KiB.
    pub pace: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, cut) = (Vec::new(), None);
        Self { status, headers, body: body.into(), cut, endless: false, pace: Duration::ZERO }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A registry that does what it is told.
pub struct Fake {
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Listens on this address of the engine's network namespace, for as long as the test runs.
    pub fn start(
        engine: &Engine,
        address: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = listen(engine, address);
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &answer, &seen));
            }
        });
        Self { asked }
    }

    /// How often something was asked whose path ends so.
    pub fn count(&self, method: &str, ending: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| one.method == method && one.path.ends_with(ending)).count()
    }
}

/// A socket of the engine's network namespace, in the hands of this process.
fn listen(engine: &Engine, address: &str) -> TcpListener {
    let namespace = fs::File::open(format!("/proc/{}/ns/net", engine.pid())).unwrap();
    let address = address.to_owned();
    // The namespace is the thread's, which ends with this.
    let made = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    });
    made.join().unwrap()
}

fn serve(mut stream: TcpStream, answer: &Arc<Answer>, seen: &Arc<Mutex<Vec<Asked>>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some(asked) = read(&mut reader) else { return };
        seen.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        if write(&mut stream, &reply, asked.method == "HEAD").is_err() || reply.cut.is_some() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some(Asked { method, path, headers })
}

fn write(stream: &mut TcpStream, reply: &Reply, is_head: bool) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Such\r\n", reply.status);
    if reply.endless {
        head.push_str("Connection: close\r\n");
    } else {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if is_head {
        return Ok(());
    }
    let end = reply.cut.unwrap_or(reply.body.len());
    loop {
        for piece in reply.body[..end].chunks(64 << 10) {
            std::thread::sleep(reply.pace);
            stream.write_all(piece)?;
        }
        if !reply.endless {
            return Ok(());
        }
    }
}

//! EC2's metadata service as an instance sees it, on loopback: session tokens only.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const TOKEN: &str = "AQAEAHx-token==";

/// What one instance is told.
#[derive(Clone)]
pub(crate) struct Metadata {
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    pub(crate) port: u16,
}

impl Metadata {
    pub(crate) fn serve() -> Metadata {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let metadata = Metadata { answers: Arc::default(), port };
        let served = metadata.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                thread::spawn(move || served.answer(stream));
            }
        });
        metadata
    }

    /// Says something else from now on; user data may be none.
    pub(crate) fn say(&self, instance: &str, key: &str, user_data: Option<&str>) {
        let mut answers = self.answers.lock().unwrap();
        answers.clear();
        let mut say = |path: &str, text: &str| answers.insert(format!("/latest/{path}"), text.to_owned());
        say("meta-data/instance-id", instance);
        say("meta-data/local-hostname", "ip-10-0-0-1.eu-test-1.compute.internal");
        say("meta-data/public-keys/", "0=pair");
        say("meta-data/public-keys/0/openssh-key", key);
        if let Some(user_data) = user_data {
            say("user-data", user_data);
        }
    }

    fn answer(&self, mut stream: TcpStream) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let has = |header: &str| head.lines().any(|line| line.eq_ignore_ascii_case(header));
        let answer = match method {
            "PUT" if path == "/latest/api/token" && has("X-aws-ec2-metadata-token-ttl-seconds: 300") => {
                Ok(TOKEN.to_owned())
            }
            "GET" if has(&format!("X-aws-ec2-metadata-token: {TOKEN}")) => {
                self.answers.lock().unwrap().get(path).cloned().ok_or("404 Not Found")
            }
            "GET" => Err("401 Unauthorized"),
            _ => Err("400 Bad Request"),
        };
        let text = match answer {
            // Both framings have their turn.
            Ok(body) if path.contains("user-data") => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
            Ok(body) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            Err(status) => format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
        };
        let _ = stream.write_all(text.as_bytes());
    }
}

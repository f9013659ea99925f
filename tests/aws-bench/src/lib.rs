//! A bench on which a driver for AWS EC2 is proven without a cloud, as tests hold it.
//!
//! The program `aws-bench` plays the API on loopback: moto answers, and for every instance that runs there is a VM.
//! [`Bench`] starts the program, and asks and steers it. Nothing of it is left when it is dropped.

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// The bench's program does all it is asked for within this.
const ANSWER: Duration = Duration::from_mins(2);

/// A bench that runs.
#[derive(Debug)]
pub struct Bench {
    child: Child,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Bench {
    /// Starts the program, with images from a folder as `cargo xtask image` makes it. It finds the emulator by the
    /// environment variable `MOTO_SERVER`. What it has to say goes to this process's stderr.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        images: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("aws-bench-").tempdir()?;
        let mut command = Command::new(program);
        command.arg("--folder").arg(folder.path()).arg("--images").arg(images).args(arguments);
        let (child, said) = started(command)?;
        let endpoint = said["endpoint"].as_str().unwrap_or_default().to_owned();
        Ok(Self { child, endpoint, folder })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A URL that answers with the caller's address, as text.
    pub fn checkip(&self) -> String {
        format!("{}/_bench/checkip", self.endpoint)
    }

    /// Where the bench keeps its VMs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a program is to have in its environment: credentials that are good here and nowhere else, and none of
    /// the files in which a user may have others. The endpoint is not in it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let absent = |name: &str| -> String {
            let path: PathBuf = self.folder.path().join("absent").join(name);
            path.display().to_string()
        };
        vec![
            ("AWS_ACCESS_KEY_ID", "AKIABENCHBENCHBENCH0".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "bench".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", absent("config")),
            ("AWS_SHARED_CREDENTIALS_FILE", absent("credentials")),
        ]
    }

    /// All calls of the API since the start, or since they were cleared.
    pub fn calls(&self) -> io::Result<Vec<Value>> {
        Ok(self.control("GET", "calls", None)?.as_array().cloned().unwrap_or_default())
    }

    /// The actions of these calls, in order.
    pub fn actions(&self) -> io::Result<Vec<String>> {
        let action = |call: &Value| call["action"].as_str().unwrap_or_default().to_owned();
        Ok(self.calls()?.iter().map(action).collect())
    }

    pub fn clear_calls(&self) -> io::Result<()> {
        self.control("POST", "calls/clear", None).map(drop)
    }

    /// Replaces the faults. `json!({})`: there are none.
    pub fn faults(&self, faults: Value) -> io::Result<()> {
        self.control("POST", "faults", Some(&faults)).map(drop)
    }

    /// Changes settings; those that are not named stay.
    pub fn settings(&self, settings: Value) -> io::Result<()> {
        self.control("POST", "settings", Some(&settings)).map(drop)
    }

    /// Falsifies an instance's console: `output`, `replace`, `empty_calls`.
    pub fn console(&self, instance: &str, mut console: Value) -> io::Result<()> {
        console["instance"] = json!(instance);
        self.control("POST", "console", Some(&console)).map(drop)
    }

    /// Announces to a spot instance that it will be taken away, and takes it away.
    pub fn interrupt(&self, instance: &str, delay: Duration) -> io::Result<()> {
        let body =
            json!({ "instance": instance, "delay_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX) });
        self.control("POST", "interrupt", Some(&body)).map(drop)
    }

    /// Terminates an instance behind everybody's back.
    pub fn terminate(&self, instance: &str) -> io::Result<()> {
        self.control("POST", "terminate", Some(&json!({ "instance": instance }))).map(drop)
    }

    /// Nothing is known any more of an instance that has ended, nor of its spot request, as after an hour. Waits
    /// for the end of one that is shutting down.
    pub fn forget(&self, instance: &str) -> io::Result<()> {
        self.control("POST", "forget", Some(&json!({ "instance": instance }))).map(drop)
    }

    /// Forgets everything but the settings.
    pub fn reset(&self) -> io::Result<()> {
        self.control("POST", "reset", None).map(drop)
    }

    /// What exists, by region; `{}` when nothing is left.
    pub fn left(&self) -> io::Result<Value> {
        self.control("GET", "left", None)
    }

    /// All instances, also those that have gone.
    pub fn instances(&self) -> io::Result<Vec<Value>> {
        Ok(self.control("GET", "instances", None)?.as_array().cloned().unwrap_or_default())
    }

    /// A call of the control API.
    pub fn control(&self, method: &str, command: &str, body: Option<&Value>) -> io::Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (status, answer) = self.request(method, &format!("/_bench/{command}"), &[], &body)?;
        if status != 200 {
            return Err(io::Error::other(format!("{method} {command}: {}", answer.trim())));
        }
        serde_json::from_str(&answer).map_err(io::Error::other)
    }

    /// Any request to the endpoint: the status and the body of the answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<(u16, String)> {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let no_answer =
            || io::Error::new(io::ErrorKind::UnexpectedEof, "The connection was closed without an answer");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_answer)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_answer)?;
        Ok((status, body.to_owned()))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The program ends when its stdin does, and takes its children along.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// An emulator for several benches: starting one takes seconds and hundreds of megabytes. It ends when this is dropped,
/// and with this process.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    address: String,
}

impl Emulator {
    /// Starts the bench's program, which keeps the emulator in a folder of its own.
    pub fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--no-vms");
        let (child, said) = started(command)?;
        Ok(Self { child, address: said["emulator"].as_str().unwrap_or_default().to_owned() })
    }

    /// What the option `--emulator` of benches takes.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Starts the program, and reads the line with which it says where it is.
fn started(mut command: Command) -> io::Result<(Child, Value)> {
    let mut child =
        command.arg("--until-stdin-closes").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("The bench has no stdout"))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match serde_json::from_str::<Value>(&line) {
        Ok(said) if said["endpoint"].is_string() => Ok((child, said)),
        _ => {
            let _ = child.kill();
            let status = child.wait()?;
            Err(io::Error::other(format!("The bench did not start ({status}): {line}")))
        }
    }
}

//! The emulator: its process, and calls to it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{amis, child::die_with_bench, form::Form, xml::Element};

const START: Duration = Duration::from_mins(2);
/// Headers of one connection, which are not passed on.
const OF_THE_CONNECTION: [HeaderName; 3] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];

/// The emulator, as seen by one bench: several benches share one, each with an account of its own.
#[derive(Debug)]
pub(crate) struct Moto {
    address: SocketAddr,
    account: Mutex<String>,
}

/// The emulator keeps what belongs to different accounts apart, and takes the account from this header.
const ACCOUNT: HeaderName = HeaderName::from_static("x-moto-account-id");

/// Twelve digits, as accounts have them.
fn random_account() -> String {
    format!("{:012}", Uuid::new_v4().as_u128() % 1_000_000_000_000)
}

/// What the emulator answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Moto {
    /// One that runs already.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, account: Mutex::new(random_account()) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it on a free port, and returns when it answers. Its own log goes to a file in `folder`.
    pub(crate) async fn start(program: &Path, folder: &Path) -> Result<(Self, Child)> {
        let images = folder.join("amis.json");
        std::fs::write(&images, amis::for_moto().to_string())
            .context("Could not write the list of images")?;
        let log =
            std::fs::File::create(folder.join("moto.log")).context("Could not write the emulator's log")?;
        let address = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("There is no free port")?;
            listener.local_addr()?
        };
        let mut command = Command::new(program);
        command
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .env("MOTO_AMIS_PATH", &images)
            .env("MOTO_ENABLE_AMI_VALIDATION", "true")
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
            .env("MOTO_ENABLE_KEYPAIR_VALIDATION", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true);
        die_with_bench(&mut command);
        let mut child =
            command.spawn().with_context(|| format!("Could not start `{}`", program.display()))?;
        let moto = Self::at(address);
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(folder.join("moto.log")).unwrap_or_default();
                bail!("The emulator ended at once ({status}): {log}");
            }
            if Instant::now() > deadline {
                bail!("The emulator does not answer after {} s", START.as_secs());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok((moto, child))
    }

    /// Passes a request on.
    pub(crate) async fn forward(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer> {
        let stream = TcpStream::connect(self.address).await.context("The emulator is not there")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body))?;
        for (name, value) in headers {
            if !OF_THE_CONNECTION.contains(name) {
                request.headers_mut().append(name, value.clone());
            }
        }
        let account = self.account.lock().unwrap_or_else(PoisonError::into_inner).clone();
        request.headers_mut().insert(ACCOUNT, account.parse()?);
        let (parts, body) =
            sender.send_request(request).await.context("The emulator gave no answer")?.into_parts();
        let body = body.collect().await.context("The emulator's answer broke off")?.to_bytes();
        let mut headers = parts.headers;
        for name in &OF_THE_CONNECTION {
            headers.remove(name);
        }
        Ok(Answer { status: parts.status, headers, body })
    }

    /// A call of the bench itself. What is not a success is an error, with its code.
    pub(crate) async fn query(&self, region: &str, pairs: &[(&str, &str)]) -> Result<Element> {
        self.query_form(region, &Form::of(pairs)).await
    }

    pub(crate) async fn query_form(&self, region: &str, form: &Form) -> Result<Element> {
        let answer = self.ask(region, form).await?;
        let action = form.get("Action").unwrap_or_default();
        let said = Element::parse(&answer.body).with_context(|| {
            format!("{action}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))
        })?;
        if !answer.status.is_success() {
            let (code, message) = error_of(&said).unwrap_or_default();
            return Err(anyhow!("{action}: {code}: {message}"));
        }
        Ok(said)
    }

    /// The answer to a call of the bench itself, whatever it is.
    pub(crate) async fn ask(&self, region: &str, form: &Form) -> Result<Answer> {
        let mut form = form.clone();
        form.set("Version", "2016-11-15");
        let mut headers = HeaderMap::new();
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=BENCH/20260101/{region}/ec2/aws4_request, SignedHeaders=host, Signature=0"
        );
        headers.insert("authorization", scope.parse()?);
        headers.insert("host", format!("ec2.{region}.amazonaws.com").parse()?);
        headers.insert("content-type", "application/x-www-form-urlencoded".parse()?);
        self.forward(Method::POST, "/", &headers, form.encode().into()).await
    }

    /// Begins with an account that is new and empty; others share the emulator, and it is not reset.
    pub(crate) fn reset(&self) {
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = random_account();
    }
}

/// Code and message of an error of the EC2 API.
pub(crate) fn error_of(said: &Element) -> Option<(String, String)> {
    let error = said.items("Errors").first().or_else(|| said.child("Error"))?;
    Some((error.value("Code")?.to_owned(), error.value("Message").unwrap_or_default().to_owned()))
}

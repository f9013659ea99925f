//! The seed of an EC2 instance: whether this is one, and its metadata service, asked with session tokens (IMDSv2) only.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{FILE_BOUND, Files, MetaData, PublicKeys, SeedError, USER_DATA, text};
use crate::http::{self, HttpError, Request, Response};

/// Where every instance finds its own metadata.
const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const PORT: u16 = 80;
const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN_HEADER: &str = "X-aws-ec2-metadata-token";
/// A boot reads all of it at once.
const TOKEN_SECONDS: (&str, &str) = ("X-aws-ec2-metadata-token-ttl-seconds", "300");
/// For the network to come up and the service to answer, all questions together.
const DEADLINE: Duration = Duration::from_mins(1);
/// For one question: the service is on the same host, and what is lost while a link comes up is better asked again.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// Identifiers, names, tokens and lists are far shorter.
const VALUE_BOUND: u64 = 16 * 1024;
/// EC2 knows one key for an instance.
const MOST_KEYS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Ec2Error {
    #[error("Could not ask the metadata service for `{path}`")]
    Ask { path: String, source: HttpError },
    #[error("The metadata service refused `{path}` with status {status}")]
    Refused { path: String, status: u16 },
    #[error("The metadata service does not know `{path}`")]
    Missing { path: &'static str },
    #[error("What the metadata service has for `{path}` is not plain text")]
    Value { path: String },
    #[error("The user data cannot be read")]
    UserData { source: SeedError },
    #[error("The metadata could not be written down")]
    WriteDown { source: io::Error },
}

/// Whether the firmware says that this is an instance of EC2.
pub(crate) fn is_here() -> bool {
    let read = |name: &str| {
        fs::read_to_string(Path::new("/sys/class/dmi/id").join(name)).unwrap_or_default().trim().to_owned()
    };
    says_ec2(&read("sys_vendor"), &read("product_uuid"), &read("product_serial"))
}

fn says_ec2(vendor: &str, uuid: &str, serial: &str) -> bool {
    let starts = |text: &str| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("ec2"));
    vendor == "Amazon EC2" || starts(uuid) || starts(serial)
}

/// Reads the seed from the metadata service. `prepare` is called before every attempt: it may bring up networks.
/// User data that cannot be used comes as a complaint: there are keys for somebody who can look into it.
pub(crate) fn read(prepare: impl FnMut()) -> Result<(Files, Option<Ec2Error>), Ec2Error> {
    let until = Instant::now() + DEADLINE;
    let mut service = Service { address: (SERVICE, PORT).into(), until, token: String::new(), prepare };
    service.read()
}

struct Service<F> {
    address: SocketAddr,
    until: Instant,
    token: String,
    prepare: F,
}

impl<F: FnMut()> Service<F> {
    fn read(&mut self) -> Result<(Files, Option<Ec2Error>), Ec2Error> {
        const INSTANCE: &str = "/latest/meta-data/instance-id";
        self.renew_token()?;
        let instance = self.value(INSTANCE)?.ok_or(Ec2Error::Missing { path: INSTANCE })?;
        // With several domains in its DHCP options a network has several names for the host.
        let name = self.value("/latest/meta-data/local-hostname")?;
        let name = name.as_deref().and_then(|names| names.split_whitespace().next()).map(str::to_owned);
        let meta_data = MetaData {
            instance_id: Some(instance),
            local_hostname: name,
            hostname: None,
            public_keys: PublicKeys(self.public_keys()?),
        };
        let meta_data = serde_yaml::to_string(&meta_data)
            .map_err(|failure| Ec2Error::WriteDown { source: io::Error::other(failure.to_string()) })?;
        let user_data = self.get("/latest/user-data", FILE_BOUND)?.unwrap_or_default();
        let (user_data, complaint) = match text(USER_DATA, user_data) {
            Ok(user_data) => (user_data, None),
            Err(source) => (String::new(), Some(Ec2Error::UserData { source })),
        };
        Ok((Files { meta_data, user_data, network_config: None }, complaint))
    }

    fn public_keys(&mut self) -> Result<Vec<String>, Ec2Error> {
        let list = self.value("/latest/meta-data/public-keys/")?.unwrap_or_default();
        let mut keys = Vec::new();
        for number in key_numbers(&list) {
            let path = format!("/latest/meta-data/public-keys/{number}/openssh-key");
            keys.extend(self.value(&path)?.iter().flat_map(|key| key.lines()).map(str::to_owned));
        }
        Ok(keys)
    }

    /// Text that is there or not.
    fn value(&mut self, path: &str) -> Result<Option<String>, Ec2Error> {
        let Some(bytes) = self.get(path, VALUE_BOUND)? else { return Ok(None) };
        let value = String::from_utf8(bytes).ok().map(|value| value.trim().to_owned());
        match value {
            Some(value) if value.is_empty() => Ok(None),
            Some(value) if value.chars().all(|letter| letter == '\n' || !letter.is_control()) => {
                Ok(Some(value))
            }
            _ => Err(Ec2Error::Value { path: path.to_owned() }),
        }
    }

    fn get(&mut self, path: &str, bound: u64) -> Result<Option<Vec<u8>>, Ec2Error> {
        let mut is_renewed = false;
        loop {
            let token = self.token.clone();
            let response = self.ask("GET", path, (TOKEN_HEADER, &token), bound)?;
            match response.status {
                200 => return Ok(Some(response.body)),
                404 => return Ok(None),
                401 if !is_renewed => {
                    is_renewed = true;
                    self.renew_token()?;
                }
                status => return Err(Ec2Error::Refused { path: path.to_owned(), status }),
            }
        }
    }

    fn renew_token(&mut self) -> Result<(), Ec2Error> {
        let response = self.ask("PUT", TOKEN_PATH, TOKEN_SECONDS, VALUE_BOUND)?;
        if response.status != 200 {
            return Err(Ec2Error::Refused { path: TOKEN_PATH.to_owned(), status: response.status });
        }
        // It goes into a header, where a line end would start another one.
        self.token = String::from_utf8(response.body)
            .ok()
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty() && token.chars().all(|letter| letter.is_ascii_graphic()))
            .ok_or_else(|| Ec2Error::Value { path: TOKEN_PATH.to_owned() })?;
        Ok(())
    }

    /// Asks until there is an answer that will not change, or no time.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        header: (&str, &str),
        bound: u64,
    ) -> Result<Response, Ec2Error> {
        let request = Request { method, path, headers: &[header], bound };
        loop {
            (self.prepare)();
            let left = self.until.saturating_duration_since(Instant::now());
            // Zero is no time limit in the eyes of the system.
            let patience = left.clamp(Duration::from_millis(1), PATIENCE);
            let outcome = http::send(self.address, &request, patience);
            let may_pass = match &outcome {
                Ok(response) => response.status == 429 || response.status >= 500,
                Err(HttpError::Large { .. }) => false,
                Err(_) => true,
            };
            if !may_pass || left <= POLL {
                return outcome.map_err(|source| Ec2Error::Ask { path: path.to_owned(), source });
            }
            thread::sleep(POLL);
        }
    }
}

/// The numbers in a listing with lines like `0=name`.
fn key_numbers(list: &str) -> Vec<u32> {
    list.lines().filter_map(|line| line.split_once('=')?.0.trim().parse().ok()).take(MOST_KEYS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A metadata service whose answers come from a function of the request's head.
    fn service(
        patience: Duration,
        mut answer: impl FnMut(&str) -> (u16, Vec<u8>) + Send + 'static,
    ) -> Service<impl FnMut()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let (status, body) = answer(&String::from_utf8(head).unwrap());
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.into_bytes(), body].concat());
            }
        });
        Service { address, until: Instant::now() + patience, token: String::new(), prepare: || {} }
    }

    fn answers(head: &str) -> (u16, Vec<u8>) {
        let path = head.split(' ').nth(1).unwrap();
        if head.starts_with("PUT ") {
            let ttl = head.contains("\r\nX-aws-ec2-metadata-token-ttl-seconds: 300\r\n");
            return if ttl && path == TOKEN_PATH { (200, b"TOKEN==".to_vec()) } else { (400, vec![]) };
        }
        if !head.contains("\r\nX-aws-ec2-metadata-token: TOKEN==\r\n") {
            return (401, vec![]);
        }
        let text = match path {
            "/latest/meta-data/instance-id" => "i-0abc",
            "/latest/meta-data/local-hostname" => "ip-10-0-0-1.eu.test ip-10-0-0-1.other.test",
            "/latest/meta-data/public-keys/" => "0=key: \"one\"\n7=two\nx=three\n",
            "/latest/meta-data/public-keys/0/openssh-key" => "ssh-ed25519 AAAA 'one': #x\n",
            "/latest/meta-data/public-keys/7/openssh-key" => "ssh-rsa AAAA two\n",
            "/latest/user-data" => "#cloud-config\nhostname: x\n",
            _ => return (404, vec![]),
        };
        (200, text.as_bytes().to_vec())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_instance_is_told_by_its_firmware() {
        assert!(says_ec2("Amazon EC2", "", ""));
        assert!(says_ec2("Xen", "EC2E1916-9099-7CAF-FD21-012345ABCDEF", ""));
        assert!(says_ec2("Xen", "", "ec2e1916"));
        assert!(!says_ec2("QEMU", "e2c1", "ec"));
        assert!(!says_ec2("", "", "éc2"));
    }

    #[test]
    fn everything_is_read_and_survives_being_kept() {
        let (files, complaint) = service(LONG, answers).read().unwrap();
        assert!(complaint.is_none(), "{complaint:?}");
        let folder = tempfile::tempdir().unwrap();
        files.keep(folder.path()).unwrap();
        let seed = Files::read(folder.path()).unwrap().parse();
        assert!(seed.complaints.is_empty(), "{:?}", seed.complaints);
        assert_eq!(seed.instance, "i-0abc");
        assert_eq!(seed.public_keys, ["ssh-ed25519 AAAA 'one': #x", "ssh-rsa AAAA two"]);
        assert_eq!(seed.host_name.as_deref(), Some("x"));
        assert!(files.meta_data.contains("ip-10-0-0-1.eu.test"));
        assert!(!files.meta_data.contains("other.test"));
    }

    #[test]
    fn most_of_it_may_be_absent() {
        let (files, _) = service(LONG, |head| match head.split(' ').nth(1).unwrap() {
            "/latest/meta-data/instance-id" | TOKEN_PATH => answers(head),
            _ => (404, vec![]),
        })
        .read()
        .unwrap();
        let seed = files.parse();
        assert_eq!((seed.instance.as_str(), seed.host_name, seed.public_keys.len()), ("i-0abc", None, 0));
        assert!(seed.complaints.is_empty());
    }

    #[test]
    fn a_service_that_is_not_up_yet_is_asked_again() {
        let mut count = 0;
        let outcome = service(LONG, move |head| {
            count += 1;
            match count {
                1 | 3 => (503, vec![]),
                // As if the token had expired.
                5 => (401, vec![]),
                _ => answers(head),
            }
        })
        .read();
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    #[test]
    fn a_refusal_is_final() {
        let outcome = service(LONG, |_| (403, vec![])).read();
        assert!(matches!(outcome, Err(Ec2Error::Refused { status: 403, .. })), "{outcome:?}");
        let outcome =
            service(LONG, |head| if head.starts_with("PUT") { answers(head) } else { (401, vec![]) }).read();
        assert!(matches!(outcome, Err(Ec2Error::Refused { status: 401, .. })), "{outcome:?}");
    }

    #[test]
    fn silence_has_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut prepared = 0;
        let until = Instant::now() + Duration::from_millis(200);
        let outcome = Service { address, until, token: String::new(), prepare: || prepared += 1 }.read();
        assert!(matches!(outcome, Err(Ec2Error::Ask { .. })), "{outcome:?}");
        assert!(prepared > 1);
    }

    #[test]
    fn hostile_answers_are_refused() {
        let with = |path: &'static str, body: Vec<u8>| {
            service(LONG, move |head| {
                if head.split(' ').nth(1) == Some(path) { (200, body.clone()) } else { answers(head) }
            })
            .read()
        };
        for (path, body) in [
            (TOKEN_PATH, b"a\r\nX: y".to_vec()),
            (TOKEN_PATH, vec![]),
            ("/latest/meta-data/instance-id", vec![]),
            ("/latest/meta-data/instance-id", b"i-\x1b[2J".to_vec()),
            ("/latest/meta-data/instance-id", vec![0xff]),
            ("/latest/meta-data/instance-id", vec![b'x'; 20_000]),
            ("/latest/user-data", vec![b'x'; 1024 * 1024 + 1]),
        ] {
            assert!(with(path, body.clone()).is_err(), "{path} {}", body.len());
        }
        let (files, complaint) = with("/latest/user-data", vec![0xff]).unwrap();
        assert_eq!(files.user_data, "");
        assert!(complaint.is_some());
    }

    #[test]
    fn a_listing_names_numbers_only() {
        assert_eq!(key_numbers("0=a\n../../x=b\n-1=c\nno\n 2 =d=e\n"), [0, 2]);
        assert_eq!(key_numbers(&"1=x\n".repeat(1000)).len(), MOST_KEYS);
    }
}

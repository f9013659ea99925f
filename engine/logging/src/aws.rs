//! Who the engine is at AWS: credentials from where AWS' own programs look for them, and signed requests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;

use crate::driver::DriverError;

/// Link-local, so that no packet leaves the host (Amazon EC2's manual, "Instance metadata").
const METADATA: &str = "http://169.254.169.254";
/// Of tasks in containers (Amazon ECS' manual, "Task IAM role").
const CONTAINER: &str = "http://169.254.170.2";
const PATIENCE: Duration = Duration::from_secs(5);
/// Credentials are fetched anew so long before they end.
const RENEWAL: i64 = 300;
/// Credentials are shorter.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Variables that are the daemon's, and that credentials and regions are found by.
pub(crate) const ENVIRONMENT: [&str; 19] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_DISABLED",
    "HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TZ",
];

#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Credentials {
    #[serde(rename = "AccessKeyId")]
    key: String,
    #[serde(rename = "SecretAccessKey")]
    secret: String,
    #[serde(rename = "Token", default)]
    token: Option<String>,
    #[serde(rename = "Expiration", default)]
    expires: Option<Timestamp>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(crate) fn are_valid(&self) -> bool {
        self.expires.is_none_or(|end| end > Timestamp::now())
    }

    pub(crate) fn are_fresh(&self) -> bool {
        self.expires.is_none_or(|end| end.as_second() - Timestamp::now().as_second() > RENEWAL)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Credentials, in the order of AWS' own programs. `endpoint`: only those of this path, as the option says.
pub(crate) async fn credentials(client: &Client, endpoint: Option<&str>) -> Result<Credentials, DriverError> {
    if let Some(path) = endpoint {
        return of_container(client, path).await;
    }
    if let (Some(key), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        return Ok(Credentials { key, secret, token: variable("AWS_SESSION_TOKEN"), expires: None });
    }
    if let Some(found) = of_file()? {
        return Ok(found);
    }
    if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return of_container(client, &path).await;
    }
    of_instance(client).await.map_err(|error| {
        DriverError::new(format!(
            "NoCredentialProviders: the engine has no credentials for AWS in its environment, in ~/.aws/credentials or by its instance's role ({error})"
        ))
    })
}

fn of_file() -> Result<Option<Credentials>, DriverError> {
    let path = match variable("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".to_owned())).join(".aws/credentials")
        }
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(DriverError::new(format!("Could not read `{}`: {error}", path.display())));
        }
    };
    Ok(of_profile(&text, &variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned())))
}

/// What a file of the form of `~/.aws/credentials` has of a profile.
pub(crate) fn of_profile(text: &str, profile: &str) -> Option<Credentials> {
    let mut values = BTreeMap::new();
    let mut is_it = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_it = name.trim() == profile;
        } else if is_it
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            values.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Some(Credentials {
        key: values.remove("aws_access_key_id")?,
        secret: values.remove("aws_secret_access_key")?,
        token: values.remove("aws_session_token"),
        expires: None,
    })
}

async fn of_container(client: &Client, path: &str) -> Result<Credentials, DriverError> {
    if !path.starts_with('/') {
        return Err(DriverError::new(format!(
            "the path of the credentials, `{path}`, has to begin with a slash"
        )));
    }
    let text = ask(client.get(format!("{CONTAINER}{path}"))).await?;
    parse(&text)
}

fn metadata() -> Result<String, DriverError> {
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(DriverError::new("AWS_EC2_METADATA_DISABLED is set"));
    }
    let base = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA.to_owned());
    Ok(format!("{}/latest", base.trim_end_matches('/')))
}

/// A request to the instance's metadata, with the token of their second version.
async fn instance(client: &Client, path: &str) -> Result<String, DriverError> {
    let base = metadata()?;
    let token = client.put(format!("{base}/api/token")).header("X-aws-ec2-metadata-token-ttl-seconds", "300");
    let token = ask(token).await?;
    ask(client.get(format!("{base}/meta-data/{path}")).header("X-aws-ec2-metadata-token", token.trim())).await
}

async fn of_instance(client: &Client) -> Result<Credentials, DriverError> {
    let roles = instance(client, "iam/security-credentials/").await?;
    let role = roles.lines().next().filter(|role| !role.is_empty());
    let role = role.ok_or_else(|| DriverError::new("the instance has no role"))?;
    parse(&instance(client, &format!("iam/security-credentials/{role}")).await?)
}

/// Where the instance is.
pub(crate) async fn region(client: &Client) -> Result<String, DriverError> {
    match variable("AWS_REGION") {
        Some(region) => Ok(region),
        None => instance(client, "placement/region").await.map(|region| region.trim().to_owned()).map_err(|error| {
            DriverError::new(format!(
                "Cannot get the region for awslogs: name it with the log option `awslogs-region` or the engine's variable AWS_REGION ({error})"
            ))
        }),
    }
}

fn parse(text: &str) -> Result<Credentials, DriverError> {
    // What it says may hold half of a secret.
    serde_json::from_str(text).map_err(|_| DriverError::new("the credentials that were answered are none"))
}

async fn ask(request: RequestBuilder) -> Result<String, DriverError> {
    let failed = |error: reqwest::Error| DriverError::new(error.without_url().to_string());
    let response =
        request.timeout(PATIENCE).send().await.map_err(failed)?.error_for_status().map_err(failed)?;
    text(response, LONGEST_ANSWER).await.map_err(failed)
}

/// The beginning of an answer, which may be without an end.
pub(crate) async fn text(mut response: reqwest::Response, most: usize) -> Result<String, reqwest::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Some(chunk) = response.chunk().await?
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(most);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a request is signed for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) time: Timestamp,
}

/// The headers of a `POST /` that sign it, `Authorization` among them, by Signature Version 4 (AWS' General Reference, "AWS
/// Signature Version 4 for API requests"). `headers` are all others that it has, by their names in small letters.
pub(crate) fn sign(
    credentials: &Credentials,
    scope: Scope<'_>,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let time = scope.time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = &time[..8];
    let mut added = vec![("x-amz-date", time.clone())];
    added.extend(credentials.token.iter().map(|token| ("x-amz-security-token", token.clone())));
    let mut all: BTreeMap<&str, &str> = headers.iter().copied().collect();
    all.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    let names = all.keys().copied().collect::<Vec<_>>().join(";");
    let lines: String = all.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(body));
    let scope_text = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope_text}\n{}", hash(request.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [date, scope.region, scope.service, "aws4_request"] {
        key = keyed(&key, part.as_bytes());
    }
    let signature = hex(&keyed(&key, text.as_bytes()));
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope_text}, SignedHeaders={names}, Signature={signature}",
        credentials.key
    );
    added.push(("authorization", value));
    added
}

fn keyed(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

fn hash(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Credentials {
        Credentials {
            key: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
            expires: None,
        }
    }

    /// `post-vanilla` and `post-x-www-form-urlencoded` of AWS' test suite for Signature Version 4.
    #[test]
    fn signatures_are_those_of_the_test_suite() {
        let time = "2015-08-30T12:36:00Z".parse().unwrap();
        let scope = Scope { region: "us-east-1", service: "service", time };
        let host = ("host", "example.amazonaws.com");
        let form = ("content-type", "application/x-www-form-urlencoded");
        for (headers, body, signature) in [
            (&[host][..], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                &[host, form],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ] {
            let signed = sign(&example(), scope, headers, body.as_bytes());
            let value = &signed.last().unwrap().1;
            assert!(value.ends_with(&format!("Signature={signature}")), "{value}");
        }
    }

    #[test]
    fn profiles() {
        let text = "# a file\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[other]\n;x=y\nAWS_ACCESS_KEY_ID=C\naws_secret_access_key = D\naws_session_token=E\n[half]\naws_access_key_id=F\n";
        let found = of_profile(text, "default").unwrap();
        assert_eq!((found.key.as_str(), found.secret.as_str(), found.token), ("A", "B=", None));
        let found = of_profile(text, "other").unwrap();
        assert_eq!((found.key.as_str(), found.token.as_deref()), ("C", Some("E")));
        assert_eq!(of_profile(text, "half"), None);
        assert_eq!(of_profile(text, "none"), None);
    }
}

//! The login: which keys there are, and which of them the server takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{AgentAuthError, MethodKind};
use tokio::time::timeout;

use super::agent::{self, Agent};
use super::key::{EncryptedKey, KeyFile, default_key_files, read_key_file};
use super::session::Client;
use super::{Key, Passphrase, SshError, Target};

/// An agent answers this question without asking anybody.
const AGENT_LIMIT: Duration = Duration::from_secs(5);

/// All that may open the door, in the order of trying.
pub(super) struct Credentials {
    keys: Vec<Credential>,
    agent: Option<Agent>,
}

enum Credential {
    File { key: Arc<PrivateKey>, path: PathBuf },
    Agent(Box<AgentIdentity>),
}

impl Credentials {
    /// Reads the key file or asks the agent; the network is not touched.
    pub(super) async fn gather(target: &Target) -> Result<Self, SshError> {
        match &target.key {
            Key::File(path) => Self::of_file(path, target.passphrase.clone()).await,
            Key::Agent => Self::of_agent(&target.host).await,
        }
    }

    async fn of_file(path: &Path, passphrase: Passphrase) -> Result<Self, SshError> {
        let key = match read_on_thread(path).await? {
            KeyFile::Plain(key) => *key,
            KeyFile::Encrypted(encrypted) => match Self::of_agent_for(&encrypted).await {
                Some(credentials) => return Ok(credentials),
                None => on_thread(path, move || encrypted.open(|path| passphrase.ask(path))).await?,
            },
        };
        let keys = vec![Credential::File { key: Arc::new(key), path: path.to_owned() }];
        Ok(Self { keys, agent: None })
    }

    /// An encrypted key may already be open in the agent.
    async fn of_agent_for(encrypted: &EncryptedKey) -> Option<Self> {
        let public = encrypted.public.as_ref()?;
        let (agent, identities) = ask_agent().await.ok()?;
        let identity = identities.into_iter().find(|identity| holds(identity, public))?;
        Some(Self { keys: vec![Credential::Agent(Box::new(identity))], agent: Some(agent) })
    }

    async fn of_agent(host: &str) -> Result<Self, SshError> {
        let (agent, identities, trouble) = match ask_agent().await {
            Ok((agent, identities)) => (Some(agent), identities, "the agent holds no key".to_owned()),
            Err(trouble) => (None, Vec::new(), trouble),
        };
        let mut troubles = vec![trouble];
        let mut files = Vec::new();
        for path in default_key_files() {
            match read_on_thread(&path).await {
                Ok(KeyFile::Plain(key))
                    if !identities.iter().any(|identity| holds(identity, key.public_key())) =>
                {
                    files.push(Credential::File { key: Arc::new(*key), path });
                }
                Ok(KeyFile::Plain(_)) => {}
                Ok(KeyFile::Encrypted(_)) => troubles.push(SshError::KeyEncrypted { path }.to_string()),
                Err(error) => troubles.push(error.to_string()),
            }
        }
        let keys: Vec<_> = identities
            .into_iter()
            .map(|identity| Credential::Agent(Box::new(identity)))
            .chain(files)
            .collect();
        if keys.is_empty() {
            if troubles.len() == 1 {
                troubles.push("there is none of `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa`".to_owned());
            }
            return Err(SshError::NoKey { host: host.to_owned(), reason: troubles.join("; ") });
        }
        Ok(Self { keys, agent })
    }
}

async fn read_on_thread(path: &Path) -> Result<KeyFile, SshError> {
    let owned = path.to_owned();
    on_thread(path, move || read_key_file(&owned)).await
}

/// Passphrases take a while to be typed, and to be tried on purpose.
async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, SshError> + Send + 'static,
) -> Result<T, SshError> {
    let finished = tokio::task::spawn_blocking(work).await;
    finished.unwrap_or_else(|error| {
        Err(SshError::KeyInvalid { path: path.to_owned(), reason: error.to_string() })
    })
}

fn holds(identity: &AgentIdentity, public: &PublicKey) -> bool {
    matches!(identity, AgentIdentity::PublicKey { key, .. } if key.key_data() == public.key_data())
}

/// The agent and its keys, or why there is none.
async fn ask_agent() -> Result<(Agent, Vec<AgentIdentity>), String> {
    let conversation = async {
        let mut agent = agent::connect().await?;
        let identities = agent.request_identities().await.map_err(|error| agent::unusable(&error))?;
        Ok((agent, identities))
    };
    match timeout(AGENT_LIMIT, conversation).await {
        Ok(outcome) => outcome,
        Err(_) => Err("the agent does not answer".to_owned()),
    }
}

/// Offers one key after the other until the server takes one.
pub(super) async fn log_in(
    handle: &mut Handle<Client>,
    host: &str,
    user: &str,
    credentials: Credentials,
) -> Result<(), SshError> {
    let Credentials { keys, mut agent } = credentials;
    let mut tried = Tried::default();
    let mut methods = Vec::new();
    for credential in &keys {
        tried.add(credential);
        let hash = if credential.is_rsa() { Some(rsa_hash(handle).await) } else { None };
        let answer = match (credential, agent.as_mut()) {
            (Credential::File { key, .. }, _) => {
                handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key.clone(), hash)).await.ok()
            }
            (Credential::Agent(identity), Some(agent)) => {
                match offer(handle, user, identity, hash, agent).await {
                    Ok(answer) => Some(answer),
                    // The agent did not sign, which is no reason for not trying the next key.
                    Err(AgentAuthError::Key(_)) => continue,
                    Err(AgentAuthError::Send(_)) => None,
                }
            }
            (Credential::Agent(_), None) => continue,
        };
        // Nothing comes back from a server that is gone. What it said last is known to the caller.
        let Some(answer) = answer else { break };
        match answer {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure { remaining_methods, partial_success } => {
                methods = remaining_methods.iter().map(String::from).collect();
                if partial_success {
                    let (host, user, tried) = (host.to_owned(), user.to_owned(), tried.last);
                    return Err(SshError::AuthenticationPartial { host, user, tried, methods });
                }
                if !remaining_methods.contains(&MethodKind::PublicKey) {
                    break;
                }
            }
        }
    }
    Err(SshError::Authentication {
        host: host.to_owned(),
        user: user.to_owned(),
        tried: tried.to_string(),
        methods,
    })
}

async fn offer(
    handle: &mut Handle<Client>,
    user: &str,
    identity: &AgentIdentity,
    hash: Option<HashAlg>,
    agent: &mut Agent,
) -> Result<AuthResult, AgentAuthError> {
    match identity {
        AgentIdentity::PublicKey { key, .. } => {
            handle.authenticate_publickey_with(user, key.clone(), hash, agent).await
        }
        AgentIdentity::Certificate { certificate, .. } => {
            handle.authenticate_certificate_with(user, certificate.clone(), hash, agent).await
        }
    }
}

/// Never SHA-1. Servers that do not say what they know have known SHA-256 for longest.
async fn rsa_hash(handle: &Handle<Client>) -> HashAlg {
    handle.best_supported_rsa_hash().await.ok().flatten().flatten().unwrap_or(HashAlg::Sha256)
}

impl Credential {
    fn is_rsa(&self) -> bool {
        match self {
            Self::File { key, .. } => key.algorithm().is_rsa(),
            Self::Agent(identity) => match &**identity {
                AgentIdentity::PublicKey { key, .. } => key.algorithm().is_rsa(),
                AgentIdentity::Certificate { certificate, .. } => certificate.algorithm().is_rsa(),
            },
        }
    }
}

/// What was offered, for the error.
#[derive(Default)]
struct Tried {
    of_agent: usize,
    files: Vec<String>,
    last: String,
}

impl Tried {
    fn add(&mut self, credential: &Credential) {
        match credential {
            Credential::File { path, .. } => {
                self.last = format!("the key `{}`", path.display());
                self.files.push(self.last.clone());
            }
            Credential::Agent(_) => {
                "a key of the agent".clone_into(&mut self.last);
                self.of_agent += 1;
            }
        }
    }
}

impl std::fmt::Display for Tried {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of_agent = match self.of_agent {
            0 => None,
            1 => Some("the key of the agent".to_owned()),
            count => Some(format!("{count} keys of the agent")),
        };
        let all: Vec<_> = of_agent.iter().chain(&self.files).map(String::as_str).collect();
        formatter.write_str(&all.join(" and "))
    }
}

//! Whom a host and its clients trust: which authority signs for it, and what it and they are given.
//!
//! The policy is [`machine_pki`]'s, the files are [`crate::store`]'s; this decides which authority counts. A new host is
//! pinned to the current one: the store's own, or what the user named. From then on only that one signs for it, until
//! the user moves it (`regenerate-certs --authority`).

use std::path::PathBuf;

use jiff::Timestamp;
use machine_driver::HostName;
use machine_pki::{Authority, Fingerprint, Issued, PkiError, Policy, Usage};

use super::{Context, locked::LockedHost};
use crate::{
    engine_api::{EngineClient, EngineError},
    store::{
        Certificates, ClientFiles, HostFiles, PairFiles, Phase, Record, Store, StoreError, StoreLock,
        Transport,
    },
};

/// There is nobody to sign, or what was signed is no good.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`{}`, which was named as the authority, is not there", path.display())]
    NamedAbsent { path: PathBuf },
    #[error("Could not use the certificates in `{}`", path.display())]
    Authority { path: PathBuf, source: PkiError },
    #[error("Could not use the client's certificate `{}`", path.display())]
    Client { path: PathBuf, source: PkiError },
    #[error("The certificates of `{name}` are no good")]
    Copies { name: HostName, source: PkiError },
    #[error("The certificates of `{name}` are of another authority than its record says ({authority})")]
    Foreign { name: HostName, authority: Fingerprint },
    #[error("Nobody can say which authority signed for `{name}`: its folder in this store has no `ca.pem`")]
    Unpinned { name: HostName },
    #[error("`{name}` needs a new certificate, and its authority ({authority}) is not here")]
    SignerAbsent { name: HostName, authority: Fingerprint },
    #[error("`{name}` is reached without TLS and has no certificates")]
    NoTls { name: HostName },
    #[error("Could not issue a certificate")]
    Issue(#[source] PkiError),
}

impl TrustError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NamedAbsent { .. } => {
                Some("Correct `--tls-ca-cert` and `--tls-ca-key`; without them the store's own is used".to_owned())
            }
            Self::Authority { source: PkiError::Expired { .. }, .. } => Some(
                "`machine regenerate-certs --authority` makes a new one and moves the hosts to it one by one; each goes \
                 on trusting the old one until all have been moved"
                    .to_owned(),
            ),
            Self::Authority { source, .. } => source.hint(),
            Self::Client { .. } => {
                Some("Correct `--tls-client-cert` and `--tls-client-key`, or leave them away".to_owned())
            }
            Self::Copies { name, .. } | Self::Foreign { name, .. } => {
                Some(format!("`machine regenerate-certs {name}` issues new ones"))
            }
            Self::Unpinned { name } => Some(format!(
                "Put `ca.pem`, `cert.pem` and `key.pem` back into its folder, or have `machine regenerate-certs --authority \
                 {name}` issue new ones with the authority of this store"
            )),
            Self::SignerAbsent { name, .. } => Some(format!(
                "Name it with `--tls-ca-cert` and `--tls-ca-key`, or move the host to the authority of this store with \
                 `machine regenerate-certs --authority {name}`"
            )),
            Self::Store(error) => error.hint(),
            Self::NoTls { .. } | Self::Issue(_) => None,
        }
    }
}

/// Something that was made anew.
#[derive(Debug, Clone)]
pub enum Made {
    Authority(PathBuf),
    Client(PathBuf),
}

/// An authority that can sign, and the client that goes with it.
#[derive(Debug)]
pub struct Signer {
    authority: Authority,
    pub fingerprint: Fingerprint,
    pub client: Issued,
}

impl Signer {
    /// What clients of hosts that are pinned to this authority need.
    pub fn client_files(&self) -> ClientFiles {
        ClientFiles {
            ca_pem: self.authority.certificate_pem().to_owned(),
            cert_pem: self.client.certificate_pem.clone(),
            key_pem: self.client.key_pem.clone(),
        }
    }

    /// The certificate of a host's engine.
    pub(super) fn issue_server(&self, name: &HostName, names: &[String]) -> Result<Issued, TrustError> {
        policy().issue_server(&self.authority, name.as_str(), names).map_err(TrustError::Issue)
    }

    pub(super) fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }
}

fn policy() -> Policy {
    let variable = if cfg!(windows) { "USERNAME" } else { "USER" };
    Policy::for_user(&std::env::var(variable).unwrap_or_default())
}

/// The authority that signs for new hosts, with its client. The store's own is made if there is none; one that is there
/// is checked (key, CA flag, dates) and never replaced. `made` is told of whatever is new.
pub fn current_signer(certificates: &Certificates, made: &mut dyn FnMut(Made)) -> Result<Signer, TrustError> {
    let lock = certificates.lock()?;
    let files = certificates.authority();
    match files.read()? {
        Some(pair) => signer(certificates, &lock, &files, &pair, made),
        None if certificates.names_authority() => Err(TrustError::NamedAbsent { path: files.certificate }),
        None => make_own(certificates, &lock, made),
    }
}

/// Makes a new authority the store's own, in place of the one before if there is one.
pub(super) fn make_own(
    certificates: &Certificates,
    lock: &StoreLock,
    made: &mut dyn FnMut(Made),
) -> Result<Signer, TrustError> {
    let files = certificates.own_authority();
    made(Made::Authority(files.certificate.clone()));
    let authority = policy().new_authority().map_err(TrustError::Issue)?;
    made(Made::Client(certificates.own_client().certificate));
    let client = policy().issue_client(&authority).map_err(TrustError::Issue)?;
    let pair = Issued {
        certificate_pem: authority.certificate_pem().to_owned(),
        key_pem: authority.key_pem().to_owned(),
    };
    certificates.replace_own(lock, &pair, &client)?;
    let fingerprint = Fingerprint::of(&pair.certificate_pem).map_err(TrustError::Issue)?;
    Ok(Signer { authority, fingerprint, client })
}

/// The store's own authority, with its client.
pub(super) fn own_signer(
    certificates: &Certificates,
    lock: &StoreLock,
    made: &mut dyn FnMut(Made),
) -> Result<Signer, TrustError> {
    let files = certificates.own_authority();
    match files.read()? {
        Some(pair) => signer(certificates, lock, &files, &pair, made),
        None => make_own(certificates, lock, made),
    }
}

/// Which authority signs for new hosts; `None` if there is none yet. One that cannot sign is an error.
pub(super) fn current_fingerprint(certificates: &Certificates) -> Result<Option<Fingerprint>, TrustError> {
    let _lock = certificates.lock()?;
    let files = certificates.authority();
    let unusable = |source| TrustError::Authority { path: parent(&files.certificate), source };
    match files.read()? {
        Some(pair) => {
            Authority::load(&pair.certificate_pem, &pair.key_pem).map_err(unusable)?;
            Ok(Some(Fingerprint::of(&pair.certificate_pem).map_err(unusable)?))
        }
        None if certificates.names_authority() => Err(TrustError::NamedAbsent { path: files.certificate }),
        None => Ok(None),
    }
}

/// The authority with this fingerprint, if its key is here: the one that is named, the store's own, or one that was.
pub(super) fn signer_of(
    certificates: &Certificates,
    fingerprint: &Fingerprint,
) -> Result<Option<Signer>, TrustError> {
    let lock = certificates.lock()?;
    for files in
        [certificates.authority(), certificates.own_authority(), certificates.kept_authority(fingerprint)]
    {
        // Half a pair, or one that cannot be read, is of no use here; whether it is the one nobody can say.
        let Ok(Some(pair)) = files.read() else { continue };
        if Fingerprint::of(&pair.certificate_pem).is_ok_and(|found| found == *fingerprint) {
            return signer(certificates, &lock, &files, &pair, &mut |_| {}).map(Some);
        }
    }
    Ok(None)
}

/// The client certificate is made if there is none, or if the one there is no good and ours.
fn signer(
    certificates: &Certificates,
    lock: &StoreLock,
    files: &PairFiles,
    pair: &Issued,
    made: &mut dyn FnMut(Made),
) -> Result<Signer, TrustError> {
    let unusable = |source| TrustError::Authority { path: parent(&files.certificate), source };
    let authority = Authority::load(&pair.certificate_pem, &pair.key_pem).map_err(unusable)?;
    let fingerprint = Fingerprint::of(&pair.certificate_pem).map_err(unusable)?;
    let is_current = *files == certificates.authority();
    if let (true, Some(named)) = (is_current, certificates.named_client()) {
        let Some(client) = named.read()? else {
            return Err(TrustError::NamedAbsent { path: named.certificate });
        };
        // The user's own file is not ours to replace.
        let now = Timestamp::now();
        machine_pki::verify_issued(
            &pair.certificate_pem,
            &client.certificate_pem,
            &client.key_pem,
            Usage::Client,
            now,
        )
        .map_err(|source| TrustError::Client { path: named.certificate, source })?;
        return Ok(Signer { authority, fingerprint, client });
    }
    let own = *files == certificates.own_authority();
    let client_files = if own { certificates.own_client() } else { certificates.kept_client(&fingerprint) };
    let client = match client_files.read() {
        Ok(Some(client)) if machine_pki::client_is_good(&pair.certificate_pem, &client) => client,
        // It can be made again at any time: half of one is as good as none.
        Ok(_) | Err(StoreError::HalfPair { .. }) => {
            made(Made::Client(client_files.certificate));
            renew_client(certificates, lock, &authority, &fingerprint, own)?
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Signer { authority, fingerprint, client })
}

fn renew_client(
    certificates: &Certificates,
    lock: &StoreLock,
    authority: &Authority,
    fingerprint: &Fingerprint,
    own: bool,
) -> Result<Issued, TrustError> {
    let client = policy().issue_client(authority).map_err(TrustError::Issue)?;
    if own {
        certificates.replace_own_client(lock, &client)?;
    } else {
        certificates.replace_kept_client(lock, fingerprint, &client)?;
    }
    Ok(client)
}

/// A new client certificate of the current authority, in place of the one before.
pub(super) fn new_client(certificates: &Certificates) -> Result<Signer, TrustError> {
    let before = current_signer(certificates, &mut |_| {})?;
    if let Some(named) = certificates.named_client() {
        let refused = PkiError::Certificate { reason: "it is the user's own, who renews it".to_owned() };
        return Err(TrustError::Client { path: named.certificate, source: refused });
    }
    let lock = certificates.lock()?;
    let own = certificates.authority() == certificates.own_authority();
    let client = renew_client(certificates, &lock, &before.authority, &before.fingerprint, own)?;
    Ok(Signer { client, ..before })
}

fn parent(path: &std::path::Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// What a client of this host presents and believes, from the host's folder: all there, of the authority that the
/// record names, and valid. `None` for a host without TLS.
pub fn client_of(store: &Store, record: &Record) -> Result<Option<ClientFiles>, TrustError> {
    Ok(believed(store, record)?.map(|found| found.files))
}

/// Has the host's folder be what [`client_of`] says, for programs that read it by themselves and believe all that is in
/// it. Takes the host's lock only where something is half done, or more is in it. Returns whether the host has TLS.
pub fn ready_client_folder(store: &Store, record: &Record) -> Result<bool, TrustError> {
    let Some(found) = believed(store, record)? else { return Ok(false) };
    let name = &record.name;
    store.settle(name)?;
    if found.more {
        let lock = store.lock(name)?;
        // Somebody else may have been faster.
        if let Some(found) = believed(store, &store.load(name)?)?
            && found.more
        {
            store.replace_host_copies(&lock, name, &found.files, None)?;
        }
    }
    Ok(true)
}

struct Believed {
    files: ClientFiles,
    /// Whether the folder has more authorities than these, the rest of a chain.
    more: bool,
}

fn believed(store: &Store, record: &Record) -> Result<Option<Believed>, TrustError> {
    let mut transport = record.transport;
    loop {
        let found = believed_by(store, &record.name, transport);
        match store.load(&record.name) {
            // The host was moved to another authority after the record was read, and its files came with that.
            Ok(now) if found.is_err() && now.transport != transport => transport = now.transport,
            _ => return found,
        }
    }
}

fn believed_by(store: &Store, name: &HostName, transport: Transport) -> Result<Option<Believed>, TrustError> {
    let Transport::MutualTls { authority, also_trusted } = transport else { return Ok(None) };
    let files = store.host_client(name)?;
    let bad = |source| TrustError::Copies { name: name.clone(), source };
    let Some(authority) = authority else { return Err(TrustError::Unpinned { name: name.clone() }) };
    let is_named = |found| found == authority || Some(found) == also_trusted;
    let (mut trusted, mut others) = (Vec::new(), Vec::new());
    for certificate in machine_pki::certificates(&files.ca_pem).map_err(bad)? {
        let list =
            if is_named(Fingerprint::of(&certificate).map_err(bad)?) { &mut trusted } else { &mut others };
        list.push(certificate);
    }
    let more = !others.is_empty();
    if !are_above(&trusted, others) {
        return Err(TrustError::Foreign { name: name.clone(), authority });
    }
    let now = Timestamp::now();
    let verified = trusted.iter().map(|certificate| {
        machine_pki::verify_issued(certificate, &files.cert_pem, &files.key_pem, Usage::Client, now)
    });
    // Of several, one has signed; what the first says is as good as any.
    let results: Vec<_> = verified.collect();
    if results.iter().all(Result::is_err)
        && let Some(Err(source)) = results.into_iter().next()
    {
        return Err(bad(source));
    }
    let files = if more { ClientFiles { ca_pem: trusted.concat(), ..files } } else { files };
    Ok(Some(Believed { files, more }))
}

/// Nobody's chain is longer.
const CHAIN_AT_MOST: usize = 16;

/// Whether the `others` are the authorities that signed for the trusted ones, or for one another: the rest of a chain,
/// which older files have, and which nobody here believes.
fn are_above(trusted: &[String], mut others: Vec<String>) -> bool {
    let mut below = trusted.to_vec();
    while !others.is_empty() && below.len() < CHAIN_AT_MOST {
        let signed = |other: &String| below.iter().any(|one| machine_pki::is_issued_by(other, one));
        match others.iter().position(signed) {
            Some(index) => below.push(others.swap_remove(index)),
            None => return false,
        }
    }
    others.is_empty()
}

/// A host's engine cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ClientError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Trust(error) => error.hint(),
            Self::Engine(error) => error.hint(),
        }
    }
}

/// A client of a host's engine, by the transport that its record names.
pub fn engine_client(store: &Store, record: &Record, url: &str) -> Result<EngineClient, ClientError> {
    match client_of(store, record)? {
        Some(files) => Ok(EngineClient::new(url, &files.ca_pem, &files.cert_pem, &files.key_pem)?),
        // Over `https` without certificates of ours nobody could tell whom the answer comes from.
        None if url.starts_with("https://") => Err(EngineError::Url { url: url.to_owned() }.into()),
        None => Ok(EngineClient::plain(url)?),
    }
}

/// The names that a host's server certificate is for.
pub(super) fn server_names(record: &Record) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if let Some(endpoint) = &record.endpoint {
        names.insert(0, endpoint.address.clone());
    }
    names.extend(record.host_options.auth_options.server_cert_sans.iter().cloned());
    names.dedup();
    names
}

/// The client's and the host's certificates, valid for where the host is reached now, of the authority that it is
/// pinned to. What is good is kept, unless it is to be renewed.
pub(super) fn host_certificates(
    host: &mut LockedHost<'_>,
    renew: bool,
) -> Result<(ClientFiles, HostFiles), TrustError> {
    let (context, name) = (host.context, host.record.name.clone());
    let pinned = match host.record.transport.authority() {
        Some(authority) => authority,
        // Nothing has been installed on it yet that anybody could have trusted.
        None if host.record.phase != Phase::Ready => {
            let current = current_signer(&context.certificates, &mut |_| {})?.fingerprint;
            host.record.transport = Transport::trusting(current);
            host.save()?;
            current
        }
        None => return Err(TrustError::Unpinned { name }),
    };
    let copies = context.store.host_copies(&name)?;
    let names = server_names(&host.record);
    let Some(signer) = signer_of(&context.certificates, &pinned)? else {
        // Nobody here can sign for it: it goes on with what it has, as long as that is good.
        let absent = TrustError::SignerAbsent { name: name.clone(), authority: pinned };
        let Some(client) = client_of(&context.store, &host.record)? else { return Err(absent) };
        return match copies.server {
            Some(server) if !renew && machine_pki::server_is_good(&client.ca_pem, &server, &names) => {
                let ca_pem = client.ca_pem.clone();
                Ok((client, host_files(ca_pem, server)))
            }
            _ => Err(absent),
        };
    };
    let trusted = trusted_pem(context, &host.record, signer.certificate_pem())?;
    let client = ClientFiles { ca_pem: trusted.clone(), ..signer.client_files() };
    let kept = copies
        .server
        .clone()
        .filter(|server| !renew && machine_pki::server_is_good(signer.certificate_pem(), server, &names));
    let is_new = kept.is_none();
    let server = match kept {
        Some(server) => server,
        None => signer.issue_server(&name, &names)?,
    };
    let files = host_files(trusted, server);
    let same_client = copies.ca_pem.as_ref() == Some(&client.ca_pem)
        && copies
            .client
            .as_ref()
            .is_some_and(|copy| copy.certificate_pem == client.cert_pem && copy.key_pem == client.key_pem);
    if is_new || !same_client {
        host.replace_copies(&client, is_new.then_some(&files))?;
    }
    Ok((client, files))
}

/// The client's and the host's certificates of an authority, for a host that is to trust no other: what is in the host's
/// folder, as far as that is good.
pub(super) fn certificates_of(
    context: &Context,
    record: &Record,
    authority: &Fingerprint,
) -> Result<(ClientFiles, HostFiles), TrustError> {
    let name = &record.name;
    let copies = context.store.host_copies(name)?;
    let names = server_names(record);
    let (ca_pem, client, server) = if let Some(signer) = signer_of(&context.certificates, authority)? {
        let ca_pem = signer.certificate_pem().to_owned();
        let kept = copies.server.filter(|server| machine_pki::server_is_good(&ca_pem, server, &names));
        let server = match kept {
            Some(server) => server,
            None => signer.issue_server(name, &names)?,
        };
        (ca_pem, signer.client, server)
    } else {
        let ca_pem = certificate_of(context, name, authority)?;
        let client = copies.client.filter(|client| machine_pki::client_is_good(&ca_pem, client));
        let server = copies.server.filter(|server| machine_pki::server_is_good(&ca_pem, server, &names));
        match (client, server) {
            (Some(client), Some(server)) => (ca_pem, client, server),
            _ => return Err(TrustError::SignerAbsent { name: name.clone(), authority: *authority }),
        }
    };
    let client_files =
        ClientFiles { ca_pem: ca_pem.clone(), cert_pem: client.certificate_pem, key_pem: client.key_pem };
    Ok((client_files, host_files(ca_pem, server)))
}

pub(super) fn host_files(ca_pem: String, server: Issued) -> HostFiles {
    HostFiles { ca_pem, server_pem: server.certificate_pem, server_key_pem: server.key_pem }
}

/// The authorities that a host and its clients trust now: its own first, and another one while it is being moved.
fn trusted_pem(context: &Context, record: &Record, own_pem: &str) -> Result<String, TrustError> {
    let Transport::MutualTls { also_trusted: Some(other), .. } = record.transport else {
        return Ok(own_pem.to_owned());
    };
    let other_pem = certificate_of(context, &record.name, &other)?;
    Ok(format!("{}\n{}", own_pem.trim_end(), other_pem))
}

/// The certificate of an authority that a host trusts: from the host's folder, or from the store's.
pub(super) fn certificate_of(
    context: &Context,
    name: &HostName,
    fingerprint: &Fingerprint,
) -> Result<String, TrustError> {
    let certificates = &context.certificates;
    let mut texts = vec![context.store.host_copies(name)?.ca_pem];
    for files in
        [certificates.kept_authority(fingerprint), certificates.own_authority(), certificates.authority()]
    {
        texts.push(files.read().ok().flatten().map(|pair| pair.certificate_pem));
    }
    let all = texts.iter().flatten().filter_map(|text| machine_pki::certificates(text).ok()).flatten();
    all.into_iter()
        .find(|pem| Fingerprint::of(pem).is_ok_and(|found| found == *fingerprint))
        .ok_or_else(|| TrustError::SignerAbsent { name: name.clone(), authority: *fingerprint })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_host_that_is_moved_between_its_record_and_its_files_is_not_foreign() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let name: HostName = "mc1".parse().unwrap();
        let lock = store.lock(&name).unwrap();
        let authority = |name| Authority::generate(name).unwrap();
        let pinned = |authority: &Authority| {
            Transport::trusting(Fingerprint::of(authority.certificate_pem()).unwrap())
        };
        let (before, after) = (authority("before"), authority("after"));
        let read = Record::new(&store, name.clone(), "none", serde_json::Value::Null, pinned(&before));
        store.plan(&lock, &mut read.clone()).unwrap();
        let client = after.issue_client("somebody").unwrap();
        let client = ClientFiles {
            ca_pem: after.certificate_pem().to_owned(),
            cert_pem: client.certificate_pem,
            key_pem: client.key_pem,
        };
        store.replace_host_copies(&lock, &name, &client, None).unwrap();
        assert!(matches!(client_of(&store, &read), Err(TrustError::Foreign { .. })));
        store.save(&lock, &mut Record { transport: pinned(&after), ..read.clone() }).unwrap();
        assert_eq!(client_of(&store, &read).unwrap(), Some(client));
    }
}

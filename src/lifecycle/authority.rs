//! Moves hosts from one authority to another, one by one; both are trusted until all have been moved.
//!
//! ```text
//!              record                   host trusts   host shows   clients believe   clients show
//! before       F                        F             F            F                 F
//! announced    F, G as well             F             F            F and G           F
//! moved        G, F as well             G and F       G            G and F           G
//! finished     G                        G             G            G                 G
//! ```
//!
//! Between the rows any of the two sides may come first, and they still understand each other, so that the same command
//! goes on from wherever it was killed. A host is `finished` only when no host of the store is pinned to F any more.

use std::time::Duration;

use machine_driver::{HostName, Progress};
use machine_pki::{Fingerprint, PkiError};

use super::{
    BringUpError, Context, Made, TrustError, bring_up, host_key,
    locked::LockedHost,
    trust::{self, Signer},
};
use crate::{
    engine_api::EngineError,
    provision::{self, TlsFiles},
    store::{ClientFiles, HostFiles, Operation, Transport},
};

/// How long an engine may take to read its certificates again.
const TAKE_UP_AT_MOST: Duration = Duration::from_secs(30);

/// What is going to happen when hosts are moved to the current authority.
#[derive(Debug, Default)]
pub struct MovePlan {
    /// Why a new authority is made first, if so.
    pub makes_new: Option<String>,
    /// The hosts that are moved.
    pub hosts: Vec<HostName>,
    /// The hosts that have been moved already, but still trust another authority besides.
    pub unfinished: Vec<HostName>,
}

/// Looks at what would be done for these hosts, or for all of the store. Changes nothing.
pub fn plan_move(context: &Context, names: Option<&[HostName]>) -> Result<MovePlan, TrustError> {
    let mut plan = MovePlan::default();
    let current = match trust::current_fingerprint(&context.certificates) {
        Ok(Some(current)) => Some(current),
        Ok(None) => {
            plan.makes_new = Some("This store has no authority of its own".to_owned());
            None
        }
        Err(TrustError::Authority { source: source @ PkiError::Expired { .. }, .. })
            if !context.certificates.names_authority() =>
        {
            plan.makes_new = Some(source.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    for (_, record) in context.store.list()? {
        let Ok(record) = record else { continue };
        if names.is_some_and(|names| !names.contains(&record.name)) {
            continue;
        }
        match record.transport {
            Transport::MutualTls { authority, .. } if authority.is_none() || authority != current => {
                plan.hosts.push(record.name);
            }
            Transport::MutualTls { also_trusted: Some(_), .. } => plan.unfinished.push(record.name),
            Transport::MutualTls { .. } | Transport::Plain => {}
        }
    }
    Ok(plan)
}

/// The authority that hosts are moved to: the named one, or the store's own, which is made anew if it has expired.
pub fn authority_to_move_to(context: &Context, made: &mut dyn FnMut(Made)) -> Result<Signer, TrustError> {
    let certificates = &context.certificates;
    match trust::current_signer(certificates, made) {
        Err(TrustError::Authority { source: PkiError::Expired { .. }, .. })
            if !certificates.names_authority() =>
        {
            let lock = certificates.lock()?;
            // Somebody else may have been faster.
            match trust::own_signer(certificates, &lock, made) {
                Err(TrustError::Authority { source: PkiError::Expired { .. }, .. }) => {
                    trust::make_own(certificates, &lock, made)
                }
                other => other,
            }
        }
        other => other,
    }
}

/// Moves a host: from here on it is pinned to `to`, and trusts the authority before as well.
pub async fn move_host(
    context: &Context,
    name: &HostName,
    to: &Signer,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    let mut host = LockedHost::open(context, name, Operation::RenewCertificates)?;
    let from = match host.record.transport {
        Transport::Plain => return Err(TrustError::NoTls { name: name.clone() }.into()),
        Transport::MutualTls { authority, .. } if authority == Some(to.fingerprint) => return Ok(()),
        Transport::MutualTls { authority, .. } => authority,
    };
    host.refresh(progress).await?;
    progress.step("Announcing the other authority");
    let trusted = match &from {
        // Its folder has what its clients believe, or nobody ever said whom it trusts.
        Some(from) => {
            let own = trust::certificate_of(context, name, from)?;
            host.record.transport =
                Transport::MutualTls { authority: Some(*from), also_trusted: Some(to.fingerprint) };
            host.save()?;
            if let Some(client) = context.store.host_copies(name)?.client {
                let client = ClientFiles {
                    ca_pem: format!("{}\n{}", own.trim_end(), to.certificate_pem()),
                    cert_pem: client.certificate_pem,
                    key_pem: client.key_pem,
                };
                host.replace_copies(&client, None)?;
            }
            format!("{}\n{}", to.certificate_pem().trim_end(), own)
        }
        None => to.certificate_pem().to_owned(),
    };
    let server = to.issue_server(name, &trust::server_names(&host.record))?;
    let files = trust::host_files(trusted.clone(), server);
    let client = ClientFiles { ca_pem: trusted, ..to.client_files() };
    install(&mut host, &client, &files, progress).await?;
    host.record.transport = Transport::MutualTls { authority: Some(to.fingerprint), also_trusted: from };
    host.save()?;
    Ok(())
}

/// The hosts that are in the way of trusting this authority no more: those that are pinned to it, and those of which
/// nobody can tell.
fn still_pinned(context: &Context, authority: &Fingerprint) -> Result<Vec<String>, TrustError> {
    let pinned = context.store.list()?.into_iter().filter(|(_, record)| match record {
        Ok(record) => record.transport.authority() == Some(*authority),
        Err(_) => true,
    });
    Ok(pinned.map(|(name, _)| name).collect())
}

/// Has a host that was moved trust its own authority alone. `Some`: not yet, because of these hosts.
pub async fn finish_move(
    context: &Context,
    name: &HostName,
    progress: &dyn Progress,
) -> Result<Option<Vec<String>>, BringUpError> {
    let mut host = LockedHost::open(context, name, Operation::RenewCertificates)?;
    let Transport::MutualTls { authority: Some(authority), also_trusted: Some(before) } =
        host.record.transport
    else {
        return Ok(None);
    };
    let waiting = still_pinned(context, &before)?;
    if !waiting.is_empty() {
        return Ok(Some(waiting));
    }
    host.refresh(progress).await?;
    let (client, files) = trust::certificates_of(context, &host.record, &authority)?;
    install(&mut host, &client, &files, progress).await?;
    host.record.transport = Transport::trusting(authority);
    host.save()?;
    Ok(None)
}

fn is_about_trust(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::ClientRefused { .. } | EngineError::UnknownIssuer { .. } | EngineError::Expired { .. }
    )
}

/// On the host first; its clients follow when the engine has answered them.
async fn install(
    host: &mut LockedHost<'_>,
    client: &ClientFiles,
    files: &HostFiles,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    progress.step("Installing TLS certificates");
    let session = host_key::log_in_for_secrets(host, progress).await?;
    provision::install_certificates(&session, &TlsFiles::from(files), progress).await?;
    session.close().await;
    let deadline = tokio::time::Instant::now() + TAKE_UP_AT_MOST;
    loop {
        match bring_up::check_engine(&host.record, client, progress).await {
            // It has been told to read its files again, and has not done so yet.
            Err(BringUpError::Engine { source, .. })
                if is_about_trust(&source) && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    Ok(host.replace_copies(client, Some(files))?)
}

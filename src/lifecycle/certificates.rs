//! Renews certificates, touching neither containers nor anything else on the host.

use machine_driver::{HostName, Progress};
use machine_pki::Fingerprint;

use super::{BringUpError, Context, TrustError, bring_up, host_key, locked::LockedHost, trust};
use crate::{
    provision::{self, TlsFiles},
    store::{Operation, Record, StoreError, Transport},
};

/// Renews the server certificate of a host and has the engine take it up. Who signs is who signed before.
pub async fn regenerate_server(
    context: &Context,
    name: &HostName,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    let mut host = LockedHost::open(context, name, Operation::RenewCertificates)?;
    if host.record.transport == Transport::Plain {
        return Err(TrustError::NoTls { name: name.clone() }.into());
    }
    host.refresh(progress).await?;
    progress.step("Regenerating TLS certificates");
    let (client, files) = trust::host_certificates(&mut host, true)?;
    let session = host_key::log_in_for_secrets(&mut host, progress).await?;
    provision::install_certificates(&session, &TlsFiles::from(&files), progress).await?;
    session.close().await;
    bring_up::check_engine(&host.record, &client, progress).await?;
    Ok(host.save()?)
}

/// What became of the hosts' copies when the client certificate was renewed.
#[derive(Debug, Default)]
pub struct ClientRenewal {
    /// Their clients have the new certificate.
    pub renewed: Vec<HostName>,
    /// They keep what they have, and why.
    pub left_alone: Vec<(String, String)>,
}

/// Renews the client certificate of the current authority, and the copies in the folders of the hosts that are pinned
/// to it, each under its lock. Everything else is left alone, and told.
pub fn regenerate_client(context: &Context) -> Result<ClientRenewal, TrustError> {
    let signer = trust::new_client(&context.certificates)?;
    let client = signer.client_files();
    let mut report = ClientRenewal::default();
    for (name, record) in context.store.list()? {
        let reason = match record {
            Err(error) => Some(error.to_string()),
            Ok(record) => match renew_copies(context, &record, &signer.fingerprint, &client)? {
                None => {
                    report.renewed.push(record.name);
                    continue;
                }
                reason => reason,
            },
        };
        report.left_alone.extend(reason.map(|reason| (name, reason)));
    }
    Ok(report)
}

/// Renews a host's copies, or says why not.
fn renew_copies(
    context: &Context,
    record: &Record,
    authority: &Fingerprint,
    client: &crate::store::ClientFiles,
) -> Result<Option<String>, StoreError> {
    let reason = |transport: &Transport| match transport {
        Transport::Plain => Some("it is reached without TLS".to_owned()),
        Transport::MutualTls { authority: Some(pinned), .. } if pinned == authority => None,
        Transport::MutualTls { authority: Some(pinned), .. } => {
            Some(format!("it is of another authority, {pinned}"))
        }
        Transport::MutualTls { authority: None, .. } => {
            Some("nobody can say which authority it is of".to_owned())
        }
    };
    if let Some(reason) = reason(&record.transport) {
        return Ok(Some(reason));
    }
    let host = match LockedHost::lock(context, &record.name) {
        Ok(host) => host,
        Err(error @ StoreError::Write { .. }) => return Err(error),
        Err(error) => return Ok(Some(error.to_string())),
    };
    // Only now is it sure to stay so.
    if let Some(reason) = reason(&host.record.transport) {
        return Ok(Some(reason));
    }
    let copies = context.store.host_copies(&record.name)?;
    let Some(ca_pem) = copies.ca_pem else {
        return Ok(Some("nothing has been installed on it yet".to_owned()));
    };
    let client = crate::store::ClientFiles { ca_pem, ..client.clone() };
    host.replace_copies(&client, None)?;
    Ok(None)
}

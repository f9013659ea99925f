//! Renews certificates, touching neither containers nor anything else on the host.

use machine_driver::{HostName, Progress};

use super::{BringUpError, Context, bring_up, host_key};
use crate::{provision, store::StoreError};

/// Renews the server certificate of a host and has the engine take it up.
pub async fn regenerate_server(
    context: &Context,
    name: &HostName,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    let lock = context.store.lock(name)?;
    let mut record = super::power::load_or_unlock(context, name, &lock)?;
    if context.driver(&record)?.info().features.power {
        context.refresh(&lock, &mut record, progress).await?;
    }
    progress.step("Regenerating TLS certificates");
    let (client, files) = bring_up::certificates(context, &record, true)?;
    let session = host_key::log_in_for_secrets(context, &lock, &mut record, progress).await?;
    let tls = provision::TlsFiles {
        ca_pem: files.ca_pem,
        server_pem: files.server_pem,
        server_key_pem: files.server_key_pem,
    };
    provision::install_certificates(&session, &tls, progress).await?;
    session.close().await;
    bring_up::check_engine(&record, &client, progress).await?;
    context.store.save(&lock, &mut record)?;
    Ok(())
}

/// Renews the client certificate of the store, and the copies in the folders of all hosts. The authority stays.
pub fn regenerate_client(context: &Context) -> Result<(), StoreError> {
    let authority = context.certificates.ensure_authority(&mut |_| {})?;
    let client = context.certificates.issue_client(&authority, &mut |_| {})?;
    for (name, record) in context.store.list()? {
        let Ok(record) = record else { continue };
        let folder = context.store.folder(&record.name);
        if !folder.join("cert.pem").exists() {
            continue;
        }
        tracing::debug!(name, "copying the client certificate");
        crate::store::write_atomically(&folder.join("key.pem"), client.key_pem.as_bytes(), 0o600)?;
        crate::store::write_atomically(&folder.join("cert.pem"), client.cert_pem.as_bytes(), 0o644)?;
    }
    Ok(())
}

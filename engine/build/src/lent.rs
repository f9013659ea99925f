//! What a client lends to commands: its secrets, and its SSH agent.

use std::any::Any;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::wire::Mount as WireMount;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::flags::{Mount, MountKind};
use super::outside::Client;
use super::run::bind;
use super::shop::Shop;
use super::stage::{blocking, failed};

/// What a command is given for as long as it runs.
#[derive(Default)]
pub(crate) struct Lent {
    pub(crate) mounts: Vec<WireMount>,
    /// `NAME=value`, of which nothing is written down.
    pub(crate) environment: Vec<String>,
    folders: Vec<tempfile::TempDir>,
    agents: Vec<Box<dyn Any + Send + Sync>>,
}

impl Lent {
    /// Brings what a mount is about, if the client has it.
    pub(crate) async fn add(
        &mut self,
        shop: &Arc<Shop>,
        client: Option<&Arc<dyn Client>>,
        mount: &Mount,
        cancelled: &CancellationToken,
    ) -> Result<(), BuildError> {
        let Some(client) = client else {
            if !mount.required {
                return Ok(());
            }
            let what = format!("{:?}", mount.kind).to_ascii_lowercase();
            return Err(BuildError::unsupported(&format!(
                "`RUN --mount=type={what},required`: a build over this endpoint carries none; the `docker` command line without buildx has no way to send one, and so it"
            )));
        };
        // A client may ask people before it answers, and be left meanwhile.
        let lending = async {
            match mount.kind {
                MountKind::Ssh => self.agent(shop, &**client, mount).await,
                _ => self.secret(shop, &**client, mount).await,
            }
        };
        tokio::select! {
            lent = lending => lent,
            () = cancelled.cancelled() => Err(BuildError::Cancelled),
        }
    }

    async fn secret(
        &mut self,
        shop: &Arc<Shop>,
        client: &dyn Client,
        mount: &Mount,
    ) -> Result<(), BuildError> {
        let of_target = || {
            let target = mount.target.as_deref().map(Path::new);
            target.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned())
        };
        let id = mount.id.clone().or_else(of_target);
        let id = id.ok_or_else(|| BuildError::invalid("a secret needs an `id` or a `target`"))?;
        let Some(secret) = client.secret(&id).await? else {
            if mount.required {
                return Err(BuildError::invalid(format!(
                    "secret {id}: not found, and it is required: give it with `--secret id={id},…`"
                )));
            }
            return Ok(());
        };
        if let Some(name) = &mount.env {
            let value =
                String::from_utf8(secret.clone()).ok().filter(|value| !value.contains('\0')).ok_or_else(
                    || BuildError::invalid(format!("secret {id}: its content is no value of a variable")),
                )?;
            self.environment.push(format!("{name}={value}"));
            if mount.target.is_none() {
                return Ok(());
            }
        }
        let target = mount.target.clone().unwrap_or_else(|| format!("/run/secrets/{id}"));
        let (shop, owner, mode) = (Arc::clone(shop), owner(mount), mount.mode.unwrap_or(0o400));
        let (folder, file) = blocking(move || {
            let folder = shop.lend().map_err(|error| failed("RUN", &error))?;
            let file = folder.path().join("secret");
            write(&file, &secret, owner, mode).map_err(|error| failed("RUN", &error))?;
            Ok((folder, file))
        })
        .await?;
        self.mounts.push(bind(&file, &target, true));
        self.folders.push(folder);
        Ok(())
    }

    async fn agent(
        &mut self,
        shop: &Arc<Shop>,
        client: &dyn Client,
        mount: &Mount,
    ) -> Result<(), BuildError> {
        let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
        let making = Arc::clone(shop);
        let folder = blocking(move || making.lend().map_err(|error| failed("RUN", &error))).await?;
        let socket: PathBuf = folder.path().join("agent");
        let Some(agent) = client.agent(&id, &socket).await? else {
            if mount.required {
                return Err(BuildError::invalid(format!(
                    "no SSH agent {id:?} is forwarded, and it is required: give it with `--ssh {id}`"
                )));
            }
            return Ok(());
        };
        let set = || -> io::Result<()> {
            let (user, group) = owner(mount);
            chown(&socket, Some(user), Some(group))?;
            fs::set_permissions(&socket, fs::Permissions::from_mode(mount.mode.unwrap_or(0o600)))
        };
        set().map_err(|error| failed("RUN", &error))?;
        let number = self.agents.len();
        let target = mount.target.clone().unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{number}"));
        if number == 0 {
            self.environment.push(format!("SSH_AUTH_SOCK={target}"));
        }
        self.mounts.push(bind(&socket, &target, true));
        self.agents.push(agent);
        self.folders.push(folder);
        Ok(())
    }
}

fn owner(mount: &Mount) -> (u32, u32) {
    (mount.user.unwrap_or(0), mount.group.unwrap_or(0))
}

fn write(path: &Path, content: &[u8], (user, group): (u32, u32), mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    chown(path, Some(user), Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

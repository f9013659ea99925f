//! What a VM is told at its first boot.

use machine_driver::{
    DriverError, HostView,
    seed::{Seed, SeedFile},
};

use crate::{
    config::Config,
    image::{Image, Services},
};

/// cloud-init's own `ssh_pwauth` comes late and restarts the SSH server, just when the first login is tried; files
/// are there before it starts.
const SSH_SETTINGS: (&str, &str) = (
    "/etc/ssh/sshd_config.d/10-machine.conf",
    "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
);
/// Linux takes no longer names.
const LONGEST_HOST_NAME: usize = 63;

pub(crate) fn seed(host: &HostView, config: &Config, image: &Image) -> Result<Seed, DriverError> {
    let login = host
        .login
        .as_ref()
        .ok_or_else(|| DriverError::failed("The VM cannot be made without a key to log in with"))?;
    let hostname: String = host.name.as_str().chars().take(LONGEST_HOST_NAME).collect();
    let write_files = match image.services {
        Services::MachineOs => Vec::new(),
        Services::Systemd => vec![SeedFile {
            path: SSH_SETTINGS.0.into(),
            content: SSH_SETTINGS.1.as_bytes().to_vec(),
            mode: 0o644,
        }],
    };
    Ok(Seed {
        instance_id: host.id.to_string(),
        hostname: hostname.trim_end_matches(['-', '.']).to_owned(),
        user: user(config, image).to_owned(),
        shell: Some("/bin/bash".into()),
        authorized_keys: vec![login.public.trim().to_owned()],
        host_key: host.host_key.clone(),
        write_files,
        ..Seed::default()
    })
}

pub(crate) fn user<'a>(config: &'a Config, image: &'a Image) -> &'a str {
    config.ssh_user.as_deref().unwrap_or(&image.user)
}

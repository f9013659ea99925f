//! What a VM is told at its first boot: who logs in, its keys, and the guest's half of port forwarding.

use super::image::Services;
use crate::{
    DriverError, HostView,
    seed::{Network, Seed, SeedFile},
};

const PORTS_PROGRAM: &str = "/usr/local/lib/machine/ports";
const PORTS_UNIT: &str = "\
[Unit]
Description=Tells the host which ports are listened on

[Service]
ExecStart=/usr/local/lib/machine/ports
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
";
/// cloud-init's own `ssh_pwauth` comes late and restarts the SSH server, just when the first login is tried; files
/// are there before it starts.
const SSH_SETTINGS: (&str, &str) = (
    "/etc/ssh/sshd_config.d/10-machine.conf",
    "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
);
/// Linux takes no longer names.
const LONGEST_HOST_NAME: usize = 63;

/// What a VM is told, as far as it differs from driver to driver.
#[derive(Debug)]
pub struct FirstBoot<'a> {
    /// Who logs in.
    pub user: &'a str,
    pub services: Services,
    /// The guest's half of port forwarding, one of those of [`super::ports`].
    pub ports: &'a str,
    pub network: Option<Network>,
}

/// The seed of a host's VM.
pub fn seed(host: &HostView, first: FirstBoot<'_>) -> Result<Seed, DriverError> {
    let login = host
        .login
        .as_ref()
        .ok_or_else(|| DriverError::failed("The VM cannot be made without a key to log in with"))?;
    let hostname: String = host.name.as_str().chars().take(LONGEST_HOST_NAME).collect();
    let file = |path: &str, text: &str, mode| SeedFile {
        path: path.into(),
        content: text.as_bytes().to_vec(),
        mode,
    };
    let (write_files, runcmd) = match first.services {
        Services::MachineOs => {
            (vec![file("/etc/services/machine-ports/run", first.ports, 0o755)], Vec::new())
        }
        Services::Systemd => (
            vec![
                file(PORTS_PROGRAM, first.ports, 0o755),
                file("/etc/systemd/system/machine-ports.service", PORTS_UNIT, 0o644),
                file(SSH_SETTINGS.0, SSH_SETTINGS.1, 0o644),
            ],
            [
                vec!["systemctl", "daemon-reload"],
                vec!["systemctl", "enable", "--now", "machine-ports.service"],
            ]
            .map(|words| words.into_iter().map(str::to_owned).collect())
            .to_vec(),
        ),
    };
    Ok(Seed {
        instance_id: host.id.to_string(),
        hostname: hostname.trim_end_matches(['-', '.']).to_owned(),
        user: first.user.to_owned(),
        shell: Some("/bin/bash".into()),
        authorized_keys: vec![login.public.trim().to_owned()],
        host_key: host.host_key.clone(),
        write_files,
        runcmd,
        network: first.network,
    })
}

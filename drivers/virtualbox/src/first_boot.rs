//! What a VM is told at its first boot.

use machine_driver::{
    DriverError, HostId, HostView,
    local::{image::Services, inside::Inside, ports::GUEST_OVER_SERIAL},
    seed::{Interface, Network, Seed, SeedFile},
};

use crate::{config::Config, image::Image};

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

pub(crate) fn seed(
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Inside,
) -> Result<Seed, DriverError> {
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
    let (write_files, runcmd) = match image.services {
        Services::MachineOs => {
            (vec![file("/etc/services/machine-ports/run", GUEST_OVER_SERIAL, 0o755)], Vec::new())
        }
        Services::Systemd => (
            vec![
                file(PORTS_PROGRAM, GUEST_OVER_SERIAL, 0o755),
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
        user: user(config, image).to_owned(),
        shell: Some("/bin/bash".into()),
        authorized_keys: vec![login.public.trim().to_owned()],
        host_key: host.host_key.clone(),
        write_files,
        runcmd,
        network: Some(network(host, inside)),
    })
}

/// The first interface leads out and the second one inside.
fn network(host: &HostView, inside: Inside) -> Network {
    let outside = Interface {
        name: "outside".into(),
        mac: Some(with_colons(outside_mac(&host.id))),
        dhcp: true,
        ..Interface::default()
    };
    let inside = Interface {
        name: "inside".into(),
        mac: Some(with_colons(inside.mac())),
        addresses: vec![inside.interface()],
        ..Interface::default()
    };
    Network { interfaces: vec![outside, inside] }
}

/// The first interface's hardware address: locally administered, and always the same, from the host's id.
pub(crate) fn outside_mac(id: &HostId) -> [u8; 6] {
    let digits: Vec<u8> = id
        .to_string()
        .chars()
        .filter_map(|c| c.to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    let pair = |at: usize| {
        digits.get(at).copied().unwrap_or_default() << 4 | digits.get(at + 1).copied().unwrap_or_default()
    };
    [0x52, 0x54, 0, pair(0), pair(2), pair(4)]
}

fn with_colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// As VirtualBox takes it.
pub(crate) fn without_colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02X}")).concat()
}

pub(crate) fn user<'a>(config: &'a Config, image: &'a Image) -> &'a str {
    config.ssh_user.as_deref().unwrap_or(&image.user)
}

//! The machine images that the bench's regions have, and the parameters under which they are found.

use serde_json::{Value, json};

/// Who publishes, and what the images are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    Debian,
    Ubuntu,
    AmazonLinux,
    MachineOs,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ami {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) distribution: Distribution,
    pub(crate) architecture: &'static str,
    created: &'static str,
}

/// The account that the emulator plays.
pub(crate) const ACCOUNT: &str = "123456789012";
/// The account of Amazon's own images.
pub(crate) const AMAZON: &str = "137112412989";
/// GiB, when a call does not say.
pub(crate) const ROOT_SIZE: u64 = 8;

const fn ami(
    id: &'static str,
    name: &'static str,
    distribution: Distribution,
    architecture: &'static str,
    created: &'static str,
) -> Ami {
    Ami { id, name, distribution, architecture, created }
}

pub(crate) const AMIS: [Ami; 13] = {
    use Distribution::{AmazonLinux, Debian, MachineOs, Ubuntu};
    [
        ami(
            "ami-0deb12a0000000001",
            "debian-12-amd64-20260101-1",
            Debian,
            "x86_64",
            "2026-01-01T08:00:00.000Z",
        ),
        ami(
            "ami-0deb12b0000000001",
            "debian-12-arm64-20260101-1",
            Debian,
            "arm64",
            "2026-01-01T08:00:00.000Z",
        ),
        ami(
            "ami-0deb12a0000000000",
            "debian-12-amd64-20251006-1",
            Debian,
            "x86_64",
            "2025-10-06T08:00:00.000Z",
        ),
        ami(
            "ami-0deb13a0000000001",
            "debian-13-amd64-20260101-1",
            Debian,
            "x86_64",
            "2026-01-01T09:00:00.000Z",
        ),
        ami(
            "ami-0deb13b0000000001",
            "debian-13-arm64-20260101-1",
            Debian,
            "arm64",
            "2026-01-01T09:00:00.000Z",
        ),
        ami(
            "ami-0b2204a0000000001",
            "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20260105",
            Ubuntu,
            "x86_64",
            "2026-01-05T03:00:00.000Z",
        ),
        ami(
            "ami-0b2204b0000000001",
            "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-arm64-server-20260105",
            Ubuntu,
            "arm64",
            "2026-01-05T03:00:00.000Z",
        ),
        ami(
            "ami-0b2404a0000000001",
            "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20260105",
            Ubuntu,
            "x86_64",
            "2026-01-05T04:00:00.000Z",
        ),
        ami(
            "ami-0b2404b0000000001",
            "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-20260105",
            Ubuntu,
            "arm64",
            "2026-01-05T04:00:00.000Z",
        ),
        ami(
            "ami-0a2023a0000000001",
            "al2023-ami-2023.9.20260105.0-kernel-6.1-x86_64",
            AmazonLinux,
            "x86_64",
            "2026-01-05T20:00:00.000Z",
        ),
        ami(
            "ami-0a2023b0000000001",
            "al2023-ami-2023.9.20260105.0-kernel-6.1-arm64",
            AmazonLinux,
            "arm64",
            "2026-01-05T20:00:00.000Z",
        ),
        ami(
            "ami-0cafe0a0000000001",
            "machineos-0.1.0-x86_64",
            MachineOs,
            "x86_64",
            "2026-01-02T00:00:00.000Z",
        ),
        ami("ami-0cafe0b0000000001", "machineos-0.1.0-arm64", MachineOs, "arm64", "2026-01-02T00:00:00.000Z"),
    ]
};

impl Ami {
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        AMIS.iter().find(|ami| ami.id == id)
    }

    pub(crate) fn owner(&self) -> &'static str {
        match self.distribution {
            Distribution::Debian => "136693071363",
            Distribution::Ubuntu => "099720109477",
            Distribution::AmazonLinux => AMAZON,
            Distribution::MachineOs => ACCOUNT,
        }
    }

    /// The account that the image lets log in.
    pub(crate) fn user(&self) -> &'static str {
        match self.distribution {
            Distribution::Debian => "admin",
            Distribution::Ubuntu => "ubuntu",
            Distribution::AmazonLinux => "ec2-user",
            Distribution::MachineOs => "docker",
        }
    }

    pub(crate) fn root_device(&self) -> &'static str {
        match self.distribution {
            Distribution::Ubuntu => "/dev/sda1",
            _ => "/dev/xvda",
        }
    }

    /// Only Amazon's own images have an alias for their owner.
    pub(crate) fn owner_alias(&self) -> Option<&'static str> {
        (self.distribution == Distribution::AmazonLinux).then_some("amazon")
    }

    fn is_public(&self) -> bool {
        self.distribution != Distribution::MachineOs
    }
}

/// The list as the emulator reads it.
pub(crate) fn for_moto() -> Value {
    let entry = |ami: &Ami| {
        json!({
            "ami_id": ami.id,
            "state": "available",
            "public": ami.is_public(),
            "owner_id": ami.owner(),
            "image_location": format!("{}/{}", ami.owner(), ami.name),
            "sriov": "simple",
            "root_device_type": "ebs",
            "root_device_name": ami.root_device(),
            "description": ami.name,
            "image_type": "machine",
            "platform": null,
            "architecture": ami.architecture,
            "name": ami.name,
            "virtualization_type": "hvm",
            "hypervisor": "xen",
            "creation_date": ami.created,
        })
    };
    AMIS.iter().map(entry).collect()
}

/// The image that a public parameter of the parameter store names.
pub(crate) fn of_parameter(name: &str) -> Option<&'static Ami> {
    let newest = |start: &str, architecture: &str| {
        AMIS.iter()
            .filter(|ami| ami.name.starts_with(start) && ami.architecture == architecture)
            .max_by_key(|ami| ami.created)
    };
    let architecture = |word: &str| match word {
        "amd64" | "x86_64" => Some("x86_64"),
        "arm64" => Some("arm64"),
        _ => None,
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["", "aws", "service", "debian", "release", release, "latest", arch] => {
            let start = match *release {
                "12" | "bookworm" => "debian-12-",
                "13" | "trixie" => "debian-13-",
                _ => return None,
            };
            newest(start, architecture(arch).filter(|_| *arch != "x86_64")?)
        }
        [
            "",
            "aws",
            "service",
            "canonical",
            "ubuntu",
            "server",
            release,
            "stable",
            "current",
            arch,
            "hvm",
            disk,
            "ami-id",
        ] => {
            let start = match (*release, *disk) {
                ("22.04", "ebs-gp2") => "ubuntu/images/hvm-ssd/ubuntu-jammy-",
                ("24.04", "ebs-gp3") => "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-",
                _ => return None,
            };
            newest(start, architecture(arch).filter(|_| *arch != "x86_64")?)
        }
        ["", "aws", "service", "ami-amazon-linux-latest", name] => {
            let arch = name.strip_prefix("al2023-ami-kernel-default-")?;
            newest("al2023-", architecture(arch).filter(|_| *arch != *"amd64")?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_name_the_newest_image_of_their_architecture() {
        let name = |parameter| of_parameter(parameter).map(|ami| ami.name);
        assert_eq!(name("/aws/service/debian/release/12/latest/amd64"), Some("debian-12-amd64-20260101-1"));
        assert_eq!(
            name("/aws/service/debian/release/trixie/latest/arm64"),
            Some("debian-13-arm64-20260101-1")
        );
        let ubuntu = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id";
        assert!(name(ubuntu).unwrap().contains("noble-24.04-amd64"));
        assert!(of_parameter(&ubuntu.replace("gp3", "gp2")).is_none());
        let amazon = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
        assert!(name(amazon).unwrap().ends_with("x86_64"));
        assert_eq!(name("/aws/service/debian/release/11/latest/amd64"), None);
        assert_eq!(name("/own/parameter"), None);
    }

    #[test]
    fn every_image_has_an_id_of_its_own() {
        let mut ids: Vec<&str> = AMIS.iter().map(|ami| ami.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), AMIS.len());
        assert!(ids.iter().all(|id| id.len() == "ami-0123456789abcdef0".len()));
    }
}

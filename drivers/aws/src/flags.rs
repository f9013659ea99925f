//! The options of `aws`, declared. Those of docker-machine's `amazonec2` are other names of the same.

use machine_driver::{Flag, FlagKind};

use FlagKind::{Integer, List, Retired, Switch, Text};

struct Row {
    name: &'static str,
    /// docker-machine's name, where it is not the same after the driver's.
    old: &'static [&'static str],
    environment: Option<&'static str>,
    kind: FlagKind,
    default: Option<&'static str>,
    value_name: &'static str,
    help: &'static str,
}

const fn row(
    name: &'static str,
    old: &'static [&'static str],
    environment: Option<&'static str>,
    kind: FlagKind,
    default: Option<&'static str>,
    value_name: &'static str,
    help: &'static str,
) -> Row {
    Row { name, old, environment, kind, default, value_name, help }
}

/// Which account and region is asked, and how: also the options of commands that are about no host.
const SCOPE: &[Row] = &[
    row(
        "aws-profile",
        &[],
        None,
        Text,
        None,
        "NAME",
        "The profile of ~/.aws/config whose credentials are used [default: the AWS SDK's own chain]",
    ),
    row(
        "aws-region",
        &["amazonec2-region"],
        None,
        Text,
        None,
        "REGION",
        "The region, such as eu-west-1 [default: AWS_REGION, then the profile's]",
    ),
    row(
        "aws-endpoint",
        &["amazonec2-endpoint"],
        Some("AWS_ENDPOINT"),
        Text,
        None,
        "URL",
        "Another address of the API, for emulators and private endpoints",
    ),
    row(
        "aws-insecure-transport",
        &["amazonec2-insecure-transport"],
        Some("AWS_INSECURE_TRANSPORT"),
        Switch,
        None,
        "",
        "An endpoint without `https://` is spoken to without TLS",
    ),
    row(
        "aws-retries",
        &["amazonec2-retries"],
        None,
        Integer,
        Some("8"),
        "NUMBER",
        "How often a call is tried before its failure counts; with growing, jittered pauses",
    ),
];

const HOST: &[Row] = &[
    row(
        "aws-image",
        &["aws-ami", "amazonec2-ami"],
        Some("AWS_AMI"),
        Text,
        Some("debian-12"),
        "IMAGE",
        "The image: debian-12, debian-13, ubuntu-22.04, ubuntu-24.04, al2023, an AMI's id, or the path of an SSM parameter that holds one",
    ),
    row(
        "aws-instance-type",
        &["amazonec2-instance-type"],
        Some("AWS_INSTANCE_TYPE"),
        Text,
        Some("t3.small"),
        "TYPE",
        "Any type that the region has; the image's architecture follows it",
    ),
    row(
        "aws-ssh-user",
        &["amazonec2-ssh-user"],
        Some("AWS_SSH_USER"),
        Text,
        None,
        "NAME",
        "Who logs in [default: the image's own user]",
    ),
    row(
        "aws-ssh-port",
        &["amazonec2-ssh-port"],
        Some("AWS_SSH_PORT"),
        Integer,
        Some("22"),
        "PORT",
        "Where the image's SSH server listens",
    ),
    row(
        "aws-vpc-id",
        &["amazonec2-vpc-id"],
        Some("AWS_VPC_ID"),
        Text,
        None,
        "VPC",
        "The VPC [default: the account's default VPC]",
    ),
    row(
        "aws-subnet-id",
        &["amazonec2-subnet-id"],
        Some("AWS_SUBNET_ID"),
        Text,
        None,
        "SUBNET",
        "The subnet [default: one of the VPC whose zone has the type]",
    ),
    row(
        "aws-zone",
        &["amazonec2-zone"],
        Some("AWS_ZONE"),
        Text,
        None,
        "ZONE",
        "The availability zone, in full or its last letter [default: any]",
    ),
    row(
        "aws-security-group",
        &["amazonec2-security-group"],
        None,
        List,
        None,
        "GROUP",
        "Security groups to use instead of one of the host's own, by id or name; rules that are missing are added to the first; may be given again",
    ),
    row(
        "aws-security-group-readonly",
        &["amazonec2-security-group-readonly"],
        Some("AWS_SECURITY_GROUP_READONLY"),
        Switch,
        None,
        "",
        "Add nothing to the groups named with --aws-security-group",
    ),
    row(
        "aws-open-to",
        &[],
        Some("AWS_OPEN_TO"),
        List,
        None,
        "NETWORK",
        "Who may reach SSH and the engine [default: the address that this machine has towards AWS]; may be given again",
    ),
    row(
        "aws-open-port",
        &["amazonec2-open-port"],
        None,
        List,
        None,
        "PORT",
        "A port to open to everybody, or to one network: 80, 53/udp, 8000-8010/tcp, 443/tcp@203.0.113.0/24; may be given again",
    ),
    row(
        "aws-swarm",
        &[],
        None,
        Text,
        None,
        "NAME",
        "Let hosts of the same NAME reach one another's swarm ports, and nobody else",
    ),
    row(
        "aws-swarm-manager",
        &[],
        None,
        Switch,
        None,
        "",
        "Open port 3376 as well, to whom the engine's port is open",
    ),
    row(
        "aws-private-address-only",
        &["amazonec2-private-address-only"],
        None,
        Switch,
        None,
        "",
        "Give the host no public address",
    ),
    row(
        "aws-use-private-address",
        &["amazonec2-use-private-address"],
        None,
        Switch,
        None,
        "",
        "Reach the host at its private address although it has a public one",
    ),
    row(
        "aws-ipv6",
        &[],
        None,
        Switch,
        None,
        "",
        "Give the host an IPv6 address; it is used where there is no public IPv4 address",
    ),
    row(
        "aws-root-size",
        &["amazonec2-root-size"],
        Some("AWS_ROOT_SIZE"),
        Integer,
        Some("16"),
        "GIB",
        "Size of the root disk",
    ),
    row(
        "aws-volume-type",
        &["amazonec2-volume-type"],
        Some("AWS_VOLUME_TYPE"),
        Text,
        Some("gp3"),
        "TYPE",
        "Type of the root disk",
    ),
    row(
        "aws-root-iops",
        &[],
        None,
        Integer,
        None,
        "NUMBER",
        "Provisioned operations per second of the root disk (gp3, io1, io2)",
    ),
    row(
        "aws-root-throughput",
        &[],
        None,
        Integer,
        None,
        "MIB",
        "Provisioned throughput of the root disk in MiB/s (gp3)",
    ),
    row(
        "aws-root-kms-key",
        &[],
        None,
        Text,
        None,
        "KEY",
        "The KMS key that encrypts the root disk [default: the account's key for EBS]",
    ),
    row("aws-root-unencrypted", &[], None, Switch, None, "", "Do not encrypt the root disk"),
    row(
        "aws-device-name",
        &["amazonec2-device-name"],
        Some("AWS_DEVICE_NAME"),
        Text,
        None,
        "DEVICE",
        "The name of the root device [default: the image's]",
    ),
    row(
        "aws-iam-instance-profile",
        &["amazonec2-iam-instance-profile"],
        Some("AWS_INSTANCE_PROFILE"),
        Text,
        None,
        "PROFILE",
        "The instance profile, by name or ARN",
    ),
    row(
        "aws-userdata",
        &["amazonec2-userdata"],
        Some("AWS_USERDATA"),
        Text,
        None,
        "FILE",
        "User data of your own: a cloud-config, a script, or whatever else cloud-init takes",
    ),
    row(
        "aws-tags",
        &["amazonec2-tags"],
        Some("AWS_TAGS"),
        Text,
        None,
        "TAGS",
        "Tags on everything that is made: key=value,… or key,value,…",
    ),
    row(
        "aws-spot",
        &["amazonec2-request-spot-instance"],
        None,
        Switch,
        None,
        "",
        "Ask for a spot instance, and for an ordinary one where none can be had",
    ),
    row(
        "aws-spot-price",
        &["amazonec2-spot-price"],
        None,
        Text,
        None,
        "USD",
        "The most to be paid an hour for it [default: the price on demand]",
    ),
    row("aws-spot-only", &[], None, Switch, None, "", "Fail where no spot instance can be had"),
    row("aws-tenancy", &[], None, Text, None, "TENANCY", "The tenancy: default, dedicated or host"),
    row("aws-placement-group", &[], None, Text, None, "NAME", "The placement group"),
    row("aws-monitoring", &["amazonec2-monitoring"], None, Switch, None, "", "Detailed monitoring"),
    row(
        "aws-use-ebs-optimized-instance",
        &["amazonec2-use-ebs-optimized-instance"],
        None,
        Switch,
        None,
        "",
        "EBS optimisation, for old types that do not have it anyway",
    ),
    row(
        "aws-termination-protection",
        &[],
        None,
        Switch,
        None,
        "",
        "AWS refuses to terminate the instance until that is switched off there",
    ),
    row(
        "aws-keypair-name",
        &["amazonec2-keypair-name"],
        Some("AWS_KEYPAIR_NAME"),
        Text,
        None,
        "NAME",
        "A key pair that is there already; needs --aws-ssh-keypath",
    ),
    row(
        "aws-ssh-keypath",
        &["amazonec2-ssh-keypath"],
        Some("AWS_SSH_KEYPATH"),
        Text,
        None,
        "FILE",
        "Your own private key to log in with, its public half beside it [default: a new pair for each host]",
    ),
    row(
        "aws-host-key",
        &[],
        None,
        Text,
        Some("delivered"),
        "HOW",
        "How the SSH host key is known: delivered with the user data and replaced at the first login, or read from the console",
    ),
    row(
        "aws-checkip-url",
        &[],
        Some("AWS_CHECKIP_URL"),
        Text,
        Some("https://checkip.amazonaws.com"),
        "URL",
        "Who is asked for the address that this machine has towards AWS",
    ),
    row(
        "aws-access-key",
        &["amazonec2-access-key"],
        None,
        Retired,
        None,
        "",
        "Credentials come from the AWS SDK's chain only: set AWS_ACCESS_KEY_ID or name a profile",
    ),
    row(
        "aws-secret-key",
        &["amazonec2-secret-key"],
        None,
        Retired,
        None,
        "",
        "Credentials come from the AWS SDK's chain only: set AWS_SECRET_ACCESS_KEY or name a profile",
    ),
    row(
        "aws-session-token",
        &["amazonec2-session-token"],
        None,
        Retired,
        None,
        "",
        "Credentials come from the AWS SDK's chain only: set AWS_SESSION_TOKEN or name a profile",
    ),
    row(
        "aws-block-duration-minutes",
        &["amazonec2-block-duration-minutes"],
        None,
        Retired,
        None,
        "",
        "AWS has no spot instances of a defined duration any more",
    ),
];

fn declared(rows: &'static [Row]) -> impl Iterator<Item = Flag> {
    rows.iter().map(|row| Flag {
        aliases: row.old.iter().map(ToString::to_string).collect(),
        environment: row.environment.map(str::to_owned),
        default: row.default.map(str::to_owned),
        ..Flag::new(row.name, row.kind, row.value_name, row.help)
    })
}

/// Which account and region is asked.
pub(crate) fn scope() -> Vec<Flag> {
    declared(SCOPE).collect()
}

pub(crate) fn all() -> Vec<Flag> {
    declared(SCOPE).chain(declared(HOST)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of docker-machine 0.16's amazonec2 driver.
    const DOCKER_MACHINE: [&str; 32] = [
        "access-key",
        "secret-key",
        "session-token",
        "ami",
        "region",
        "vpc-id",
        "zone",
        "subnet-id",
        "security-group-readonly",
        "security-group",
        "open-port",
        "tags",
        "instance-type",
        "device-name",
        "root-size",
        "volume-type",
        "iam-instance-profile",
        "ssh-port",
        "ssh-user",
        "request-spot-instance",
        "spot-price",
        "block-duration-minutes",
        "private-address-only",
        "use-private-address",
        "monitoring",
        "use-ebs-optimized-instance",
        "ssh-keypath",
        "keypair-name",
        "retries",
        "endpoint",
        "insecure-transport",
        "userdata",
    ];

    #[test]
    fn every_option_of_docker_machine_is_another_name_of_one() {
        let flags = all();
        for option in DOCKER_MACHINE {
            let old = format!("amazonec2-{option}");
            assert!(flags.iter().any(|flag| flag.aliases.contains(&old)), "{old}");
        }
    }

    #[test]
    fn names_are_unique() {
        let flags = all();
        let mut names: Vec<&String> =
            flags.iter().flat_map(|flag| flag.aliases.iter().chain([&flag.name])).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

//! The options of a host, checked once: values that cannot work do not get past here.

use std::{collections::BTreeMap, path::PathBuf};

use machine_driver::{DriverError, Network, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rules::{OpenPort, network};

/// Keys that AWS or we use ourselves.
const RESERVED_TAGS: [&str; 2] = ["aws:", "machine:"];
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>
const MOST_TAGS: usize = 40;
const LONGEST_TAG_KEY: usize = 128;
const LONGEST_TAG_VALUE: usize = 256;
const VOLUME_TYPES: [&str; 5] = ["gp3", "gp2", "io2", "io1", "standard"];

/// Which account and region is asked, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    pub(crate) attempts: u32,
}

/// How the host's SSH host key becomes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HostKeys {
    /// One of ours travels in the user data, and is replaced at the first login.
    Delivered,
    /// The host makes its own, and its console shows them.
    Console,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootDisk {
    /// GiB.
    pub(crate) size: i32,
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iops: Option<i32>,
    /// MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) throughput: Option<i32>,
    pub(crate) encrypted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kms_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spot {
    /// USD an hour, as AWS takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) price: Option<String>,
    pub(crate) only: bool,
}

/// What a host is to be like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one option")]
pub(crate) struct Config {
    pub(crate) scope: Scope,
    pub(crate) image: String,
    pub(crate) instance_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_user: Option<String>,
    pub(crate) ssh_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vpc: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subnet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    pub(crate) groups_read_only: bool,
    /// Empty: the caller's own address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) open_to: Vec<Network>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) open_ports: Vec<OpenPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) swarm: Option<String>,
    pub(crate) swarm_manager: bool,
    pub(crate) private_only: bool,
    pub(crate) use_private: bool,
    pub(crate) ipv6: bool,
    pub(crate) root: RootDisk,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance_profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_data: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spot: Option<Spot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenancy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placement_group: Option<String>,
    pub(crate) monitoring: bool,
    pub(crate) ebs_optimized: bool,
    pub(crate) termination_protection: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_pair: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) host_keys: HostKeys,
    pub(crate) checkip_url: String,
}

impl Scope {
    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let endpoint = match options.text("aws-endpoint") {
            Some(url) => Some(endpoint(url, options.switch("aws-insecure-transport"))?),
            None if options.switch("aws-insecure-transport") => {
                return Err(DriverError::invalid("`--aws-insecure-transport` is for another endpoint")
                    .with_hint("Name it with `--aws-endpoint`"));
            }
            None => None,
        };
        let region = options.text("aws-region").map(region).transpose()?;
        Ok(Self {
            profile: options.text("aws-profile").map(str::to_owned),
            region,
            endpoint,
            attempts: number(options, "aws-retries", 1, 50)?.unwrap_or(8),
        })
    }
}

impl Config {
    pub(crate) fn from_value(value: &Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(value.clone())
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the options").with_source(error))
    }

    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let text = |name: &str| options.text(name).map(str::to_owned);
        let config = Self {
            scope: Scope::from_options(options)?,
            image: text("aws-image").unwrap_or_default(),
            instance_type: word(options, "aws-instance-type")?.unwrap_or_default(),
            ssh_user: word(options, "aws-ssh-user")?,
            ssh_port: number(options, "aws-ssh-port", 1, 65535)?.unwrap_or(22),
            vpc: identifier(options, "aws-vpc-id", "vpc-")?,
            subnet: identifier(options, "aws-subnet-id", "subnet-")?,
            zone: word(options, "aws-zone")?,
            groups: options.list("aws-security-group").to_vec(),
            groups_read_only: options.switch("aws-security-group-readonly"),
            open_to: each(options.list("aws-open-to"), network)?,
            open_ports: each(options.list("aws-open-port"), str::parse)?,
            swarm: word(options, "aws-swarm")?,
            swarm_manager: options.switch("aws-swarm-manager"),
            private_only: options.switch("aws-private-address-only"),
            use_private: options.switch("aws-use-private-address"),
            ipv6: options.switch("aws-ipv6"),
            root: RootDisk {
                size: number(options, "aws-root-size", 1, 65536)?.unwrap_or(16),
                kind: text("aws-volume-type").unwrap_or_default(),
                iops: number(options, "aws-root-iops", 100, 256_000)?,
                throughput: number(options, "aws-root-throughput", 125, 4000)?,
                encrypted: !options.switch("aws-root-unencrypted"),
                kms_key: text("aws-root-kms-key"),
                device: text("aws-device-name"),
            },
            instance_profile: text("aws-iam-instance-profile"),
            user_data: file(options, "aws-userdata")?,
            tags: tags(options.text("aws-tags").unwrap_or_default())?,
            spot: spot(options)?,
            tenancy: text("aws-tenancy"),
            placement_group: text("aws-placement-group"),
            monitoring: options.switch("aws-monitoring"),
            ebs_optimized: options.switch("aws-use-ebs-optimized-instance"),
            termination_protection: options.switch("aws-termination-protection"),
            key_pair: text("aws-keypair-name"),
            key_file: file(options, "aws-ssh-keypath")?,
            host_keys: match options.text("aws-host-key") {
                Some("delivered") | None => HostKeys::Delivered,
                Some("console") => HostKeys::Console,
                Some(other) => {
                    return Err(DriverError::invalid(format!(
                        "`--aws-host-key` is `delivered` or `console`, not `{other}`"
                    )));
                }
            },
            checkip_url: text("aws-checkip-url").unwrap_or_default(),
        };
        config.agrees()?;
        Ok(config)
    }

    /// Refuses options that contradict one another.
    fn agrees(&self) -> Result<(), DriverError> {
        let refuse = |message: String| Err(DriverError::invalid(message));
        if self.key_pair.is_some() && self.key_file.is_none() {
            return Err(DriverError::invalid("`--aws-keypair-name` needs the pair's private key")
                .with_hint("Name its file with `--aws-ssh-keypath`"));
        }
        if self.groups_read_only && self.groups.is_empty() {
            return refuse(
                "`--aws-security-group-readonly` needs groups, named with `--aws-security-group`".into(),
            );
        }
        if self.groups_read_only && !(self.open_ports.is_empty() && self.open_to.is_empty()) {
            return refuse("Nothing can be opened in groups that are read-only".into());
        }
        let root = &self.root;
        if !VOLUME_TYPES.contains(&root.kind.as_str()) {
            return refuse(format!(
                "`--aws-volume-type` is one of {}, not `{}`",
                VOLUME_TYPES.join(", "),
                root.kind
            ));
        }
        if root.iops.is_some() && !matches!(root.kind.as_str(), "gp3" | "io1" | "io2") {
            return refuse(format!("A disk of type {} has no `--aws-root-iops`", root.kind));
        }
        if root.iops.is_none() && matches!(root.kind.as_str(), "io1" | "io2") {
            return refuse(format!("A disk of type {} needs `--aws-root-iops`", root.kind));
        }
        if root.throughput.is_some() && root.kind != "gp3" {
            return refuse(format!("A disk of type {} has no `--aws-root-throughput`", root.kind));
        }
        if root.kms_key.is_some() && !root.encrypted {
            return refuse("A disk with a KMS key is encrypted".into());
        }
        match self.tenancy.as_deref() {
            None | Some("default" | "dedicated" | "host") => Ok(()),
            Some(other) => refuse(format!("`--aws-tenancy` is default, dedicated or host, not `{other}`")),
        }
    }

    /// Whether the host is reached from inside its network.
    pub(crate) fn is_private(&self) -> bool {
        self.private_only || self.use_private
    }
}

fn endpoint(text: &str, insecure: bool) -> Result<String, DriverError> {
    let url = match text.split_once("://") {
        Some(("http" | "https", _)) => text.to_owned(),
        Some(_) => String::new(),
        None if insecure => format!("http://{text}"),
        None => format!("https://{text}"),
    };
    let host = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let authority = host.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    let is_good = !authority.is_empty()
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
        && authority.contains('[') == authority.contains(']')
        && port.is_none_or(|port| port.parse::<u16>().is_ok());
    if !is_good {
        return Err(DriverError::invalid(format!("`--aws-endpoint` takes an http(s) URL, not `{text}`")));
    }
    Ok(url)
}

/// Regions are in no list: new ones need no new program.
pub(crate) fn region(text: &str) -> Result<String, DriverError> {
    let good = text.len() <= 32
        && text.split('-').count() >= 3
        && text.split('-').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        });
    if good {
        Ok(text.to_owned())
    } else {
        Err(DriverError::invalid(format!("`{text}` is no region"))
            .with_hint("Regions are named like eu-west-1; `aws ec2 describe-regions` lists them"))
    }
}

fn number<T: TryFrom<i64>>(
    options: &Options,
    name: &str,
    least: i64,
    most: i64,
) -> Result<Option<T>, DriverError> {
    let Some(value) = options.integer(name) else { return Ok(None) };
    let within = Some(value).filter(|value| (least..=most).contains(value));
    match within.and_then(|value| T::try_from(value).ok()) {
        Some(value) => Ok(Some(value)),
        None => Err(DriverError::invalid(format!("`--{name}` is from {least} to {most}, not {value}"))),
    }
}

fn word(options: &Options, name: &str) -> Result<Option<String>, DriverError> {
    let Some(text) = options.text(name) else { return Ok(None) };
    let good = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if good {
        Ok(Some(text.to_owned()))
    } else {
        Err(DriverError::invalid(format!("`--{name}` cannot be `{}`", text.escape_debug())))
    }
}

/// A path that means the same from every folder.
fn file(options: &Options, name: &str) -> Result<Option<PathBuf>, DriverError> {
    let Some(text) = options.text(name) else { return Ok(None) };
    std::path::absolute(text).map(Some).map_err(|error| {
        DriverError::invalid(format!("`--{name}` cannot be `{}`", text.escape_debug())).with_source(error)
    })
}

fn identifier(options: &Options, name: &str, prefix: &str) -> Result<Option<String>, DriverError> {
    let found = word(options, name)?;
    match &found {
        Some(text) if !text.starts_with(prefix) => {
            Err(DriverError::invalid(format!("`--{name}` begins with `{prefix}`, unlike `{text}`")))
        }
        _ => Ok(found),
    }
}

fn each<T>(texts: &[String], parse: impl Fn(&str) -> Result<T, DriverError>) -> Result<Vec<T>, DriverError> {
    texts.iter().filter(|text| !text.is_empty()).map(|text| parse(text)).collect()
}

fn spot(options: &Options) -> Result<Option<Spot>, DriverError> {
    let price = options.text("aws-spot-price").map(str::to_owned);
    let only = options.switch("aws-spot-only");
    if let Some(text) = &price
        && !text.parse::<f64>().is_ok_and(|price| price > 0.0 && price.is_finite())
    {
        return Err(DriverError::invalid(format!("`--aws-spot-price` is in USD an hour, not `{text}`")));
    }
    Ok((options.switch("aws-spot") || price.is_some() || only).then_some(Spot { price, only }))
}

/// `key=value,…` as people write it, or `key,value,…` as docker-machine had it.
fn tags(text: &str) -> Result<BTreeMap<String, String>, DriverError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let with_sign = parts.iter().filter(|part| part.contains('=')).count();
    let pairs: Vec<(&str, &str)> = if with_sign == parts.len() {
        parts.iter().filter_map(|part| part.split_once('=')).collect()
    } else if with_sign == 0 && parts.len().is_multiple_of(2) {
        parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    } else {
        return Err(DriverError::invalid("`--aws-tags` has a key without a value")
            .with_hint("Write them as key=value,key=value"));
    };
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        if RESERVED_TAGS.iter().any(|reserved| key.to_ascii_lowercase().starts_with(reserved)) {
            return Err(DriverError::invalid(format!("The tag `{key}` is not for you to set")));
        }
        if key.is_empty() || text.contains(char::is_control) {
            return Err(DriverError::invalid(format!("`{}` is no list of tags", text.escape_debug()))
                .with_hint("Write them as key=value,key=value"));
        }
        if key.chars().count() > LONGEST_TAG_KEY || value.chars().count() > LONGEST_TAG_VALUE {
            return Err(DriverError::invalid(format!(
                "The tag `{key}` is too long: keys have {LONGEST_TAG_KEY} characters at most, values {LONGEST_TAG_VALUE}"
            )));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(DriverError::invalid(format!("The tag `{key}` has two values")));
        }
    }
    if tags.len() > MOST_TAGS {
        return Err(DriverError::invalid(format!("There are {} tags; {MOST_TAGS} are the most", tags.len())));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, DriverError> {
        let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in pairs {
            given.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        Config::from_options(&Options::resolve(&crate::flags::all(), &given).unwrap())
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        config(pairs).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_careful() {
        let config = config(&[]).unwrap();
        assert!(config.root.encrypted && config.root.kind == "gp3");
        assert!(config.open_to.is_empty() && config.open_ports.is_empty());
        assert_eq!(config.host_keys, HostKeys::Delivered);
        assert_eq!(Config::from_value(&config.to_value().unwrap()).unwrap(), config);
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal(&[("aws-keypair-name", "mine")]).contains("private key"));
        assert!(refusal(&[("aws-security-group-readonly", "true")]).contains("--aws-security-group"));
        assert!(refusal(&[("aws-volume-type", "gp4")]).contains("gp3, gp2"));
        assert!(refusal(&[("aws-volume-type", "gp2"), ("aws-root-iops", "3000")]).contains("gp2"));
        assert!(refusal(&[("aws-volume-type", "io2")]).contains("needs"));
        assert!(refusal(&[("aws-root-unencrypted", "true"), ("aws-root-kms-key", "k")]).contains("KMS"));
        assert!(refusal(&[("aws-ssh-port", "70000")]).contains("65535"));
        assert!(refusal(&[("aws-open-port", "http")]).contains("`http`"));
        assert!(refusal(&[("aws-spot-price", "cheap")]).contains("USD"));
        assert!(refusal(&[("aws-subnet-id", "vpc-1")]).contains("subnet-"));
        assert!(refusal(&[("aws-insecure-transport", "true")]).contains("endpoint"));
        assert!(refusal(&[("aws-instance-type", "t3 small")]).contains("t3 small"));
    }

    #[test]
    fn any_region_will_do_that_reads_like_one() {
        for text in ["eu-west-1", "us-gov-east-1", "cn-north-1", "mx-central-1"] {
            assert!(region(text).is_ok(), "{text}");
        }
        for text in ["", "mars", "EU-west-1", "eu-west-1/../x", "eu--1"] {
            assert!(region(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tags_are_read_in_both_ways() {
        let both = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        assert_eq!(tags("a=1,b=2").unwrap(), both);
        assert_eq!(tags("a,1,b,2").unwrap(), both);
        for wrong in ["a,1,b", "a=1,b", "k=v,k=w", "=x", "a=1\n2"] {
            assert!(tags(wrong).is_err(), "{wrong:?}");
        }
        assert!(tags("machine:id=x").is_err());
        assert!(tags("aws:x=y").is_err());
        assert!(tags("").unwrap().is_empty());
    }

    #[test]
    fn an_endpoint_is_a_url() {
        assert_eq!(endpoint("127.0.0.1:5000", true).unwrap(), "http://127.0.0.1:5000");
        assert_eq!(endpoint("ec2.example.org", false).unwrap(), "https://ec2.example.org");
        assert!(endpoint("http://[::1]:5000/x", false).is_ok());
        for wrong in ["ftp://x", "http://", "http:///x", "a b", "http://[::1", "http://x:99999"] {
            assert!(endpoint(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_price_asks_for_a_spot_instance() {
        assert_eq!(config(&[]).unwrap().spot, None);
        let spot = config(&[("aws-spot-price", "0.05")]).unwrap().spot.unwrap();
        assert_eq!((spot.price.as_deref(), spot.only), (Some("0.05"), false));
    }
}

//! An account on the bench, and a host in it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use async_trait::async_trait;
use aws_bench::{Bench, Emulator};
use machine_driver::{
    Driver, HostId, HostKey, HostView, LoginKey, Options, Protocol, Rule, Source,
    conformance::{Inventory, Resource},
};
use machine_driver_aws::{Aws, Pace};
use serde_json::json;

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const OWNER: &str = "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

/// A driver that waits no longer than the bench needs, which does everything at once.
pub(crate) fn driver() -> Aws {
    impatient(Duration::from_secs(5))
}

/// The same, for which what was just made is hidden for no longer than this.
pub(crate) fn impatient(consistency: Duration) -> Aws {
    paced(consistency, Duration::from_millis(100))
}

/// The same, with patience for what may be there: as AWS has it, in a fraction of the time.
pub(crate) fn patient() -> Aws {
    paced(Duration::from_secs(20), Duration::from_secs(10))
}

fn paced(consistency: Duration, absence: Duration) -> Aws {
    let moment = Duration::from_millis(10);
    Aws::paced(Pace {
        poll: moment,
        first_pause: moment,
        longest_pause: Duration::from_millis(50),
        first_retry: moment,
        longest_retry: Duration::from_millis(50),
        consistency,
        absence,
    })
}

/// An account that is empty.
pub(crate) struct Cloud {
    pub(crate) aws: Bench,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is not set: run `cargo xtask test`"))
}

/// The emulator that all clouds share; it ends with this process.
fn emulator() -> &'static str {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    let program = PathBuf::from(variable("AWS_BENCH_PROGRAM"));
    EMULATOR.get_or_init(|| Emulator::start(&program).unwrap()).address()
}

impl Cloud {
    pub(crate) fn new() -> Self {
        variable("AWS_ACCESS_KEY_ID");
        let program = variable("AWS_BENCH_PROGRAM");
        let arguments = ["--no-vms", "--emulator", emulator()];
        let aws = Bench::start(Path::new(&program), Path::new("absent"), arguments).unwrap();
        aws.settings(json!({ "pending_ms": 0, "ending_ms": 0 })).unwrap();
        Self { aws }
    }

    pub(crate) fn call(&self, query: &str) -> (u16, String) {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers =
            [("authorization", scope.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        self.aws.request("POST", "/", &headers, &format!("Version=2016-11-15&{query}")).unwrap()
    }

    pub(crate) fn ask(&self, query: &str) -> String {
        let (status, answer) = self.call(query);
        assert_eq!(status, 200, "{query}: {answer}");
        answer
    }

    /// The ports and sources that a group lets in.
    pub(crate) fn rules(&self, group: &str) -> BTreeSet<(String, String)> {
        let answer = self.ask(&format!("Action=DescribeSecurityGroups&GroupId.1={group}"));
        let rules = between(&answer, "<ipPermissions>", "</ipPermissions>");
        let mut found = BTreeSet::new();
        for rule in rules.split("<ipProtocol>").skip(1) {
            let port = between(rule, "<fromPort>", "</").to_owned();
            for element in ["cidrIp", "groupId"] {
                for source in rule.split(&format!("<{element}>")).skip(1) {
                    let source = source.split('<').next().unwrap_or_default();
                    found.insert((port.clone(), source.to_owned()));
                }
            }
        }
        found
    }

    /// Opens a port past the driver.
    pub(crate) fn open(&self, group: &str, port: u16, from: &str) {
        self.ask(&format!(
            "Action=AuthorizeSecurityGroupIngress&GroupId={group}&IpPermissions.1.IpProtocol=tcp&\
             IpPermissions.1.FromPort={port}&IpPermissions.1.ToPort={port}&IpPermissions.1.IpRanges.1.CidrIp={from}"
        ));
    }

    /// The options of a host that is reached at an address which stays.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("aws-region", REGION.to_owned()),
            ("aws-endpoint", self.aws.endpoint().to_owned()),
            ("aws-checkip-url", self.aws.checkip()),
        ]
    }

    pub(crate) async fn host(
        &self,
        driver: &Aws,
        folder: &Path,
        options: &[(&'static str, &str)],
    ) -> HostView {
        let options = options.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let given = self.options().into_iter().chain(options);
        let given = given.map(|(name, value)| (name.to_owned(), vec![value])).collect();
        let options = Options::resolve(&driver.flags(), &given).unwrap();
        HostView {
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            owner: OWNER.to_owned(),
            folder: folder.to_owned(),
            cache: folder.to_owned(),
            config: driver.configure(&options).await.unwrap(),
            place: None,
            login: Some(login()),
            host_key: Some(host_key()),
        }
    }

    /// The ids of the instances that live.
    pub(crate) fn living(&self) -> BTreeSet<String> {
        let all = self.aws.instances().unwrap().into_iter();
        all.filter(|one| one["state"] != "terminated")
            .filter_map(|one| one["id"].as_str().map(str::to_owned))
            .collect()
    }

    /// The host's own group, by its tag.
    fn group_of(&self, host: &HostView) -> Option<String> {
        let answer = self.ask(&format!(
            "Action=DescribeSecurityGroups&Filter.1.Name=tag%3Amachine%3Aid&Filter.1.Value.1={}",
            host.id
        ));
        Some(between(&answer, "<groupId>", "</").to_owned()).filter(|id| !id.is_empty())
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.aws.left().unwrap(), json!({}));
    }
}

pub(crate) fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.split_once(start).map(|(_, rest)| rest).unwrap_or_default();
    from.split_once(end).map(|(found, _)| found).unwrap_or_default()
}

pub(crate) fn login() -> LoginKey {
    LoginKey { public: format!("{KEY} login") }
}

pub(crate) fn host_key() -> HostKey {
    HostKey {
        public: KEY.to_owned(),
        private: "-----BEGIN X-----\nnot to be found\n-----END X-----\n".to_owned(),
    }
}

/// What carries a host's id, as the emulator knows it.
#[async_trait]
impl Inventory for Cloud {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        let mut found = Vec::new();
        for (action, kind, element) in [
            ("DescribeInstances", "instance", "instanceId"),
            ("DescribeVolumes", "volume", "volumeId"),
            ("DescribeKeyPairs", "key pair", "keyName"),
            ("DescribeSecurityGroups", "security group", "groupId"),
        ] {
            let answer = self.ask(&format!(
                "Action={action}&Filter.1.Name=tag%3Amachine%3Aid&Filter.1.Value.1={}",
                host.id
            ));
            let start = format!("<{element}>");
            let names: BTreeSet<&str> =
                answer.split(&start).skip(1).filter_map(|rest| rest.split('<').next()).collect();
            found.extend(
                names.into_iter().map(|name| Resource { kind: kind.to_owned(), name: name.to_owned() }),
            );
        }
        let living = self.living();
        found.retain(|one| one.kind != "instance" || living.contains(&one.name));
        // A volume is described with its instance's id, and a group with that of its members.
        found.retain(|one| one.kind != "volume" || one.name.starts_with("vol-"));
        found
    }

    async fn let_in(&self, host: &HostView) -> Option<Vec<Rule>> {
        let rules = self.group_of(host).map(|group| self.rules(&group)).unwrap_or_default();
        let rule = |(port, from): (String, String)| {
            let port = port.parse().unwrap();
            Rule {
                protocol: Protocol::Tcp,
                ports: (port, port),
                from: Source::Network(from.parse().unwrap()),
            }
        };
        Some(rules.into_iter().map(rule).collect())
    }

    async fn open_by_hand(&self, host: &HostView, rule: &Rule) {
        let Source::Network(network) = &rule.from else { panic!("{rule:?}") };
        self.open(&self.group_of(host).unwrap(), rule.ports.0, &network.to_string());
    }
}

//! The driver held to its contract on the bench, whose instances do not boot: every write of the journal is killed and
//! repeated.
//!
//! `cargo xtask test` runs it, and names the bench's program, its emulator and credentials that are good there.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "the figures that are measured are shown")]

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_bench::Bench;
use machine_driver::{
    Driver, Entry, HostId, HostKey, HostView, Journal, JournalError, LoginKey, MemoryJournal, Options,
    Protocol, Rule, Silent, Source,
    conformance::{Inventory, Resource, Suite},
};
use machine_driver_aws::{Aws, Pace};
use serde_json::{Value, json};

const REGION: &str = "eu-west-1";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

/// The bench does everything at once.
fn driver() -> Aws {
    let moment = Duration::from_millis(10);
    Aws::paced(Pace {
        poll: moment,
        first_pause: moment,
        longest_pause: Duration::from_millis(50),
        consistency: Duration::from_secs(5),
        absence: Duration::from_millis(100),
    })
}

/// An account that is empty.
struct Cloud {
    aws: Bench,
}

impl Cloud {
    fn new() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is not set: run `cargo xtask test`"))
        };
        variable("AWS_ACCESS_KEY_ID");
        let program = variable("AWS_BENCH_PROGRAM");
        let aws = Bench::start(Path::new(&program), Path::new("absent"), ["--no-vms"]).unwrap();
        aws.settings(json!({ "pending_ms": 0, "ending_ms": 0 })).unwrap();
        Self { aws }
    }

    fn ask(&self, query: &str) -> String {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers =
            [("authorization", scope.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let (status, answer) =
            self.aws.request("POST", "/", &headers, &format!("Version=2016-11-15&{query}")).unwrap();
        assert_eq!(status, 200, "{query}: {answer}");
        answer
    }

    /// The ports and sources that a group lets in.
    fn rules(&self, group: &str) -> BTreeSet<(String, String)> {
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

    /// The options of a host that is reached at an address which stays.
    fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("aws-region", REGION.to_owned()),
            ("aws-endpoint", self.aws.endpoint().to_owned()),
            ("aws-checkip-url", self.aws.checkip()),
        ]
    }

    async fn host(&self, driver: &Aws, folder: &Path) -> HostView {
        let given = self.options().into_iter().map(|(name, value)| (name.to_owned(), vec![value])).collect();
        let options = Options::resolve(&driver.flags(), &given).unwrap();
        HostView {
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            owner: "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57".to_owned(),
            folder: folder.to_owned(),
            cache: folder.to_owned(),
            config: driver.configure(&options).await.unwrap(),
            place: None,
            login: Some(LoginKey { public: format!("{KEY} login") }),
            host_key: Some(host_key()),
        }
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.split_once(start).map(|(_, rest)| rest).unwrap_or_default();
    from.split_once(end).map(|(found, _)| found).unwrap_or_default()
}

fn host_key() -> HostKey {
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
        let living: BTreeSet<String> = self
            .aws
            .instances()
            .unwrap()
            .into_iter()
            .filter(|one| one["state"] != "terminated")
            .filter_map(|one| one["id"].as_str().map(str::to_owned))
            .collect();
        found.retain(|one| one.kind != "instance" || living.contains(&one.name));
        // A volume is described with its instance's id, and a group with that of its members.
        found.retain(|one| one.kind != "volume" || one.name.starts_with("vol-"));
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn keeps_the_contract() {
    let began = Instant::now();
    let (driver, cloud) = (driver(), Cloud::new());
    let mut suite = Suite::new(&driver, &cloud);
    for (name, value) in cloud.options() {
        suite = suite.option(name, &value);
    }
    let report = suite
        .option("aws-use-private-address", "true")
        .option("aws-open-to", "127.0.0.0/8")
        .refuses("aws-volume-type", "gp4")
        .refuses("aws-open-port", "http")
        .refuses("aws-root-size", "0")
        .keys(LoginKey { public: format!("{KEY} login") }, host_key())
        .run()
        .await
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(report.crashes > 40, "{report:?}");
    assert_eq!(cloud.aws.left().unwrap(), json!({}));
    eprintln!(
        "-- {} crashes, {} rules, {:.0} s",
        report.crashes,
        report.kept.len(),
        began.elapsed().as_secs_f32()
    );
}

/// A journal that breaks at its nth write, which is lost or not.
struct Breaking {
    inner: MemoryJournal,
    after: bool,
}

impl Breaking {
    fn broken(&mut self, written: Result<(), JournalError>) -> Result<(), JournalError> {
        if self.after && self.inner.writes_left == Some(0) {
            return Err(JournalError::new("The process was killed here"));
        }
        written
    }
}

#[async_trait]
impl Journal for Breaking {
    fn entries(&self) -> Vec<Entry> {
        self.inner.entries()
    }

    fn state(&self) -> Value {
        self.inner.state()
    }

    async fn intend(&mut self, kind: &str, name: &str, place: Option<&str>) -> Result<(), JournalError> {
        let written = self.inner.intend(kind, name, place).await;
        self.broken(written)
    }

    async fn made(
        &mut self,
        kind: &str,
        name: &str,
        id: Option<&str>,
        state: Value,
    ) -> Result<(), JournalError> {
        let written = self.inner.made(kind, name, id, state).await;
        self.broken(written)
    }

    async fn gone(&mut self, kind: &str, name: &str) -> Result<(), JournalError> {
        let written = self.inner.gone(kind, name).await;
        self.broken(written)
    }

    async fn set_state(&mut self, state: Value) -> Result<(), JournalError> {
        let written = self.inner.set_state(state).await;
        self.broken(written)
    }
}

fn open(port: u16, from: Source) -> Rule {
    Rule { protocol: Protocol::Tcp, ports: (port, port), from }
}

fn set<const N: usize>(rules: [(&str, &str); N]) -> BTreeSet<(String, String)> {
    rules.map(|(port, source)| (port.to_owned(), source.to_owned())).into()
}

/// Wherever a change of rules is cut off: the next one leaves what is wanted, and nothing of what was wanted before.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn rules_are_what_was_last_asked_for_wherever_it_was_cut_off() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path()).await;
    let mut journal = Breaking { inner: MemoryJournal::default(), after: false };
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let group = journal.state()["own_group"].as_str().unwrap().to_owned();
    let base = set([("22", "127.0.0.1/32"), ("2376", "127.0.0.1/32")]);
    assert_eq!(cloud.rules(&group), base);
    // What somebody opened by hand is nobody's but theirs.
    cloud.ask(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={group}&IpPermissions.1.IpProtocol=tcp&\
         IpPermissions.1.FromPort=9000&IpPermissions.1.ToPort=9000&IpPermissions.1.IpRanges.1.CidrIp=203.0.113.9/32"
    ));
    let by_hand = ("9000".to_owned(), "203.0.113.9/32".to_owned());
    let network = |text: &str| Source::Network(text.parse().unwrap());
    let mut cuts = 0;
    for writes in 0..20 {
        for after in [false, true] {
            journal.after = after;
            journal.inner.writes_left = Some(writes + usize::from(after));
            let first = [open(80, network("198.51.100.0/24")), open(81, Source::Caller)];
            let cut = driver.admit(&host, &first, &mut journal, &Silent).await.is_err();
            cuts += usize::from(cut);
            journal.inner.writes_left = None;
            let second = [open(82, network("0.0.0.0/0")), open(9000, network("203.0.113.9/32"))];
            driver.admit(&host, &second, &mut journal, &Silent).await.unwrap();
            let mut wanted = base.clone();
            wanted.extend([("82".to_owned(), "0.0.0.0/0".to_owned()), by_hand.clone()]);
            assert_eq!(cloud.rules(&group), wanted, "cut off after {writes} writes");
            driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
            let mut wanted = base.clone();
            wanted.insert(by_hand.clone());
            assert_eq!(cloud.rules(&group), wanted, "what was opened by hand stays");
        }
    }
    assert!(cuts >= 4, "only {cuts} cuts");
    cloud.aws.clear_calls().unwrap();
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.aws.actions().unwrap(), Vec::<String>::new(), "nothing was to be done");
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.aws.left().unwrap(), json!({}));
}

/// A host joins a cluster after it was made, and leaves it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn members_come_and_go() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path()).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let instance = journal.state["instance"].as_str().unwrap().to_owned();
    let groups = || {
        let all = cloud.aws.instances().unwrap();
        let one = all.iter().find(|one| one["id"] == instance.as_str());
        one.unwrap()["groups"].as_array().unwrap().len()
    };
    assert_eq!(groups(), 1);
    // Somebody gives it a group by hand, and starts another one like it.
    let own = journal.state["own_group"].as_str().unwrap().to_owned();
    let made = cloud.ask("Action=CreateSecurityGroup&GroupName=theirs&GroupDescription=x");
    let theirs = between(&made, "<groupId>", "</").to_owned();
    cloud.ask(&format!(
        "Action=ModifyInstanceAttribute&InstanceId={instance}&GroupId.1={own}&GroupId.2={theirs}"
    ));
    assert_eq!(groups(), 2);
    let copy = cloud.ask(&format!(
        "Action=RunInstances&ImageId=ami-0deb12a0000000001&InstanceType=t3.small&MinCount=1&MaxCount=1&\
         TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=machine%3Aid&\
         TagSpecification.1.Tag.1.Value={}",
        host.id
    ));
    let copy = between(&copy, "<instanceId>", "</").to_owned();
    let rules = [open(2377, Source::Members("prod".to_owned()))];
    driver.admit(&host, &rules, &mut journal, &Silent).await.unwrap();
    assert_eq!(groups(), 3);
    let shared = journal.state["groups"][1].as_str().unwrap().to_owned();
    assert_eq!(cloud.rules(&shared), set([("2377", &shared)]));
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(groups(), 2, "what was given by hand stays");
    let endpoint = driver.endpoint(&host, &journal.state).await.unwrap();
    let inside = endpoint.inside.unwrap();
    assert!(inside.network.starts_with("vpc-") && inside.address.is_ipv4(), "{inside:?}");
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    let left = cloud.aws.left().unwrap();
    assert_eq!(left[REGION]["instances"], json!([copy]), "a copy with the same tags is not ours");
    assert_eq!(left[REGION]["security_groups"], json!([theirs]));
}

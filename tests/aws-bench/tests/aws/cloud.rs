//! A bench of AWS with a store of hosts on it, and what is asked of both.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use aws_bench::{Bench, Emulator};
use serde_json::{Value, json};

use crate::store::{self, until, variable};

pub(crate) const REGION: &str = "eu-west-1";
/// A host that does not boot is asked for, and made, within this.
const SOON: Duration = Duration::from_mins(2);

/// A cloud of its own for each test.
pub(crate) struct Cloud {
    /// Dropped first: what is left of its hosts is removed from a bench that is there.
    pub(crate) store: store::Bench,
    pub(crate) aws: Bench,
}

/// The emulator that all clouds share; it ends with this process.
fn emulator() -> &'static str {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(|| Emulator::start(&program()).unwrap()).address()
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_aws-bench"))
}

fn bench(arguments: &[&str]) -> Bench {
    let images = PathBuf::from(variable("AWS_BENCH_IMAGES"));
    Bench::start(&program(), &images, arguments).unwrap()
}

impl Cloud {
    /// With a VM for each instance.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Without VMs: instances only have states and addresses, and these at once.
    pub(crate) fn without_vms() -> Self {
        let aws = bench(&["--emulator", emulator(), "--no-vms"]);
        aws.settings(json!({ "pending_ms": 0, "ending_ms": 0 })).unwrap();
        Self { store: store::Bench::with(at_once(&aws)), aws }
    }

    /// Without VMs, but with SSH and an engine on each instance. `None`: something is missing here.
    pub(crate) fn with_guests() -> Option<Self> {
        let (program, lacking) = (guest::program(&program()), guest::lacking());
        let lacking =
            lacking.or_else(|| program.is_none().then(|| "`machine-guest` is not built".to_owned()));
        if let Some(why) = lacking {
            skipped::say("guest", &why);
            return None;
        }
        let program = program?.display().to_string();
        let aws = bench(&["--emulator", emulator(), "--no-vms", "--guests", &program]);
        aws.settings(json!({ "pending_ms": 0, "ending_ms": 0 })).unwrap();
        let bundle = aws.folder().join("bundle");
        guest::lay_out_bundle(&bundle).unwrap();
        let mut environment = at_once(&aws);
        environment.push(("MACHINE_ENGINE_BUNDLE".into(), bundle.display().to_string()));
        Some(Self { store: store::Bench::with(environment), aws })
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let aws = bench(&[&["--emulator", emulator()], arguments].concat());
        let store = store::Bench::with(environment(&aws));
        Self { store, aws }
    }

    /// Another store of the same account, as on another computer.
    pub(crate) fn another_store(&self) -> store::Bench {
        store::Bench::with(at_once(&self.aws))
    }

    pub(crate) fn machine(&self, arguments: &[&str]) -> String {
        self.store.machine(arguments)
    }

    pub(crate) fn try_machine(&self, arguments: &[&str]) -> Output {
        self.store.try_machine(arguments)
    }

    /// Refused before anything was made: nothing is recorded and nothing exists.
    pub(crate) fn refuses(&self, options: &[&str], needles: &[&str]) {
        let arguments = [&["create", "-d", "aws"], options, &["bad"]].concat();
        let output = self.try_machine(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{options:?} was accepted");
        for needle in needles {
            assert!(said.contains(needle), "{options:?} says nothing of `{needle}`:\n{said}");
        }
        assert!(said.lines().count() <= 2, "{options:?} says more than two lines:\n{said}");
        assert!(!self.store.host_folder("bad").exists(), "{options:?} left a record");
        self.assert_nothing_left();
    }

    pub(crate) fn record(&self, name: &str) -> Value {
        serde_json::from_str(&self.machine(&["inspect", name])).unwrap()
    }

    /// The instances that live.
    pub(crate) fn living(&self) -> Vec<Value> {
        let all = self.aws.instances().unwrap();
        all.into_iter()
            .filter(|one| one["state"] != "terminated" && one["state"] != "shutting-down")
            .collect()
    }

    /// The id of the only instance that lives.
    pub(crate) fn the_instance(&self) -> String {
        let living = self.living();
        assert_eq!(living.len(), 1, "{living:?}");
        living[0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.aws.left().unwrap(), json!({}));
    }

    pub(crate) fn count(&self, action: &str) -> usize {
        self.aws.actions().unwrap().iter().filter(|one| *one == action).count()
    }

    /// Nothing may be done but what the printed policy allows, resource by resource.
    pub(crate) fn obey_our_policy(&self, mut faults: Value) {
        let policy: Value = serde_json::from_str(&self.machine(&["iam-policy", "aws"])).unwrap();
        faults["policy"] = policy;
        self.aws.faults(faults).unwrap();
    }

    /// The rules that let somebody into a group, each as `PROTOCOL FIRST-LAST from SOURCE`.
    pub(crate) fn rules(&self, group: &str) -> BTreeSet<String> {
        let query = format!("Action=DescribeSecurityGroups&GroupId.1={group}");
        let answer = ask(self, REGION, &query);
        let permissions = between(&answer, "<ipPermissions>", "</ipPermissions>");
        let mut rules = BTreeSet::new();
        for item in permissions.split("<ipProtocol>").skip(1) {
            let value = |name: &str| between(item, &format!("<{name}>"), "</").to_owned();
            let protocol = item.split('<').next().unwrap_or_default();
            let ports = format!("{}-{}", value("fromPort"), value("toPort"));
            for source in ["cidrIp", "cidrIpv6", "groupId"] {
                for found in item.split(&format!("<{source}>")).skip(1) {
                    let source = found.split('<').next().unwrap_or_default();
                    rules.insert(format!("{protocol} {ports} from {source}"));
                }
            }
        }
        rules
    }
}

/// A command that is under way. Dropped, it is killed with -9.
pub(crate) struct UnderWay(Child);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl UnderWay {
    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl store::Bench {
    /// A host's record as it is on disk; `null` if there is none.
    fn on_disk(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.host_folder(name).join("config.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The phase in a host's record.
    pub(crate) fn phase(&self, name: &str) -> String {
        self.on_disk(name)["Phase"].as_str().unwrap_or("none").to_owned()
    }

    /// Runs `machine`, which must succeed, and returns all that it said, on both ways.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.try_machine(arguments);
        assert!(output.status.success(), "machine {}: {}", arguments.join(" "), store::show(&output));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    /// Starts a command.
    pub(crate) fn under_way(&self, arguments: &[&str]) -> UnderWay {
        eprintln!("$ machine {}", arguments.join(" "));
        UnderWay(self.command(arguments).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Starts a creation and waits until its instances run; hosts without a VM come no further.
    pub(crate) fn creating(&self, options: &[&str], names: &[&str]) -> UnderWay {
        let arguments = [&["create", "-d", "aws"], options, names].concat();
        // An earlier creation may have come as far.
        let before: Vec<Value> = names.iter().map(|name| self.on_disk(name)).collect();
        let mut creation = self.under_way(&arguments);
        until("the instances run", SOON, || {
            let booting = names.iter().zip(&before).all(|(name, before)| {
                let now = self.on_disk(name);
                let instance = |record: &Value| record["Driver"]["State"]["instance"].clone();
                now["Phase"] == "Booting"
                    && (before["Phase"] != "Booting" || instance(&now) != instance(before))
                    && !instance(&now).is_null()
            });
            assert!(booting || creation.is_alive(), "the creation ended");
            booting.then_some(())
        });
        creation
    }

    /// Hosts whose creation was killed when their instances ran.
    pub(crate) fn begin(&self, options: &[&str], names: &[&str]) {
        drop(self.creating(options, names));
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.split_once(start).map(|(_, rest)| rest).unwrap_or_default();
    from.split_once(end).map(|(found, _)| found).unwrap_or_default()
}

impl Cloud {
    /// A call of the Query API, made past `machine`: the status and the answer.
    pub(crate) fn call(&self, region: &str, query: &str) -> (u16, String) {
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential=AKIABENCHBENCHBENCH0/20260101/{region}/ec2/aws4_request");
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", authorization.as_str()),
        ];
        self.aws.request("POST", "/", &headers, &format!("Version=2016-11-15&{query}")).unwrap()
    }
}

/// The answer to such a call, which has to succeed.
pub(crate) fn ask(cloud: &Cloud, region: &str, query: &str) -> String {
    let (status, answer) = cloud.call(region, query);
    assert_eq!(status, 200, "{query}: {answer}");
    answer
}

/// The texts of an element in such an answer.
pub(crate) fn ask_for(cloud: &Cloud, region: &str, query: &str, element: &str) -> Vec<String> {
    let answer = ask(cloud, region, query);
    let start = format!("<{element}>");
    let pieces = answer.split(&start).skip(1);
    pieces.map(|rest| rest.split('<').next().unwrap_or_default().to_owned()).collect()
}

/// A value in such a call.
pub(crate) fn encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The same for a bench that does everything at once: what may be there all the same is waited for as long as for AWS,
/// in a fraction of the time.
fn at_once(aws: &Bench) -> Vec<(String, String)> {
    let mut environment = environment(aws);
    environment.push(("MACHINE_AWS_FASTER".into(), "20".into()));
    environment
}

fn environment(aws: &Bench) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> =
        aws.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // Both names: nothing may ever go elsewhere.
    environment.push(("AWS_ENDPOINT_URL".into(), aws.endpoint().into()));
    environment.push(("AWS_ENDPOINT".into(), aws.endpoint().into()));
    environment.push(("AWS_CHECKIP_URL".into(), aws.checkip()));
    environment.push(("AWS_REGION".into(), REGION.into()));
    environment.push(("USER".into(), "tester".into()));
    environment
}

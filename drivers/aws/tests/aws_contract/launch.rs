//! A question whose answer leaves open what came of it: there is one instance, it is looked for, and it is never forgotten.

use std::{sync::Mutex, time::Duration};

use machine_driver::{
    Driver as _, ErrorKind, HostView, Leftover, MemoryJournal, Options, Progress, Silent, State,
};
use serde_json::{Value, json};

use crate::cloud::{Cloud, REGION, between, driver, impatient};

fn faults(more: &Value) -> Value {
    let mut faults = json!({ "lose_next": { "RunInstances": 1 } });
    for (name, fault) in more.as_object().unwrap() {
        faults[name] = fault.clone();
    }
    faults
}

/// The refusal that comes instead of the reply that is lost.
fn refusal(code: &str, status: u16) -> Value {
    json!({ "errors": { "RunInstances": [
        { "code": code, "status": status, "after": 1, "when": { "dry_run": false } },
    ] } })
}

/// Instances are in no list, for longer than anybody looks.
fn hidden() -> Value {
    json!({ "DescribeInstances": 1000 })
}

const CODES: [(&str, u16); 6] = [
    ("ExpiredToken", 400),
    ("AuthFailure", 401),
    ("UnauthorizedOperation", 403),
    ("RequestLimitExceeded", 503),
    ("VcpuLimitExceeded", 400),
    ("InsufficientInstanceCapacity", 500),
];

#[derive(Debug, Default)]
struct Said(Mutex<String>);

impl Progress for Said {
    fn step(&self, text: &str) {
        self.note(text);
    }

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push_str(text);
    }
}

/// A host with one place, and the calls that are made for it asked twice at most.
async fn host(cloud: &Cloud, retries: &str) -> (HostView, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = [("aws-retries", retries), ("aws-zone", "a")];
    (cloud.host(&driver(), folder.path(), &options).await, folder)
}

/// The reply with the instance is lost, and the next one says no: whether for this try or for both, nobody knows. The
/// token is asked about before anybody gives up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn an_instance_whose_reply_was_lost_is_found_by_its_token() {
    let cloud = Cloud::new();
    for (code, status) in CODES {
        let (host, _folder) = host(&cloud, "2").await;
        cloud.aws.faults(faults(&refusal(code, status))).unwrap();
        let (mut journal, said) = (MemoryJournal::default(), Said::default());
        driver().create(&host, &mut journal, &said).await.unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(cloud.living().len(), 1, "{code}");
        assert!(said.0.lock().unwrap().contains("may have been started"), "{code}");
        driver().remove(&host, &mut journal, &Silent).await.unwrap();
        cloud.assert_nothing_left();
    }
    // It is listed only after a while.
    let (host, _folder) = host(&cloud, "1").await;
    cloud.aws.faults(faults(&json!({ "blank_next": { "DescribeInstances": 3 } }))).unwrap();
    let mut journal = MemoryJournal::default();
    driver().create(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.living().len(), 1);
    driver().remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// It is hidden for longer than anybody waits: the creation fails, and the record goes on saying that it was asked for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn an_instance_that_stays_hidden_is_forgotten_by_nobody() {
    let cloud = Cloud::new();
    let driver = impatient(Duration::from_millis(200));
    for (code, status) in CODES {
        let (host, _folder) = host(&cloud, "2").await;
        let mut journal = MemoryJournal::default();
        let mut refused = faults(&refusal(code, status));
        refused["blank_next"] = hidden();
        cloud.aws.faults(refused).unwrap();
        let error = driver.create(&host, &mut journal, &Silent).await.unwrap_err();
        assert!(error.hint().unwrap().contains("may have been started"), "{code}: {error}");
        assert_eq!(cloud.living().len(), 1, "{code}");
        let intended = journal.entries.iter().find(|entry| entry.kind == "instance");
        assert!(intended.is_some_and(|entry| entry.id.is_none()), "{code}: {:?}", journal.entries);

        // The same again goes on with it.
        cloud.aws.faults(json!({})).unwrap();
        if code == "ExpiredToken" {
            driver.create(&host, &mut journal, &Silent).await.unwrap();
            assert_eq!(cloud.living().len(), 1);
        }
        driver.remove(&host, &mut journal, &Silent).await.unwrap();
        cloud.assert_nothing_left();
    }
}

/// The options of a creation that goes on have changed, in a file: its token is taken, so there is an instance, whatever
/// the lists say.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_token_that_is_taken_is_proof_of_an_instance() {
    let (cloud, folder) = (Cloud::new(), tempfile::tempdir().unwrap());
    let data = folder.path().join("data");
    std::fs::write(&data, "#cloud-config\n").unwrap();
    let options = [("aws-retries", "1"), ("aws-userdata", data.to_str().unwrap())];
    let host = cloud.host(&driver(), folder.path(), &options).await;
    cloud.aws.faults(faults(&json!({ "blank_next": hidden() }))).unwrap();
    let mut journal = MemoryJournal::default();
    impatient(Duration::from_millis(50)).create(&host, &mut journal, &Silent).await.unwrap_err();
    assert_eq!(cloud.living().len(), 1);

    std::fs::write(&data, "#cloud-config\n# changed\n").unwrap();
    cloud.aws.faults(json!({ "blank_next": { "DescribeInstances": 3 } })).unwrap();
    cloud.aws.clear_calls().unwrap();
    driver().create(&host, &mut journal, &Silent).await.unwrap();
    let calls = cloud.aws.calls().unwrap();
    let asked: Vec<_> = calls.iter().filter(|call| call["action"] == "RunInstances").collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0]["error"], "IdempotentParameterMismatch");
    assert_eq!(cloud.living().len(), 1);
    driver().remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// A refusal that is one, to the only try: there is nothing to look for, and nothing is said to be there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_clear_refusal_is_not_looked_into() {
    let cloud = Cloud::new();
    let (host, _folder) = host(&cloud, "1").await;
    let refused = json!({ "code": "VcpuLimitExceeded", "when": { "dry_run": false } });
    cloud.aws.faults(json!({ "errors": { "RunInstances": [refused] } })).unwrap();
    let mut journal = MemoryJournal::default();
    let error = driver().create(&host, &mut journal, &Silent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoCapacity);
    assert!(journal.entries.iter().all(|entry| entry.kind != "instance"), "{:?}", journal.entries);
    assert!(!cloud.aws.actions().unwrap().contains(&"DescribeInstances".to_owned()));
    driver().remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

async fn leftovers(cloud: &Cloud) -> (Options, Vec<Leftover>) {
    let driver = driver();
    let given = [("aws-region", REGION), ("aws-endpoint", cloud.aws.endpoint())];
    let given = given.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into();
    let options = Options::resolve(&driver.scope_flags(), &given).unwrap();
    let found = driver.leftovers(&options).await.unwrap();
    (options, found)
}

/// The reply was lost, and the record as well. The instance was started with our token; a copy of it, which has its tags,
/// was not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn gc_sweeps_what_was_started_with_our_token_and_no_copy_of_it() {
    let cloud = Cloud::new();
    let (host, _folder) = host(&cloud, "1").await;
    let driver = impatient(Duration::from_millis(50));
    cloud.aws.faults(faults(&json!({ "blank_next": hidden() }))).unwrap();
    driver.create(&host, &mut MemoryJournal::default(), &Silent).await.unwrap_err();
    cloud.aws.faults(json!({})).unwrap();
    let lost = cloud.living().into_iter().next().unwrap();
    let mut query =
        "Action=RunInstances&ImageId=ami-0deb12a0000000001&InstanceType=t3.small&MinCount=1&MaxCount=1&\
         ClientToken=of-somebody-else&TagSpecification.1.ResourceType=instance"
            .to_owned();
    let id = host.id.to_string();
    let tags = [("machine%3Aid", id.as_str()), ("machine%3Aname", "mc1"), ("machine%3Aowner", &host.owner)];
    for (number, (key, value)) in (1..).zip(tags) {
        query.push_str(&format!(
            "&TagSpecification.1.Tag.{number}.Key={key}&TagSpecification.1.Tag.{number}.Value={value}"
        ));
    }
    let copy = between(&cloud.ask(&query), "<instanceId>", "</").to_owned();

    let (options, found) = leftovers(&cloud).await;
    let instances: Vec<&str> =
        found.iter().filter(|one| one.kind == "instance").map(|one| one.id.as_str()).collect();
    assert_eq!(instances, [lost.as_str()]);
    driver.remove_leftovers(&options, &found, &Silent).await.unwrap();
    assert_eq!(cloud.living(), [copy].into());
    assert!(leftovers(&cloud).await.1.is_empty());
}

/// What is shown of an instance may be older than its start: that it is shown as stopped ends nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_state_that_is_shown_late_ends_no_start() {
    let (driver, cloud) = (driver(), Cloud::new());
    let (host, _folder) = host(&cloud, "1").await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    driver.stop(&host, &mut journal, &Silent).await.unwrap();
    // It stays pending for longer than it is shown as stopped.
    cloud.aws.settings(json!({ "pending_ms": 1000 })).unwrap();
    cloud.aws.faults(json!({ "stale": 500 })).unwrap();
    driver.start(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&host, &journal.state).await.unwrap(), State::Running);

    // One answer does not have it at all.
    cloud.aws.faults(json!({})).unwrap();
    driver.stop(&host, &mut journal, &Silent).await.unwrap();
    cloud.aws.faults(json!({ "stale": 500 })).unwrap();
    cloud.aws.clear_calls().unwrap();
    let starting = driver.start(&host, &mut journal, &Silent);
    let blanked = async {
        while cloud.aws.actions().unwrap().iter().all(|action| action != "StartInstances") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cloud.aws.faults(json!({ "blank_next": { "DescribeInstances": 2 } })).unwrap();
    };
    let (started, ()) = tokio::join!(starting, blanked);
    started.unwrap();
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

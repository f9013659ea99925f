//! `remove` finds whatever may have been made, under our own policy.

use std::time::{Duration, Instant};

use machine_driver::{Driver as _, MemoryJournal, Silent};
use serde_json::json;

use crate::cloud::{Cloud, driver, patient};

/// Its tags are gone with it, and our own policy allows nothing on what has no tags.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_host_whose_instance_is_known_to_nobody_any_more_goes() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let policy = driver.permissions().await.unwrap().unwrap();
    cloud.aws.faults(json!({ "policy": policy })).unwrap();
    let host = cloud.host(&driver, folder.path(), &[("aws-spot", "true")]).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let id = journal.state["instance"].as_str().unwrap().to_owned();
    assert!(journal.entries.iter().any(|entry| entry.kind == "spot-request"), "{:?}", journal.entries);
    cloud.aws.interrupt(&id, Duration::from_millis(10)).unwrap();
    let began = Instant::now();
    while !cloud.living().is_empty() {
        assert!(began.elapsed() < Duration::from_mins(1), "it was not interrupted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cloud.aws.forget(&id).unwrap();
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert!(journal.entries.is_empty(), "{:?}", journal.entries);
    cloud.assert_nothing_left();
}

/// It has ended, its tags are gone, and lists go on showing it: nobody may end it any more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn that_an_instance_which_has_ended_may_not_be_ended_holds_nothing_up() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path(), &[]).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    cloud.aws.terminate(journal.state["instance"].as_str().unwrap()).unwrap();
    let began = Instant::now();
    while !cloud.living().is_empty() {
        assert!(began.elapsed() < Duration::from_mins(1), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let denied = json!({ "code": "UnauthorizedOperation", "status": 403 });
    cloud.aws.faults(json!({ "stale": 3000, "errors": { "TerminateInstances": [denied] } })).unwrap();
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert!(cloud.aws.actions().unwrap().contains(&"TerminateInstances".to_owned()), "it was not shown");
    cloud.aws.faults(json!({})).unwrap();
    cloud.assert_nothing_left();
}

/// What was made a moment ago is listed only later, and the reply that named it was lost.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn groups_keys_and_instances_that_may_have_been_made_are_waited_for() {
    for (action, list) in [
        ("ImportKeyPair", "DescribeKeyPairs"),
        ("CreateSecurityGroup", "DescribeSecurityGroups"),
        ("RunInstances", "DescribeInstances"),
    ] {
        let (cloud, folder) = (Cloud::new(), tempfile::tempdir().unwrap());
        let host = cloud.host(&driver(), folder.path(), &[("aws-retries", "1")]).await;
        let mut journal = MemoryJournal::default();
        // An answer that does not come is no instance that cannot be found: nothing is looked for.
        let broken = json!({ "code": "InternalError", "status": 500 });
        let mut faults = json!({ "lose_next": { (action): 1 } });
        if action == "RunInstances" {
            faults["errors"] = json!({ (list): [broken] });
        }
        cloud.aws.faults(faults).unwrap();
        assert!(driver().create(&host, &mut journal, &Silent).await.is_err(), "{action}");
        assert_ne!(cloud.aws.left().unwrap(), json!({}), "{action} was not done");
        cloud.aws.faults(json!({ "blank_next": { (list): 4 } })).unwrap();
        patient().remove(&host, &mut journal, &Silent).await.unwrap();
        cloud.assert_nothing_left();
        assert!(journal.entries.is_empty(), "{action}: {:?}", journal.entries);
    }
}

//! Which groups an instance is in: its own, its clusters', and whatever somebody gives it.

use machine_driver::{
    Driver as _, HostId, HostView, Journal as _, MemoryJournal, Protocol, Rule, Silent, Source,
};
use serde_json::json;

use crate::cloud::{Cloud, OWNER, REGION, between, driver};

fn members(cluster: &str) -> Vec<Rule> {
    let from = Source::Members(cluster.to_owned());
    vec![Rule { protocol: Protocol::Tcp, ports: (2377, 2377), from }]
}

/// The only group that a host shares, by its record.
fn shared(journal: &MemoryJournal) -> String {
    let kind = "shared-security-group";
    let entries: Vec<_> = journal.entries.iter().filter(|entry| entry.kind == kind).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].id.clone().unwrap()
}

/// The groups that the instance of a host is in.
fn groups_of(cloud: &Cloud, journal: &MemoryJournal) -> Vec<String> {
    let all = cloud.aws.instances().unwrap();
    let one = all.iter().find(|one| one["id"] == journal.state["instance"]).unwrap();
    one["groups"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// A host joins a cluster after it was made, and leaves it, under our own policy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn members_come_and_go() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path(), &[]).await;
    let policy = driver.permissions().await.unwrap().unwrap();
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
    cloud.aws.faults(json!({ "policy": policy })).unwrap();
    driver.admit(&host, &members("prod"), &mut journal, &Silent).await.unwrap();
    assert_eq!(groups(), 3);
    // The instance of somebody else is not given groups by this policy.
    let (status, answer) =
        cloud.call(&format!("Action=ModifyInstanceAttribute&InstanceId={copy}&GroupId.1={own}"));
    assert_eq!(status, 403, "{answer}");
    cloud.aws.faults(json!({})).unwrap();
    let common = shared(&journal);
    assert_eq!(cloud.rules(&common), [("2377".to_owned(), common.clone())].into());
    cloud.aws.faults(json!({ "policy": policy })).unwrap();
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(groups(), 2, "what was given by hand stays");
    let endpoint = driver.endpoint(&host, &journal.state).await.unwrap();
    let inside = endpoint.inside.unwrap();
    assert!(inside.network.starts_with("vpc-") && inside.address.is_ipv4(), "{inside:?}");
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.aws.faults(json!({})).unwrap();
    let left = cloud.aws.left().unwrap();
    assert_eq!(left[REGION]["instances"], json!([copy]), "a copy with the same tags is not ours");
    assert_eq!(left[REGION]["security_groups"], json!([theirs]));
}

/// Tags of a group that several hosts share, in a call that makes it.
fn made_by(owner: &str, name: &str) -> String {
    let mut query = format!(
        "Action=CreateSecurityGroup&GroupName={name}&GroupDescription=x&TagSpecification.1.ResourceType=security-group"
    );
    let tags = [("machine%3Aname", name), ("machine%3Ashared", "true"), ("machine%3Aowner", owner)];
    for (number, (key, value)) in (1..).zip(tags) {
        query.push_str(&format!(
            "&TagSpecification.1.Tag.{number}.Key={key}&TagSpecification.1.Tag.{number}.Value={value}"
        ));
    }
    query
}

/// Another store of the account has a swarm of the same name: its group is not used, not opened, and not deleted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn the_group_of_another_store_is_never_taken_over() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let made = cloud.ask(&made_by("11111111-2222-4333-8444-555555555555", "machine-swarm-prod"));
    let theirs = between(&made, "<groupId>", "</").to_owned();
    let options = [("aws-swarm", "prod")];
    let host = cloud.host(&driver, folder.path(), &options).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_ne!(shared(&journal), theirs);
    assert!(cloud.rules(&theirs).is_empty());
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.aws.left().unwrap(), json!({ (REGION): { "security_groups": [theirs] } }));

    // Also if an earlier version recorded it.
    let host = cloud.host(&driver, folder.path(), &options).await;
    let mut journal = MemoryJournal::default();
    journal.made("shared-security-group", "machine-swarm-prod", Some(&theirs), json!(null)).await.unwrap();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert!(!groups_of(&cloud, &journal).contains(&theirs));
    assert!(cloud.rules(&theirs).is_empty());
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.aws.left().unwrap(), json!({ (REGION): { "security_groups": [theirs] } }));

    // Nor is one of ours by name, that we did not make.
    let taken = cloud.ask(&made_by("somebody", &format!("machine-swarm-prod-{}", &OWNER[..8])));
    let taken = between(&taken, "<groupId>", "</").to_owned();
    let host = cloud.host(&driver, folder.path(), &options).await;
    let mut journal = MemoryJournal::default();
    let error = driver.create(&host, &mut journal, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("machine-swarm-prod-") && error.hint().is_some(), "{error}");
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    let left = cloud.aws.left().unwrap();
    assert_eq!(left[REGION]["security_groups"].as_array().unwrap().len(), 2, "{left}");
    assert!(left.to_string().contains(&taken));
}

/// Members that an earlier version made, those that are made now, and a group that is known by its id alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn members_of_one_store_share_the_group_that_is_recorded_or_tagged() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let made = cloud.ask(&made_by(OWNER, "machine-swarm-prod"));
    let old = between(&made, "<groupId>", "</").to_owned();
    let options = [("aws-swarm", "prod")];
    let host = cloud.host(&driver, folder.path(), &options).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(shared(&journal), old, "the group of an earlier version is this store's");
    assert_eq!(cloud.rules(&old).len(), 4, "one port has two protocols");

    // Somebody takes its tags: the record has its id.
    cloud.ask(&format!(
        "Action=DeleteTags&ResourceId.1={old}&Tag.1.Key=machine%3Aname&Tag.2.Key=machine%3Aowner"
    ));
    let more = members("prod");
    driver.admit(&host, &more, &mut journal, &Silent).await.unwrap();
    assert_eq!(shared(&journal), old);

    assert!(groups_of(&cloud, &journal).contains(&old));
    driver.remove(&host, &mut journal, &Silent).await.unwrap();

    // It is gone, and recorded: another one is made, and the second member shares it.
    let second = HostView { id: HostId::random(), ..host.clone() };
    let mut other = MemoryJournal::default();
    other.made("shared-security-group", "machine-swarm-prod", Some(&old), json!(null)).await.unwrap();
    driver.create(&second, &mut other, &Silent).await.unwrap();
    driver.admit(&second, &[], &mut other, &Silent).await.unwrap();
    let own = other.state["own_group"].as_str().unwrap().to_owned();
    let mut first = groups_of(&cloud, &other);
    first.retain(|id| *id != own);
    assert!(first.len() == 1 && first[0] != old, "{first:?}");
    let mut third = MemoryJournal::default();
    let host3 = HostView { id: HostId::random(), ..host.clone() };
    driver.create(&host3, &mut third, &Silent).await.unwrap();
    assert_eq!(shared(&third), first[0]);
    for (host, journal) in [(&second, &mut other), (&host3, &mut third)] {
        driver.remove(host, journal, &Silent).await.unwrap();
    }
    cloud.assert_nothing_left();
}

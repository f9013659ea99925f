//! Who may reach a host: exactly whom was asked for, whatever AWS goes on listing and whatever an earlier version did.

use std::collections::BTreeSet;

use machine_driver::{Driver as _, Journal as _, MemoryJournal, Protocol, Rule, Silent, Source};
use machine_driver_aws::Aws;
use serde_json::json;

use crate::cloud::{Cloud, between, driver};

fn open(port: u16, from: Source) -> Rule {
    Rule { protocol: Protocol::Tcp, ports: (port, port), from }
}

fn network(text: &str) -> Source {
    Source::Network(text.parse().unwrap())
}

/// What `machine` needs of every host.
fn base() -> Vec<Rule> {
    vec![open(22, Source::Caller), open(2376, Source::Caller)]
}

fn set<const N: usize>(rules: [(&str, &str); N]) -> BTreeSet<(String, String)> {
    rules.map(|(port, source)| (port.to_owned(), source.to_owned())).into()
}

/// Another run of the program: it knows what is recorded and nothing else.
fn later() -> Aws {
    driver()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_host_lets_nobody_in_until_it_is_told_and_is_not_asked_about_twice() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path(), &[("aws-open-port", "80@198.51.100.0/24")]).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let group = journal.state["own_group"].as_str().unwrap().to_owned();
    assert_eq!(cloud.rules(&group), BTreeSet::new());
    cloud.aws.clear_calls().unwrap();
    driver.admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    // The group was made a moment ago: there is nothing to ask.
    assert_eq!(cloud.aws.actions().unwrap(), ["AuthorizeSecurityGroupIngress"]);
    let expected = set([("22", "127.0.0.1/32"), ("2376", "127.0.0.1/32"), ("80", "198.51.100.0/24")]);
    assert_eq!(cloud.rules(&group), expected);

    cloud.aws.clear_calls().unwrap();
    later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.aws.actions().unwrap(), Vec::<String>::new(), "nothing was to be done");
    cloud.aws.settings(json!({ "caller": "198.51.100.7" })).unwrap();
    later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    let expected = set([("22", "198.51.100.7/32"), ("2376", "198.51.100.7/32"), ("80", "198.51.100.0/24")]);
    assert_eq!(cloud.rules(&group), expected);
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// A rule is taken back, and AWS goes on listing it: that is no rule of somebody else's.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn what_was_taken_back_and_is_still_listed_is_opened_again() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let host = cloud.host(&driver, folder.path(), &[]).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let group = journal.state["own_group"].as_str().unwrap().to_owned();
    let wanted = [open(80, network("198.51.100.0/24"))];
    let theirs = ("81".to_owned(), "198.51.100.0/24".to_owned());
    driver.admit(&host, &wanted, &mut journal, &Silent).await.unwrap();
    cloud.open(&group, 81, "198.51.100.0/24");
    let shown = cloud.rules(&group);
    driver.admit(&host, &[], &mut journal, &Silent).await.unwrap();
    cloud.aws.faults(json!({ "stale_next": { "DescribeSecurityGroups": 2 } })).unwrap();
    assert_eq!(cloud.rules(&group), shown, "the list is as old as it was asked to be");
    later().admit(&host, &wanted, &mut journal, &Silent).await.unwrap();
    let expected = BTreeSet::from([("80".to_owned(), "198.51.100.0/24".to_owned()), theirs.clone()]);
    assert_eq!(cloud.rules(&group), expected);

    // It was taken back again, and somebody opens the same by hand: now it is theirs, also while it is not listed yet.
    later().admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.rules(&group), BTreeSet::from([theirs.clone()]));
    cloud.open(&group, 80, "198.51.100.0/24");
    cloud.aws.faults(json!({ "stale_next": { "DescribeSecurityGroups": 1 } })).unwrap();
    later().admit(&host, &wanted, &mut journal, &Silent).await.unwrap();
    later().admit(&host, &[], &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.rules(&group), expected, "what somebody opened was taken from them");
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// A run that is killed between the call and the record: the next one is told that the rules are there already. They are
/// ours all the same, and there once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn what_a_run_opened_that_was_killed_is_ours_and_there_once() {
    let (cloud, folder) = (Cloud::new(), tempfile::tempdir().unwrap());
    // Whether the list shows the rules by then.
    for stale in [0, 1] {
        let mut cut_after_the_call = 0;
        for writes in 0.. {
            let case = format!("killed after {writes} writes, {stale} stale answers");
            cloud.aws.settings(json!({ "caller": "198.51.100.7" })).unwrap();
            let host = cloud.host(&driver(), folder.path(), &[]).await;
            let mut journal = MemoryJournal::default();
            driver().create(&host, &mut journal, &Silent).await.unwrap();
            let group = journal.state["own_group"].as_str().unwrap().to_owned();
            cloud.open(&group, 81, "203.0.113.0/24");
            let expected = |caller: &str| set([("22", caller), ("2376", caller), ("81", "203.0.113.0/24")]);
            // What a list shows that is older than the call.
            assert_eq!(cloud.rules(&group).len(), 1, "{case}");

            cloud.aws.clear_calls().unwrap();
            journal.writes_left = Some(writes);
            let is_over = later().admit(&host, &base(), &mut journal, &Silent).await.is_ok();
            journal.writes_left = None;
            let is_opened =
                cloud.aws.actions().unwrap().contains(&"AuthorizeSecurityGroupIngress".to_owned());
            cut_after_the_call += usize::from(is_opened && !is_over);
            cloud.aws.faults(json!({ "stale_next": { "DescribeSecurityGroups": stale } })).unwrap();
            later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
            cloud.aws.faults(json!({})).unwrap();
            assert_eq!(cloud.rules(&group), expected("198.51.100.7/32"), "{case}");
            let listed = cloud.ask(&format!("Action=DescribeSecurityGroups&GroupId.1={group}"));
            assert_eq!(
                between(&listed, "<ipPermissions>", "</ipPermissions>").matches("<cidrIp>").count(),
                3,
                "{case}"
            );

            // They are known to be ours: when the caller moves, they go.
            cloud.aws.settings(json!({ "caller": "198.51.100.8" })).unwrap();
            later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
            assert_eq!(cloud.rules(&group), expected("198.51.100.8/32"), "{case}");
            driver().remove(&host, &mut journal, &Silent).await.unwrap();
            cloud.assert_nothing_left();
            if is_over {
                break;
            }
        }
        assert!(cut_after_the_call > 0, "no run was killed between the call and the record");
    }
}

/// The record of a version that wrote down whom it let in, and not what.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_door_that_an_earlier_version_opened_is_closed_when_the_caller_has_moved() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let options = [("aws-open-port", "80@203.0.113.0/24"), ("aws-swarm-manager", "true")];
    let host = cloud.host(&driver, folder.path(), &options).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let group = journal.state["own_group"].as_str().unwrap().to_owned();
    for port in [22, 2376, 3376] {
        cloud.open(&group, port, "198.51.100.1/32");
    }
    cloud.open(&group, 80, "203.0.113.0/24");
    let state = journal.state.as_object_mut().unwrap();
    for newer in ["rules", "opening", "closed", "admitted", "joined"] {
        state.remove(newer);
    }
    state.insert("let_in".to_owned(), json!(["198.51.100.1/32"]));
    cloud.open(&group, 8080, "198.51.100.1/32");

    later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    let here = "127.0.0.1/32";
    let expected = set([
        ("22", here),
        ("2376", here),
        ("3376", here),
        ("80", "203.0.113.0/24"),
        ("8080", "198.51.100.1/32"),
    ]);
    assert_eq!(cloud.rules(&group), expected);
    assert!(journal.state().get("let_in").is_none(), "{}", journal.state());
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// The address of this machine cannot be found out: a host that runs is worked with all the same, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn where_the_caller_is_unknown_nothing_changes_unless_something_else_is_new() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    let mut host = cloud.host(&driver, folder.path(), &[]).await;
    let mut journal = MemoryJournal::default();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    driver.admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    let group = journal.state["own_group"].as_str().unwrap().to_owned();
    let before = cloud.rules(&group);
    host.config["checkip_url"] = json!(format!("{}/_bench/nothing", cloud.aws.endpoint()));
    later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
    assert_eq!(cloud.rules(&group), before);
    let more = [base(), vec![open(80, Source::Caller)]].concat();
    assert!(later().admit(&host, &more, &mut journal, &Silent).await.is_err());
    assert_eq!(cloud.rules(&group), before);
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    cloud.assert_nothing_left();
}

/// A host that an earlier version made: its `create` let in what was wanted, and nothing is new to it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn a_host_of_an_earlier_version_is_left_as_it_is() {
    let (driver, cloud, folder) = (driver(), Cloud::new(), tempfile::tempdir().unwrap());
    for options in [&[("aws-security-group", "default")][..], &[]] {
        let mut host = cloud.host(&driver, folder.path(), options).await;
        let mut journal = MemoryJournal::default();
        driver.create(&host, &mut journal, &Silent).await.unwrap();
        if options.is_empty() {
            driver.admit(&host, &base(), &mut journal, &Silent).await.unwrap();
        }
        let state = journal.state.as_object_mut().unwrap();
        for newer in ["closed", "admitted", "joined"] {
            state.remove(newer);
        }
        cloud.aws.clear_calls().unwrap();
        later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
        host.config["checkip_url"] = json!(format!("{}/_bench/nothing", cloud.aws.endpoint()));
        later().admit(&host, &base(), &mut journal, &Silent).await.unwrap();
        assert_eq!(cloud.aws.actions().unwrap(), Vec::<String>::new(), "{options:?}");
        driver.remove(&host, &mut journal, &Silent).await.unwrap();
        cloud.assert_nothing_left();
    }
}

//! A bench of AWS with a store of hosts on it, and what is asked of both.

use std::{path::PathBuf, process::Output};

use aws_bench::Bench;
use serde_json::{Value, json};

use crate::store::{self, variable};

pub(crate) const REGION: &str = "eu-west-1";

/// A cloud of its own for each test.
pub(crate) struct Cloud {
    pub(crate) aws: Bench,
    pub(crate) store: store::Bench,
}

impl Cloud {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Without VMs: instances only have states and addresses.
    pub(crate) fn without_vms() -> Self {
        let cloud = Self::new();
        cloud.aws.settings(json!({ "vms": false })).unwrap();
        cloud
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_aws-bench"));
        let images = PathBuf::from(variable("AWS_BENCH_IMAGES"));
        let aws = Bench::start(&program, &images, arguments).unwrap();
        let store = store::Bench::with(environment(&aws));
        Self { aws, store }
    }

    /// Another store of the same account, as on another computer.
    pub(crate) fn another_store(&self) -> store::Bench {
        store::Bench::with(environment(&self.aws))
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

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.aws.left().unwrap(), json!({}));
    }

    pub(crate) fn count(&self, action: &str) -> usize {
        self.aws.actions().unwrap().iter().filter(|one| *one == action).count()
    }
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

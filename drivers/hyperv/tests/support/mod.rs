//! What the tests of this driver share: a machine with Hyper-V, played by the stand-in, and a host on it.

#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its part of it")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, HostId, HostKey, HostName, HostView, Journal as _, LoginKey, MemoryJournal, Options,
    Silent, State,
    conformance::{Inventory, Resource},
};
use machine_driver_hyperv::{Hyperv, Patience};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The store that hosts belong to.
pub(crate) const OWNER: &str = "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57";

/// Where cargo puts the stand-in: it is built together with the tests.
fn stand_in() -> PathBuf {
    let path = env::current_exe().unwrap();
    let folder = path.parent().unwrap().parent().unwrap();
    folder.join("examples").join(format!("machine-hyperv-stand-in{}", env::consts::EXE_SUFFIX))
}

/// A machine of its own for each test.
#[derive(Debug)]
pub(crate) struct World {
    folder: TempDir,
    images: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("powershell");
        let stand_in = stand_in();
        assert!(
            stand_in.is_file(),
            "`{}` is missing: `cargo test` of this package builds it",
            stand_in.display()
        );
        // The stand-in finds its machine beside the name that it is called by.
        #[cfg(unix)]
        std::os::unix::fs::symlink(stand_in, program).unwrap();
        #[cfg(not(unix))]
        fs::copy(stand_in, program).unwrap();
        Self { folder, images: images() }
    }

    pub(crate) fn powershell(&self) -> PathBuf {
        self.folder.path().join("powershell")
    }

    pub(crate) fn driver(&self) -> Hyperv {
        Hyperv::new()
            .with_images(vec![self.images.path().to_owned()])
            .with_powershell(self.powershell())
            .with_patience(Patience {
                state: Duration::from_secs(1),
                address: Duration::from_millis(400),
                turn: Duration::from_secs(20),
                pause: Duration::from_millis(10),
            })
    }

    pub(crate) fn facts(&self) -> Value {
        match fs::read(self.folder.path().join("world.json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => json!({}),
        }
    }

    /// Changes one thing, named as in `/faults/denied`.
    pub(crate) fn set(&self, place: &str, value: Value) {
        let mut facts = self.facts();
        let mut at = &mut facts;
        for part in place.trim_start_matches('/').split('/') {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[part],
            };
        }
        *at = value;
        fs::write(self.folder.path().join("world.json"), facts.to_string()).unwrap();
    }

    pub(crate) fn vms(&self) -> Vec<Value> {
        self.facts()["vms"].as_array().cloned().unwrap_or_default()
    }

    pub(crate) fn vm(&self) -> Value {
        let vms = self.vms();
        assert_eq!(vms.len(), 1, "{vms:?}");
        vms[0].clone()
    }

    pub(crate) fn runs(&self) -> u64 {
        self.facts()["runs"].as_u64().unwrap_or_default()
    }
}

/// A folder of images with one called `tiny`, which nothing could boot, and `whole`, whose disk holds everything.
fn images() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut content = vec![0; 3 << 20];
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (name, file) in [("tiny", "boot.raw"), ("whole", "disk.raw")] {
        let image = folder.path().join(name);
        fs::create_dir(&image).unwrap();
        fs::write(image.join(file), &content).unwrap();
        let digest = format!("{:x}", Sha256::digest(&content));
        let manifest = json!({"name": name, "version": "1", "sha256": {file: digest}});
        fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    }
    folder
}

/// All that the driver may leave anywhere: VMs, and files in the host's folder.
#[async_trait]
impl Inventory for World {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        let mut found = Vec::new();
        let id = host.id.to_string();
        for vm in self.vms() {
            if vm["name"].as_str().unwrap().contains(&id) {
                let name = vm["id"].as_str().unwrap().to_owned();
                found.push(Resource {
                    kind: format!("vm with {} disks", vm["disks"].as_array().unwrap().len()),
                    name,
                });
            }
        }
        for file in files(&host.folder) {
            let kind = format!("file {}", file.replace(&id, "ID"));
            found.push(Resource { kind, name: host.folder.join(file).display().to_string() });
        }
        found
    }
}

pub(crate) fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    files
}

/// One host, outside the suite.
pub(crate) struct Fixture {
    pub(crate) world: World,
    pub(crate) root: TempDir,
    pub(crate) driver: Hyperv,
    pub(crate) name: HostName,
    pub(crate) id: HostId,
    pub(crate) config: Value,
    pub(crate) host_key: HostKey,
    pub(crate) journal: MemoryJournal,
}

impl Fixture {
    pub(crate) async fn new(given: &[(&str, &str)]) -> Self {
        Self::named("mc1", given).await
    }

    pub(crate) async fn named(name: &str, given: &[(&str, &str)]) -> Self {
        let world = World::new();
        let driver = world.driver();
        let usual = [("hyperv-image", "tiny")];
        let given = usual
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]))
            .collect();
        let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("mc1")).unwrap();
        Self {
            world,
            root,
            driver,
            name: name.parse().unwrap(),
            id: HostId::random(),
            config,
            host_key: HostKey { public: "ssh-ed25519 AAAA".into(), private: "PRIVATE\n".into() },
            journal: MemoryJournal::default(),
        }
    }

    pub(crate) fn view(&self) -> HostView {
        HostView {
            name: self.name.clone(),
            id: self.id,
            owner: OWNER.into(),
            folder: self.root.path().join("mc1"),
            cache: self.root.path().join("cache"),
            config: self.config.clone(),
            place: None,
            login: Some(LoginKey { public: "ssh-ed25519 AAAA login".into() }),
            host_key: Some(self.host_key.clone()),
        }
    }

    pub(crate) async fn check(&self) -> Result<machine_driver::Forecast, DriverError> {
        self.driver.check(&self.view()).await
    }

    pub(crate) async fn create(&mut self) -> Result<(), DriverError> {
        self.driver.create(&self.view(), &mut self.journal, &Silent).await
    }

    pub(crate) async fn start(&mut self) -> Result<(), DriverError> {
        self.driver.start(&self.view(), &mut self.journal, &Silent).await
    }

    pub(crate) async fn stop(&mut self) -> Result<(), DriverError> {
        self.driver.stop(&self.view(), &mut self.journal, &Silent).await
    }

    pub(crate) async fn kill(&mut self) -> Result<(), DriverError> {
        self.driver.kill(&self.view(), &mut self.journal, &Silent).await
    }

    pub(crate) async fn remove(&mut self) -> Result<(), DriverError> {
        self.driver.remove(&self.view(), &mut self.journal, &Silent).await
    }

    pub(crate) async fn state(&self) -> Result<State, DriverError> {
        self.driver.state(&self.view(), &self.journal.state()).await
    }

    pub(crate) async fn address(&self) -> String {
        self.driver.endpoint(&self.view(), &self.journal.state()).await.unwrap().address
    }

    /// Nothing is left of it anywhere.
    pub(crate) async fn is_gone(&self) -> bool {
        self.world.resources(&self.view()).await.is_empty() && self.journal.entries().is_empty()
    }
}

/// The error and its causes, on one line.
pub(crate) fn chain(error: &DriverError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

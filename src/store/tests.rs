//! What the store must survive.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _};

use machine_driver::{Journal as _, State};
use serde_json::json;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn planned(store: &Store, name: &str) -> Record {
    let name: HostName = name.parse().unwrap();
    let lock = store.lock(&name).unwrap();
    let mut record = Record::new(store, name, "none", json!({ "url": "tcp://h:1" }), Transport::Plain);
    store.plan(&lock, &mut record).unwrap();
    record
}

fn write_config(store: &Store, name: &str, text: &str) -> HostName {
    let name: HostName = name.parse().unwrap();
    fs::create_dir_all(store.folder(&name)).unwrap();
    fs::write(store.folder(&name).join("config.json"), text).unwrap();
    name
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let (_folder, store) = store();
    let record = planned(&store, "mc1");
    assert_eq!(store.load(&record.name).unwrap(), record);
    assert_eq!(store.names().unwrap(), ["mc1"]);
}

#[test]
fn folders_are_0700_and_records_0600() {
    let (_folder, store) = store();
    let record = planned(&store, "mc1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.root()), 0o700);
    assert_eq!(mode(&store.folder(&record.name)), 0o700);
    assert_eq!(mode(&store.folder(&record.name).join("config.json")), 0o600);
}

#[test]
fn a_name_is_planned_once() {
    let (_folder, store) = store();
    let mut record = planned(&store, "mc1");
    let lock = store.lock(&record.name).unwrap();
    assert!(matches!(store.plan(&lock, &mut record), Err(StoreError::Exists { .. })));
}

#[test]
fn a_lock_is_exclusive_names_its_owner_and_ends_with_it() {
    let (_folder, store) = store();
    let name: HostName = "mc1".parse().unwrap();
    let lock = store.lock(&name).unwrap();
    let error = store.lock(&name).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(lock);
    store.lock(&name).unwrap();
}

#[test]
fn deleting_leaves_neither_folder_nor_lock() {
    let (_folder, store) = store();
    let record = planned(&store, "mc1");
    let lock = store.lock(&record.name).unwrap();
    store.delete(lock, &record.name).unwrap();
    assert!(!store.exists(&record.name));
    assert!(fs::read_dir(store.root().join("locks")).unwrap().next().is_none());
    assert!(fs::read_dir(store.root().join("machines")).unwrap().next().is_none());
}

#[test]
fn broken_records_are_listed_with_their_error_and_do_not_hide_others() {
    let (_folder, store) = store();
    planned(&store, "good");
    write_config(&store, "truncated", "{\"ConfigVersion\": 4, \"Na");
    write_config(&store, "future", "{\"ConfigVersion\": 5}");
    write_config(&store, "binary", "\u{0}\u{1}");
    fs::create_dir_all(store.root().join("machines/empty")).unwrap();
    let listed = store.list().unwrap();
    let errors: Vec<(String, bool)> =
        listed.iter().map(|(name, record)| (name.clone(), record.is_err())).collect();
    let expected =
        [("binary", true), ("empty", true), ("future", true), ("good", false), ("truncated", true)];
    assert_eq!(errors, expected.map(|(name, broken)| (name.to_owned(), broken)));
    let future = store.load(&"future".parse().unwrap()).unwrap_err();
    assert!(matches!(future, StoreError::Newer { found: 5, known: 4, .. }));
}

#[test]
fn a_record_that_is_too_long_is_refused_unread() {
    let (_folder, store) = store();
    let name = write_config(&store, "big", "");
    let file = fs::File::create(store.folder(&name).join("config.json")).unwrap();
    file.set_len(RECORD_BYTES_AT_MOST + 1).unwrap();
    assert!(matches!(store.load(&name), Err(StoreError::TooLarge { .. })));
}

#[test]
fn the_name_of_the_folder_is_the_name_of_the_host() {
    let (_folder, store) = store();
    let record = planned(&store, "mc1");
    fs::rename(store.folder(&record.name), store.root().join("machines/mc2")).unwrap();
    assert_eq!(store.load(&"mc2".parse().unwrap()).unwrap().name.as_str(), "mc2");
}

const VERSION_3: &str = r#"{
    "ConfigVersion": 3,
    "Driver": {
        "IPAddress": "10.1.2.3", "MachineName": "old", "SSHUser": "ops", "SSHPort": 2222,
        "SSHKeyPath": "/keys/ops", "StorePath": "/s", "SwarmMaster": false, "EnginePort": 2377, "SSHKey": "/keys/ops"
    },
    "DriverName": "generic",
    "HostOptions": {
        "Driver": "", "Memory": 0, "Disk": 0,
        "EngineOptions": { "ArbitraryFlags": ["debug=true"], "Dns": null, "Env": [], "InsecureRegistry": [],
            "Labels": ["a=b"], "StorageDriver": "overlay2", "TlsVerify": true, "RegistryMirror": null,
            "InstallURL": "https://get.docker.com" },
        "SwarmOptions": { "IsSwarm": false, "Host": "tcp://0.0.0.0:3376", "Master": false, "Env": null },
        "AuthOptions": { "CertDir": "/s/certs", "CaCertPath": "/s/certs/ca.pem", "ServerCertSANs": [] }
    },
    "Name": "old"
}"#;

#[test]
fn a_generic_host_of_docker_machine_is_taken_over_and_its_record_kept() {
    let (_folder, store) = store();
    let name = write_config(&store, "old", VERSION_3);
    let mut record = store.load(&name).unwrap();
    assert_eq!(record.phase, Phase::Ready);
    let endpoint = record.endpoint.clone().unwrap();
    assert_eq!(endpoint.url(), "tcp://10.1.2.3:2377");
    let ssh = endpoint.ssh.unwrap();
    assert_eq!((ssh.user.as_str(), ssh.port), ("ops", 2222));
    assert_eq!(record.host_options.engine_options.labels, ["a=b"]);
    assert_eq!(record.host_options.engine_options.install_url, "");
    // Reading alone has changed nothing.
    assert_eq!(fs::read_to_string(store.folder(&name).join("config.json")).unwrap(), VERSION_3);

    let lock = store.lock(&name).unwrap();
    store.save(&lock, &mut record).unwrap();
    assert_eq!(fs::read_to_string(store.folder(&name).join("config.json.bak")).unwrap(), VERSION_3);
    assert_eq!(store.load(&name).unwrap(), record);
}

#[test]
fn formats_0_and_1_are_read_too() {
    let (_folder, store) = store();
    let zero = r#"{"DriverName":"none","CaCertPath":"/old/ca.pem","PrivateKeyPath":"/old/ca-key.pem",
        "SwarmMaster":true,"Driver":{"URL":"tcp://h.example:2376","IPAddress":"h.example:2376"}}"#;
    let record = store.load(&write_config(&store, "zero", zero)).unwrap();
    // Whatever it named: certificates are looked for in the store that the record lies in.
    assert_eq!(record.host_options.auth_options.ca_private_key_path, store.root().join("certs/ca-key.pem"));
    assert!(matches!(record.transport, Transport::MutualTls { authority: None, .. }));
    assert!(record.host_options.swarm_options.master);
    assert_eq!(record.driver.ip_address, "h.example");
    let one = r#"{"ConfigVersion":1,"DriverName":"none","Driver":{"URL":"tcp://h:1"},
        "HostOptions":{"AuthOptions":{"PrivateKeyPath":"/one/ca-key.pem"}}}"#;
    assert_eq!(store.load(&write_config(&store, "one", one)).unwrap().driver.ip_address, "h");
}

#[test]
fn a_host_of_a_driver_that_is_not_here_keeps_what_it_has() {
    let (_folder, store) = store();
    let text = VERSION_3.replace("generic", "vmwarefusion");
    let mut record = store.load(&write_config(&store, "vb", &text)).unwrap();
    let lock = store.lock(&record.name).unwrap();
    store.save(&lock, &mut record).unwrap();
    let again = store.load(&record.name).unwrap();
    assert_eq!(again.driver.config["EnginePort"], 2377);
    assert_eq!(again.driver_name, "vmwarefusion");
}

#[tokio::test]
async fn every_journal_write_is_on_disk() {
    let (_folder, store) = store();
    let mut record = planned(&store, "mc1");
    let name = record.name.clone();
    let lock = store.lock(&name).unwrap();
    let mut journal = RecordJournal::new(&store, &lock, &mut record);
    journal.intend("disk", "d", Some("here")).await.unwrap();
    assert_eq!(store.load(&name).unwrap().journal[0].place.as_deref(), Some("here"));
    journal.made("disk", "d", Some("7"), json!({ "disk": "d" })).await.unwrap();
    let read = store.load(&name).unwrap();
    assert_eq!((read.journal[0].id.as_deref(), &read.driver.state["disk"]), (Some("7"), &json!("d")));
    journal.gone("disk", "d").await.unwrap();
    assert!(store.load(&name).unwrap().journal.is_empty());
}

#[test]
fn a_write_that_fails_leaves_the_old_record() {
    let (_folder, store) = store();
    let mut record = planned(&store, "mc1");
    let lock = store.lock(&record.name).unwrap();
    let path = store.folder(&record.name).join("config.json");
    let before = fs::read(&path).unwrap();
    // A folder in the way of the rename fails it for root as well.
    fs::rename(&path, path.with_extension("aside")).unwrap();
    fs::create_dir(&path).unwrap();
    record.state = State::Running;
    assert!(matches!(store.save(&lock, &mut record), Err(StoreError::Write { .. })));
    fs::remove_dir(&path).unwrap();
    fs::rename(path.with_extension("aside"), &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    let debris = fs::read_dir(store.folder(&record.name)).unwrap().count();
    assert_eq!(debris, 2, "a temporary file was left beside the record and the identity");
}

#[test]
fn what_is_named_in_the_hosts_folder_follows_the_store() {
    let (folder, store) = store();
    let name =
        write_config(&store, "old", &VERSION_3.replace("/s\"", &format!("{}\"", store.root().display())));
    let mut record = store.load(&name).unwrap();
    let key = store.folder(&name).join("id_rsa");
    record.endpoint.as_mut().unwrap().ssh.as_mut().unwrap().key = machine_driver::SshKey::File(key.clone());
    record.driver.config["key"] = json!(key);
    record.driver.config["elsewhere"] = json!("/keys/ops");
    let lock = store.lock(&name).unwrap();
    store.save(&lock, &mut record).unwrap();
    drop(lock);
    fs::rename(store.root(), folder.path().join("moved")).unwrap();
    let store = Store::at(&folder.path().join("moved")).unwrap();
    let record = store.load(&name).unwrap();
    let key = store.folder(&name).join("id_rsa");
    assert_eq!(record.driver.config["key"], json!(key));
    assert_eq!(record.driver.config["elsewhere"], "/keys/ops");
    assert_eq!(record.endpoint.unwrap().ssh.unwrap().key, machine_driver::SshKey::File(key.clone()));
    assert_eq!(record.driver.ssh_key_path, key.display().to_string());
    assert_eq!(record.driver.store_path, store.root());
}

#[test]
fn a_name_that_cannot_be_looked_at_is_taken() {
    let (_folder, store) = store();
    let name: HostName = "loop".parse().unwrap();
    fs::create_dir_all(store.root().join("machines")).unwrap();
    // A link to itself: whether there is a folder behind it nobody can say.
    std::os::unix::fs::symlink("loop", store.folder(&name)).unwrap();
    assert!(store.exists(&name));
    assert!(matches!(store.load(&name), Err(StoreError::Read { .. })));
    assert!(matches!(store.list().unwrap().as_slice(), [(name, Err(_))] if name == "loop"));
}

#[test]
fn an_authority_that_was_not_known_once_is_never_guessed_later() {
    let (_folder, store) = store();
    fs::create_dir_all(store.certificates().folder()).unwrap();
    let authority = machine_pki::Authority::generate("ours").unwrap();
    fs::write(store.certificates().own_authority().certificate, authority.certificate_pem()).unwrap();
    let old = r#"{"ConfigVersion":3,"DriverName":"generic","Driver":{"IPAddress":"10.1.2.3"},
        "HostOptions":{"AuthOptions":{"CaCertPath":"/corp/ca.pem"}}}"#;
    let name = write_config(&store, "old", old);
    let lock = store.lock(&name).unwrap();
    for _ in 0..3 {
        let mut record = store.load(&name).unwrap();
        assert_eq!(record.transport.authority(), None);
        store.save(&lock, &mut record).unwrap();
    }
}

#[test]
fn a_link_that_leads_nowhere_is_not_nothing() {
    let (folder, store) = store();
    fs::create_dir_all(store.root()).unwrap();
    let machines = store.root().join("machines");
    std::os::unix::fs::symlink(folder.path().join("not-mounted"), &machines).unwrap();
    assert!(matches!(store.names(), Err(StoreError::Read { .. })));
    fs::remove_file(&machines).unwrap();
    fs::create_dir(&machines).unwrap();
    std::os::unix::fs::symlink(folder.path().join("not-mounted"), machines.join("mc1")).unwrap();
    assert_eq!(store.names().unwrap(), ["mc1"]);
    assert!(store.exists(&"mc1".parse().unwrap()));
    assert!(store.list().unwrap()[0].1.is_err());
}

#[test]
fn the_old_record_is_kept_by_whichever_save_succeeds_first() {
    let (_folder, store) = store();
    let name = write_config(&store, "old", VERSION_3);
    let mut record = store.load(&name).unwrap();
    let lock = store.lock(&name).unwrap();
    // A folder in the way of the backup fails it for root as well.
    let backup = store.folder(&name).join("config.json.bak");
    fs::create_dir_all(backup.join("x")).unwrap();
    assert!(store.save(&lock, &mut record).is_err());
    fs::remove_dir_all(&backup).unwrap();
    store.save(&lock, &mut record).unwrap();
    assert_eq!(fs::read_to_string(&backup).unwrap(), VERSION_3);
}

/// The certificates of the `number`th renewal: each file says which one it is of.
fn renewal(number: u32) -> (ClientFiles, HostFiles) {
    let text = |file: &str| format!("{number} {file}");
    (
        ClientFiles { ca_pem: text("ca"), cert_pem: text("cert"), key_pem: text("key") },
        HostFiles { ca_pem: text("ca"), server_pem: text("server"), server_key_pem: text("server-key") },
    )
}

#[test]
fn whoever_reads_certificates_while_they_are_replaced_finds_those_that_belong_together() {
    let (_folder, store) = store();
    let name = planned(&store, "mc1").name;
    let lock = store.lock(&name).unwrap();
    let replace = |number| {
        let (client, server) = renewal(number);
        store.replace_host_copies(&lock, &name, &client, Some(&server)).unwrap();
    };
    replace(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    let number = |text: &str| text.split(' ').next().unwrap().parse::<u32>().unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = std::collections::BTreeSet::new();
                    while !is_done() || seen.len() < 2 {
                        let client = store.host_client(&name).unwrap();
                        assert_eq!(client, renewal(number(&client.ca_pem)).0);
                        let copies = store.host_copies(&name).unwrap();
                        let (client, server) = renewal(number(&copies.ca_pem.unwrap()));
                        assert_eq!(copies.client.unwrap().key_pem, client.key_pem);
                        assert_eq!(copies.server.unwrap().key_pem, server.server_key_pem);
                        seen.insert(number(&client.ca_pem));
                    }
                })
            })
            .collect();
        let mut last = 0;
        while last < 30 && readers.iter().all(|reader| !reader.is_finished()) {
            last += 1;
            replace(last);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn half_done_certificates_are_read_whole_and_finished_by_whoever_hands_out_their_folder() {
    let (_folder, store) = store();
    let name = planned(&store, "mc1").name;
    let folder = store.folder(&name);
    let in_commit = folder.join(".commit");
    for moved in 0..=3 {
        let lock = store.lock(&name).unwrap();
        store.replace_host_copies(&lock, &name, &renewal(1).0, None).unwrap();
        fs::create_dir(&in_commit).unwrap();
        for (index, file) in ["ca", "cert", "key"].iter().enumerate() {
            let there = if index < moved { &folder } else { &in_commit };
            fs::write(there.join(format!("{file}.pem")), format!("2 {file}")).unwrap();
        }
        assert_eq!(store.host_client(&name).unwrap(), renewal(2).0, "{moved} of 3 are in their place");
        assert!(in_commit.exists(), "who reads writes nothing");
        if moved == 0 {
            // Somebody who goes on with it is waited for, and not for ever.
            assert!(matches!(store.settle(&name), Err(StoreError::Locked { .. })));
        }
        drop(lock);
        store.settle(&name).unwrap();
        assert!(!in_commit.exists());
        assert_eq!(fs::read_to_string(folder.join("key.pem")).unwrap(), "2 key");
    }
}

#[test]
fn a_record_of_docker_machine_on_windows_keeps_its_paths() {
    let (_folder, store) = store();
    let home = r"C:\Users\me\.docker\machine";
    let key = format!(r"{home}\machines\mc1\id_rsa");
    let record = json!({
        "ConfigVersion": 3,
        "Name": "mc1",
        "DriverName": "generic",
        "Driver": {
            "IPAddress": "192.0.2.1", "MachineName": "mc1", "SSHUser": "me", "SSHPort": 22, "SSHKeyPath": key,
            "StorePath": home, "EnginePort": 2376,
        },
        "HostOptions": { "AuthOptions": {
            "CertDir": format!(r"{home}\certs"), "CaCertPath": format!(r"{home}\certs\ca.pem"),
            "ServerCertPath": format!(r"{home}\machines\mc1\server.pem"), "StorePath": format!(r"{home}\machines\mc1"),
        } },
    });
    let name = write_config(&store, "mc1", &record.to_string());
    let record = store.load(&name).unwrap();
    let ssh = record.endpoint.clone().and_then(|endpoint| endpoint.ssh).unwrap();
    assert_eq!(ssh.key, machine_driver::SshKey::File(key.into()));
    assert_eq!(record.driver.store_path, store.root());
    assert_eq!(record.driver.config["key"], format!(r"{home}\machines\mc1\id_rsa"));
}

//! The driver with the real VBoxManage, which the environment variable `MACHINE_VBOXMANAGE` names, and MachineOS: every
//! call is the real one's, and what it says of the VM is booted with QEMU.
//! `MACHINE_VBOXMANAGE=… MACHINE_IMAGE_PATH=… cargo test -p machine-driver-virtualbox --test real`

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    io::Read,
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use machine_driver::{
    Driver, Endpoint, HostId, HostKey, HostView, Journal as _, LoginKey, MemoryJournal, Options, Silent,
    State,
    conformance::{AfterStart, Crashes, Inventory, Resource, Suite},
};
use machine_driver_virtualbox::VirtualBox;
use serde_json::Value;

const STAND_IN: &str = env!("CARGO_BIN_EXE_machine-virtualbox-stand-in");
/// Software emulation on a busy machine.
const BOOT: Duration = Duration::from_mins(4);

/// A key pair of OpenSSH's.
fn key_pair(folder: &Path, name: &str) -> (String, String) {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    let public = public.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
    (fs::read_to_string(&path).unwrap(), public)
}

fn banner(address: (&str, u16)) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = vec![0; 64];
    let count = stream.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn eventually(what: &str, folder: &Path, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > BOOT {
            let read = |file: &str| {
                String::from_utf8_lossy(&fs::read(folder.join(file)).unwrap_or_default()).into_owned()
            };
            panic!("never: {what}\n{}\n{}", read("console.log"), read("ports.log"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn real(home: &Path, words: &[&str]) -> String {
    let output = Command::new(STAND_IN).args(words).env("VBOX_USER_HOME", home).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn machineos_lives_as_the_real_vboxmanage_has_it() {
    if env::var_os("MACHINE_VBOXMANAGE").is_none() {
        skipped::say(
            "vboxmanage",
            "MACHINE_VBOXMANAGE does not name a real VBoxManage: its recorded answers stand in",
        );
        return;
    }
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut driver = VirtualBox::new()
        .with_program(STAND_IN.into())
        .with_home(home.path().to_owned())
        .with_helper(STAND_IN.into());
    if env::var_os("MACHINE_IMAGE_PATH").is_none() {
        driver = driver.with_images(vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images")]);
    }
    let given = [("virtualbox-disk-size", "2000"), ("virtualbox-memory", "512")];
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
    let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
    let (_, login) = key_pair(root.path(), "login");
    let (private, public) = key_pair(root.path(), "host");
    let folder = root.path().join("mc1");
    fs::create_dir(&folder).unwrap();
    let host = HostView {
        name: "mc1".parse().unwrap(),
        id: HostId::random(),
        owner: "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57".into(),
        folder: folder.clone(),
        cache: root.path().join("cache"),
        config,
        place: None,
        login: Some(LoginKey { public: login }),
        host_key: Some(HostKey { public, private }),
    };
    let mut journal = MemoryJournal::default();
    driver.check(&host).await.unwrap();
    driver.create(&host, &mut journal, &Silent).await.unwrap();
    let endpoint = driver.endpoint(&host, &journal.state()).await.unwrap();
    let ssh = endpoint.ssh.clone().unwrap();
    let speaks = || banner((&ssh.host, ssh.port)).is_ok_and(|banner| banner.starts_with(b"SSH-2.0-"));
    eventually("SSH speaks", &folder, speaks);
    let login = |command: &str| {
        let output = Command::new("ssh")
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-i",
            ])
            .arg(root.path().join("login"))
            .args(["-p", &ssh.port.to_string(), &format!("{}@{}", ssh.user, ssh.host), command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let inside = endpoint.inside.unwrap().address.to_string();
    assert!(login("ip -4 addr").contains(&inside), "it has not its inside address {inside}");
    login("echo kept > kept; sync");

    // Whatever listens in the guest is led to by itself.
    let sshd = "sudo -n sh -c 'mkdir -p /run/sshd; $(command -v sshd || echo /usr/sbin/sshd) -p 18099'";
    login(sshd);
    eventually("a port that is listened on is forwarded", &folder, || {
        banner((&ssh.host, 18099)).is_ok_and(|banner| banner.starts_with(b"SSH-2.0-"))
    });

    driver.stop(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&host, &journal.state()).await.unwrap(), State::Stopped);
    driver.start(&host, &mut journal, &Silent).await.unwrap();
    eventually("SSH speaks again", &folder, speaks);
    assert_eq!(login("cat kept"), "kept\n");
    driver.kill(&host, &mut journal, &Silent).await.unwrap();
    driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    for list in ["vms", "hdds", "dvds"] {
        assert_eq!(real(home.path(), &["list", list]).trim(), "", "{list}");
    }
    assert_eq!(journal.state(), serde_json::json!({}), "{}", Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_users_lies_under_the_vms_own() {
    if env::var_os("MACHINE_VBOXMANAGE").is_none() {
        skipped::say(
            "vboxmanage",
            "MACHINE_VBOXMANAGE does not name a real VBoxManage: its recorded answers stand in",
        );
        return;
    }
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut raw = vec![0; 4 << 20];
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk = root.path().join("disk.raw");
    fs::write(&disk, raw).unwrap();
    let vdi = root.path().join("own.vdi");
    let (from, to) = (disk.to_str().unwrap(), vdi.to_str().unwrap());
    real(home.path(), &["convertfromraw", from, to, "--format", "VDI"]);
    let driver = VirtualBox::new()
        .with_program(STAND_IN.into())
        .with_home(home.path().to_owned())
        .with_helper(STAND_IN.into());
    for image in [from, to] {
        let given = [("virtualbox-disk-size", "300"), ("virtualbox-image", image)];
        let given =
            given.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
        let folder = root.path().join("mc1");
        fs::create_dir_all(&folder).unwrap();
        let host = HostView {
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            owner: "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57".into(),
            folder: folder.clone(),
            cache: root.path().join("cache"),
            config,
            place: None,
            login: Some(LoginKey { public: "ssh-ed25519 AAAA login".into() }),
            host_key: None,
        };
        let mut journal = MemoryJournal::default();
        // QEMU reads no differencing disk, so it ends there; all before that is the real one's.
        let started = driver.create(&host, &mut journal, &Silent).await;
        assert!(started.is_err_and(|error| error.to_string() == "Could not start the VM of `mc1`"));
        let child = real(home.path(), &["list", "hdds"]);
        assert!(
            child.contains("normal (differencing)") && child.contains("Capacity:       300 MBytes"),
            "{child}"
        );
        driver.remove(&host, &mut journal, &Silent).await.unwrap();
        let left = real(home.path(), &["list", "hdds"]);
        assert!(!left.contains("mc1"), "{left}");
    }
}

/// What the real one knows of a host, and what is in its folder.
struct Known<'a>(&'a Path);

#[async_trait]
impl Inventory for Known<'_> {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        let mut found = Vec::new();
        let mut add = |kind: &str, name: String| found.push(Resource { kind: kind.into(), name });
        let id = host.id.to_string();
        let is_registered = real(self.0, &["list", "vms"]).contains(&id);
        if is_registered {
            add("vm", id.clone());
        }
        for list in ["hdds", "dvds"] {
            let media = real(self.0, &["list", list]);
            let folder = host.folder.display().to_string();
            let places = media.lines().filter_map(|line| line.strip_prefix("Location:"));
            for place in places.map(str::trim).filter(|place| place.starts_with(&folder)) {
                add(list, place.to_owned());
            }
        }
        for entry in fs::read_dir(&host.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !(is_registered && name.contains(".log")) {
                let kind = if name.contains(&id) { "folder" } else { &name };
                add(&format!("file {kind}"), format!("{id} {name}"));
            }
        }
        found
    }
}

/// Waits until a VM that was started can be logged in to: before that it may not see its power button.
#[derive(Debug)]
struct Banner;

#[async_trait]
impl AfterStart for Banner {
    async fn look(&self, endpoint: &Endpoint) -> Result<(), String> {
        let ssh = endpoint.ssh.clone().ok_or("no SSH")?;
        let began = Instant::now();
        while !banner((&ssh.host, ssh.port)).is_ok_and(|banner| banner.starts_with(b"SSH-2.0-")) {
            if began.elapsed() > BOOT {
                return Err("its SSH server does not speak".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM a dozen times"]
async fn keeps_the_contract_with_the_real_vboxmanage() {
    if env::var_os("MACHINE_VBOXMANAGE").is_none() {
        skipped::say(
            "vboxmanage",
            "MACHINE_VBOXMANAGE does not name a real VBoxManage: its recorded answers stand in",
        );
        return;
    }
    let (keys, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let driver = VirtualBox::new()
        .with_program(STAND_IN.into())
        .with_home(home.path().to_owned())
        .with_helper(STAND_IN.into());
    let (_, login) = key_pair(keys.path(), "login");
    let (private, public) = key_pair(keys.path(), "host");
    let report = Suite::new(&driver, &Known(home.path()))
        .option("virtualbox-memory", "512")
        .option("virtualbox-disk-size", "1000")
        .keys(LoginKey { public: login }, HostKey { public, private })
        .after_start(&Banner)
        .crashes(Crashes::Seeded { seed: 7, points: 3 })
        .limit(Duration::from_mins(5))
        .run()
        .await;
    assert_eq!(report.unwrap().crashes, 3);
}

//! A guest can be logged in to with the keys that its user data name, and is gone with whoever holds it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use guest::Guest;

struct Bench {
    folder: tempfile::TempDir,
    address: (Ipv4Addr, u16),
}

impl Bench {
    /// `None`: something is missing here.
    fn new() -> Option<Self> {
        if let Some(why) = guest::lacking() {
            skipped::say("guest", &why);
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bench = Self { folder: tempfile::tempdir().unwrap(), address: (Ipv4Addr::LOCALHOST, port) };
        for key in ["login", "host"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(bench.path(key));
            assert!(make.status().unwrap().success());
        }
        let indented = bench.read("host").replace('\n', "\n    ");
        let data = format!(
            "#cloud-config\nssh_keys:\n  ed25519_private: |\n    {indented}\nusers:\n- name: jo\n  ssh_authorized_keys:\n  - {}\n",
            bench.read("login.pub").trim()
        );
        fs::write(bench.path("user-data"), data).unwrap();
        fs::write(bench.path("known"), format!("[127.0.0.1]:{port} {}", bench.read("host.pub"))).unwrap();
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn start(&self) -> Guest {
        let from = format!("{}:{}", self.address.0, self.address.1);
        let program = Path::new(env!("CARGO_BIN_EXE_machine-guest"));
        Guest::start(program, self.folder.path(), "jo", &[(22, from)]).unwrap()
    }

    fn ssh(&self, command: &str) -> Output {
        let option = |name: &str, value: &str| format!("-o{name}={value}");
        let known = self.path("known").display().to_string();
        Command::new("ssh")
            .args(["-F", "/dev/null", "-i"])
            .arg(self.path("login"))
            .args([option("UserKnownHostsFile", &known), option("StrictHostKeyChecking", "yes")])
            .args([option("BatchMode", "yes"), option("ConnectTimeout", "10")])
            .args(["-p", &self.address.1.to_string(), "jo@127.0.0.1", command])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command prints, as soon as the server is there.
    fn says(&self, command: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.ssh(command);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < deadline && !said.contains("HOST IDENTIFICATION"), "{said}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn who_holds_the_keys_is_root_and_what_was_written_outlives_a_boot() {
    let Some(bench) = Bench::new() else { return };
    let guest = bench.start();
    assert_eq!(bench.says("id -u; echo kept >/etc/kept; touch /run/gone; cat /etc/kept"), "0\nkept\n");
    drop(guest);
    assert!(TcpStream::connect(bench.address).is_err(), "it still listens");
    let _guest = bench.start();
    assert_eq!(bench.says("cat /etc/kept; ls /run/gone 2>/dev/null || echo none"), "kept\nnone\n");
}

//! A host that is stopped and started stays with the authority that it was made with: on a real SSH server, with a driver
//! that has power.

use std::{
    fs, io::Write as _, net::TcpListener, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    engine::{Corporate, Engine},
    home::{Home, show},
};

/// A driver whose host is where the file `endpoint` in the home folder says, and runs while the file `runs` is there.
const REMOTE: &str = r#"#!/usr/bin/env python3
import json, os, sys
home = os.environ["HOME"]
runs = os.path.join(home, "runs")
call = json.loads(sys.stdin.readline())["call"]
result = None
if call == "hello":
    result = {"contract": 2, "flags": [], "info": {"name": "remote", "summary": "A host with power", "features": {
        "provisioned": True, "power": True, "login": "user", "host_key": "user", "adopted": True}}}
elif call == "configure":
    result = {}
elif call == "check":
    result = {"architecture": None, "notes": []}
elif call in ("create", "start"):
    open(runs, "w").close()
elif call in ("stop", "kill", "remove"):
    os.path.exists(runs) and os.remove(runs)
elif call == "state":
    result = "Running" if os.path.exists(runs) else "Stopped"
elif call == "endpoint":
    result = json.load(open(os.path.join(home, "endpoint")))
print(json.dumps({"result": result}), flush=True)
"#;

struct Remote {
    home: Home,
    engine: Engine,
    /// The engine's port on the host.
    port: u16,
}

impl Remote {
    fn new() -> Self {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let remote = Self { home: Home::new(), engine: Engine::new(), port };
        let program = remote.home.path().join("machine-driver-remote");
        fs::write(&program, REMOTE).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let bundle = remote.bundle();
        fs::create_dir(&bundle).unwrap();
        let text = include_str!("../provision/stand_ins/engine").replace("@VERSION@", "0.1.0");
        let packed = fs::File::create(bundle.join("engine-x86_64.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap();
        fs::write(bundle.join("engine-x86_64.sha256"), format!("{:x}", Sha256::digest(&text))).unwrap();
        fs::write(bundle.join("engine-x86_64.version"), "0.1.0").unwrap();
        remote.is_at("127.0.0.1");
        remote
    }

    fn bundle(&self) -> PathBuf {
        self.home.path().join("bundle")
    }

    /// Where the engine is reached from now on; its SSH stays where it is.
    fn is_at(&self, address: &str) {
        let mut endpoint = self.engine.endpoint();
        endpoint["address"] = json!(address);
        // Its stand-in listens outside of the host, on whose own port nobody may listen before it is provisioned.
        endpoint["url"] = json!(format!("tcp://127.0.0.1:{}", endpoint["engine_port"]));
        endpoint["engine_port"] = json!(self.port);
        fs::write(self.home.path().join("endpoint"), endpoint.to_string()).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.home.command(words);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.home.path().display());
        command.env("PATH", path).env("MACHINE_ENGINE_BUNDLE", self.bundle());
        command
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn authority(&self) -> serde_json::Value {
        let record: serde_json::Value = serde_json::from_str(&self.ok(&["inspect", "mc1"])).unwrap();
        record["Transport"]["MutualTls"].clone()
    }
}

#[test]
fn a_host_that_is_stopped_and_started_keeps_the_authority_that_was_named_when_it_was_made() {
    let remote = Remote::new();
    // The store has an authority of its own, which could sign.
    assert!(remote.home.create_none("warm").output().unwrap().status.success());
    let corporate = Corporate::new(&remote.home);
    let host_key = remote.engine.host_key();
    let create = ["create", "-d", "remote", "--ssh-host-key", &host_key, "mc1"];
    remote.ok(&corporate.named(&create));
    let pinned = json!({ "Authority": corporate.fingerprint.to_string() });
    let assert_kept = |when: &str| {
        assert_eq!(remote.authority(), pinned, "{when}");
        assert_eq!(remote.engine.trusted(), [corporate.fingerprint], "{when}");
    };
    assert_kept("made");
    let server = remote.engine.server_pem();
    for words in [&["stop", "mc1"][..], &["start", "mc1"], &["restart", "mc1"], &["provision", "mc1"]] {
        remote.ok(words);
        assert_kept(words[0]);
        assert_eq!(remote.engine.server_pem(), server, "{words:?}: nobody here could have signed another");
        if words[0] != "stop" {
            assert_eq!(remote.ok(&["version", "mc1"]), "9.9.9\n", "{words:?}");
        }
    }

    // At another address it needs another certificate, which nobody signs in its authority's place.
    remote.is_at("127.0.0.2");
    let moved = remote.command(&["start", "mc1"]).output().unwrap();
    let said = show(&moved);
    assert_eq!(moved.status.code(), Some(1), "{said}");
    assert!(said.contains("its authority") && said.contains("--tls-ca-cert"), "{said}");
    assert_kept("moved");
}

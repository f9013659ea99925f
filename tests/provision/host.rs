//! A host to provision: a real sshd on loopback, whose logins end in a root of their own with stand-ins for the service
//! manager and the engine. Mounts, processes and the hostname are in namespaces and go with the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use machine::bundle::{Bundle, Engine};
use machine::provision::{self, EngineSettings, Plan, ProvisionError, Report, TlsFiles};
use machine::ssh::{self, HostKeyPolicy, Key, Passphrase, Session, Target, Timeouts};
use machine_driver::Progress;
use sha2::{Digest, Sha256};

/// What kind of Linux the host looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The programs of this computer, with systemd.
    Systemd,
    /// Busybox, with OpenRC.
    OpenRc,
    /// Busybox, with the supervisor of MachineOS.
    MachineOs,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Systemd, Kind::OpenRc, Kind::MachineOs];

pub(crate) struct Host {
    pub(crate) kind: Kind,
    pub(crate) engine_port: u16,
    pub(crate) user: &'static str,
    process: Child,
    folder: PathBuf,
    port: u16,
    key: PathBuf,
    pinned: String,
}

impl Drop for Host {
    fn drop(&mut self) {
        // Everything on the host dies with its first process, and the mounts with the last.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("sshd.log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Told {
    lines: Mutex<Vec<String>>,
    amounts: Mutex<Vec<(u64, u64)>>,
}

impl Told {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// How much of an upload was done, and of how much, each time it was told.
    pub(crate) fn amounts(&self) -> Vec<(u64, u64)> {
        self.amounts.lock().unwrap().clone()
    }
}

impl Progress for Told {
    fn step(&self, text: &str) {
        self.lines.lock().unwrap().push(text.to_owned());
    }

    fn note(&self, text: &str) {
        self.lines.lock().unwrap().push(format!("note: {text}"));
    }

    fn amount(&self, done: u64, total: u64) {
        self.amounts.lock().unwrap().push((done, total));
    }
}

/// An engine of this version. `padding` makes it larger, and cannot be compressed.
pub(crate) fn engine(version: &str, padding: usize) -> Engine {
    let mut state = 1_u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[(state >> 58) as usize],
        )
    })
    .take(padding)
    .collect();
    let text = include_str!("stand_ins/engine").replace("@VERSION@", version).replace("@PADDING@", &noise);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    let digest = format!("{:x}", Sha256::digest(&text));
    Engine::new(architecture(), version, digest, encoder.finish().unwrap())
}

fn architecture() -> &'static str {
    std::env::consts::ARCH
}

pub(crate) fn tls(serial: u32) -> TlsFiles {
    TlsFiles {
        ca_pem: "authority\n".to_owned(),
        server_pem: format!("certificate {serial}\n"),
        server_key_pem: format!("SECRET KEY {serial}\n"),
    }
}

impl Host {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::with(kind, "root", "")
    }

    /// A host on which `more` (a shell script, `$root` is the host's root) has mounted or changed something.
    pub(crate) fn with(kind: Kind, user: &'static str, more: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tempfile::Builder::new().prefix("host-").tempdir_in(parent).unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.join("root");
        furnish(kind, &root);
        let write = |name: &str, text: &str| write(&folder.join(name), text, 0o600);

        let (login, host_key) =
            (ssh::generate_key_pair("login").unwrap(), ssh::generate_key_pair("host").unwrap());
        write("key", &login.private);
        write("host-key", &host_key.private);
        write("authorized_keys", &login.public);
        let accounts = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n\
                        jo:x:1000:1000:Jo:/home/jo:/bin/sh\n";
        write("passwd", accounts);
        fs::set_permissions(folder.join("passwd"), fs::Permissions::from_mode(0o644)).unwrap();
        write("shadow", "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\njo:*:19000:0:99999:7:::\n");
        let (port, engine_port) = (free_port(), free_port());
        let here = folder.display();
        write(
            "sshd_config",
            &format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host-key\nAuthorizedKeysFile /mnt/authorized_keys\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nLogLevel INFO\n\
                 ChrootDirectory /mnt/root\n"
            ),
        );
        let system = if kind == Kind::Systemd { SYSTEM_MOUNTS } else { "" };
        write(
            "start",
            &format!(
                "set -e\nmount --make-rprivate /\nmount -t tmpfs -o mode=755 none /mnt\nmkdir /mnt/root\nroot=/mnt/root\n\
                 cp {here}/authorized_keys /mnt\nchmod 644 /mnt/authorized_keys\n\
                 mount --bind {here}/root $root\n{system}mount -t proc proc $root/proc\nmount --bind /dev $root/dev\n\
                 mount --bind {here}/passwd /etc/passwd\nmount --bind {here}/shadow /etc/shadow\n{more}\n\
                 mount -t tmpfs -o mode=755 none /run\nmkdir /run/sshd\nhostname localhost\n\
                 exec /usr/sbin/sshd -D -e -f {here}/sshd_config\n"
            ),
        );
        let log = fs::File::create(folder.join("sshd.log")).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--pid", "--uts", "--fork", "--kill-child", "/bin/sh"])
            .arg(folder.join("start"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("these tests need `unshare` and root");
        let key = folder.join("key");
        let words: Vec<&str> = host_key.public.split(' ').take(2).collect();
        Self { kind, engine_port, user, process, folder, port, key, pinned: words.join(" ") }
    }

    /// Where and how it is logged in to: the port on 127.0.0.1, the key file, and the host key.
    #[allow(dead_code, reason = "only tests through the whole program need it")]
    pub(crate) fn login(&self) -> (u16, &Path, &str) {
        (self.port, &self.key, &self.pinned)
    }

    /// Commands that change a host do not wait until its SSH server has started.
    #[allow(dead_code, reason = "only tests through the whole program need it")]
    pub(crate) fn wait_for_ssh(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        drop(runtime.block_on(self.log_in()));
    }

    pub(crate) async fn log_in(&self) -> Session {
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: self.user.to_owned(),
            key: Key::File(self.key.clone()),
            passphrase: Passphrase::none(),
            host_key: HostKeyPolicy::Pinned(vec![self.pinned.clone()]),
        };
        if let Err(error) = ssh::wait_for_banner("127.0.0.1", self.port, Duration::from_secs(20)).await {
            let log = fs::read_to_string(self.folder.join("sshd.log")).unwrap();
            panic!("{error}\n{log}");
        }
        Session::connect(&target, &Timeouts::default()).await.unwrap()
    }

    pub(crate) fn settings(&self) -> EngineSettings {
        EngineSettings {
            labels: vec!["provider=generic".to_owned()],
            port: self.engine_port,
            ..EngineSettings::default()
        }
    }

    /// Provisions with the engine 0.1.0 and the first certificates.
    pub(crate) async fn provision(&self, settings: EngineSettings) -> Result<Report, ProvisionError> {
        let bundle = Bundle::default().with(engine("0.1.0", 0));
        self.provision_with(&bundle, settings, &Told::default()).await
    }

    pub(crate) async fn provision_with(
        &self,
        bundle: &Bundle,
        settings: EngineSettings,
        told: &Told,
    ) -> Result<Report, ProvisionError> {
        let plan = Plan {
            hostname: Some("mc1".to_owned()),
            engine: settings,
            tls: tls(1),
            bundle,
            login_user: self.user.to_owned(),
        };
        let session = self.log_in().await;
        let result = provision::provision(&session, &plan, told).await;
        session.close().await;
        result
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        // What is below `/usr/local` is mounted there on hosts with the programs of this computer.
        match path.strip_prefix("/usr/local/") {
            Some(rest) if self.kind == Kind::Systemd => self.folder.join("root/local").join(rest),
            _ => self.folder.join("root").join(path.trim_start_matches('/')),
        }
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let bytes = fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        String::from_utf8(bytes).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str, mode: u32) {
        write(&self.path(path), text, mode);
    }

    /// The lines of a file that may not be there.
    pub(crate) fn lines(&self, path: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(path)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    /// The versions of the engines that were started, in order.
    pub(crate) fn starts(&self) -> Vec<String> {
        self.lines("/run/engine.starts")
    }

    /// How often the engine was told to read its files again. A signal takes its time.
    pub(crate) fn reloads(&self, expected: usize) -> usize {
        for _ in 0..100 {
            if self.lines("/run/engine.reloads").len() >= expected {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.lines("/run/engine.reloads").len()
    }

    /// The environment that the engine was started with last.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let bytes = fs::read(self.path("/run/engine.environment")).unwrap();
        bytes
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let text = String::from_utf8(entry.to_vec()).unwrap();
                text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// What must never be left behind.
    pub(crate) fn is_tidy(&self) {
        for folder in ["/run", "/usr/local/bin", "/etc/engine", "/etc/engine/tls", "/etc/docker"] {
            let Ok(entries) = fs::read_dir(self.path(folder)) else { continue };
            for entry in entries {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.contains("machine-"), "{folder}/{name} was left behind");
            }
        }
    }
}

const SYSTEM_MOUNTS: &str = "mount --bind /usr $root/usr\nmount -o remount,bind,ro $root/usr\n\
                             mount --bind $root/local $root/usr/local\n";

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A root with the programs and the stand-ins of its kind.
fn furnish(kind: Kind, root: &Path) {
    let file = |path: &str, text: &str| write(&root.join(path), text, 0o644);
    let program = |path: &str, text: &str| write(&root.join(path), text, 0o755);
    for folder in [
        "proc",
        "dev",
        "run",
        "root",
        "home/jo",
        "var/log",
        "var/lib",
        "usr/local/bin",
        "usr/sbin",
        "usr/bin",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for folder in ["bridge", "veth", "nf_tables", "overlay"] {
        fs::create_dir_all(root.join("sys/module").join(folder)).unwrap();
    }
    file("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
    file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\njo:x:1000:1000:Jo:/home/jo:/bin/sh\n");
    file("etc/group", "root:x:0:\njo:x:1000:\n");
    file("etc/shadow", "root:*:19000:0:99999:7:::\njo:*:19000:0:99999:7:::\n");
    file("etc/hosts", "127.0.0.1 localhost\n");
    file("etc/hostname", "localhost\n");
    fs::create_dir_all(root.join("opt")).unwrap();
    fs::copy("/bin/busybox", root.join("opt/busybox")).expect("these tests need a static busybox");

    if kind == Kind::Systemd {
        for folder in ["bin", "sbin", "lib", "lib64"] {
            if fs::symlink_metadata(Path::new("/").join(folder)).is_ok() {
                symlink(format!("usr/{folder}"), root.join(folder)).unwrap();
            }
        }
        fs::create_dir_all(root.join("local/bin")).unwrap();
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
        program("local/sbin/systemctl", include_str!("stand_ins/systemctl"));
        program("local/sbin/journalctl", "#!/bin/sh\ntail -n 20 /var/log/engine.log\n");
        program("local/sbin/hostnamectl", "#!/bin/sh\necho \"$2\" >/etc/hostname\nhostname \"$2\"\n");
        file(
            "etc/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
        );
        return;
    }
    fs::create_dir_all(root.join("bin")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        symlink("/opt/busybox", root.join("bin").join(applet)).unwrap();
    }
    program("usr/sbin/addgroup", include_str!("stand_ins/addgroup"));
    if kind == Kind::OpenRc {
        fs::create_dir_all(root.join("run/openrc")).unwrap();
        fs::create_dir_all(root.join("etc/init.d")).unwrap();
        program("sbin/openrc-run", include_str!("stand_ins/openrc-run"));
        program("sbin/rc-service", include_str!("stand_ins/rc-service"));
        program("sbin/rc-update", include_str!("stand_ins/rc-update"));
        file(
            "etc/os-release",
            "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME=\"Alpine Linux v3.22\"\n",
        );
    } else {
        fs::create_dir_all(root.join("etc/services")).unwrap();
        program("usr/sbin/service", include_str!("stand_ins/service"));
        file("etc/os-release", "ID=machineos\nNAME='MachineOS'\nVERSION_ID='0.1.0'\n");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

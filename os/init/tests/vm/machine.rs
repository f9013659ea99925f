//! A bench that makes disks and seeds, and the machines that boot on it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::SERVICE;
use super::metadata::Metadata;

/// A boot takes 5 s on an idle machine; the bound is for busy ones.
const BOOT_DEADLINE: Duration = Duration::from_mins(3);
const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    /// The account to log in to.
    pub(crate) user: std::cell::Cell<&'static str>,
}

/// How disks are attached.
pub(crate) enum Disks<'a> {
    Virtio {
        data: Option<&'a Path>,
        seed: Option<PathBuf>,
    },
    /// As VirtualBox has them: SATA disk, SATA disc drive, an Intel network card.
    Ahci {
        data: &'a Path,
        seed: PathBuf,
    },
    Raw {
        data: &'a Path,
        seed: PathBuf,
    },
    /// As EC2 has them: no seed disk, but firmware that says where we are, and the metadata service in a network of
    /// link-local addresses.
    Ec2 {
        data: &'a Path,
        metadata: &'a Metadata,
        /// Words for the kernel command line.
        options: &'a str,
    },
}

/// Joins a connection that a machine makes to the metadata service with the one on loopback.
const RELAY: &str = "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/$1\ncat <&0 >&3 &\ncat <&3\nkill $!\n";
const EC2_NUMBER: &str = "ec2e1916-9099-7caf-fd21-012345abcdef";

pub(crate) struct Seed {
    pub(crate) instance: &'static str,
    pub(crate) host_name: &'static str,
    pub(crate) network: Option<&'static str>,
}

impl Default for Seed {
    fn default() -> Seed {
        Seed { instance: "i-0", host_name: "mc0", network: None }
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fat_of(folder: &Path) -> PathBuf {
    let image = folder.with_extension("img");
    let _ = fs::remove_file(&image);
    run("mkfs.vfat", &["-C", "-n", "CIDATA", text(&image), "2048"]);
    for entry in fs::read_dir(folder).unwrap() {
        run("mcopy", &["-i", text(&image), text(&entry.unwrap().path()), "::"]);
    }
    image
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        for name in ["id", "host"] {
            let path = folder.path().join(name);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", text(&path)]);
        }
        Bench { folder, user: "jo".into() }
    }

    /// Expects a host key from now on, as `ssh-ed25519 AAAA…`.
    pub(crate) fn expect_host_key(&self, public: &str) {
        fs::write(self.folder.path().join("host.pub"), public).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    pub(crate) fn blank_disk(&self, name: &str, size: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), size]);
        path
    }

    pub(crate) fn grow_disk(disk: &Path, size: &str) {
        run("qemu-img", &["resize", "-q", text(disk), size]);
    }

    fn write_seed(&self, seed: &Seed) -> PathBuf {
        let folder = self.folder.path().join(format!("seed-{}", seed.instance));
        fs::create_dir_all(&folder).unwrap();
        let indent = |text: &str, by: usize| {
            text.lines().fold(String::new(), |mut all, line| {
                writeln!(all, "{:by$}{line}", "").unwrap();
                all
            })
        };
        let user_data = format!(
            "#cloud-config\nusers:\n  - name: jo\n    sudo: ALL=(ALL) NOPASSWD:ALL\n    shell: /bin/bash\n    \
             ssh_authorized_keys:\n      - {}ssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{}  ed25519_public: {}\
             write_files:\n  - path: /etc/services/beat/run\n    permissions: '0755'\n    content: |\n{}  \
             - path: /etc/from-seed\n    permissions: '0600'\n    encoding: b64\n    content: aGVsbG8K\n\
             runcmd:\n  - echo ran >> /var/log/ran\ngrowpart: {{mode: auto}}\n",
            self.read("id.pub"),
            indent(&self.read("host"), 4),
            self.read("host.pub"),
            indent(SERVICE, 6),
        );
        fs::write(folder.join("user-data"), user_data).unwrap();
        let meta_data = format!("instance-id: {}\nlocal-hostname: {}\n", seed.instance, seed.host_name);
        fs::write(folder.join("meta-data"), meta_data).unwrap();
        if let Some(network) = seed.network {
            fs::write(folder.join("network-config"), network).unwrap();
        }
        folder
    }

    pub(crate) fn fat(&self, seed: &Seed) -> PathBuf {
        fat_of(&self.write_seed(seed))
    }

    pub(crate) fn raw_fat(&self, user_data: &str) -> PathBuf {
        let folder = self.folder.path().join("seed-raw");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("user-data"), user_data).unwrap();
        fat_of(&folder)
    }

    pub(crate) fn iso(&self, seed: &Seed) -> PathBuf {
        let folder = self.write_seed(seed);
        let image = folder.with_extension("iso");
        run("genisoimage", &["-quiet", "-J", "-r", "-V", "cidata", "-o", text(&image), text(&folder)]);
        image
    }

    /// Boots and waits until SSH answers as the seed says.
    pub(crate) fn boot(&self, disks: &Disks) -> Machine<'_> {
        let machine = self.boot_to_ready(disks);
        machine.ssh("true");
        machine
    }

    /// Boots and waits until the console says that it is ready.
    pub(crate) fn boot_to_ready(&self, disks: &Disks) -> Machine<'_> {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images/machineos");
        let manifest = fs::read_to_string(image.join("manifest.json"))
            .expect("The image is missing: build it with `cargo xtask image machineos`");
        let line = manifest.lines().find_map(|line| line.trim().strip_prefix("\"cmdline\": \"")).unwrap();
        let (console, control) = (self.folder.path().join("console"), self.folder.path().join("qmp"));
        let _ = fs::remove_file(&console);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "1024"]);
        command.args(["-nodefaults", "-display", "none", "-serial", &format!("file:{}", console.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
        // QEMU takes the kernel as it is and saves unpacking it; what travels elsewhere has its turn as well.
        let kernel = if matches!(disks, Disks::Ahci { .. }) { "vmlinuz" } else { "vmlinux" };
        command.arg("-kernel").arg(image.join(kernel)).arg("-initrd").arg(image.join("initrd.img"));
        let mut line = line.trim_end_matches("\",").to_owned();
        let mut network = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22");
        if let Disks::Ec2 { metadata, options, .. } = disks {
            line.push_str(&format!(" {options}"));
            let relay = self.folder.path().join("relay");
            fs::write(&relay, RELAY).unwrap();
            network.push_str(&format!(
                ",net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,dhcpstart=169.254.10.15,\
                 guestfwd=tcp:169.254.169.254:80-cmd:bash {} {}",
                relay.display(),
                metadata.port
            ));
            let firmware = format!("type=1,manufacturer=Amazon EC2,uuid={EC2_NUMBER},serial={EC2_NUMBER}");
            command.args(["-smbios", &firmware]);
        }
        command.args(["-append", &line, "-netdev", &network]);
        let drive = |path: &Path, rest: &str| format!("file={},{rest}", path.display());
        let card = if matches!(disks, Disks::Ahci { .. }) { "e1000" } else { "virtio-net-pci" };
        command.args(["-device", &format!("{card},netdev=n0")]);
        match disks {
            Disks::Virtio { data, seed } => {
                if let Some(data) = data {
                    command.args(["-drive", &drive(data, "if=virtio,format=qcow2")]);
                }
                if let Some(seed) = seed {
                    command.args(["-drive", &drive(seed, "if=virtio,format=raw,readonly=on")]);
                }
                command.args(["-device", "virtio-serial-pci", "-chardev", "null,id=c0"]);
                command.args(["-device", "virtserialport,chardev=c0,name=org.example.port.0"]);
            }
            Disks::Ahci { data, seed } => {
                command.args([
                    "-drive",
                    &drive(data, "if=none,id=d0,format=qcow2"),
                    "-device",
                    "ide-hd,drive=d0,bus=ide.0",
                ]);
                command.args(["-drive", &drive(seed, "if=none,id=d1,format=raw,readonly=on,media=cdrom")]);
                command.args(["-device", "ide-cd,drive=d1,bus=ide.1"]);
            }
            Disks::Raw { data, seed } => {
                command.args(["-drive", &drive(data, "if=virtio,format=raw")]);
                command.args(["-drive", &drive(seed, "if=virtio,format=raw,readonly=on")]);
            }
            Disks::Ec2 { data, .. } => {
                command.args(["-drive", &drive(data, "if=none,id=d0,format=qcow2")]);
                command.args(["-device", "nvme,drive=d0,serial=vol0"]);
            }
        }
        let child =
            command.stdin(Stdio::null()).spawn().expect("QEMU does not start; is qemu-system-x86 installed?");
        let machine = Machine { bench: self, child: child.into(), port, console, control };
        machine.await_ready(1);
        machine
    }
}

/// A running machine; it does not outlive the test.
pub(crate) struct Machine<'a> {
    bench: &'a Bench,
    child: std::cell::RefCell<Child>,
    port: u16,
    console: PathBuf,
    control: PathBuf,
}

impl Machine<'_> {
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until it said so for the given time.
    fn await_ready(&self, times: usize) {
        let until = Instant::now() + BOOT_DEADLINE;
        while self.console().lines().filter(|line| *line == "machineos: ready").count() < times {
            assert!(self.child.borrow_mut().try_wait().unwrap().is_none(), "QEMU ended:\n{}", self.console());
            assert!(Instant::now() < until, "It is not ready:\n{}", self.console());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn login(&self) -> String {
        format!("{}@127.0.0.1", self.bench.user.get())
    }

    /// The host keys as the console says them last.
    pub(crate) fn host_keys_on_console(&self) -> String {
        let console = self.console();
        let (_, last) = console.rsplit_once("-----BEGIN SSH HOST KEY KEYS-----\n").unwrap();
        last.split_once("-----END SSH HOST KEY KEYS-----\n").unwrap().0.to_owned()
    }

    /// Makes another host key on the host itself, and expects it from now on.
    pub(crate) fn replace_host_key(&self) {
        let public = self.ssh(
            "cd /etc/ssh && sudo ssh-keygen -q -t ed25519 -N '' -C replaced -f new && \
             sudo mv new.pub ssh_host_ed25519_key.pub && sudo mv new ssh_host_ed25519_key && \
             sync && sudo service sshd restart >/dev/null && cat ssh_host_ed25519_key.pub",
        );
        self.bench.expect_host_key(&public);
        // A service has started before it listens.
        self.await_value(|| {
            let status = self.client("ssh").args([&self.login(), "true"]).output().unwrap().status;
            status.success().then_some(())
        });
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.bench.folder.path();
        let known = format!("[127.0.0.1]:{} {}", self.port, self.bench.read("host.pub"));
        fs::write(folder.join("known"), known).unwrap();
        command.args([
            "-F",
            "none",
            "-i",
            text(&folder.join("id")),
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command.args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=60", "-o"]);
        command.arg(format!("UserKnownHostsFile={}", folder.join("known").display()));
        command.arg(if program == "scp" { "-P" } else { "-p" }).arg(self.port.to_string());
        command
    }

    /// Runs a command there, which must succeed.
    pub(crate) fn ssh(&self, line: &str) -> String {
        let output = self.client("ssh").args([&self.login(), line]).output().unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{line}: {}\n{said}\n{complained}\n{}",
            output.status,
            self.console()
        );
        said.into_owned()
    }

    /// The connection goes down with the machine, so there is no telling how the command ends.
    pub(crate) fn ssh_to_the_end(&self, line: &str) {
        let _ = self.client("ssh").args([&self.login(), line]).output().unwrap();
    }

    pub(crate) fn refuses_passwords(&self) {
        let mut command = self.client("ssh");
        let output =
            command.args(["-v", "-o", "PubkeyAuthentication=no", &self.login(), "true"]).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Authentications that can continue: publickey\r\n"), "{said}");
    }

    pub(crate) fn copies_files(&self) {
        let from = self.bench.folder.path().join("host.pub");
        let status = self
            .client("scp")
            .args(["-s", "-q", text(&from), &format!("{}:copy", self.login())])
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(self.ssh("cat copy"), fs::read_to_string(from).unwrap());
    }

    pub(crate) fn service_pid(&self, name: &str) -> u32 {
        self.await_value(|| self.try_service_pid(name))
    }

    pub(crate) fn try_service_pid(&self, name: &str) -> Option<u32> {
        let status = self.ssh(&format!("sudo service {name} status; true"));
        status.split_once("pid ")?.1.split(',').next()?.parse().ok()
    }

    pub(crate) fn await_value<T>(&self, mut get: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = get() {
                return value;
            }
            assert!(Instant::now() < until, "It does not come about:\n{}", self.console());
            thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn reboot(&self) {
        let times = self.console().lines().filter(|line| *line == "machineos: ready").count();
        self.ssh_to_the_end("sudo reboot");
        self.await_ready(times + 1);
    }

    pub(crate) fn press_power_button(&self) {
        let stream = UnixStream::connect(&self.control).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        for command in ["qmp_capabilities", "system_powerdown"] {
            reader.read_line(&mut line).unwrap();
            (&stream).write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes()).unwrap();
        }
        self.await_end();
        let console = self.console();
        assert!(
            console.contains("machineos: Powering off") && !console.contains("could not be"),
            "{console}"
        );
    }

    pub(crate) fn await_end(&self) {
        let until = Instant::now() + DEADLINE;
        while self.child.borrow_mut().try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "It does not go off:\n{}", self.console());
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn cut_power(&self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.cut_power();
    }
}

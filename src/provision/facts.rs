//! What a host is and has: the answer of `templates/shell/probe.sh`, read as coming from an enemy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::system::OsRelease;

/// No honest answer is longer.
pub(super) const ANSWER_AT_MOST: usize = 512 * 1024;

/// How a command of ours becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Root {
    /// The login is root's.
    #[default]
    Login,
    /// Through this command, which asks for no password.
    Through(&'static str),
}

/// An answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoFacts {
    /// There is no way to become root.
    NoRoot,
    /// There is one, and it does not want us; standard error says why.
    Refused,
    /// It does not begin and end as an answer, so whatever answered was not the whole script.
    Incomplete,
}

/// Who starts and supervises services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    Systemd,
    OpenRc,
    MachineOs,
}

impl Init {
    /// As the templates call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "openrc",
            Self::MachineOs => "machineos",
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "OpenRC",
            Self::MachineOs => "MachineOS",
        })
    }
}

/// A regular file as it is on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileFact {
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
    /// In lower-case hexadecimal; empty if it could not be read.
    pub(super) sha256: String,
}

/// A service as its supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) loaded: bool,
    pub(super) active: bool,
    pub(super) enabled: bool,
}

/// What an interrupted run left to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pending {
    Reload,
    Restart,
}

/// Everything that was reported.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one line of the answer")]
pub(super) struct Facts {
    pub(super) root: Root,
    pub(super) release: OsRelease,
    pub(super) architecture: String,
    pub(super) kernel: String,
    pub(super) node: String,
    pub(super) static_hostname: Option<String>,
    pub(super) in_hosts: bool,
    /// Seconds since 1970.
    pub(super) clock: Option<i64>,
    pub(super) init: Option<Init>,
    /// The name of process 1 where its kind is not known.
    pub(super) first_process: String,
    pub(super) units: BTreeMap<String, Unit>,
    pub(super) files: BTreeMap<String, FileFact>,
    pub(super) links: BTreeMap<String, String>,
    /// Paths at which there is something that is neither a file nor a link.
    pub(super) others: BTreeSet<String>,
    pub(super) contents: BTreeMap<String, Vec<u8>>,
    pub(super) pending: Option<Pending>,
    pub(super) missing_tools: BTreeSet<String>,
    pub(super) missing_kernel: BTreeSet<String>,
    pub(super) cgroup: String,
    /// KiB that are free where this path is or will be.
    pub(super) space: BTreeMap<String, u64>,
    pub(super) read_only: BTreeSet<String>,
    pub(super) docker_group: bool,
    pub(super) docker_member: bool,
    /// The bundled engine runs, whoever started it.
    pub(super) engine_runs: bool,
    pub(super) dockerd: Option<String>,
    pub(super) containerd: bool,
    pub(super) port_taken: bool,
    pub(super) selinux_enforcing: bool,
    pub(super) firewall: Option<Firewall>,
    pub(super) firewall_open: bool,
}

/// A host firewall that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Firewall {
    Firewalld,
    Ufw,
}

impl Firewall {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Firewalld => "firewalld",
            Self::Ufw => "ufw",
        }
    }
}

impl Facts {
    /// Reads an answer. Lines that mean nothing, such as a greeting from a shell's start-up file, are passed over.
    pub(super) fn parse(answer: &str) -> Result<Self, NoFacts> {
        let mut facts = Self::default();
        let mut release = Vec::new();
        let mut unit = None;
        let mut failure = NoFacts::Incomplete;
        let (mut begun, mut ended) = (false, false);
        for line in answer.lines() {
            if begun && !ended && facts.read_listing(line) {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                if line.is_empty() {
                    unit = None;
                }
                continue;
            };
            match key {
                "root" => facts.root = root(value),
                "root-absent" => failure = NoFacts::NoRoot,
                "root-refused" => failure = NoFacts::Refused,
                "machine-probe" => match value {
                    "begin" => begun = true,
                    "end" => ended = begun,
                    _ => {}
                },
                _ if !begun || ended => {}
                "os-release" => release.push(value),
                "Id" | "LoadState" | "ActiveState" | "UnitFileState" => {
                    facts.read_unit(key, value, &mut unit);
                }
                _ => facts.read(key, value),
            }
        }
        facts.release = OsRelease::parse(release);
        if ended { Ok(facts) } else { Err(failure) }
    }

    fn read(&mut self, key: &str, value: &str) {
        let word =
            || -> String { value.chars().filter(|character| !character.is_control()).take(256).collect() };
        let path_and_rest = || value.split_once(' ').map(|(path, rest)| (path.to_owned(), rest.to_owned()));
        match key {
            "node" => self.node = word(),
            "kernel" => self.kernel = word(),
            "architecture" => self.architecture = word(),
            "clock" => self.clock = value.parse().ok(),
            "init" => {
                self.init = match value {
                    "systemd" => Some(Init::Systemd),
                    "openrc" => Some(Init::OpenRc),
                    "machineos" => Some(Init::MachineOs),
                    _ => None,
                }
            }
            "first-process" => self.first_process = word(),
            "static-hostname" => self.static_hostname = Some(word()),
            "in-hosts" => self.in_hosts = value == "yes",
            "missing-tool" => drop(self.missing_tools.insert(word())),
            "missing-kernel" => drop(self.missing_kernel.insert(word())),
            "cgroup" => self.cgroup = word(),
            "other" => drop(self.others.insert(value.to_owned())),
            "stat" => self.read_stat(value),
            "content" => {
                if let Some((path, text)) = path_and_rest()
                    && let Ok(bytes) = BASE64_STANDARD.decode(text)
                {
                    self.contents.insert(path, bytes);
                }
            }
            "pending" => {
                // Something was left to be done, and doing too much of it is safe.
                self.pending = Some(if value == "reload" { Pending::Reload } else { Pending::Restart });
            }
            "space" => {
                if let Some((path, line)) = value.split_once(' ')
                    && let Some(kib) = available(line)
                {
                    self.space.insert(path.to_owned(), kib);
                }
            }
            "read-only" => drop(self.read_only.insert(value.to_owned())),
            "docker-group" => self.docker_group = value == "yes",
            "docker-member" => self.docker_member = value == "yes",
            "engine-runs" => self.engine_runs = value == "yes",
            "dockerd" => {
                let sound = value.starts_with('/')
                    && value.len() < 256
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
                self.dockerd = sound.then(|| value.to_owned());
            }
            "containerd" => self.containerd = value == "yes",
            "port-taken" => self.port_taken = value == "yes",
            "selinux" => self.selinux_enforcing = value == "1",
            "firewall" => {
                self.firewall = match value {
                    "firewalld" => Some(Firewall::Firewalld),
                    "ufw" => Some(Firewall::Ufw),
                    _ => None,
                }
            }
            "firewall-open" => self.firewall_open = value == "yes",
            _ => {}
        }
    }

    /// `MODE OWNER GROUP PATH`
    fn read_stat(&mut self, value: &str) {
        let mut words = value.splitn(4, ' ');
        let (Some(mode), Some(owner), Some(group), Some(path)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let (Ok(mode), Ok(owner), Ok(group)) = (u32::from_str_radix(mode, 8), owner.parse(), group.parse())
        else {
            return;
        };
        let file = self.files.entry(path.to_owned()).or_default();
        (file.mode, file.owner, file.group) = (mode, owner, group);
    }

    /// A line of `sha256sum` (`DIGEST  PATH`, with a `*` before the path where a binary read is something else than a
    /// text read) or of `ls -l` about a link.
    fn read_listing(&mut self, line: &str) -> bool {
        if line.starts_with('l')
            && let Some((entry, target)) = line.split_once(" -> ")
        {
            let path = entry.rsplit(' ').next().unwrap_or_default();
            self.links.insert(path.to_owned(), target.to_owned());
            return true;
        }
        match line.split_once(' ') {
            Some((digest, path))
                if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                let path = path.trim_start_matches([' ', '*']).to_owned();
                self.files.entry(path).or_default().sha256 = digest.to_ascii_lowercase();
                true
            }
            _ => false,
        }
    }

    /// A line of `systemctl show`; units are separated by empty lines, and `Id` need not come first.
    fn read_unit(&mut self, key: &str, value: &str, current: &mut Option<(String, Unit)>) {
        let (name, unit) = current.get_or_insert_default();
        match key {
            "Id" => value.clone_into(name),
            "LoadState" => unit.loaded = value == "loaded",
            "ActiveState" => unit.active = matches!(value, "active" | "reloading" | "activating"),
            _ => unit.enabled = value.starts_with("enabled"),
        }
        if !name.is_empty() {
            self.units.insert(name.clone(), unit.clone());
        }
    }

    /// Whether dockerd is to use a containerd that runs beside it.
    pub(super) fn has_containerd(&self) -> bool {
        self.containerd || self.units.get("containerd.service").is_some_and(|unit| unit.loaded)
    }

    /// Whether the service of this name is running.
    pub(super) fn active(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.active)
    }

    /// Whether the service of this name is started at boot.
    pub(super) fn enabled(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.enabled)
    }
}

fn root(value: &str) -> Root {
    match value {
        "sudo" => Root::Through("sudo -n"),
        "doas" => Root::Through("doas -n"),
        _ => Root::Login,
    }
}

/// The free KiB of a line of `df -Pk`: the number before the percentage.
fn available(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percentage = words.iter().position(|word| word.ends_with('%'))?;
    words.get(percentage.checked_sub(1)?)?.parse().ok()
}

/// The first word that begins with a digit: `Docker version 28.5.2, build …` and `engine 0.1.0` both say it.
pub(super) fn version_in(text: &str) -> Option<String> {
    text.split_whitespace()
        .map(|word| word.trim_matches(|character: char| character == ',' || character == 'v'))
        .find(|word| word.starts_with(|character: char| character.is_ascii_digit()))
        .map(|word| word.chars().filter(char::is_ascii_graphic).take(64).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ANSWER: &str = "\
Welcome! node=wrong
root=sudo
machine-probe=begin
node=mc1
kernel=6.1.0-40-amd64
architecture=x86_64
clock=1795232000
os-release=PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"
os-release=ID=debian
init=systemd
Id=engine.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

LoadState=not-found
ActiveState=inactive
Id=docker.service
UnitFileState=
stat=600 0 0 /etc/engine/tls/server-key.pem
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA  /etc/engine/tls/server-key.pem
lrwxrwxrwx 1 root root 6 Nov 21 04:09 /usr/local/bin/docker -> engine
other=/usr/local/bin/swarm
content=/etc/engine/daemon.json e30=
pending=restart
space=/run tmpfs 1000 10 990 1% /run
space=/usr/local/bin a disk with blanks 1000 10 123 1% /mnt/some where
docker-group=yes
dockerd=/usr/bin/dockerd
selinux=1
firewall=ufw
machine-probe=end
node=also-wrong
";

    #[test]
    fn an_answer_is_read() {
        let facts = Facts::parse(ANSWER).unwrap();
        assert_eq!(facts.root, Root::Through("sudo -n"));
        assert_eq!((facts.node.as_str(), facts.architecture.as_str()), ("mc1", "x86_64"));
        assert_eq!(facts.release.to_string(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(facts.init, Some(Init::Systemd));
        assert!(facts.active("engine.service") && facts.enabled("engine.service"));
        assert!(!facts.active("docker.service") && !facts.enabled("docker.service"));
        let key = &facts.files["/etc/engine/tls/server-key.pem"];
        assert_eq!((key.mode, key.owner, key.sha256.as_str()), (0o600, 0, "a".repeat(64).as_str()));
        assert_eq!(facts.links["/usr/local/bin/docker"], "engine");
        assert!(facts.others.contains("/usr/local/bin/swarm"));
        assert_eq!(facts.contents["/etc/engine/daemon.json"], b"{}");
        assert_eq!(facts.pending, Some(Pending::Restart));
        assert_eq!((facts.space["/run"], facts.space["/usr/local/bin"]), (990, 123));
        assert_eq!(facts.dockerd.as_deref(), Some("/usr/bin/dockerd"));
        assert!(facts.selinux_enforcing);
        assert_eq!(facts.firewall, Some(Firewall::Ufw));
    }

    #[test]
    fn half_an_answer_is_none() {
        let failure = |answer: &str| Facts::parse(answer).unwrap_err();
        assert_eq!(failure(""), NoFacts::Incomplete);
        assert_eq!(failure(ANSWER.split("machine-probe=end").next().unwrap()), NoFacts::Incomplete);
        assert_eq!(failure(ANSWER.split_once("machine-probe=begin\n").unwrap().1), NoFacts::Incomplete);
        assert_eq!(failure("root-absent=yes\n"), NoFacts::NoRoot);
        assert_eq!(failure("root=sudo\nroot-refused=yes\n"), NoFacts::Refused);
    }

    #[test]
    fn nonsense_is_passed_over() {
        let facts = Facts::parse(
            "machine-probe=begin\nstat=999 0 0 /x\nstat=600\nzz  /x\nl -> \n -> x\nspace=/run\nspace=/run x %\nspace=/run %\n\
             dockerd=/usr/bin/dockerd; reboot\nclock=now\ncontent=/x ***\nId=\n==\n=\n\
             init=sysvinit\nmachine-probe=end\n",
        )
        .unwrap();
        assert!(facts.files.is_empty() && facts.space.is_empty() && facts.contents.is_empty());
        assert_eq!((facts.dockerd, facts.clock, facts.init), (None, None, None));
    }

    #[test]
    fn versions_are_found() {
        assert_eq!(version_in("engine 0.1.0"), Some("0.1.0".to_owned()));
        assert_eq!(version_in("Docker version 28.5.2+dfsg1, build 1"), Some("28.5.2+dfsg1".to_owned()));
        assert_eq!(version_in("v1.2"), Some("1.2".to_owned()));
        assert_eq!(version_in(""), None);
    }
}

//! The seed: found on a disk labelled `cidata` or at EC2's metadata service, read with bounds, kept for boots without it.

pub(crate) mod cloud_config;
pub(crate) mod ec2;
mod multipart;
pub(crate) mod network_config;
mod user_data;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use crate::disks::{Content, Disk};
use crate::error::{BootError, make_folder, replace_file};
use cloud_config::{Account, CloudConfig, EntryError};
use multipart::MultipartError;
use network_config::NetworkConfig;
use user_data::UserData;

const LABEL: &str = "cidata";
const MOUNT_POINT: &str = "/run/seed";
/// What cloud providers allow is 16 to 64 KiB; a seed with a file or two in it is still far below.
const FILE_BOUND: u64 = 1024 * 1024;
/// What a file compressed with gzip starts with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const META_DATA: &str = "meta-data";
const USER_DATA: &str = "user-data";
const NETWORK_CONFIG: &str = "network-config";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("Could not mount the seed on `{}`", node.display())]
    Mount { node: PathBuf, source: io::Error },
    #[error("Could not read `{name}` of the seed")]
    Read { name: &'static str, source: io::Error },
    #[error("`{name}` of the seed is larger than {FILE_BOUND} bytes")]
    Large { name: &'static str },
    #[error("`{name}` of the seed is not text in UTF-8")]
    Encoding { name: &'static str },
    #[error("`{name}` of the seed is compressed and cannot be unpacked")]
    Compression { name: &'static str, source: io::Error },
    #[error("`{name}` of the seed is not understood: {reason}")]
    Syntax { name: &'static str, reason: String },
    #[error(
        "`user-data` starts with neither `#cloud-config` nor `#!` nor MIME headers; no other kind is read"
    )]
    Kind,
    #[error("`user-data` cannot be followed in full")]
    Multipart(#[source] MultipartError),
    #[error("Part {number} of `user-data` is ignored, its type `{kind}` is not known here")]
    PartKind { number: usize, kind: String },
    #[error("Part {number} of `user-data` is not understood: {reason}")]
    PartSyntax { number: usize, reason: String },
    #[error("The network configuration has version {0}, only version 2 is read")]
    NetworkVersion(u64),
}

/// The files of a seed as they came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    meta_data: String,
    user_data: String,
    network_config: Option<String>,
}

/// A seed, understood.
#[derive(Debug, Default)]
pub(crate) struct Seed {
    pub(crate) instance: String,
    pub(crate) host_name: Option<String>,
    /// Keys for the default account, from whoever made the instance.
    public_keys: Vec<String>,
    pub(crate) config: CloudConfig,
    /// To be run once for the instance, after the commands in `config`.
    pub(crate) scripts: Vec<String>,
    pub(crate) network: Option<NetworkConfig>,
    /// Parts that could not be used; the rest is.
    pub(crate) complaints: Vec<SeedError>,
}

impl Seed {
    /// The accounts to make, and complaints about those that cannot be.
    pub(crate) fn accounts(&self, default_name: &str) -> Vec<Result<Account, EntryError>> {
        self.config.accounts(default_name, &self.public_keys)
    }
}

/// The disk that carries the seed, of those that are there.
pub(crate) fn choose(disks: &[Disk]) -> Option<&Disk> {
    disks.iter().find(|disk| match &disk.content {
        Content::Fat { label } | Content::Iso { label } => label.eq_ignore_ascii_case(LABEL),
        _ => false,
    })
}

impl Files {
    /// Mounts the disk, read-only, for just as long as reading takes.
    pub(crate) fn read_from(disk: &Disk) -> Result<Files, SeedError> {
        let failed = |source| SeedError::Mount { node: disk.node.clone(), source };
        let kind = if matches!(disk.content, Content::Iso { .. }) { "iso9660" } else { "vfat" };
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        fs::create_dir_all(MOUNT_POINT).map_err(failed)?;
        mount(&disk.node, MOUNT_POINT, kind, flags, c"").map_err(|source| failed(source.into()))?;
        let files = Files::read(Path::new(MOUNT_POINT));
        let _ = unmount(MOUNT_POINT, UnmountFlags::DETACH);
        files
    }

    /// Reads a seed's folder: `user-data` and `meta-data` may be absent, but not both at once by accident of a typo.
    pub(crate) fn read(folder: &Path) -> Result<Files, SeedError> {
        let meta_data = read_bounded(folder, META_DATA)?;
        let user_data = read_bounded(folder, USER_DATA)?;
        if meta_data.is_none() && user_data.is_none() {
            return Err(SeedError::Read { name: META_DATA, source: io::ErrorKind::NotFound.into() });
        }
        Ok(Files {
            meta_data: meta_data.unwrap_or_default(),
            user_data: user_data.unwrap_or_default(),
            network_config: read_bounded(folder, NETWORK_CONFIG)?,
        })
    }

    /// Keeps them for a boot without the seed disk. It carries host keys, so it is nobody's but root's.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), BootError> {
        make_folder(folder)?;
        for (name, content) in [
            (META_DATA, Some(&self.meta_data)),
            (USER_DATA, Some(&self.user_data)),
            (NETWORK_CONFIG, self.network_config.as_ref()),
        ] {
            let path = folder.join(name);
            match content {
                Some(content) => replace_file(&path, content.as_bytes(), 0o600, None)?,
                None => drop(fs::remove_file(path)),
            }
        }
        Ok(())
    }

    /// Understands what can be understood: a mistake in one file is no reason to ignore the others.
    pub(crate) fn parse(&self) -> Seed {
        let mut seed = Seed { instance: "nocloud".to_owned(), ..Seed::default() };
        match parse_meta_data(&self.meta_data) {
            Ok(data) => {
                seed.instance = data.instance_id.unwrap_or(seed.instance);
                seed.host_name = data.local_hostname.or(data.hostname);
                seed.public_keys = data.public_keys.0;
            }
            Err(complaint) => seed.complaints.push(complaint),
        }
        let user_data = UserData::parse(&self.user_data);
        seed.config = user_data.config;
        seed.scripts = user_data.scripts;
        seed.complaints.extend(user_data.complaints);
        if let Some(name) = seed.config.host_name() {
            seed.host_name = Some(name.to_owned());
        }
        match self.network_config.as_deref().map(NetworkConfig::parse) {
            Some(Ok(network)) => seed.network = Some(network),
            Some(Err(complaint)) => seed.complaints.push(complaint),
            None => {}
        }
        seed
    }
}

fn read_bounded(folder: &Path, name: &'static str) -> Result<Option<String>, SeedError> {
    let failed = |source| SeedError::Read { name, source };
    // A link on the seed must not make us read something else.
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = match fs::OpenOptions::new().read(true).custom_flags(no_follow).open(folder.join(name)) {
        Ok(file) => file,
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(failure) => return Err(failed(failure)),
    };
    let mut content = Vec::new();
    file.take(FILE_BOUND + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > FILE_BOUND {
        return Err(SeedError::Large { name });
    }
    text(name, content).map(Some)
}

/// Text as it came or compressed with gzip, which cloud-init takes as well.
fn text(name: &'static str, content: Vec<u8>) -> Result<String, SeedError> {
    let content = if content.starts_with(&GZIP) { unpack(name, &content)? } else { content };
    String::from_utf8(content).map_err(|_| SeedError::Encoding { name })
}

fn unpack(name: &'static str, content: &[u8]) -> Result<Vec<u8>, SeedError> {
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(content)
        .take(FILE_BOUND + 1)
        .read_to_end(&mut unpacked)
        .map_err(|source| SeedError::Compression { name, source })?;
    if unpacked.len() as u64 > FILE_BOUND {
        return Err(SeedError::Large { name });
    }
    Ok(unpacked)
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct MetaData {
    instance_id: Option<String>,
    local_hostname: Option<String>,
    hostname: Option<String>,
    public_keys: PublicKeys,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PublicKeysForm")]
struct PublicKeys(Vec<String>);

/// As cloud-init takes them from NoCloud.
#[derive(Deserialize)]
#[serde(untagged)]
enum PublicKeysForm {
    Line(String),
    List(Vec<String>),
    ByName(Table<String>),
    Nothing(()),
}

impl From<PublicKeysForm> for PublicKeys {
    fn from(form: PublicKeysForm) -> PublicKeys {
        PublicKeys(match form {
            PublicKeysForm::Line(lines) => lines.lines().map(str::to_owned).collect(),
            PublicKeysForm::List(list) => list,
            PublicKeysForm::ByName(table) => table.into_values().collect(),
            PublicKeysForm::Nothing(()) => Vec::new(),
        })
    }
}

fn parse_meta_data(text: &str) -> Result<MetaData, SeedError> {
    parse_yaml(META_DATA, text)
}

/// YAML where a document without content means that nothing is set.
fn parse_yaml<T: Default + serde::de::DeserializeOwned>(
    name: &'static str,
    text: &str,
) -> Result<T, SeedError> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---")
    {
        return Ok(T::default());
    }
    serde_yaml::from_str(text).map_err(|failure| {
        // The first line carries the position; what follows is a picture for terminals.
        let reason = failure.to_string();
        SeedError::Syntax { name, reason: reason.lines().next().unwrap_or_default().to_owned() }
    })
}

/// A map whose keys do not matter to the reader.
pub(crate) type Table<T> = BTreeMap<String, T>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(meta_data: &str, user_data: &str, network_config: Option<&str>) -> Files {
        Files {
            meta_data: meta_data.to_owned(),
            user_data: user_data.to_owned(),
            network_config: network_config.map(str::to_owned),
        }
    }

    #[test]
    fn a_seed_is_read_and_understood() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("meta-data"), "instance-id: i-1\nlocal-hostname: mc1\n").unwrap();
        fs::write(folder.path().join("user-data"), "#cloud-config\nusers: [{name: jo}]\n").unwrap();
        let seed = Files::read(folder.path()).unwrap().parse();
        assert_eq!((seed.instance.as_str(), seed.host_name.as_deref()), ("i-1", Some("mc1")));
        assert_eq!(seed.complaints.len(), 0);
        assert_eq!(seed.accounts("docker").len(), 1);
        assert!(seed.network.is_none());
    }

    #[test]
    fn keys_in_every_spelling() {
        for (keys, count) in
            [("[a b, c d]", 2), ("{one: a b, two: c d}", 2), ("\"a b\\nc d\"", 2), ("", 0), ("[]", 0)]
        {
            let seed = files(&format!("public-keys: {keys}"), "", None).parse();
            assert!(seed.complaints.is_empty(), "{keys}: {:?}", seed.complaints);
            assert_eq!(seed.public_keys.len(), count, "{keys}");
        }
    }

    #[test]
    fn a_compressed_file_is_unpacked_within_bounds() {
        use std::io::Write as _;
        let packed = |content: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(text(USER_DATA, packed(b"#cloud-config\n")).unwrap(), "#cloud-config\n");
        let bomb = packed(&vec![b'x'; usize::try_from(FILE_BOUND).unwrap() + 1]);
        assert!(matches!(text(USER_DATA, bomb), Err(SeedError::Large { .. })));
        let mut broken = packed(b"#cloud-config\n");
        broken.truncate(15);
        assert!(matches!(text(USER_DATA, broken), Err(SeedError::Compression { .. })));
    }

    #[test]
    fn the_host_name_of_user_data_wins() {
        let seed = files("local-hostname: a", "#cloud-config\nhostname: b\n", None).parse();
        assert_eq!(seed.host_name.as_deref(), Some("b"));
    }

    #[test]
    fn a_broken_part_leaves_the_rest() {
        let seed =
            files("instance-id: [", "#cloud-config\nhostname: b\n", Some("version: 1\nconfig: []")).parse();
        assert_eq!(seed.host_name.as_deref(), Some("b"));
        assert_eq!(seed.complaints.len(), 2, "{:?}", seed.complaints);
    }

    #[test]
    fn a_folder_without_a_seed_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Files::read(folder.path()), Err(SeedError::Read { name: META_DATA, .. })));
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("meta-data"), "").unwrap();
        let user_data = folder.path().join("user-data");
        std::os::unix::fs::symlink("/etc/passwd", &user_data).unwrap();
        assert!(matches!(Files::read(folder.path()), Err(SeedError::Read { name: USER_DATA, .. })));
        fs::remove_file(&user_data).unwrap();
        fs::File::create(&user_data).unwrap().set_len(FILE_BOUND + 1).unwrap();
        assert!(matches!(Files::read(folder.path()), Err(SeedError::Large { name: USER_DATA })));
        fs::write(&user_data, [0xff, 0xfe]).unwrap();
        assert!(matches!(Files::read(folder.path()), Err(SeedError::Encoding { name: USER_DATA })));
    }

    #[test]
    fn a_kept_seed_is_the_same_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("seed");
        let first = files("instance-id: i-1", "#cloud-config\n", Some("version: 2"));
        first.keep(&kept).unwrap();
        assert_eq!(Files::read(&kept).unwrap(), first);
        assert_eq!(fs::metadata(kept.join("user-data")).unwrap().permissions().mode() & 0o777, 0o600);
        let second = files("instance-id: i-2", "#cloud-config\n", None);
        second.keep(&kept).unwrap();
        assert_eq!(Files::read(&kept).unwrap(), second);
    }

    #[test]
    fn the_label_may_be_in_either_case() {
        let disk = |content| Disk {
            node: PathBuf::from("/dev/vdb"),
            size: 1,
            is_partition: false,
            is_writable: true,
            content,
        };
        assert!(choose(&[disk(Content::Fat { label: "CIDATA".to_owned() })]).is_some());
        assert!(choose(&[disk(Content::Iso { label: "cidata".to_owned() })]).is_some());
        assert!(
            choose(&[disk(Content::Ext4 { label: "cidata".to_owned(), size: 1 }), disk(Content::Blank)])
                .is_none()
        );
    }

    #[test]
    fn a_document_that_explodes_is_refused() {
        let mut lines = vec!["#cloud-config".to_owned(), "a: &a [x, x, x, x, x, x, x, x, x, x]".to_owned()];
        for (name, before) in
            [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f"), ("h", "g")]
        {
            lines.push(format!("{name}: &{name} [{}]", vec![format!("*{before}"); 10].join(", ")));
        }
        lines.push("ssh_authorized_keys: *h".to_owned());
        assert_eq!(files("", &lines.join("\n"), None).parse().complaints.len(), 1);
    }
}

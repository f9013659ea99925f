//! Named directories that outlive containers: `data-root/volumes/NAME/_data`, and beside it what they are.

mod mounted;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use engine_model::Kind;
use engine_model::id::random_id;
use engine_store::Durability;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use mounted::Mounted;
use source::Source;

use super::mounts::volume_directory;
use super::record::MountKind;
use super::unsupported::says_something;
use super::usage::size_of;
use super::{ContainerError, Containers, names};

const RECORD: &str = "volume.json";
/// What docker marks volumes with that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// What is kept about a volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub name: String,
    pub created: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    /// What it is made of, if it is no directory of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its record cannot be read, so that nobody knows its labels and options.
    #[serde(skip)]
    pub is_damaged: bool,
}

/// The body of `POST /volumes/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeRequest {
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    /// Of a swarm's volumes.
    pub cluster_volume_spec: Option<Value>,
}

impl Volume {
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    /// Whether what it holds is, or could be, not in its own directory.
    fn may_be_elsewhere(&self) -> bool {
        self.is_damaged || !self.options.is_empty()
    }
}

impl Containers {
    /// Makes a volume, or finds the one of that name.
    pub fn create_volume(&self, request: VolumeRequest) -> Result<Volume, ContainerError> {
        let driver = request.driver.as_deref().filter(|driver| !driver.is_empty()).unwrap_or("local");
        if driver != "local" {
            let message = format!("error looking up volume plugin {driver}: plugin \"{driver}\" not found");
            return Err(ContainerError::NotFound(message));
        }
        let options = request.driver_opts.unwrap_or_default();
        if request.cluster_volume_spec.as_ref().is_some_and(says_something) {
            return Err(ContainerError::Unsupported(
                "`ClusterVolumeSpec`, for volumes of a swarm,".to_owned(),
            ));
        }
        let mut labels = request.labels.unwrap_or_default();
        let name = match request.name.filter(|name| !name.is_empty()) {
            Some(name) if names::is_valid(&name) => name,
            Some(name) => return Err(super::mounts::MountError::VolumeName(name).into()),
            None => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                random_id()
            }
        };
        let found = self.ensure_volume(&name, labels.clone(), &options)?;
        if found.is_damaged { self.describe_anew(&name, labels, options) } else { Ok(found) }
    }

    /// The volume of this name, made if it is not there. One that is there and is made of something else is not meant.
    pub(super) fn ensure_volume(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<Volume, ContainerError> {
        Source::of(options)?;
        let folder = self.volume_folder(name);
        // They make the volume one, so the power may not take them from whoever was told.
        let settle = || {
            engine_store::sync_directory(&folder)?;
            folder.parent().map_or(Ok(()), engine_store::sync_directory)
        };
        let failed = |source| ContainerError::Write { path: folder.clone(), source };
        if folder.join("_data").is_dir() {
            settle().map_err(failed)?;
            let found = self.volume(name)?;
            if found.is_damaged && !options.is_empty() {
                return self.describe_anew(name, labels, options.clone());
            }
            if !options.is_empty() && *options != found.options {
                let message =
                    format!("create {name}: there is a volume of this name with other driver options");
                return Err(ContainerError::Conflict(message));
            }
            return Ok(found);
        }
        let (created, options) = (Some(Timestamp::now()), options.clone());
        let volume = Volume { name: name.to_owned(), created, labels, options, is_damaged: false };
        let make = || {
            fs::DirBuilder::new().recursive(true).mode(0o701).create(&folder)?;
            engine_store::write(&folder.join(RECORD), &volume, Durability::Durable)?;
            self.create_for_root(&folder.join("_data"))?;
            settle()
        };
        make().map_err(failed)?;
        self.0.events.publish("volume", "create", name, &[("driver", "local")]);
        Ok(volume)
    }

    /// Writes a record in the place of one that cannot be read.
    fn describe_anew(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Volume, ContainerError> {
        let damaged = self.volume(name)?;
        let volume = Volume { labels, options, is_damaged: false, ..damaged };
        self.keep_record(name, "the volume was described anew")?;
        let path = self.volume_folder(name).join(RECORD);
        engine_store::write(&path, &volume, Durability::Durable)
            .map_err(|source| ContainerError::Write { path, source })?;
        Ok(volume)
    }

    /// Keeps a record that cannot be read, which stays where it is until another takes its place: a volume without any would
    /// be a directory of its own.
    fn keep_record(&self, name: &str, why: &str) -> Result<(), ContainerError> {
        let path = self.volume_folder(name).join(RECORD);
        let kept = self.0.quarantine.keep(&path, why);
        kept.map(drop).map_err(|source| ContainerError::Write { path, source })
    }

    pub(super) fn anonymous_labels() -> BTreeMap<String, String> {
        BTreeMap::from([(ANONYMOUS.to_owned(), String::new())])
    }

    fn volume_folder(&self, name: &str) -> PathBuf {
        self.0.config.data_root.join("volumes").join(name)
    }

    pub fn volume(&self, name: &str) -> Result<Volume, ContainerError> {
        let missing = || ContainerError::NotFound(format!("get {name}: no such volume"));
        if !names::is_valid(name) {
            return Err(missing());
        }
        let folder = self.volume_folder(name);
        let metadata = fs::metadata(folder.join("_data")).map_err(|_| missing())?;
        let made = || metadata.created().ok().and_then(|time| Timestamp::try_from(time).ok());
        let mut volume: Volume = match engine_store::read(&folder.join(RECORD)) {
            Ok(volume) => volume.unwrap_or_default(),
            Err(error) if !error.is_damage() => return Err(error.into()),
            Err(_) => Volume { is_damaged: true, ..Volume::default() },
        };
        name.clone_into(&mut volume.name);
        volume.created = volume.created.or_else(made);
        Ok(volume)
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Volume> {
        let entries = fs::read_dir(self.0.config.data_root.join("volumes"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut volumes: Vec<Volume> = names.filter_map(|name| self.volume(name.to_str()?).ok()).collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        volumes
    }

    /// Says which volumes have records that cannot be read.
    pub(super) fn note_damaged_volumes(&self) {
        for volume in self.volumes().into_iter().filter(|volume| volume.is_damaged) {
            self.0.quarantine.note(format!(
                "`{}` cannot be read: containers do not start on that volume while it is empty; \
                 `docker volume create {}`, with its options if it had any, describes it anew",
                self.volume_folder(&volume.name).join(RECORD).display(),
                volume.name
            ));
        }
    }

    /// The containers that use a volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |container: &super::Container| {
            let identity = container.identity();
            identity
                .mounts
                .iter()
                .any(|point| point.kind == MountKind::Volume && point.name.as_deref() == Some(name))
        };
        self.all()
            .into_iter()
            .filter(|container| uses(container))
            .map(|container| container.id.clone())
            .collect()
    }

    pub fn describe_volume(&self, volume: &Volume) -> Value {
        json!({
            "CreatedAt": volume.created.map(|time| time.round(jiff::Unit::Second).unwrap_or(time).to_string()),
            "Driver": "local",
            "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
            "Mountpoint": volume_directory(&self.0.config.data_root, &volume.name),
            "Name": volume.name,
            "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
            "Scope": "local",
        })
    }

    /// The volumes' part of the answer to `GET /system/df`.
    pub fn volume_usage(&self) -> Vec<Value> {
        let describe = |volume: Volume| {
            // What is somewhere else takes no room here, and may be far away.
            let size = if volume.may_be_elsewhere() {
                json!(-1)
            } else {
                json!(size_of(&volume_directory(&self.0.config.data_root, &volume.name)))
            };
            let mut view = self.describe_volume(&volume);
            view["UsageData"] = json!({ "RefCount": self.volume_users(&volume.name).len(), "Size": size });
            view
        };
        self.volumes().into_iter().map(describe).collect()
    }

    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), ContainerError> {
        let volume = match self.volume(name) {
            Err(error) if force && error.kind() == Kind::NotFound => return Ok(()),
            volume => volume?,
        };
        self.check_all_known()?;
        let users = self.volume_users(name);
        if !users.is_empty() {
            let message = format!("remove {name}: volume is in use - [{}]", users.join(", "));
            return Err(ContainerError::Conflict(message));
        }
        if volume.is_damaged {
            self.keep_record(name, "the volume was removed")?;
        }
        self.erase_volume(name)?;
        self.0.events.publish("volume", "destroy", name, &[("driver", "local")]);
        Ok(())
    }

    /// Removes the directory of a volume, and nothing that is mounted in there.
    pub(super) fn erase_volume(&self, name: &str) -> Result<(), ContainerError> {
        let folder = self.volume_folder(name);
        self.with_unmounted(name, || {
            engine_store::remove_directory(&folder)
                .map_err(|source| ContainerError::Remove { path: folder.clone(), source })
        })
    }

    /// Removes unused volumes: those without a name, or with `all` any; answers with their names and bytes.
    pub fn prune_volumes(
        &self,
        all: bool,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<(Vec<String>, u64), ContainerError> {
        self.check_all_known()?;
        let used: BTreeSet<String> = self
            .all()
            .iter()
            .flat_map(|container| container.identity().mounts.clone())
            .filter_map(|point| point.name)
            .collect();
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in self.volumes() {
            let is_used = volume.is_damaged || used.contains(&volume.name);
            if is_used || !(all || volume.is_anonymous()) || !wanted(&volume) {
                continue;
            }
            let size = if volume.may_be_elsewhere() {
                0
            } else {
                size_of(&volume_directory(&self.0.config.data_root, &volume.name))
            };
            if self.remove_volume(&volume.name, false).is_ok() {
                removed.push(volume.name);
                bytes += size;
            }
        }
        Ok((removed, bytes))
    }
}

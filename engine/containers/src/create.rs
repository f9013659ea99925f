//! From a create request to a container on disk.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::Arc;

use engine_kernel::cgroup::weights;
use engine_model::ImageId;
use engine_model::id::random_id;
use engine_model::life::Change;
use engine_model::wire::ImageConfig;
use engine_model::wire::{Config, CreateRequest, HostConfig, unknown_warning};
use jiff::Timestamp;

use super::mounts;
use super::names;
use super::record::{FORMAT, Identity, MountKind, MountPoint, State};
use super::remove::erase_directory;
use super::room;
use super::start::MARK;
use super::{Container, ContainerError, Containers, unsupported};
use crate::{health, limits, oci, sensible, understand};

/// What `create` gives back.
#[derive(Debug)]
pub struct Created {
    pub container: Arc<Container>,
    pub warnings: Vec<String>,
}

/// A name that is taken until it is kept or given back.
struct Reservation<'a> {
    containers: &'a Containers,
    name: String,
    kept: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.containers.index().names.remove(&self.name);
        }
    }
}

impl Containers {
    pub async fn create(
        &self,
        name: Option<String>,
        request: CreateRequest,
    ) -> Result<Created, ContainerError> {
        self.blocking(move |containers| containers.create_blocking(name, request)).await
    }

    fn create_blocking(
        &self,
        name: Option<String>,
        request: CreateRequest,
    ) -> Result<Created, ContainerError> {
        unsupported::refuse(&request)?;
        let CreateRequest { config: mut wanted, mut host_config, networking_config, unknown, .. } = request;
        let id = random_id();
        let name = name.filter(|name| !name.is_empty()).map(|name| name.trim_start_matches('/').to_owned());
        if let Some(name) = name.as_ref().filter(|name| !names::is_valid(name)) {
            return Err(ContainerError::InvalidName(name.clone()));
        }
        sensible::network(&wanted, &host_config)?;
        let image = self.0.images.find(&wanted.image)?;
        if let Some(check) = &wanted.healthcheck {
            health::check(check)?;
        }
        let mut warnings: Vec<String> = unknown.iter().map(|field| unknown_warning(field)).collect();
        merge_image(&mut wanted, &image.config);
        health::merge_image(&mut wanted, &image.config, &mut warnings);
        let command: Vec<String> =
            wanted.entrypoint.iter().flatten().chain(wanted.cmd.iter().flatten()).cloned().collect();
        if command.first().is_none_or(String::is_empty) {
            return Err(ContainerError::Invalid("no command specified".to_owned()));
        }
        if command.iter().any(|word| word.contains('\0')) {
            return Err(ContainerError::Invalid("a command cannot contain a null byte".to_owned()));
        }
        sensible::check(&wanted, &host_config)?;
        if !weights::are_supported() {
            discard_weights(&mut host_config, &mut warnings);
        }
        self.complete(&mut host_config, &mut warnings)?;
        self.settle_links(&mut host_config)?;
        let networks = networking_config
            .endpoints_config
            .into_iter()
            .map(|(network, endpoint)| (network, endpoint.unwrap_or_default()))
            .collect();
        let log = &host_config.log_config;
        engine_logging::options::check(&log.r#type, &log.config).map_err(understand::log_options)?;
        let spec = understand::request(&wanted, &host_config, &networks, false)?;
        self.check_users(&spec)?;
        limits::resources(&spec.limits, engine_kernel::cgroup::is_unified()).map_err(oci::SpecError::from)?;
        limits::weights(&spec.limits).map_err(oci::SpecError::from)?;
        oci::confinement(&spec.confinement, spec.confinement.privileged, &self.0.filters)?;
        let room = room::wished(&host_config)?;
        let others = self.mounts_of_others(&host_config)?;
        let volumes = wanted.volumes.iter().flatten().map(|(path, _)| path);
        let mut mounts = mounts::parse(&host_config, volumes, others, &self.0.config.data_root)?;
        for point in mounts.iter_mut().filter(|point| point.kind == MountKind::Image && point.image.is_none())
        {
            point.image = Some(self.0.images.find(&point.source.to_string_lossy())?.id);
        }
        let (log_driver, log_options) =
            (host_config.log_config.r#type.clone(), host_config.log_config.config.clone());

        let mut reservation = self.reserve(name, &id)?;
        self.create_sources(&mounts)?;
        let identity = Identity {
            format: FORMAT,
            id: id.clone(),
            name: reservation.name.clone(),
            created: Timestamp::now(),
            image_id: image.id.clone(),
            architecture: image.architecture.clone(),
            command,
            config: wanted,
            host: host_config,
            networks,
            left_first_network: false,
            mounts,
            log_driver,
            log_options,
        };
        let config = &self.0.config;
        let container = Container::new(
            identity.clone(),
            State::default(),
            &config.data_root,
            &config.exec_root,
            &self.0.cgroup_parent,
        );
        let laid_out = lay_out(&container, &identity);
        let laid_out = laid_out.and_then(|()| room.map_or(Ok(()), |bytes| self.give_room(&container, bytes)));
        let laid_out = laid_out.and_then(|()| self.mark(&container, &image.id));
        if let Err(error) = laid_out {
            let _ = erase_directory(&container.directory);
            return Err(error);
        }
        let container = Arc::new(container);
        // Whatever others do with it is told after this.
        let operation = container.operation.blocking_lock();
        self.index().containers.insert(id.clone(), Arc::clone(&container));
        // Whoever removes the image sees its user from here on. If somebody has done so before, there is nothing to be made.
        let used =
            std::iter::once(&image.id).chain(identity.mounts.iter().filter_map(|point| point.image.as_ref()));
        if let Some(error) = used.into_iter().find_map(|image| self.0.images.lower_dirs(image).err()) {
            self.index().containers.remove(&id);
            let _ = erase_directory(&container.directory);
            return Err(error.into());
        }
        reservation.kept = true;
        container.tell(&self.0.events, &Change::Created);
        drop(operation);
        Ok(Created { container, warnings })
    }

    /// Takes a name, or finds a free one.
    fn reserve(&self, name: Option<String>, id: &str) -> Result<Reservation<'_>, ContainerError> {
        let mut index = self.index();
        let name = match name {
            Some(name) => {
                if let Some(owner) = index.names.get(&name) {
                    return Err(ContainerError::NameTaken { name, id: owner.clone() });
                }
                name
            }
            None => (0..1000)
                .map(names::random_name)
                .find(|name| !index.names.contains_key(name))
                .unwrap_or_else(|| id.to_owned()),
        };
        index.names.insert(name.clone(), id.to_owned());
        Ok(Reservation { containers: self, name, kept: false })
    }

    /// Fills in what the client left open, as inspect shows it.
    fn complete(&self, host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<(), ContainerError> {
        if host.network_mode.is_empty() || host.network_mode == "default" {
            "bridge".clone_into(&mut host.network_mode);
        }
        if let Some(other) = host.network_mode.strip_prefix("container:") {
            // The name may change, the id stays.
            host.network_mode = format!("container:{}", self.other(other)?.id);
        }
        for mode in [&mut host.ipc_mode, &mut host.pid_mode] {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.other(other)?.id);
            }
        }
        if host.memory > 0 && host.memory_swap == 0 {
            host.memory_swap = host.memory.saturating_mul(2);
        }
        if !host.privileged {
            let all = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
            host.masked_paths.get_or_insert_with(|| all(&oci::MASKED_PATHS));
            host.readonly_paths.get_or_insert_with(|| all(&oci::READ_ONLY_PATHS));
        }
        // The second generation of cgroups has no such setting.
        if !engine_kernel::cgroup::is_unified() {
            host.oom_kill_disable.get_or_insert(false);
        }
        if host.restart_policy.name.is_empty() {
            "no".clone_into(&mut host.restart_policy.name);
        }
        if host.ipc_mode.is_empty() {
            "private".clone_into(&mut host.ipc_mode);
        }
        if host.cgroupns_mode.is_empty() {
            let private = engine_kernel::cgroup::is_unified() && !host.privileged;
            if private { "private" } else { "host" }.clone_into(&mut host.cgroupns_mode);
        }
        if host.runtime.is_empty() {
            unsupported::RUNTIME.clone_into(&mut host.runtime);
        }
        if host.shm_size == 0 {
            host.shm_size = 64 * 1024 * 1024;
        }
        if host.ulimits.as_ref().is_some_and(|limits| !limits.is_empty()) && !limits::may_raise_limits() {
            warnings
                .push("This engine may not raise limits of processes; higher ones are cut down.".to_owned());
        }
        let defaults = self.log_defaults();
        let usual = if defaults.r#type.is_empty() { "json-file" } else { &defaults.r#type };
        if host.log_config.r#type.is_empty() {
            usual.clone_into(&mut host.log_config.r#type);
        }
        // As in dockerd, whoever names the usual driver still gets the usual options.
        if host.log_config.r#type == usual && usual != "none" {
            for (name, value) in &defaults.config {
                host.log_config.config.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }

    /// Makes what is mounted, where that is the engine's business.
    pub(super) fn create_sources(&self, points: &[MountPoint]) -> Result<(), ContainerError> {
        for point in points {
            match (&point.name, point.kind) {
                (Some(name), MountKind::Volume) => {
                    let mut labels = point.labels.clone();
                    if point.anonymous {
                        labels.extend(Self::anonymous_labels());
                    }
                    self.ensure_volume(name, labels, &point.driver_options)?;
                }
                (_, MountKind::Bind) if point.source.symlink_metadata().is_err() => {
                    self.create_for_root(&point.source).map_err(|source| ContainerError::CreateSource {
                        path: point.source.clone(),
                        source,
                    })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A container that another one is to share with. That it is missing is no "not found": clients take that for the image's.
    fn other(&self, name: &str) -> Result<Arc<Container>, ContainerError> {
        self.find(name).map_err(|error| ContainerError::Invalid(error.to_string()))
    }

    fn mounts_of_others(&self, host: &HostConfig) -> Result<Vec<MountPoint>, ContainerError> {
        let mut points = Vec::new();
        for other in host.volumes_from.iter().flatten() {
            let (name, mode) = other.split_once(':').unwrap_or((other, "rw"));
            let identity = self.other(name)?.identity();
            let read_only = mounts::others_read_only(other, mode)?;
            points.extend(identity.mounts.iter().cloned().map(|mut point| {
                point.read_only |= read_only;
                point.anonymous = false;
                point
            }));
        }
        Ok(points)
    }
}

impl Containers {
    /// Makes [`MARK`], unless the image has one.
    fn mark(&self, container: &Container, image: &ImageId) -> Result<(), ContainerError> {
        let inside = MARK.trim_start_matches('/');
        if self.0.images.lower_dirs(image)?.iter().any(|layer| layer.join(inside).symlink_metadata().is_ok())
        {
            return Ok(());
        }
        let path = container.directory.join("upper").join(inside);
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
        made.map(drop).map_err(|source| ContainerError::Write { path, source })
    }
}

/// Takes away wishes that the kernel cannot fulfil, as dockerd does, and says so.
pub(super) fn discard_weights(host: &mut HostConfig, warnings: &mut Vec<String>) {
    if std::mem::take(&mut host.blkio_weight) > 0 {
        let message =
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.";
        warnings.push(message.to_owned());
    }
    if host.blkio_weight_device.take().is_some_and(|devices| !devices.is_empty()) {
        let message = "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.";
        warnings.push(message.to_owned());
    }
}

/// The directories and records of a new container.
fn lay_out(container: &Container, identity: &Identity) -> Result<(), ContainerError> {
    let mut builder = fs::DirBuilder::new();
    for (name, mode) in [("", 0o710), ("upper", 0o755), ("work", 0o700)] {
        let path = container.directory.join(name);
        builder.mode(mode).create(&path).map_err(|source| ContainerError::Write { path, source })?;
    }
    container.write_identity(identity)?;
    container.change_state(|_| {});
    // The record is on the disk; so is its directory from here on.
    if let Some(all) = container.directory.parent() {
        engine_store::sync_directory(all)
            .map_err(|source| ContainerError::Write { path: all.to_owned(), source })?;
    }
    Ok(())
}

/// What the image says holds where the client says nothing.
fn merge_image(config: &mut Config, image: &ImageConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in &image.exposed_ports {
        let ports = config.exposed_ports.get_or_insert_default();
        ports.entry(port.clone()).or_insert_with(|| serde_json::json!({}));
    }
    let mut environment = image.env.clone();
    let names: Vec<&str> =
        config.env.iter().map(|entry| entry.split('=').next().unwrap_or_default()).collect();
    environment.retain(|entry| !names.contains(&entry.split('=').next().unwrap_or_default()));
    config.env.extend(environment);
    for (name, value) in &image.labels {
        config.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    // A new entrypoint does not go with the image's arguments. An empty one, `[""]`, takes the image's away.
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    }
    if config.entrypoint.as_ref().is_some_and(|entrypoint| entrypoint.len() == 1 && entrypoint[0].is_empty())
    {
        config.entrypoint = None;
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    for path in &image.volumes {
        let volumes = config.volumes.get_or_insert_default();
        volumes.entry(path.clone()).or_insert_with(|| serde_json::json!({}));
    }
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout.and_then(|seconds| i64::try_from(seconds).ok());
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use engine_model::Kind;
    use engine_model::event::EventBus;
    use engine_store::Quarantine;
    use serde_json::json;

    use super::*;
    use crate::Settings;
    use crate::fakes::{NoNetworks, OneImage};

    #[test]
    fn the_image_fills_gaps() {
        let image: ImageConfig = serde_json::from_value(json!({
            "User": "app", "Env": ["A=1", "B=2"], "Entrypoint": ["/e"], "Cmd": ["c"], "WorkingDir": "/w",
            "Labels": { "l": "image" }, "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/v": {} } }))
        .unwrap();
        let mut config: Config =
            serde_json::from_value(json!({ "Env": ["B=3"], "Labels": { "m": "own" } })).unwrap();
        merge_image(&mut config, &image);
        assert_eq!(config.env, ["B=3", "A=1"]);
        assert_eq!(config.cmd.unwrap(), ["c"]);
        assert_eq!(config.labels.len(), 2);
        let mut own: Config = serde_json::from_value(json!({ "Entrypoint": ["/own"] })).unwrap();
        merge_image(&mut own, &image);
        assert_eq!((own.entrypoint.unwrap(), own.cmd), (vec!["/own".to_owned()], None));
        let mut cleared: Config = serde_json::from_value(json!({ "Entrypoint": [""], "Cmd": "sh" })).unwrap();
        merge_image(&mut cleared, &image);
        assert_eq!((cleared.entrypoint, cleared.cmd.unwrap()), (None, vec!["sh".to_owned()]));
    }

    #[test]
    fn weights_that_the_kernel_does_not_know_are_discarded_with_a_warning() {
        let weights =
            json!({ "BlkioWeight": 300, "BlkioWeightDevice": [{ "Path": "/dev/vda", "Weight": 200 }] });
        let mut host: HostConfig = serde_json::from_value(weights).unwrap();
        let mut warnings = Vec::new();
        discard_weights(&mut host, &mut warnings);
        assert_eq!((host.blkio_weight, host.blkio_weight_device.clone()), (0, None));
        assert!(
            warnings[0].ends_with("Weight discarded.") && warnings[1].ends_with("Weight-device discarded.")
        );
        discard_weights(&mut host, &mut warnings);
        assert_eq!(warnings.len(), 2);
    }

    #[tokio::test]
    async fn an_image_that_goes_meanwhile_leaves_no_container() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::of(folder.path());
        let quarantine = Quarantine::of(&settings.data_root);
        let (images, networks) = (Arc::new(OneImage { vanishes: true }), Arc::new(NoNetworks));
        let containers =
            Containers::open(settings.clone(), images, networks, EventBus::new(), quarantine).await.unwrap();
        for _ in 0..2 {
            let request = CreateRequest::read(br#"{"Image":"x"}"#).unwrap();
            let error = containers.create(Some("name".to_owned()), request).await.unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{error}");
        }
        assert!(containers.all().is_empty());
        assert_eq!(fs::read_dir(settings.data_root.join("containers")).unwrap().count(), 0);
    }
}

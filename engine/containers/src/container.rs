//! One container: its record, its state, and those who wait for it to change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use engine_kernel::confine::Root;
use engine_kernel::ids::IdMap;
use engine_kernel::process::{OpenNamespace, Process};
use engine_model::Failure;
use engine_model::event::EventBus;
use engine_model::life::{Change, Life};
use engine_model::spec::ContainerSpec;
use engine_shim::client::Shim;
use engine_shim::dialect::Dialect;
use engine_shim::protocol;
use engine_store::Durability;
use serde_json::Value;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot, watch};

use super::error::ContainerError;
use super::record::{self, Identity, State, Status};
use super::{sandbox, understand};

/// Somebody who wants the streams of a container that does not run yet.
#[derive(Debug)]
pub struct PendingAttach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub ready: oneshot::Sender<BufReader<UnixStream>>,
}

#[derive(Debug)]
pub struct Container {
    pub id: String,
    /// Of the records, the log and the writable layer.
    pub directory: PathBuf,
    /// Of the supervising process.
    pub runtime_directory: PathBuf,
    /// What its network namespace is pinned to while it runs, if it has one of its own.
    pub pin: PathBuf,
    cgroup: RwLock<PathBuf>,
    /// What its supervising process speaks.
    dialect: RwLock<Arc<Dialect>>,
    /// Its first process, while it runs and can be got hold of.
    process: RwLock<Option<Arc<Process>>>,
    identity: RwLock<Arc<Identity>>,
    /// What the identity means; a failure if an older engine has let something pass that makes no sense.
    spec: RwLock<Result<Arc<ContainerSpec>, Failure>>,
    state: RwLock<State>,
    /// Held while the container is started, ended, changed or removed.
    pub operation: tokio::sync::Mutex<()>,
    life: watch::Sender<Life>,
    pub pending: Mutex<Vec<PendingAttach>>,
    /// Variables of the next run alone, of which nothing is written down but what that run is made from, in memory.
    lent: Mutex<Vec<String>>,
    /// Ends the pause before a restart.
    pub restart_now_or_never: Notify,
    /// A client wants it to end now, so it is not restarted.
    pub stopping: AtomicBool,
    pub removing: AtomicBool,
    /// How many clients are having it restarted just now.
    pub restarts: AtomicUsize,
}

impl Container {
    pub fn new(
        identity: Identity,
        state: State,
        data_root: &Path,
        exec_root: &Path,
        cgroup_parent: &Path,
    ) -> Self {
        let runtime_directory = exec_root.join("containers").join(&identity.id);
        let cgroup = cgroup_of_run(&runtime_directory).unwrap_or_else(|| cgroup(&identity, cgroup_parent));
        let alive = state.status.is_alive() || state.status == Status::Restarting;
        let life = Life { alive, exit_code: state.exit_code, ..Life::default() };
        Self {
            directory: data_root.join("containers").join(&identity.id),
            runtime_directory,
            pin: sandbox::folder(exec_root).join(&identity.id),
            cgroup: RwLock::new(cgroup),
            id: identity.id.clone(),
            dialect: RwLock::new(Arc::new(Dialect::own())),
            process: RwLock::default(),
            spec: RwLock::new(understand::record(&identity).map(Arc::new).map_err(Failure::from)),
            identity: RwLock::new(Arc::new(identity)),
            state: RwLock::new(state),
            operation: tokio::sync::Mutex::default(),
            life: watch::channel(life).0,
            pending: Mutex::default(),
            lent: Mutex::default(),
            restart_now_or_never: Notify::new(),
            stopping: AtomicBool::new(false),
            removing: AtomicBool::new(false),
            restarts: AtomicUsize::new(0),
        }
    }

    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its control group, below the root of each hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it lie below `parent` from its next start on, unless its maker named another.
    pub(crate) fn lie_below(&self, parent: &Path) {
        let cgroup = cgroup(&self.identity(), parent);
        *self.cgroup.write().unwrap_or_else(PoisonError::into_inner) = cgroup;
    }

    /// What it is to be.
    pub fn spec(&self) -> Result<Arc<ContainerSpec>, ContainerError> {
        let spec = self.spec.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(spec?)
    }

    /// Whether it goes when it ends.
    pub fn is_removed_at_its_end(&self) -> bool {
        self.spec().is_ok_and(|spec| spec.auto_remove)
    }

    /// Whether a client is having it restarted, so that its end is not the last.
    pub fn is_being_restarted(&self) -> bool {
        self.restarts.load(Ordering::Acquire) > 0
    }

    pub fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn status(&self) -> Status {
        self.state.read().unwrap_or_else(PoisonError::into_inner).status
    }

    pub fn pending(&self) -> MutexGuard<'_, Vec<PendingAttach>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lent(&self) -> MutexGuard<'_, Vec<String>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn shim(&self) -> Shim {
        let dialect = Arc::clone(&self.dialect.read().unwrap_or_else(PoisonError::into_inner));
        Shim::at(self.runtime_directory.clone(), dialect)
    }

    /// Notes what its supervising process speaks from now on.
    pub fn speaks(&self, dialect: Dialect) {
        *self.dialect.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dialect);
    }

    /// Its first process, which stays the one that it is.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.process.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Holds its first process from now on, or none.
    pub(crate) fn hold(&self, process: Option<Arc<Process>>) {
        *self.process.write().unwrap_or_else(PoisonError::into_inner) = process;
    }

    /// Its network namespace, if that is its own, pinned, and still where it was pinned.
    pub(crate) fn pinned_namespace(&self) -> Option<OpenNamespace> {
        self.state().pinned.then(|| OpenNamespace::pinned(&self.pin).ok()).flatten()
    }

    /// A namespace that its first process began in: `net`, `ipc`, ….
    pub fn namespace(&self, kind: &str) -> Result<OpenNamespace, ContainerError> {
        if kind == "net"
            && let Some(namespace) = self.pinned_namespace()
        {
            return Ok(namespace);
        }
        self.of_process(&format!("{kind} namespace"), |process| process.namespace(kind))
    }

    /// The root directory of its first process, as that sees it.
    pub(crate) fn visible_root(&self) -> Result<Root, ContainerError> {
        self.of_process("root directory", Process::root)
    }

    /// The numbers that its users have on the host, if they are not the same; it has to run.
    pub(crate) fn ids(&self) -> Result<Option<IdMap>, ContainerError> {
        self.of_process("user namespace", Process::ids)
    }

    fn of_process<T>(
        &self,
        what: &str,
        open: impl FnOnce(&Process) -> std::io::Result<T>,
    ) -> Result<T, ContainerError> {
        // Others may come too late for it.
        let process = self.process().ok_or_else(|| self.ended())?;
        open(&process).map_err(|source| match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::SRCH) => self.ended(),
            _ => ContainerError::Process { id: self.id.clone(), what: what.to_owned(), source },
        })
    }

    /// Does something with its cgroup while it runs.
    pub(crate) fn in_cgroup<T>(
        &self,
        act: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> Result<T, ContainerError> {
        act(&self.cgroup()).map_err(|source| self.unless_ended(ContainerError::Cgroup { source }))
    }

    /// Why something could not be done with it while it ran. Once its first process has ended, that is why: the record says so
    /// a moment later than its cgroup and its supervising process go.
    pub(crate) fn unless_ended(&self, error: ContainerError) -> ContainerError {
        let has_ended =
            self.process().map_or_else(|| !self.status().is_alive(), |process| process.has_ended());
        if has_ended { self.ended() } else { error }
    }

    /// What it reads and writes; it has to run.
    pub async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<BufReader<UnixStream>, ContainerError> {
        let attached = self.shim().attach(stdin, stdout, stderr).await;
        attached.map_err(|error| self.unless_ended(error.into()))
    }

    /// Gives its terminal a size, in characters.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ContainerError> {
        if !self.status().is_alive() {
            return Err(self.ended());
        }
        // Without a terminal there is nothing that has a size.
        if !self.identity().config.tty {
            return Ok(());
        }
        let told = self.shim().ask(&protocol::Request::Resize { rows, columns }).await;
        told.map(drop).map_err(|error| self.unless_ended(error.into()))
    }

    /// What is answered to those who come too late.
    pub(crate) fn ended(&self) -> ContainerError {
        ContainerError::Ended(self.id.clone())
    }

    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    pub fn is_removing(&self) -> bool {
        self.removing.load(Ordering::Acquire)
    }

    /// The log on disk, if there is one.
    pub fn log_path(&self) -> Option<PathBuf> {
        self.spec()
            .is_ok_and(|spec| spec.log.has_file())
            .then(|| self.directory.join(format!("{}-json.log", self.id)))
    }

    /// Changes what the container is, on disk first. What makes no sense is refused.
    pub fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<(), ContainerError> {
        let mut identity = (*self.identity()).clone();
        change(&mut identity);
        let spec = understand::record(&identity)?;
        self.write_identity(&identity)?;
        *self.spec.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(spec));
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        Ok(())
    }

    pub fn write_identity(&self, identity: &Identity) -> Result<(), ContainerError> {
        let path = self.directory.join(record::CONFIG_FILE);
        engine_store::write(&path, identity, Durability::Durable)
            .map_err(|source| ContainerError::Write { path, source })
    }

    /// Changes how the container is. If it cannot be written, that is said in the log: the change has happened anyway.
    pub fn change_state(&self, change: impl FnOnce(&mut State)) {
        self.amend_state(|state| {
            change(state);
            true
        });
    }

    /// The same for what may not be worth the disk's while: the change says whether it is to be written.
    pub(crate) fn amend_state(&self, change: impl FnOnce(&mut State) -> bool) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut state) {
            return;
        }
        let path = self.directory.join(record::STATE_FILE);
        if let Err(error) = engine_store::write(&path, &*state, Durability::Atomic) {
            tracing::error!(%error, container = self.id, "Could not write the state");
        }
    }

    /// Brings the state to the disk, so that it survives a power cut. To be done before a client is told what it says.
    pub async fn settle(&self) {
        let path = self.directory.join(record::STATE_FILE);
        let synced = tokio::task::spawn_blocking(move || engine_store::sync(&path)).await;
        if let Ok(Err(error)) = synced
            // It may have been removed meanwhile.
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(%error, container = self.id, "Could not bring the state to the disk");
        }
    }

    /// Publishes an event about the container, with the attributes that docker gives.
    fn publish(&self, events: &EventBus, action: &str, more: &[(&str, &str)]) {
        let identity = self.identity();
        let mut attributes: Vec<(&str, &str)> =
            identity.config.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        attributes.push(("image", &identity.config.image));
        attributes.push(("name", &identity.name));
        attributes.extend_from_slice(more);
        events.publish("container", action, &self.id, &attributes);
    }

    /// Tells the world what happened: those who wait and those who read events, in the same order.
    pub fn tell(&self, events: &EventBus, change: &Change) {
        self.life.send_modify(|life| {
            change.apply(life);
            if let Some((action, more)) = change.action() {
                let more: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
                self.publish(events, &action, &more);
            }
        });
    }

    /// What waiters watch.
    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Waits until a condition on the container's life holds.
    pub async fn wait_until(&self, condition: impl FnMut(&Life) -> bool) -> Life {
        match self.life().wait_for(condition).await {
            Ok(life) => life.clone(),
            // Cannot be: the sender lives in this object.
            Err(_) => Life::default(),
        }
    }

    /// Docker's `hostname` without one being asked for.
    pub fn default_hostname(&self) -> String {
        self.short_id().to_owned()
    }
}

/// Where its next run belongs.
fn cgroup(identity: &Identity, parent: &Path) -> PathBuf {
    let parent = match identity.host.cgroup_parent.as_str() {
        "" => parent.to_owned(),
        parent => engine_kernel::confine::clean(Path::new(parent)),
    };
    parent.join(&identity.id)
}

/// Where a run was put that goes on or has left something: an engine before this one may have had another parent.
fn cgroup_of_run(runtime_directory: &Path) -> Option<PathBuf> {
    let bundle = fs::read(runtime_directory.join(protocol::BUNDLE)).ok()?;
    let bundle: Value = serde_json::from_slice(&bundle).ok()?;
    bundle["linux"]["cgroupsPath"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use engine_model::wire::CreateRequest;
    use engine_store::Quarantine;

    use super::*;
    use crate::fakes::{NoNetworks, OneImage};
    use crate::{Containers, Settings};

    async fn open(settings: &Settings) -> Containers {
        let quarantine = Quarantine::of(&settings.data_root);
        let (images, networks) = (Arc::new(OneImage::default()), Arc::new(NoNetworks));
        Containers::open(settings.clone(), images, networks, EventBus::new(), quarantine).await.unwrap()
    }

    async fn create(containers: &Containers, request: &str) -> Arc<Container> {
        let request = CreateRequest::read(request.as_bytes()).unwrap();
        containers.create(None, request).await.unwrap().container
    }

    #[tokio::test]
    async fn it_lies_where_its_maker_says_or_else_the_engine() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::of(folder.path());
        let containers = open(&settings).await;
        let own = create(&containers, r#"{"Image":"x"}"#).await.cgroup();
        assert!(own.to_str().unwrap().starts_with("/engine-"), "{}", own.display());
        // Below the root of each hierarchy, whatever it says.
        settings.cgroup_parent = Some("../units/ours".into());
        let containers = open(&settings).await;
        let container = create(&containers, r#"{"Image":"x"}"#).await;
        assert_eq!(container.cgroup(), Path::new("/units/ours").join(&container.id));
        let container = create(&containers, r#"{"Image":"x","HostConfig":{"CgroupParent":"theirs"}}"#).await;
        assert_eq!(container.cgroup(), Path::new("/theirs").join(&container.id));
    }

    #[tokio::test]
    async fn a_run_is_found_where_it_began_and_the_next_one_belongs_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::of(folder.path());
        let container = create(&open(&settings).await, r#"{"Image":"x"}"#).await;
        let before = container.cgroup();
        fs::create_dir(&container.runtime_directory).unwrap();
        let bundle = container.runtime_directory.join(protocol::BUNDLE);
        settings.cgroup_parent = Some("/units/ours".into());
        let (parent, belongs) = (Path::new("/units/ours"), Path::new("/units/ours").join(&container.id));
        for (written, lies) in [
            (format!(r#"{{"linux":{{"cgroupsPath":"{}"}}}}"#, before.display()), &before),
            (r#"{"linux":{}}"#.to_owned(), &belongs),
            ("{".to_owned(), &belongs),
        ] {
            fs::write(&bundle, &written).unwrap();
            let found = open(&settings).await.find(&container.id).unwrap();
            assert_eq!(found.cgroup(), *lies, "{written}");
            found.lie_below(parent);
            assert_eq!(found.cgroup(), belongs, "{written}");
        }
    }
}

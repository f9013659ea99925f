//! Containers whose users have other numbers on the host: which those are, who they are there, and what cannot be theirs.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use engine_kernel::ids::IdMap;
use engine_kernel::overlay::{self, Overlay};
use engine_kernel::pin;
use engine_kernel::process::OpenNamespace;
use engine_kernel::userns::{self, Owners, Users};
use engine_model::spec::{ContainerSpec, NetworkMode, Share};

use super::{ContainerError, Containers};
use crate::oci::{Namespace, Surroundings};

/// Which numbers the users of containers have on the host.
#[derive(Debug)]
pub struct Mapping {
    ids: IdMap,
    /// In which nobody is: mounts take their owners from it.
    users: OpenNamespace,
}

/// Why containers cannot have users of their own here.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    #[error("Could not make a user namespace")]
    Namespace { source: io::Error },
    #[error("Could not mount an image's layers in `{}` with other owners", path.display())]
    Layers { path: PathBuf, source: io::Error },
    #[error("Could not let the root of containers pass through `{}`", path.display())]
    Way { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be entered by user {user} of the host, who is the root of containers", path.display())]
    Closed { path: PathBuf, user: u32 },
}

impl MappingError {
    /// What the administrator of the host can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => {
                "`userns-remap` takes a kernel with user namespaces, and `user.max_user_namespaces` above 0"
            }
            Self::Layers { .. } => {
                "`userns-remap` takes Linux 5.19 or newer, and a `data-root` on a file system that can be mounted with other \
                 owners, such as ext4, xfs and btrfs"
            }
            Self::Way { .. } | Self::Closed { .. } => {
                "Let others pass through it (`chmod o+x`), or choose another `exec-root`"
            }
        }
    }
}

impl Mapping {
    /// Tries whether all that it takes is there. Blocks.
    pub fn open(ids: IdMap, data_root: &Path, exec_root: &Path) -> Result<Self, MappingError> {
        let users = userns::new(&ids).and_then(OpenNamespace::of);
        let users = users.map_err(|source| MappingError::Namespace { source })?;
        let mapping = Self { ids, users };
        mapping
            .try_layers(data_root)
            .map_err(|source| MappingError::Layers { path: data_root.to_owned(), source })?;
        mapping.open_way(exec_root)?;
        Ok(mapping)
    }

    fn try_layers(&self, data_root: &Path) -> io::Result<()> {
        fs::create_dir_all(data_root)?;
        let folder = tempfile::Builder::new().prefix("owners-").tempdir_in(data_root)?;
        let place = |name: &str| folder.path().join(name);
        for name in ["lower", "upper", "work", "scratch", "all"] {
            fs::create_dir(place(name))?;
        }
        let overlay = Overlay { lower: vec![place("lower")], upper: place("upper"), work: place("work") };
        let (owners, root) = (self.owners(), self.ids.root());
        let tried = std::thread::scope(|scope| {
            let try_it = || -> io::Result<()> {
                engine_kernel::mount::leave_mounts_of_others()?;
                overlay::mount(&overlay, Some(&owners), &place("all"), &place("scratch"))?;
                let file = place("all").join("file");
                let _acting = owners.ids.act()?;
                fs::write(&file, "")?;
                let found = fs::metadata(&file)?;
                if (found.uid(), found.gid()) == root {
                    Ok(())
                } else {
                    Err(io::Error::other("a file of root's has another owner"))
                }
            };
            scope.spawn(try_it).join().unwrap_or_else(|_| Err(io::Error::other("the trial was cut short")))
        });
        tried?;
        // On the disk it is root's, whoever it is outside.
        let kept = fs::metadata(place("upper").join("file"))?;
        if (kept.uid(), kept.gid()) == (0, 0) {
            Ok(())
        } else {
            Err(io::Error::other("the owner is not mapped"))
        }
    }

    /// The container's root has to get to what is made ready for it; nobody else does.
    fn open_way(&self, exec_root: &Path) -> Result<(), MappingError> {
        let (user, group) = self.ids.root();
        for path in [exec_root.to_owned(), exec_root.join("containers")] {
            let open = || {
                fs::create_dir_all(&path)?;
                chown(&path, None, Some(group))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o710))
            };
            open().map_err(|source| MappingError::Way { path: path.clone(), source })?;
        }
        for path in exec_root.ancestors() {
            let Ok(found) = fs::metadata(path) else { continue };
            let bit = match (found.uid() == user, found.gid() == group) {
                (true, _) => 0o100,
                (_, true) => 0o010,
                _ => 0o001,
            };
            if found.mode() & bit == 0 {
                return Err(MappingError::Closed { path: path.to_owned(), user });
            }
        }
        Ok(())
    }

    /// What root and its group are on the host.
    pub(crate) fn root(&self) -> (u32, u32) {
        self.ids.root()
    }

    pub(crate) fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// Whose the files of containers are.
    pub(crate) fn owners(&self) -> Owners {
        Owners { ids: self.ids.clone(), users: self.users.path() }
    }
}

impl Containers {
    /// The mapping of a container that has not the host's users.
    pub(super) fn mapping_of(&self, spec: &ContainerSpec) -> Option<&Mapping> {
        self.0.config.mapping.as_deref().filter(|_| !spec.sharing.host_users)
    }

    /// Whether containers that do not wish for the host's users have others.
    pub fn have_own_users(&self) -> bool {
        self.0.config.mapping.is_some()
    }

    /// Refuses what takes the host's users, in dockerd's words.
    pub(super) fn check_users(&self, spec: &ContainerSpec) -> Result<(), ContainerError> {
        if self.mapping_of(spec).is_none() {
            return Ok(());
        }
        let refused = if spec.confinement.privileged {
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"
        } else if spec.network.mode == NetworkMode::Host {
            "cannot share the host's network namespace when user namespaces are enabled"
        } else if spec.sharing.pid == Share::Host {
            "cannot share the host PID namespace when user namespaces are enabled"
        } else {
            return Ok(());
        };
        Err(ContainerError::Invalid(refused.to_owned()))
    }

    /// Makes the namespaces of a container that has a mapping, as far as they are its own, and answers with that of its users: who
    /// shares another container's namespaces shares its users as well.
    pub(super) fn users_of(
        &self,
        container: &str,
        mapping: &Mapping,
        spec: &ContainerSpec,
        around: &Surroundings,
    ) -> Result<OpenNamespace, ContainerError> {
        let failed = |source| ContainerError::Pin { id: container.to_owned(), source };
        let mut shared: Option<OpenNamespace> = None;
        for namespace in [&around.network, &around.pid, &around.ipc] {
            let Namespace::Shared(open) = namespace else { continue };
            let users = open.owner().map_err(failed)?;
            if let Some(other) = &shared
                && !users.is_same(other).map_err(failed)?
            {
                return Err(ContainerError::Conflict(format!(
                    "container {container} cannot share namespaces of two containers, each of which has users of its own"
                )));
            }
            shared = Some(users);
        }
        for other in others(spec) {
            let other = self.find(other)?;
            let id = &other.id;
            let message = match other.ids()? {
                Some(ids) if ids == mapping.ids => continue,
                Some(_) => format!(
                    "cannot share namespaces of container {id}: it has users that the engine gave out before, so restart it first"
                ),
                None => format!(
                    "cannot share namespaces of container {id}, which has the host's users, with users of its own: use --userns=host"
                ),
            };
            return Err(ContainerError::Conflict(message));
        }
        match (&around.network, shared) {
            (Namespace::Pinned(path), shared) => {
                self.prepare_pins();
                let users =
                    shared.as_ref().map_or(Users::New(&mapping.ids), |users| Users::Of(users.as_fd()));
                pin::pin_for(path, users).map_err(failed)
            }
            (_, Some(shared)) => Ok(shared),
            (_, None) => Err(failed(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Gives a file of the engine's to the root of containers.
    pub(super) fn give_to_root(&self, spec: &ContainerSpec, path: &Path) -> Result<(), ContainerError> {
        let (user, group) = self.mapping_of(spec).map_or((0, 0), Mapping::root);
        chown(path, Some(user), Some(group))
            .map_err(|source| ContainerError::Write { path: path.to_owned(), source })
    }

    /// Makes a directory and those around it, all of them of the root of containers.
    pub(super) fn create_for_root(&self, path: &Path) -> io::Result<()> {
        let Some((user, group)) = self.0.config.mapping.as_deref().map(Mapping::root) else {
            return fs::create_dir_all(path);
        };
        let missing: Vec<&Path> =
            path.ancestors().take_while(|path| path.symlink_metadata().is_err()).collect();
        for path in missing.into_iter().rev() {
            match fs::DirBuilder::new().mode(0o755).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.and_then(|()| chown(path, Some(user), Some(group)))?,
            }
        }
        Ok(())
    }

    /// Folders of the engine's whose files have the numbers that they have in containers: what builds mount.
    pub(super) fn own_folders(&self) -> Vec<PathBuf> {
        let config = &self.0.config;
        vec![config.data_root.join("build"), config.exec_root.join("lent")]
    }
}

/// Containers whose namespaces it shares.
fn others(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    let network = match &spec.network.mode {
        NetworkMode::Of(other) => Some(other),
        _ => None,
    };
    let shares = [&spec.sharing.pid, &spec.sharing.ipc].into_iter().filter_map(|share| match share {
        Share::Of(other) => Some(other),
        _ => None,
    });
    network.into_iter().chain(shares).map(String::as_str)
}

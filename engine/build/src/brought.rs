//! The sources of `ADD` that lie elsewhere: whether they are the same as last time, and their files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use engine_kernel::confine::{Root, clean};
use engine_model::{Failure, Kind};
use rustix::fs::OFlags;

use super::address::{Address, Repository, file_name};
use super::download::{Downloaded, MOST_BYTES, Way, download};
use super::error::BuildError;
use super::git::{Git, key_of};
use super::outside::Validators;
use super::reach::Reach;
use super::select::Selected;
use super::stage::{Stage, blocking, failed};

/// What a file is called whose address and server give it no name. It is copied under another one.
const UNNAMED: &str = "__unnamed__";

/// How a source is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// `sha256:…`, or the commit of a repository.
    pub(crate) checksum: Option<&'a str>,
    pub(crate) keeps_git_dir: bool,
    /// Where it goes needs a name for it.
    pub(crate) to_directory: bool,
    /// Its files have to be there, whatever it is.
    pub(crate) whole: bool,
}

/// A source that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    /// Tells whether it is the same as last time.
    pub(crate) key: String,
    /// Where its files are, if they had to be fetched to tell that.
    pub(crate) place: Option<Place>,
}

/// Files that are here.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) selected: Selected,
}

impl Stage<'_> {
    /// Looks at a source, and brings it if need be. What it leaves behind goes with the build.
    pub(crate) async fn bring(
        &self,
        number: usize,
        address: &Address,
        wish: Wish<'_>,
    ) -> Result<Brought, BuildError> {
        let folder = self.scratch(&format!("brought-{number}"));
        let made = folder.clone();
        blocking(move || empty(&made).map_err(|error| failed("ADD", &error))).await?;
        let brought = match address {
            Address::File(address) => self.bring_file(&folder, address, wish).await,
            Address::Repository(repository) => self.bring_repository(&folder, repository, wish).await,
        };
        brought.map_err(|error| match error {
            BuildError::Other(Failure { kind, message }) if !message.starts_with("ADD failed") => {
                BuildError::Other(Failure::new(kind, format!("ADD failed: {message}")))
            }
            other => other,
        })
    }

    async fn bring_file(&self, folder: &Path, address: &str, wish: Wish<'_>) -> Result<Brought, BuildError> {
        let shop = &self.work.shop;
        let key = |name: &str, digest: &str| format!("file {name} {digest}");
        if let (false, Some(checksum), Some(name)) = (wish.whole, wish.checksum, file_name(address, "")) {
            return Ok(Brought { key: key(&name, checksum), place: None });
        }
        let seen = if wish.whole { None } else { shop.known.get(address) };
        let validators = seen.as_ref().map_or_else(Validators::default, |seen| seen.validators.clone());
        let (told, pass_on) = self.voice.lines();
        let downloading = async move {
            let way = Way { folder, told: &told, cancelled: &self.work.cancelled, largest: MOST_BYTES };
            download(shop, address, &validators, way).await
        };
        let downloaded = tokio::join!(downloading, pass_on).0?;
        let is_here = downloaded.is_some();
        let Some(seen) = downloaded.as_ref().map(|downloaded| downloaded.seen.clone()).or(seen) else {
            let message = format!("the server of {address} says that nothing has changed, and was not asked");
            return Err(BuildError::Other(Failure::new(Kind::Internal, message)));
        };
        if let Some(checksum) = wish.checksum.filter(|checksum| *checksum != seen.digest) {
            return Err(BuildError::invalid(format!(
                "ADD failed: digest mismatch {}: {checksum}",
                seen.digest
            )));
        }
        let name = match seen.name {
            Some(name) => name,
            None if wish.to_directory => {
                let message = format!("ADD failed: cannot determine filename for source {address}");
                return Err(BuildError::invalid(message));
            }
            None => UNNAMED.to_owned(),
        };
        let key = key(&name, &seen.digest);
        let place = Place {
            root: folder.join("files"),
            selected: Selected { path: Path::new("/").join(&name), is_directory: false },
        };
        if let Some(downloaded) = downloaded {
            let root = place.root.clone();
            blocking(move || put(&downloaded, &root, &name).map_err(|error| failed("ADD", &error))).await?;
        }
        Ok(Brought { key, place: is_here.then_some(place) })
    }

    async fn bring_repository(
        &self,
        folder: &Path,
        repository: &Repository,
        wish: Wish<'_>,
    ) -> Result<Brought, BuildError> {
        let (client, cancelled) = (self.work.plan.request.client.as_ref(), &self.work.cancelled);
        let reach = Reach::of(&self.work.shop, client, repository, cancelled).await?;
        let git = Git::begin(repository, folder, &reach, cancelled).await?;
        let commit = git.commit().await?;
        let place = if let (Some(_), false) = (&commit, wish.whole) { None } else { Some(git.tree()) };
        let commit = match (&place, commit) {
            (None, Some(commit)) => commit,
            (_, commit) => git.check_out(commit.as_deref(), wish.keeps_git_dir).await?,
        };
        if let Some(checksum) = wish.checksum.filter(|checksum| !checksum.eq_ignore_ascii_case(&commit)) {
            let message = format!("ADD failed: expected checksum to match {checksum}, got {commit}");
            return Err(BuildError::invalid(message));
        }
        let key = key_of(&commit, repository, wish.keeps_git_dir);
        let Some(root) = place else { return Ok(Brought { key, place: None }) };
        let (shown, wanted) = (repository.shown(), repository.folder.clone());
        let place = blocking(move || {
            let path = part(&root, &wanted).map_err(|error| {
                BuildError::invalid(format!("ADD failed: the folder `{wanted}` of {shown}: {error}"))
            })?;
            Ok(Place { root, selected: Selected { path, is_directory: true } })
        });
        Ok(Brought { key, place: Some(place.await?) })
    }
}

/// A folder of a repository, links followed and not left. Blocks.
pub(crate) fn part(root: &Path, folder: &str) -> io::Result<PathBuf> {
    let root = Root::open(root)?;
    let path = root.end_of_links(&clean(Path::new(folder)))?;
    root.get(&path, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(path)
}

fn empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(folder)
}

/// Gives a file its name, and the look that docker gives it.
fn put(downloaded: &Downloaded, root: &Path, name: &str) -> io::Result<()> {
    fs::create_dir(root)?;
    let path = root.join(name);
    fs::rename(&downloaded.path, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::File::options().write(true).open(&path)?.set_modified(downloaded.modified.into())
}

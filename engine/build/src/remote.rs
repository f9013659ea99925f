//! Contexts that lie elsewhere: an archive, a Dockerfile or a repository, by its address.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use engine_model::{Failure, Kind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::address::{Address, Repository};
use super::brought::part;
use super::download::{MOST_BYTES, Way, download};
use super::error::BuildError;
use super::git::Git;
use super::outside::{Client, Told, Validators};
use super::plan::Context;
use super::reach::Reach;
use super::shop::Shop;
use super::source::LARGEST;
use super::stage::blocking;

/// How a context is fetched.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere<'a> {
    /// Who is told how that goes on.
    pub told: &'a mpsc::Sender<Told>,
    pub cancelled: &'a CancellationToken,
    /// Whose SSH agent may be asked.
    pub client: Option<&'a Arc<dyn Client>>,
    pub keeps_git_dir: bool,
}

/// Fetches a context.
pub(crate) async fn gather(
    shop: &Arc<Shop>,
    address: &str,
    wish: Elsewhere<'_>,
) -> Result<Context, BuildError> {
    let found = Address::of_context(address).map_err(BuildError::invalid)?;
    let Some(found) = found else {
        return Err(BuildError::invalid(format!("remoteURL ({address}) could not be recognized as URL")));
    };
    let making = Arc::clone(shop);
    let context = blocking(move || Ok(Context::empty(&making.temporary())?)).await?;
    match found {
        Address::File(address) => of_file(shop, context, &address, wish).await,
        Address::Repository(repository) => of_repository(shop, context, &repository, wish).await,
    }
}

async fn of_file(
    shop: &Arc<Shop>,
    mut context: Context,
    address: &str,
    wish: Elsewhere<'_>,
) -> Result<Context, BuildError> {
    let folder = context.folder.path().to_owned();
    let way = Way { folder: &folder, told: wish.told, cancelled: wish.cancelled, largest: MOST_BYTES };
    let downloaded = download(shop, address, &Validators::default(), way).await?;
    let Some(downloaded) = downloaded else {
        return Err(BuildError::invalid("the server of the context says that nothing has changed"));
    };
    let shop = Arc::clone(shop);
    blocking(move || {
        let open = || fs::File::open(&downloaded.path).map_err(|error| internal(&error));
        // What cannot be read at all tells so when it is unpacked.
        let first = shop.outside.decompress(Box::new(open()?)).and_then(|plain| {
            let mut archive = tar::Archive::new(plain);
            Ok(matches!(archive.entries()?.next(), Some(Ok(_))))
        });
        if first.unwrap_or(false) {
            context.fill(&*shop.outside, open()?)?;
        } else {
            let text = text(&downloaded.path)?;
            fs::write(context.files().join("Dockerfile"), text).map_err(|error| internal(&error))?;
            context.is_dockerfile = true;
        }
        fs::remove_file(&downloaded.path).map_err(|error| internal(&error))?;
        Ok(context)
    })
    .await
}

/// What is no archive is a Dockerfile, if it is text.
fn text(path: &Path) -> Result<String, BuildError> {
    let file = fs::File::open(path).map_err(|error| internal(&error))?;
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(|error| internal(&error))?;
    let is_sensible = bytes.len() <= LARGEST && !bytes.contains(&0);
    let text = String::from_utf8(bytes).ok().filter(|_| is_sensible);
    text.ok_or_else(|| {
        BuildError::invalid("the context that was fetched is neither an archive nor a Dockerfile")
    })
}

async fn of_repository(
    shop: &Arc<Shop>,
    context: Context,
    repository: &Repository,
    wish: Elsewhere<'_>,
) -> Result<Context, BuildError> {
    let reach = Reach::of(shop, wish.client, repository, wish.cancelled).await?;
    let git =
        Git::begin(repository, &context.folder.path().join("repository"), &reach, wish.cancelled).await?;
    let commit = git.commit().await?;
    let commit = git.check_out(commit.as_deref(), wish.keeps_git_dir).await?;
    // A client that is gone is noticed elsewhere.
    let _ = wish.told.send(Told::Text(format!("{commit}\t{}\n", repository.shown()))).await;
    let (tree, folder) = (git.tree(), repository.folder.clone());
    blocking(move || {
        let inner = part(&tree, &folder).map_err(|error| {
            BuildError::invalid(format!("error setting git context, not a directory: {folder}: {error}"))
        })?;
        let from = tree.join(inner.strip_prefix("/").unwrap_or(&inner));
        let files = context.files();
        fs::remove_dir(&files).map_err(|error| internal(&error))?;
        fs::rename(from, &files).map_err(|error| internal(&error))?;
        Ok(context)
    })
    .await
}

fn internal(error: &io::Error) -> BuildError {
    BuildError::Other(Failure::of(Kind::Internal, error))
}

//! What every build needs: its folders, the rest of the engine, and who uses which cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use engine_model::ImageId;
use engine_model::executor::Executor;

use super::known::Known;
use super::outside::Outside;

#[derive(Debug)]
pub(crate) struct Shop {
    root: PathBuf,
    /// For what must not get onto a disk.
    lent: PathBuf,
    pub(crate) outside: Arc<dyn Outside>,
    pub(crate) executor: Arc<dyn Executor>,
    /// Files that were fetched.
    pub(crate) known: Known,
    /// By the name of the cache, for those who do not share it.
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Of builds that are under way.
    running: Mutex<Vec<Weak<Mutex<BTreeSet<ImageId>>>>>,
}

/// The steps that a build has made or found so far.
pub(crate) type Used = Arc<Mutex<BTreeSet<ImageId>>>;

impl Shop {
    /// Works in `root`. What an interrupted build left there is removed.
    pub(crate) fn open(
        root: PathBuf,
        lent: PathBuf,
        outside: Arc<dyn Outside>,
        executor: Arc<dyn Executor>,
    ) -> io::Result<Self> {
        let (known, locks, running) = (Known::default(), Mutex::default(), Mutex::default());
        let shop = Self { root, lent, outside, executor, known, locks, running };
        fs::create_dir_all(&shop.root)?;
        shop.discard_temporary();
        fs::create_dir_all(shop.temporary())?;
        match fs::remove_dir_all(&shop.lent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&shop.lent)?;
        Ok(shop)
    }

    /// Removes what was being worked on, beside what is done now: a build may have left more than can be removed soon, or at
    /// all, and no container has to wait for that.
    fn discard_temporary(&self) {
        let old = self.temporary();
        if old.exists() {
            let doomed = self.root.join(format!("old-{}", jiff::Timestamp::now().as_nanosecond()));
            if let Err(error) = fs::rename(&old, &doomed) {
                tracing::warn!(%error, path = %old.display(), "Could not move away what a build has left");
            }
        }
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let doomed: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"old-"))
            .map(|entry| entry.path())
            .collect();
        std::thread::spawn(move || {
            for path in doomed {
                if let Err(error) = fs::remove_dir_all(&path) {
                    tracing::warn!(%error, path = %path.display(), "Could not remove what a build has left");
                }
            }
        });
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A new folder for what a client lends, in memory where `/run` is.
    pub(crate) fn lend(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("lent-").tempdir_in(&self.lent)
    }

    /// Where the caches of `RUN --mount=type=cache` lie.
    pub(crate) fn caches(&self) -> PathBuf {
        self.root.join("caches")
    }

    /// Where a new build notes its steps.
    pub(crate) fn begin(&self) -> Used {
        let used = Used::default();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&used));
        used
    }

    /// The steps of all builds that are under way.
    pub(crate) fn in_use(&self) -> BTreeSet<ImageId> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|used| used.strong_count() > 0);
        let used = running.iter().filter_map(Weak::upgrade);
        used.flat_map(|used| used.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Names the containers that builds run commands in: what of those is there at the next start is left over.
    fn busy(&self) -> PathBuf {
        self.root.join("busy")
    }

    /// Notes that a container is a build's. One that is not noted is taken for the user's.
    pub(crate) fn claim(&self, container: &str) -> io::Result<()> {
        fs::create_dir_all(self.busy())?;
        fs::File::create(self.busy().join(container))?.sync_all()
    }

    /// Forgets that: it is the user's from now on, or gone.
    pub(crate) fn let_go(&self, container: &str) {
        let forgotten = fs::remove_file(self.busy().join(container))
            .and_then(|()| fs::File::open(self.busy())?.sync_all());
        if let Err(error) = forgotten
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, container, "The next engine may remove a container of a build that failed");
        }
    }

    /// The containers of builds that came to no end.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let entries = fs::read_dir(self.busy()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Held by whoever uses a cache alone.
    pub(crate) fn lock_of(&self, cache: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody holds those any more.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(cache.to_owned()).or_default())
    }

    /// Removes all caches, and says how many bytes they had.
    pub(crate) fn remove_caches(&self) -> io::Result<u64> {
        let caches = self.caches();
        if !caches.exists() {
            return Ok(0);
        }
        let bytes = size(&caches);
        // Renamed first: whoever makes a cache meanwhile gets a new one.
        let doomed = tempfile::Builder::new().prefix("caches-").tempdir_in(self.temporary())?;
        fs::rename(&caches, doomed.path().join("caches"))?;
        doomed.close()?;
        Ok(bytes)
    }

    /// Bytes in all caches.
    pub(crate) fn size_of_caches(&self) -> u64 {
        size(&self.caches())
    }
}

/// Bytes of a folder on disk, as far as it can be read. Blocks.
pub(crate) fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

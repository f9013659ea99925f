//! Blobs of a registry on their way to a file: verified while they stream, taken up again where they broke off, even by a
//! later engine.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use engine_model::task::apart;
use engine_model::transfer::LayerStep;
use engine_registry::{RegistryError, Source};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};

use super::error::ImageError;

/// How many pieces wait for the disk.
const PIECES: usize = 32;
/// Progress is told after so many bytes.
const STEP: u64 = 512 << 10;

/// What is being downloaded, and what an earlier attempt has left.
#[derive(Debug)]
pub(super) struct Downloads {
    directory: PathBuf,
    busy: Mutex<Busy>,
    /// How many at once, of all pulls together.
    places: Mutex<Arc<Semaphore>>,
}

/// Locks by digests. Whoever has one, or waits for it, has a copy.
type Busy = HashMap<String, Arc<tokio::sync::Mutex<()>>>;

fn is_busy(busy: &Busy, digest: &str) -> bool {
    busy.get(digest).is_some_and(|lock| Arc::strong_count(lock) > 1)
}

/// A blob that one pull has for itself: others that want it wait.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    held: Held,
}

/// Ends the claim when nobody has it any more, threads of a pull that was broken off among them.
type Held = Arc<tokio::sync::OwnedMutexGuard<()>>;

impl Claim {
    pub(super) fn hold(&self) -> Held {
        Arc::clone(&self.held)
    }
}

impl Downloads {
    pub(super) fn new(directory: PathBuf) -> Self {
        let places = Mutex::new(Arc::new(Semaphore::new(3)));
        Self { directory, busy: Mutex::default(), places }
    }

    pub(super) fn limit(&self, at_once: usize) {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Semaphore::new(at_once.max(1)));
    }

    pub(super) fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn claim(&self, digest: &str) -> Claim {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(digest.to_owned()).or_default())
        };
        let held = lock.lock_owned().await;
        let path = self.path(digest);
        Claim { path, digest: digest.to_owned(), held: Arc::new(held) }
    }

    /// Removes what has been downloaded and is of no use any more, as its layer is in the store. Another pull that is at
    /// work on it removes it itself.
    pub(super) fn done(&self, digest: &str) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(digest);
        if !is_busy(&busy, digest)
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "Could not remove a downloaded layer");
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(digest.trim_start_matches("sha256:"))
    }

    /// Removes what no pull is at work on and has not been touched for `age`. The bytes that are free then are returned.
    pub(super) fn clear(&self, age: Duration) -> u64 {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(entries) = fs::read_dir(&self.directory) else { return 0 };
        let mut freed = 0;
        for entry in entries.flatten() {
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            let Ok(metadata) = entry.metadata() else { continue };
            let is_old = metadata
                .modified()
                .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|passed| passed >= age));
            if !is_busy(&busy, &digest)
                && is_old
                && metadata.is_file()
                && fs::remove_file(entry.path()).is_ok()
            {
                freed += metadata.len();
            }
        }
        freed
    }
}

/// Has the claimed blob on disk, whole and verified: what is there already is read, the rest is fetched.
pub(super) async fn download(
    source: &Source,
    claim: &Claim,
    size: u64,
    tell: &(dyn Fn(LayerStep) + Send + Sync),
) -> Result<(), ImageError> {
    let mut attempt = 0;
    loop {
        source.pause(attempt).await;
        attempt += 1;
        let failure = match fetch(source, claim, size, tell).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let Failure { error, progressed, resumed } = failure;
        // What was wrong is gone, so that this comes once.
        if resumed && matches!(&error, ImageError::Registry(RegistryError::Digest { .. })) {
            attempt = 0;
            continue;
        }
        let may_pass = matches!(&error, ImageError::Registry(error) if error.may_pass());
        // What gets on is not given up.
        if progressed {
            attempt = 1;
        }
        if !may_pass || attempt >= source.attempts() {
            return Err(error);
        }
        tracing::debug!(digest = claim.digest, error = engine_model::chain(&error), "A layer is fetched on");
        tell(LayerStep::Retrying { seconds: 1 << (attempt - 1).min(6) });
    }
}

struct Failure {
    error: ImageError,
    progressed: bool,
    /// It began with what an earlier attempt had left, which may be what is wrong.
    resumed: bool,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self { error, progressed: false, resumed: false }
    }
}

/// A file that is being filled, and the digest of what is in it.
struct Filling {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
    _held: Held,
}

impl Filling {
    /// Reads what an earlier attempt has left.
    fn open(path: &Path, size: u64, held: Held) -> Result<Self, ImageError> {
        let failed = ImageError::store(path);
        let open = || -> io::Result<(File, Sha256, u64)> {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            let mut file = options.open(path)?;
            // More than there is to be is of no use.
            if file.metadata()?.len() > size {
                file.set_len(0)?;
            }
            let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok((file, hasher, length)),
                    read => {
                        hasher.update(&buffer[..read]);
                        length += read as u64;
                    }
                }
            }
        };
        let (file, hasher, length) = open().map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, hasher, length, _held: held })
    }

    fn empty(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(ImageError::store(&self.path))?;
        (self.hasher, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        if let Err(source) = self.file.write_all(piece) {
            // A full disk gets its room back.
            if source.kind() == io::ErrorKind::StorageFull {
                let _ = fs::remove_file(&self.path);
            }
            return Err(ImageError::Store { path: self.path.clone(), source });
        }
        self.hasher.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Compares the whole with its digest. What is something else is thrown away.
    fn verify(self, digest: &str) -> Result<(), ImageError> {
        let found = format!("sha256:{:x}", self.hasher.finalize());
        if found == digest {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(ImageError::store(&self.path))?;
        Err(RegistryError::Digest { expected: digest.to_owned(), found }.into())
    }
}

async fn fetch(
    source: &Source,
    claim: &Claim,
    size: u64,
    tell: &(dyn Fn(LayerStep) + Send + Sync),
) -> Result<(), Failure> {
    let (path, held) = (claim.path.clone(), claim.hold());
    let mut filling = blocking(move || Filling::open(&path, size, held)).await?;
    let began_at = filling.length;
    if filling.length < size || size == 0 {
        let mut blob = source.blob(&claim.digest, filling.length).await.map_err(ImageError::from)?;
        if blob.offset < filling.length {
            filling.empty()?;
        }
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let writer = apart(move || {
            let mut filling = filling;
            while let Some(piece) = receiver.blocking_recv() {
                filling.add(&piece)?;
            }
            Ok::<_, ImageError>(filling)
        });
        let writer = tokio::spawn(writer);
        let (mut current, mut told) = (blob.offset, 0);
        let mut broken = None;
        loop {
            match blob.next().await {
                Ok(Some(piece)) => {
                    current += piece.len() as u64;
                    if current > size {
                        let reason = format!("it is larger than the {size} bytes that the manifest says");
                        let (what, url) = ("The blob", blob.url().to_owned());
                        broken = Some(RegistryError::Answer { what, url, reason });
                        break;
                    }
                    // A writer that is gone says why in its own words.
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                    if current - told >= STEP {
                        told = current;
                        tell(LayerStep::Downloading { current, total: size });
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        drop(pieces);
        filling = writer.await.map_err(ImageError::cut_short)?.map_err(ImageError::cut_short)??;
        let progressed = filling.length > began_at;
        if broken.is_none() && filling.length < size {
            let (url, done) = (blob.url().to_owned(), filling.length);
            broken = Some(RegistryError::BrokenOff { url, done, total: size });
        }
        if let Some(error) = broken {
            return Err(Failure { error: error.into(), progressed, resumed: false });
        }
        tell(LayerStep::Downloading { current: size, total: size });
    }
    tell(LayerStep::Verifying);
    let digest = claim.digest.clone();
    blocking(move || filling.verify(&digest)).await.map_err(|error| Failure {
        error,
        progressed: false,
        resumed: began_at > 0,
    })?;
    tell(LayerStep::Downloaded);
    Ok(())
}

/// Work on files, away from the asynchronous threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(ImageError::cut_short)?
}

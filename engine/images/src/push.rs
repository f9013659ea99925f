//! Takes an image to a registry: what is there stays, what another repository has is taken from there, the rest is packed and sent.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use engine_model::ImageId;
use engine_model::transfer::{LayerStep, TransferEvent};
use engine_registry::{MediaType, Mounted, Source};
use futures_util::StreamExt as _;
use oci_spec::image::{
    Descriptor, Digest as BlobDigest, ImageManifestBuilder, MediaType as BlobType, SCHEMA_VERSION,
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::distribution::{self, Known};
use super::download::blocking;
use super::error::ImageError;
use super::gzip::Packer;
use super::pull::{Tell, short};
use super::reference::{Reference, is_digest};
use super::split::{Stored, replay};
use super::{ImageStore, Inner, resolve};

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Progress is told after so many bytes.
const STEP: u64 = 512 << 10;
const PIECE: usize = 64 << 10;

/// What a push ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: String,
    /// The manifest's bytes.
    pub size: u64,
}

/// A layer as it is in the store.
#[derive(Clone, Debug)]
struct Layer {
    chain: String,
    diff_id: String,
    stored: Stored,
}

impl ImageStore {
    /// All names with a tag that a repository has here.
    pub fn tags_of(&self, repository: &Reference) -> Vec<Reference> {
        let state = self.inner.lock();
        let names = state.names.keys().filter_map(|name| Reference::parse(name).ok());
        names.filter(|name| name.tag().is_some() && name.repository() == repository.repository()).collect()
    }

    /// Sends the image that `name` (with a tag) means to the repository of the same name.
    pub async fn push(
        &self,
        source: Arc<Source>,
        name: &Reference,
        uploads: &Arc<Semaphore>,
        tell: &Tell,
    ) -> Result<Pushed, ImageError> {
        let tag = name.tag().ok_or(ImageError::PushOfDigest)?.to_owned();
        let (inner, full) = (Arc::clone(&self.inner), name.to_string());
        let not_here = ImageError::NothingToPush { repository: name.familiar_repository() };
        let (id, config, layers) = blocking(move || read_image(&inner, &full, not_here)).await?;
        // The last layer is the newest: docker tells of it first.
        for layer in layers.iter().rev() {
            tell(TransferEvent::Layer { id: short(&layer.diff_id), step: LayerStep::Preparing });
        }
        let mut work = JoinSet::new();
        for (index, layer) in layers.into_iter().enumerate().rev() {
            let (inner, source, uploads) =
                (Arc::clone(&self.inner), Arc::clone(&source), Arc::clone(uploads));
            let (tell, name) = (Arc::clone(tell), name.clone());
            work.spawn(async move {
                let id = short(&layer.diff_id);
                let said: Said = Arc::new(move |step| tell(TransferEvent::Layer { id: id.clone(), step }));
                let _place = if let Ok(place) = Arc::clone(&uploads).try_acquire_owned() {
                    place
                } else {
                    said(LayerStep::Waiting);
                    uploads.acquire_owned().await.map_err(ImageError::cut_short)?
                };
                let known = push_layer(&inner, &source, &name, layer, &said).await?;
                Ok::<_, ImageError>((index, known))
            });
        }
        let mut pushed = Vec::new();
        while let Some(done) = work.join_next().await {
            pushed.push(done.map_err(ImageError::cut_short)??);
        }
        pushed.sort_by_key(|(index, _)| *index);
        let layers: Vec<Known> = pushed.into_iter().map(|(_, known)| known).collect();
        let config_digest = format!("sha256:{:x}", Sha256::digest(&config));
        if !source.has_blob(&config_digest).await? {
            let size = config.len() as u64;
            let bytes = Bytes::from(config.clone());
            source.upload(&config_digest, size, &|| bytes.clone().into()).await?;
        }
        let (media_type, manifest) = manifest(&config_digest, config.len() as u64, &layers)?;
        let digest = source.put_manifest(&tag, media_type, &manifest).await?;
        let size = manifest.len() as u64;
        tell(TransferEvent::Pushed { tag, digest: digest.clone(), size });
        let (store, name) = (self.clone(), name.clone());
        let at = name.with_digest(&digest);
        blocking(move || store.name(&name.to_string(), &id, &at)).await?;
        Ok(Pushed { digest, size })
    }

    /// Gives the image called `existing` one more name; it may be called something else by now, and then it gets none.
    fn name(&self, existing: &str, id: &ImageId, name: &Reference) -> Result<(), ImageError> {
        let mut state = self.inner.lock();
        if state.names.get(existing) != Some(id) {
            return Ok(());
        }
        let mut changed = state.clone();
        changed.names.insert(name.to_string(), id.clone());
        changed.save(&self.inner.paths)?;
        *state = changed;
        Ok(())
    }
}

type Said = Arc<dyn Fn(LayerStep) + Send + Sync>;

/// The image with this name: its id, its configuration and its layers.
fn read_image(
    inner: &Inner,
    name: &str,
    not_here: ImageError,
) -> Result<(ImageId, Vec<u8>, Vec<Layer>), ImageError> {
    let state = inner.lock();
    let Ok(id) = resolve(&state, name) else { return Err(not_here) };
    let Some(image) = state.images.get(&id) else { return Err(not_here) };
    let mut layers = Vec::new();
    for (chain, diff_id) in image.chains.iter().zip(&image.config.rootfs.diff_ids) {
        let directory = inner.paths.layer(chain);
        layers.push(Layer {
            chain: chain.clone(),
            diff_id: diff_id.clone(),
            stored: Stored { directory: directory.join("diff"), split: directory.join("split.gz") },
        });
    }
    drop(state);
    let path = inner.paths.config(&id);
    let config = std::fs::read(&path).map_err(ImageError::store(path))?;
    Ok((id, config, layers))
}

/// Has a layer in the registry, in whichever way is the cheapest.
async fn push_layer(
    inner: &Arc<Inner>,
    source: &Source,
    name: &Reference,
    layer: Layer,
    said: &Said,
) -> Result<Known, ImageError> {
    let (store, chain) = (Arc::clone(inner), layer.chain.clone());
    let known = blocking(move || Ok(distribution::read(&store.paths, &chain))).await?;
    let repository = name.repository();
    let done = |known: &Known| {
        let news = Known { repositories: vec![repository.clone()], ..known.clone() };
        let (store, chain) = (Arc::clone(inner), layer.chain.clone());
        blocking(move || {
            distribution::note(&store.paths, &chain, &news);
            Ok(())
        })
    };
    // The newest first: it is the likeliest to be there still.
    for known in known.iter().rev().filter(|known| is_digest(&known.digest)) {
        if source.has_blob(&known.digest).await? {
            said(LayerStep::ExistsThere);
            done(known).await?;
            return Ok(known.clone());
        }
    }
    for known in known.iter().rev().filter(|known| is_digest(&known.digest)) {
        let registry = format!("{}/", name.domain());
        let paths = known.repositories.iter().rev().filter_map(|full| full.strip_prefix(&registry));
        for path in paths.filter(|path| *path != name.path()).take(4) {
            // Whoever may push here need not be let in there: it is sent then.
            if matches!(source.mount(&known.digest, path).await, Ok(Mounted::Yes)) {
                said(LayerStep::Mounted);
                done(known).await?;
                return Ok(known.clone());
            }
        }
    }
    let (store, stored) = (Arc::clone(inner), layer.stored.clone());
    let permit = inner.unpacking.acquire().await.map_err(ImageError::cut_short)?;
    let (file, digest, size) = blocking(move || pack(&store, &stored)).await?;
    drop(permit);
    // Packed anew, it may be what the registry has.
    if source.has_blob(&digest).await? {
        said(LayerStep::ExistsThere);
    } else {
        let file = Arc::new(file);
        let open = || body(&file, size, said);
        source.upload(&digest, size, &open).await?;
        said(LayerStep::Pushed);
    }
    let known = Known { digest, size, media_type: DOCKER_LAYER.to_owned(), repositories: Vec::new() };
    done(&known).await?;
    Ok(known)
}

/// Writes a layer's stream, packed, to a file without a name. The same stream is always packed to the same bytes.
fn pack(inner: &Inner, stored: &Stored) -> Result<(File, String, u64), ImageError> {
    let temporary = inner.paths.temporary();
    let file = tempfile::tempfile_in(&temporary).map_err(ImageError::store(&temporary))?;
    let failed = |source| ImageError::WriteArchive { source };
    let counted = Digested { output: BufWriter::new(file), digest: Sha256::new(), length: 0 };
    let mut packed = Packer::new(counted).map_err(failed)?;
    replay(stored, &mut packed).map_err(failed)?;
    let Digested { output, digest, length } = packed.finish().map_err(failed)?;
    let file = output.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok((file, format!("sha256:{:x}", digest.finalize()), length))
}

/// Passes bytes on and digests them.
struct Digested<W> {
    output: W,
    digest: Sha256,
    length: u64,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The file's content as the body of a request, from its beginning.
fn body(file: &Arc<File>, size: u64, said: &Said) -> engine_registry::Body {
    let (file, said) = (Arc::clone(file), Arc::clone(said));
    let told = Arc::new(AtomicU64::new(0));
    let pieces = futures_util::stream::try_unfold(0_u64, move |offset| {
        let (file, said, told) = (Arc::clone(&file), Arc::clone(&said), Arc::clone(&told));
        async move {
            let read = tokio::task::spawn_blocking(move || read_at(&file, offset)).await;
            let piece = read.map_err(io::Error::other)??;
            if piece.is_empty() {
                return Ok::<_, io::Error>(None);
            }
            let next = offset + piece.len() as u64;
            if next - told.load(Ordering::Relaxed) >= STEP || next == size {
                told.store(next, Ordering::Relaxed);
                said(LayerStep::Pushing { current: next, total: size });
            }
            Ok(Some((piece, next)))
        }
    });
    engine_registry::Body::wrap_stream(pieces.boxed())
}

fn read_at(file: &File, offset: u64) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut piece = vec![0; PIECE * 4];
    let read = file.read_at(&mut piece, offset)?;
    piece.truncate(read);
    Ok(piece.into())
}

/// Docker's form, which every registry takes, unless a layer is packed in a way that only OCI's has a word for.
fn manifest(config: &str, size: u64, layers: &[Known]) -> Result<(MediaType, Vec<u8>), ImageError> {
    let is_docker = layers.iter().all(|layer| !layer.media_type.contains("zstd"));
    let (media_type, config_type) = if is_docker {
        (MediaType::DockerManifest, DOCKER_CONFIG)
    } else {
        (MediaType::OciManifest, OCI_CONFIG)
    };
    let descriptors = layers
        .iter()
        .map(|layer| describe(&layer_type(&layer.media_type, is_docker), &layer.digest, layer.size));
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(BlobType::from(media_type.as_str()))
        .config(describe(config_type, config, size)?)
        .layers(descriptors.collect::<Result<Vec<_>, _>>()?)
        .build()
        .map_err(|source| ImageError::Describe { source })?;
    let bytes = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| ImageError::Damaged { path: "manifest".into(), source })?;
    Ok((media_type, bytes))
}

/// The same in the words of the manifest's form.
fn layer_type(known: &str, is_docker: bool) -> String {
    let packed = if known.contains("zstd") {
        "+zstd"
    } else if known.ends_with("gzip") {
        "+gzip"
    } else {
        ""
    };
    match (is_docker, packed) {
        (true, "+gzip") => DOCKER_LAYER.to_owned(),
        (true, _) => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        (false, packed) => format!("application/vnd.oci.image.layer.v1.tar{packed}"),
    }
}

fn describe(media_type: &str, digest: &str, size: u64) -> Result<Descriptor, ImageError> {
    let digest: BlobDigest = digest.parse().map_err(|source| ImageError::Describe { source })?;
    Ok(Descriptor::new(BlobType::from(media_type), size, digest))
}

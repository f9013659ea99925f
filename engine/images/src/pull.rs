//! Brings an image from a registry: its layers are fetched side by side, and unpacked while others are still on their way.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use engine_model::ImageId;
use engine_model::platform::Platform;
use engine_model::transfer::{LayerStep, TransferEvent};
use engine_registry::{Document, RegistryError, Source};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::configuration::{Incoming, MOST_LAYERS, parse};
use super::distribution::{self, Known};
use super::download::{blocking, download};
use super::error::ImageError;
use super::intake::{Intake, unpack_layer};
use super::layout::LayerFile;
use super::reference::{Reference, is_digest};
use super::spool::Counted;
use super::state::chain_ids;
use super::{ImageStore, Inner};

/// Real configurations are some kilobytes.
const LARGEST_CONFIG: u64 = 8 << 20;
/// Indexes of indexes are not pulled by others either; one step is allowed.
const DEEPEST_INDEX: usize = 2;

/// What a pull tells while it works.
pub type Tell = Arc<dyn Fn(TransferEvent) + Send + Sync>;

/// What a pull ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub id: ImageId,
    /// Of the manifest or index that the tag meant.
    pub digest: String,
    /// Whether the name meant another image, or none, before.
    pub is_new: bool,
}

/// A manifest, and what led to it.
struct Found {
    /// Of the first document.
    digest: String,
    manifest: ImageManifest,
}

impl ImageStore {
    /// Brings the image that `name` means (with a tag or a digest), from the first of `sources` that has it.
    pub async fn pull(
        &self,
        sources: Vec<Source>,
        name: &Reference,
        platform: Option<&Platform>,
        tell: &Tell,
    ) -> Result<Pulled, ImageError> {
        let reference = name.tag_or_digest().to_owned();
        let mut last = None;
        let mut sources = sources.into_iter().peekable();
        while let Some(source) = sources.next() {
            match find(&source, &reference, platform).await {
                Ok(found) => match self.pull_found(Arc::new(source), found, name, platform, tell).await {
                    // A mirror may have lost what its manifest names.
                    Err(error @ ImageError::Registry(_)) if sources.peek().is_some() => last = Some(error),
                    done => return done,
                },
                Err(error) if sources.peek().is_some() => {
                    tracing::debug!(error = engine_model::chain(&error), "A mirror does not have it");
                    last = Some(error);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| ImageError::invalid("there is no registry to ask"));
        Err(error.of_pull(name))
    }

    async fn pull_found(
        &self,
        source: Arc<Source>,
        found: Found,
        name: &Reference,
        platform: Option<&Platform>,
        tell: &Tell,
    ) -> Result<Pulled, ImageError> {
        let reference = name.tag_or_digest().to_owned();
        tell(TransferEvent::From { path: name.path().to_owned(), reference });
        let mut names = vec![name.with_digest(&found.digest)];
        names.extend(name.digest().is_none().then(|| name.clone()));
        let image = self.configuration(&source, &found.manifest, names).await?;
        check_platform(&image, platform)?;
        let before = self.inner.lock().names.get(&name.to_string()).cloned();
        let layers = found.manifest.layers();
        let chains = chain_ids(&image.parsed.rootfs.diff_ids);
        if chains.len() != layers.len() {
            return Err(ImageError::invalid(format!(
                "the configuration names {} layers, the manifest {}",
                chains.len(),
                layers.len()
            )));
        }
        let (store, id) = (Arc::clone(&self.inner), image.id.clone());
        let mut intake = blocking(move || Intake::begin(&store, "pull-")).await?;
        let fetched = fetch_layers(&self.inner, &source, &image, layers, &mut intake, tell).await?;
        let (inner, from) = (Arc::clone(&self.inner), name.repository());
        let known: Vec<(String, Known)> =
            chains.into_iter().zip(layers.iter().map(|layer| Known::pulled(layer, &from))).collect();
        blocking(move || {
            intake.publish(&[image])?;
            for (chain, known) in &known {
                // What was not fetched was not compared with its digest either.
                let is_known = || {
                    let all = distribution::read(&inner.paths, chain);
                    all.iter().any(|other| other.digest == known.digest)
                };
                if fetched.contains(&known.digest) || is_known() {
                    distribution::note(&inner.paths, chain, known);
                }
            }
            for digest in fetched {
                inner.downloads.done(&digest);
            }
            Ok(())
        })
        .await?;
        tell(TransferEvent::Pulled { digest: found.digest.clone() });
        Ok(Pulled { is_new: before.as_ref() != Some(&id), id, digest: found.digest })
    }

    /// The platforms that a document of a registry has images for.
    pub async fn platforms(&self, source: &Source, document: &Document) -> Result<Vec<Platform>, ImageError> {
        if document.media_type.is_index() {
            let index: ImageIndex = parse("the index", &document.bytes)?;
            let platforms = index.manifests().iter().filter_map(|descriptor| descriptor.platform().as_ref());
            return Ok(platforms.map(platform_of).collect());
        }
        let image = self.configuration(source, &read_manifest(document)?, Vec::new()).await?;
        let config = &image.parsed;
        Ok(vec![Platform::of(&config.os, &config.architecture, &config.variant)])
    }

    /// The configuration that a manifest names, from here if it is known.
    async fn configuration(
        &self,
        source: &Source,
        manifest: &ImageManifest,
        names: Vec<Reference>,
    ) -> Result<Incoming, ImageError> {
        let descriptor = manifest.config();
        let digest = digest_of(descriptor)?;
        let known = ImageId::parse(&digest).filter(|id| self.inner.lock().images.contains_key(id));
        let bytes = match known {
            Some(id) => {
                let path = self.inner.paths.config(&id);
                std::fs::read(&path).map_err(ImageError::store(path))?
            }
            None => small_blob(source, &digest, descriptor.size()).await?,
        };
        let found = format!("sha256:{:x}", Sha256::digest(&bytes));
        if found != digest {
            return Err(RegistryError::Digest { expected: digest, found }.into());
        }
        Incoming::read(bytes, names)
    }
}

/// Follows a tag or digest to the manifest for a platform.
async fn find(source: &Source, reference: &str, platform: Option<&Platform>) -> Result<Found, ImageError> {
    let first = source.manifest(reference).await?;
    let digest = first.digest.clone();
    let mut document = first;
    for _ in 0..DEEPEST_INDEX {
        if !document.media_type.is_index() {
            break;
        }
        let next = choose(&document, platform)?;
        document = source.manifest(&next).await?;
    }
    if document.media_type.is_index() {
        return Err(ImageError::invalid("its indexes are nested too deeply"));
    }
    let manifest = read_manifest(&document)?;
    Ok(Found { digest, manifest })
}

/// The manifest of an index that is for the platform, or this machine's.
fn choose(document: &Document, platform: Option<&Platform>) -> Result<String, ImageError> {
    let index: ImageIndex = parse("the index", &document.bytes)?;
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let mut best: Option<(u8, &Descriptor)> = None;
    for descriptor in index.manifests() {
        // What attests an image is listed beside it, for a platform that is unknown.
        let fitness = match descriptor.platform() {
            Some(found) => wanted.fitness(&platform_of(found)),
            None => Some(0),
        };
        if let Some(fitness) = fitness
            && best.is_none_or(|(before, _)| fitness > before)
        {
            best = Some((fitness, descriptor));
        }
    }
    match best {
        Some((_, descriptor)) => digest_of(descriptor),
        None => Err(ImageError::NoPlatform { platform: wanted.to_string() }),
    }
}

fn platform_of(found: &oci_spec::image::Platform) -> Platform {
    let variant = found.variant().as_deref().unwrap_or_default();
    Platform::of(&found.os().to_string(), &found.architecture().to_string(), variant)
}

fn read_manifest(document: &Document) -> Result<ImageManifest, ImageError> {
    let manifest: ImageManifest = parse("the manifest", &document.bytes)?;
    let kind = manifest.config().media_type().to_string();
    let is_image = matches!(
        kind.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    );
    if !is_image {
        let shown: String = kind.chars().filter(|character| !character.is_control()).take(128).collect();
        return Err(ImageError::NoImage { media_type: shown });
    }
    if manifest.layers().len() > MOST_LAYERS {
        return Err(ImageError::invalid(format!("an image has more than {MOST_LAYERS} layers")));
    }
    for layer in manifest.layers() {
        let kind = layer.media_type().to_string();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            let reason = format!("`{}` is not in the registry, as its licence forbids it", layer.digest());
            return Err(ImageError::invalid(reason));
        }
        if kind.contains("encrypted") {
            return Err(ImageError::invalid(format!("`{}` is encrypted", layer.digest())));
        }
    }
    Ok(manifest)
}

fn digest_of(descriptor: &Descriptor) -> Result<String, ImageError> {
    let digest = descriptor.digest().as_ref();
    if is_digest(digest) {
        Ok(digest.to_owned())
    } else {
        Err(ImageError::invalid(format!("`{digest}` is not a sha256 digest")))
    }
}

async fn small_blob(source: &Source, digest: &str, size: u64) -> Result<Vec<u8>, ImageError> {
    if size > LARGEST_CONFIG {
        return Err(ImageError::invalid(format!("its configuration is to have {size} bytes")));
    }
    let mut attempt = 0;
    loop {
        source.pause(attempt).await;
        attempt += 1;
        match read_blob(source, digest, size).await {
            Err(error) if error.may_pass() && attempt < source.attempts() => {}
            read => return Ok(read?),
        }
    }
}

async fn read_blob(source: &Source, digest: &str, size: u64) -> Result<Vec<u8>, RegistryError> {
    let mut blob = source.blob(digest, 0).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = blob.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > size {
            let (what, url) = ("The configuration", blob.url().to_owned());
            return Err(RegistryError::TooLarge { what, url, limit: size });
        }
    }
    let done = bytes.len() as u64;
    if done < size {
        return Err(RegistryError::BrokenOff { url: blob.url().to_owned(), done, total: size });
    }
    Ok(bytes)
}

/// A single manifest may be for another platform than the one that was asked for.
fn check_platform(image: &Incoming, platform: Option<&Platform>) -> Result<(), ImageError> {
    let config = &image.parsed;
    let found = Platform::of(&config.os, &config.architecture, &config.variant);
    match platform {
        Some(wanted) if !config.architecture.is_empty() && wanted.fitness(&found).is_none() => {
            Err(ImageError::OtherPlatform { found: found.to_string(), wanted: wanted.to_string() })
        }
        _ => Ok(()),
    }
}

/// Has every layer in the store or in the intake. The digests of what was downloaded are returned.
async fn fetch_layers(
    inner: &Arc<Inner>,
    source: &Arc<Source>,
    image: &Incoming,
    layers: &[Descriptor],
    intake: &mut Intake,
    tell: &Tell,
) -> Result<Vec<String>, ImageError> {
    let diff_ids = &image.parsed.rootfs.diff_ids;
    let mut work = JoinSet::new();
    for ((chain, layer), diff_id) in chain_ids(diff_ids).into_iter().zip(layers).zip(diff_ids) {
        let digest = digest_of(layer)?;
        let id = short(&digest);
        if intake.has(&chain) {
            tell(TransferEvent::Layer { id, step: LayerStep::Exists });
            continue;
        }
        tell(TransferEvent::Layer { id: id.clone(), step: LayerStep::Planned });
        let (inner, source, tell) = (Arc::clone(inner), Arc::clone(source), Arc::clone(tell));
        let (place, directory) = (intake.place(&chain), intake.keep_directory());
        let (size, diff_id) = (layer.size(), diff_id.clone());
        work.spawn(async move {
            let said = Arc::new(move |step| tell(TransferEvent::Layer { id: id.clone(), step }));
            let claim = inner.downloads.claim(&digest).await;
            {
                let places = inner.downloads.places();
                let _place = if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    place
                } else {
                    said(LayerStep::Waiting);
                    places.acquire_owned().await.map_err(ImageError::cut_short)?
                };
                download(&source, &claim, size, &*said).await?;
            }
            let unpacking = inner.unpacking.acquire().await.map_err(ImageError::cut_short)?;
            let (path, held) = (claim.path.clone(), claim.hold());
            let telling = Arc::clone(&said);
            let unpacked = blocking(move || {
                let _kept = (directory, held);
                let tell = |current| telling(LayerStep::Extracting { current, total: size });
                unpack_file(&path, &diff_id, &place, tell)
            })
            .await;
            drop(unpacking);
            if unpacked.as_ref().is_err_and(|error| error.kind() == engine_model::Kind::Invalid) {
                // It will not be better next time.
                let _ = std::fs::remove_file(&claim.path);
            }
            let layer = unpacked?;
            said(LayerStep::Pulled);
            // Another layer of the same content may be waiting for it.
            Ok::<_, ImageError>((chain, layer, claim.digest))
        });
    }
    let mut fetched = Vec::new();
    while let Some(done) = work.join_next().await {
        let (chain, layer, digest) = done.map_err(ImageError::cut_short)??;
        let place = intake.place(&chain);
        intake.add(chain, place, layer);
        fetched.push(digest);
    }
    Ok(fetched)
}

fn unpack_file(
    path: &Path,
    diff_id: &str,
    place: &Path,
    mut tell: impl FnMut(u64),
) -> Result<LayerFile, ImageError> {
    let open = || File::open(path);
    let source = open().map_err(ImageError::store(path))?;
    let counted: Counted<'_, File> = Counted { source, done: 0, told: 0, tell: &mut tell };
    unpack_layer(counted, open, diff_id, diff_id, place)
}

/// As progress calls a layer.
pub(super) fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

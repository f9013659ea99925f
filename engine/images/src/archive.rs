//! What a spooled archive holds: docker's `manifest.json` or an OCI image layout.

use engine_model::ImageId;
use engine_model::platform;
use engine_model::wire::{HistoryEntry, ImageConfig, null_is_default};
use jiff::Timestamp;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageManifest, Os};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::reference::{Reference, is_digest};
use super::spool::Spool;

/// The full name of an image, as containerd and docker write it.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Real manifests and configurations are some kilobytes.
const LARGEST_JSON: u64 = 8 << 20;
/// What overlayfs and docker can do.
const MOST_LAYERS: usize = 125;
const MOST_IMAGES: usize = 1024;
/// An index may point to indexes; real ones do so once.
const DEEPEST_INDEX: usize = 4;

/// One image to be made of an archive.
pub(super) struct Planned {
    pub(super) id: ImageId,
    /// The exact bytes of the configuration.
    pub(super) config: Vec<u8>,
    pub(super) parsed: ConfigFile,
    /// Names of parts in the spool, base layer first.
    pub(super) layers: Vec<String>,
    pub(super) tags: Vec<Reference>,
}

/// An image configuration, as far as it is needed here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) variant: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) os: String,
    pub(super) created: Option<Timestamp>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) author: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) comment: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) config: ImageConfig,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) rootfs: RootFs,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) history: Vec<HistoryEntry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) diff_ids: Vec<String>,
}

impl ConfigFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let config: Self = parse("the image configuration", bytes)?;
        if config.rootfs.diff_ids.len() > MOST_LAYERS {
            return Err(ImageError::invalid(format!("an image has more than {MOST_LAYERS} layers")));
        }
        if let Some(bad) = config.rootfs.diff_ids.iter().find(|digest| !is_digest(digest)) {
            return Err(ImageError::invalid(format!("`{bad}` is not a layer digest")));
        }
        if !matches!(config.os.as_str(), "" | "linux") {
            let reason = format!("cannot load {} image on linux", config.os);
            return Err(ImageError::invalid(reason));
        }
        Ok(config)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

/// What a descriptor of an index may lead to. Its media type is not relied on, as archives of Docker's have others.
enum OciDocument {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

impl OciDocument {
    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Kind {
            config: Option<IgnoredAny>,
        }
        let what = "a manifest";
        let kind: Kind = parse(what, bytes)?;
        match kind.config {
            Some(_) => parse(what, bytes).map(Self::Manifest),
            None => parse(what, bytes).map(Self::Index),
        }
    }
}

/// Finds the images in an archive; nothing is unpacked yet.
pub(super) fn plan(spool: &Spool) -> Result<Vec<Planned>, ImageError> {
    let planned = if spool.contains("manifest.json") {
        let manifests: Vec<DockerManifest> =
            parse("manifest.json", &spool.small("manifest.json", LARGEST_JSON)?)?;
        if manifests.len() > MOST_IMAGES {
            return Err(ImageError::invalid(format!("it has more than {MOST_IMAGES} images")));
        }
        manifests.into_iter().map(|manifest| docker_image(spool, manifest)).collect::<Result<Vec<_>, _>>()?
    } else if spool.contains("index.json") {
        let index = parse("index.json", &spool.small("index.json", LARGEST_JSON)?)?;
        let mut planned = Vec::new();
        oci_images(spool, &index, None, DEEPEST_INDEX, &mut planned)?;
        planned
    } else {
        return Err(ImageError::invalid("it has neither `manifest.json` nor `index.json`"));
    };
    if planned.is_empty() {
        return Err(ImageError::invalid(format!("it has no image for linux/{}", platform::architecture())));
    }
    Ok(planned)
}

fn docker_image(spool: &Spool, manifest: DockerManifest) -> Result<Planned, ImageError> {
    let tags = manifest.repo_tags.iter().map(|tag| image_name(tag)).collect::<Result<_, _>>()?;
    planned(spool.small(&manifest.config, LARGEST_JSON)?, manifest.layers, tags)
}

fn image_name(text: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse(text)?.with_default_tag();
    if reference.tag().is_none() {
        return Err(ImageError::InvalidReference { reference: text.to_owned() });
    }
    Ok(reference)
}

fn planned(config: Vec<u8>, layers: Vec<String>, tags: Vec<Reference>) -> Result<Planned, ImageError> {
    let parsed = ConfigFile::parse(&config)?;
    let (said, found) = (parsed.rootfs.diff_ids.len(), layers.len());
    if said != found {
        return Err(ImageError::invalid(format!(
            "the configuration names {said} layers, the manifest {found}"
        )));
    }
    let digest = format!("sha256:{:x}", Sha256::digest(&config));
    let id = ImageId::parse(&digest).ok_or_else(|| ImageError::invalid("no digest"))?;
    Ok(Planned { id, config, parsed, layers, tags })
}

fn oci_images(
    spool: &Spool,
    index: &ImageIndex,
    name: Option<&Reference>,
    depth: usize,
    planned_images: &mut Vec<Planned>,
) -> Result<(), ImageError> {
    for descriptor in index.manifests() {
        let fits = descriptor.platform().as_ref().is_none_or(|platform| {
            *platform.os() == Os::Linux && platform.architecture().to_string() == platform::architecture()
        });
        if !fits {
            continue;
        }
        let own_name = oci_name(descriptor)?;
        let name = own_name.as_ref().or(name);
        match OciDocument::parse(&verified(spool, descriptor)?)? {
            OciDocument::Manifest(manifest) => {
                let config = verified(spool, manifest.config())?;
                let layers = manifest.layers().iter().map(blob).collect::<Result<_, _>>()?;
                planned_images.push(planned(config, layers, name.cloned().into_iter().collect())?);
            }
            OciDocument::Index(_) if depth == 0 => {
                return Err(ImageError::invalid("its indexes are nested too deeply"));
            }
            OciDocument::Index(index) => oci_images(spool, &index, name, depth - 1, planned_images)?,
        }
        if planned_images.len() > MOST_IMAGES {
            return Err(ImageError::invalid(format!("it has more than {MOST_IMAGES} images")));
        }
    }
    Ok(())
}

/// The full name that containerd writes, else the reference if it is more than a tag.
fn oci_name(descriptor: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let annotation = |name| descriptor.annotations().as_ref().and_then(|all| all.get(name));
    let short = annotation(ANNOTATION_REF_NAME).filter(|name| name.contains([':', '/']));
    annotation(CONTAINERD_NAME).or(short).map(|name| image_name(name)).transpose()
}

/// Where its content lies in the archive.
fn blob(descriptor: &Descriptor) -> Result<String, ImageError> {
    let digest = descriptor.digest().as_ref();
    if !is_digest(digest) {
        return Err(ImageError::invalid(format!("`{digest}` is not a sha256 digest")));
    }
    Ok(format!("blobs/{}", digest.replacen(':', "/", 1)))
}

/// A small blob whose content is what its digest says.
fn verified(spool: &Spool, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let bytes = spool.small(&blob(descriptor)?, LARGEST_JSON)?;
    let found = format!("sha256:{:x}", Sha256::digest(&bytes));
    let digest = descriptor.digest().as_ref();
    if found != digest {
        return Err(ImageError::invalid(format!("the content of `{digest}` has the digest `{found}`")));
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::invalid(format!("{what} is not as it should be: {error}")))
}

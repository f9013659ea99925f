//! What a spooled archive holds: docker's `manifest.json` or an OCI image layout.

use engine_model::platform;
use engine_model::wire::null_is_default;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageManifest, Os};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::configuration::{Incoming, parse};
use super::error::ImageError;
use super::reference::{Reference, is_digest};
use super::spool::Spool;

/// The full name of an image, as containerd and docker write it.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Real manifests and configurations are some kilobytes.
const LARGEST_JSON: u64 = 8 << 20;
const MOST_IMAGES: usize = 1024;
/// An index may point to indexes; real ones do so once.
const DEEPEST_INDEX: usize = 4;

/// One image to be made of an archive.
pub(super) struct Planned {
    pub(super) image: Incoming,
    /// Names of parts in the spool, base layer first.
    pub(super) layers: Vec<String>,
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

fn planned(config: Vec<u8>, layers: Vec<String>, names: Vec<Reference>) -> Result<Planned, ImageError> {
    let image = Incoming::read(config, names)?;
    let (said, found) = (image.parsed.rootfs.diff_ids.len(), layers.len());
    if said != found {
        return Err(ImageError::invalid(format!(
            "the configuration names {said} layers, the manifest {found}"
        )));
    }
    Ok(Planned { image, layers })
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

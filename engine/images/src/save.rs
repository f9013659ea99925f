//! Writes images the way `docker save` does: an OCI layout with docker's `manifest.json` beside it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};

use engine_model::ImageId;
use oci_spec::OciSpecError;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndexBuilder, ImageManifestBuilder, MediaType, SCHEMA_VERSION,
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::archive::CONTAINERD_NAME;
use super::error::ImageError;
use super::reference::Reference;
use super::split::{Stored, replay};
use super::state::{State, StoredImage};
use super::{Inner, resolve};

pub(super) fn save(store: &Inner, references: &[String], output: &mut dyn Write) -> Result<(), ImageError> {
    let (images, layers) = {
        let state = store.lock();
        let mut images: Vec<(ImageId, StoredImage, Vec<Reference>)> = Vec::new();
        for text in references {
            for (id, name) in meant(&state, text)? {
                if let Some((.., names)) = images.iter_mut().find(|(found, ..)| *found == id) {
                    names.extend(name.filter(|name| !names.contains(name)));
                } else if let Some(stored) = state.images.get(&id) {
                    images.push((id, stored.clone(), name.into_iter().collect()));
                }
            }
        }
        (images, state.layers.clone())
    };
    let mut archive = Archive { output, written: BTreeSet::new() };
    let (mut docker, mut oci) = (Vec::new(), Vec::new());
    for (id, stored, names) in &images {
        let path = store.paths.config(id);
        let config = fs::read(&path).map_err(ImageError::store(&path))?;
        archive.blob(&config)?;
        let mut descriptors = Vec::new();
        for chain in &stored.chains {
            let Some(layer) = layers.get(chain) else { continue };
            let directory = store.paths.layer(chain);
            let place = Stored { directory: directory.join("diff"), split: directory.join("split.gz") };
            archive.layer(&layer.file.diff_id, layer.file.tar_size, &place)?;
            descriptors.push(describe(MediaType::ImageLayer, &layer.file.diff_id, layer.file.tar_size)?);
        }
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        docker.push(json!({
            "Config": blob_path(id.as_str()),
            "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
            "Layers": stored.config.rootfs.diff_ids.iter().map(|digest| blob_path(digest)).collect::<Vec<_>>(),
        }));
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(describe(MediaType::ImageConfig, id.as_str(), config.len() as u64)?)
            .layers(descriptors)
            .build()
            .map_err(not_described)?;
        let manifest = to_json(&manifest)?;
        let digest = archive.blob(&manifest)?;
        let descriptor = describe(MediaType::ImageManifest, &digest, manifest.len() as u64)?;
        if names.is_empty() {
            oci.push(descriptor.clone());
        }
        for name in &names {
            let full = Reference::parse(name)?;
            let mut descriptor = descriptor.clone();
            let tag = full.tag().map(|tag| (ANNOTATION_REF_NAME.to_owned(), tag.to_owned()));
            let annotations = [(CONTAINERD_NAME.to_owned(), full.to_string())].into_iter().chain(tag);
            descriptor.set_annotations(Some(annotations.collect()));
            oci.push(descriptor);
        }
    }
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(oci)
        .build()
        .map_err(not_described)?;
    archive.file("index.json", &to_json(&index)?)?;
    archive.file("manifest.json", Value::Array(docker).to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.output.write_all(&[0; 1024]).map_err(write_failed)
}

/// The image that is meant, with the name by which it is; or, by a repository without a tag, all that have one there.
fn meant(state: &State, text: &str) -> Result<Vec<(ImageId, Option<Reference>)>, ImageError> {
    let tagged = tagged(state, text);
    if !tagged.is_empty() {
        return Ok(tagged.into_iter().map(|(id, name)| (id, Some(name))).collect());
    }
    let id = resolve(state, text)?;
    let name = Reference::parse(text).ok().map(Reference::with_default_tag);
    let name = name.filter(|name| state.names.get(&name.to_string()) == Some(&id));
    Ok(vec![(id, name)])
}

pub(super) fn tagged(state: &State, text: &str) -> Vec<(ImageId, Reference)> {
    let Some(bare) = Reference::parse(text).ok().filter(|name| name.tag_or_digest().is_empty()) else {
        return Vec::new();
    };
    let named = |(name, id): (&String, &ImageId)| {
        let name = Reference::parse(name).ok()?;
        let is_there = name.tag().is_some() && name.repository() == bare.repository();
        (is_there && state.images.contains_key(id)).then(|| (id.clone(), name))
    };
    state.names.iter().filter_map(named).collect()
}

fn describe(media_type: MediaType, digest: &str, size: u64) -> Result<Descriptor, ImageError> {
    let digest: oci_spec::image::Digest = digest.parse().map_err(not_described)?;
    Ok(Descriptor::new(media_type, size, digest))
}

/// The same bytes each time: what has no order of its own is sorted.
fn to_json(document: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    let mut value = serde_json::to_value(document).map_err(OciSpecError::from).map_err(not_described)?;
    value.sort_all_objects();
    Ok(value.to_string().into_bytes())
}

fn not_described(source: OciSpecError) -> ImageError {
    ImageError::Describe { source }
}

fn write_failed(source: io::Error) -> ImageError {
    ImageError::WriteArchive { source }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The tar stream that is being written.
struct Archive<'a> {
    output: &'a mut dyn Write,
    /// Blobs are written once, however many images have them.
    written: BTreeSet<String>,
}

impl Archive<'_> {
    fn blob(&mut self, bytes: &[u8]) -> Result<String, ImageError> {
        let digest = format!("sha256:{:x}", Sha256::digest(bytes));
        if self.written.insert(digest.clone()) {
            self.file(&blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.header(name, bytes.len() as u64)?;
        self.output.write_all(bytes).map_err(write_failed)?;
        self.pad(bytes.len() as u64)
    }

    fn layer(&mut self, diff_id: &str, size: u64, place: &Stored) -> Result<(), ImageError> {
        if !self.written.insert(diff_id.to_owned()) {
            return Ok(());
        }
        self.header(&blob_path(diff_id), size)?;
        let written = replay(place, self.output).map_err(write_failed)?;
        if written.digest != diff_id {
            return Err(ImageError::NotReproducible { diff_id: diff_id.to_owned() });
        }
        self.pad(size)
    }

    fn header(&mut self, name: &str, size: u64) -> Result<(), ImageError> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(write_failed)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.output.write_all(header.as_bytes()).map_err(write_failed)
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.output.write_all(&[0; 512][..padding]).map_err(write_failed)
    }
}

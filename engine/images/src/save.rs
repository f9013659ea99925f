//! Writes images the way `docker save` does: an OCI layout with docker's `manifest.json` beside it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};

use engine_model::ImageId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::reference::Reference;
use super::split::{Stored, replay};
use super::state::StoredImage;
use super::{Inner, resolve};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(super) fn save(store: &Inner, references: &[String], output: &mut dyn Write) -> Result<(), ImageError> {
    let (images, layers) = {
        let state = store.lock();
        let mut images: Vec<(ImageId, StoredImage, Vec<Reference>)> = Vec::new();
        for text in references {
            let id = resolve(&state, text)?;
            let name = Reference::parse(text).ok().map(Reference::with_default_tag);
            let name = name.filter(|name| state.names.get(&name.to_string()) == Some(&id));
            if let Some((.., names)) = images.iter_mut().find(|(found, ..)| *found == id) {
                names.extend(name);
            } else if let Some(stored) = state.images.get(&id) {
                images.push((id, stored.clone(), name.into_iter().collect()));
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
            descriptors
                .push(json!({"mediaType": LAYER, "digest": layer.file.diff_id, "size": layer.file.tar_size}));
        }
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        docker.push(json!({
            "Config": blob_path(id.as_str()),
            "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
            "Layers": stored.config.rootfs.diff_ids.iter().map(|digest| blob_path(digest)).collect::<Vec<_>>(),
        }));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": id, "size": config.len()},
            "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = archive.blob(&manifest)?;
        let descriptor = json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len()});
        if names.is_empty() {
            oci.push(descriptor.clone());
        }
        for name in &names {
            let full = Reference::parse(name)?;
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({
                "io.containerd.image.name": full.to_string(),
                "org.opencontainers.image.ref.name": full.tag(),
            });
            oci.push(descriptor);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": oci,
    });
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("manifest.json", Value::Array(docker).to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.output.write_all(&[0; 1024]).map_err(write_failed)
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

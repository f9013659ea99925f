//! Images: finding them, and keeping one VHDX of each in the cache, which the disks of all its hosts are based on.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use machine_driver::DriverError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    config::{is_image_name, is_path},
    vhdx,
};

/// Folders that hold images, separated as in PATH.
pub const IMAGE_PATH_VARIABLE: &str = "MACHINE_IMAGE_PATH";

/// The folder of images in the cache; in it one folder for each image.
const IMAGES: &str = "images";
const BASE: &str = "base.vhdx";
const MANIFEST: &str = "manifest.json";
const LARGEST_MANIFEST: u64 = 64 * 1024;
/// Less is no disk that boots.
const SMALLEST_DISK: u64 = 1 << 20;
const BUILD_HINT: &str =
    "Build the images with `cargo xtask image`, or name their folder in MACHINE_IMAGE_PATH";

/// An image as VMs use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) user: String,
    pub(crate) services: Services,
    /// The folder of its base in the cache's folder of images.
    folder: String,
    /// Bytes, as a guest sees the base; `None`: it is a VHDX already, and Hyper-V knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The image's own disk only boots: what a host keeps goes to another one.
    #[serde(default)]
    pub(crate) data_apart: bool,
}

/// How the image runs services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Services {
    MachineOs,
    Systemd,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    name: String,
    version: String,
    #[serde(default, alias = "default_user")]
    user: Option<String>,
    sha256: BTreeMap<String, String>,
}

/// An image that was found and is not yet in the cache.
#[derive(Debug)]
pub(crate) struct Found {
    name: String,
    version: String,
    user: String,
    services: Services,
    disk: PathBuf,
    format: Format,
    size: u64,
    /// SHA-256 in hexadecimal. `None` for a user's own disk: nothing says what it should be.
    digest: Option<String>,
    data_apart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Vhdx,
    Raw,
}

/// The folders in which images are looked for.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os(IMAGE_PATH_VARIABLE)
        .map(|list| env::split_paths(&list).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    if let Ok(executable) = env::current_exe()
        && let Some(folder) = executable.parent()
    {
        folders.push(folder.join("images"));
        folders.push(folder.join("../share/machine/images"));
        folders.push(folder.join("../images"));
    }
    folders
}

/// Finds an image by its name or path, and refuses what cannot be one.
pub(crate) fn find(image: &str, folders: &[PathBuf]) -> Result<Found, DriverError> {
    if is_path(image) {
        return Found::disk(Path::new(image));
    }
    let Some(folder) =
        folders.iter().map(|folder| folder.join(image)).find(|path| path.join(MANIFEST).is_file())
    else {
        let places: Vec<String> = folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
        let message = format!("There is no image `{image}` in {}", places.join(", "));
        return Err(DriverError::refused(message).with_hint(BUILD_HINT));
    };
    Found::in_folder(image, &folder)
}

impl Image {
    /// Where its base is in this cache.
    pub(crate) fn base(&self, cache: &Path) -> PathBuf {
        cache.join(IMAGES).join(&self.folder).join(BASE)
    }

    /// Writes the base again if it is gone and `named` still is the very same image. Blocks.
    pub(crate) fn provide(&self, cache: &Path, named: &str, folders: &[PathBuf]) -> Result<(), DriverError> {
        let base = self.base(cache);
        if base.is_file() {
            return Ok(());
        }
        if let Ok(found) = find(named, folders)
            && found.folder() == self.folder
        {
            return found.adopt(cache).map(drop);
        }
        let message = format!("`{}` of the image is gone; the VM's own disk is there", base.display());
        Err(DriverError::refused(message).with_hint(format!(
            "Put it back where it was, or name the folder with the image `{}`, version {}, in {IMAGE_PATH_VARIABLE}",
            self.name, self.version
        )))
    }
}

fn broken(folder: &Path, reason: impl Into<String>) -> DriverError {
    let message = format!("The image in `{}` is not usable: {}", folder.display(), reason.into());
    DriverError::refused(message).with_hint(BUILD_HINT)
}

/// What a disk image is, by its first bytes.
fn inspect(path: &Path) -> Result<(Format, u64), DriverError> {
    let unusable = |reason: &str| {
        DriverError::refused(format!("`{}` is no usable disk image: {reason}", path.display()))
    };
    let read = |error: io::Error| {
        DriverError::refused(format!("Could not read the image `{}`", path.display())).with_source(error)
    };
    let metadata = fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(unusable("it is no regular file"));
    }
    let mut head = Vec::with_capacity(512);
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut head)).map_err(read)?;
    if head.starts_with(vhdx::SIGNATURE) {
        return Ok((Format::Vhdx, metadata.len()));
    }
    if head.starts_with(b"QFI\xfb") {
        return Err(unusable("it is in QEMU's format")
            .with_hint("`qemu-img convert -O vhdx` makes one of it that Hyper-V takes"));
    }
    if head.len() == 512 && head.ends_with(&[0x55, 0xaa]) && metadata.len() >= SMALLEST_DISK {
        return Ok((Format::Raw, metadata.len()));
    }
    Err(unusable("it is no VHDX and does not begin with a boot sector"))
}

impl Found {
    /// A user's own disk image: it has to have cloud-init, which cannot be seen from outside.
    fn disk(path: &Path) -> Result<Self, DriverError> {
        let (format, size) = inspect(path)?;
        let read = |error: io::Error| {
            DriverError::refused(format!("Could not read the image `{}`", path.display())).with_source(error)
        };
        let path = std::path::absolute(path).map_err(read)?;
        let changed = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(read)?;
        let changed = changed.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        // The file may change or go away; what it is now is known by these.
        let identity = format!("{}\n{size}\n{changed}", path.display());
        Ok(Self {
            name: "disk".into(),
            version: hexadecimal(&Sha256::digest(identity))[..12].to_owned(),
            user: "docker".into(),
            services: Services::Systemd,
            disk: path,
            format,
            size,
            digest: None,
            data_apart: false,
        })
    }

    fn in_folder(name: &str, folder: &Path) -> Result<Self, DriverError> {
        let mut text = String::new();
        File::open(folder.join(MANIFEST))
            .and_then(|file| file.take(LARGEST_MANIFEST).read_to_string(&mut text))
            .map_err(|error| broken(folder, "its manifest cannot be read").with_source(error))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| broken(folder, "its manifest is not understood").with_source(error))?;
        if manifest.name != name || !is_image_name(&manifest.version) {
            let (name, version) = (manifest.name.escape_debug(), manifest.version.escape_debug());
            return Err(broken(folder, format!("it calls itself `{name}`, version `{version}`")));
        }
        // A disk with everything on it, or one that boots and leaves the rest to another.
        let known = [("disk.vhdx", false), ("disk.raw", false), ("boot.raw", true)];
        let found =
            known.into_iter().find_map(|(file, apart)| Some((file, apart, manifest.sha256.get(file)?)));
        let Some((file, data_apart, digest)) = found else {
            return Err(DriverError::refused(format!(
                "The image in `{}` has no disk that boots by itself",
                folder.display()
            ))
            .with_hint(
                "Hyper-V boots from disks only: an image has `disk.vhdx`, `disk.raw` or `boot.raw` for that",
            ));
        };
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(broken(folder, format!("`{file}` cannot be verified")));
        }
        let disk = folder.join(file);
        let (format, size) = inspect(&disk)?;
        let own = manifest.name == "machineos";
        Ok(Self {
            user: manifest.user.unwrap_or_else(|| "docker".into()),
            services: if own { Services::MachineOs } else { Services::Systemd },
            name: manifest.name,
            version: manifest.version,
            disk,
            format,
            size,
            digest: Some(digest.to_ascii_lowercase()),
            data_apart,
        })
    }

    /// The folder of this very content in the cache.
    fn folder(&self) -> String {
        let digest = hexadecimal(&Sha256::digest(self.digest.as_deref().unwrap_or_default()));
        format!("{}-{}-{}", self.name, self.version, &digest[..12])
    }

    fn image(&self) -> Image {
        Image {
            name: self.name.clone(),
            version: self.version.clone(),
            user: self.user.clone(),
            services: self.services,
            folder: self.folder(),
            size: (self.format == Format::Raw).then_some(self.size),
            data_apart: self.data_apart,
        }
    }

    pub(crate) fn is_cached(&self, cache: &Path) -> bool {
        self.image().base(cache).is_file()
    }

    /// Puts the image into the cache as a VHDX, verified on the way, unless it is there. Blocks.
    pub(crate) fn adopt(&self, cache: &Path) -> Result<Image, DriverError> {
        let image = self.image();
        let base = image.base(cache);
        if !base.is_file() {
            self.copy(&cache.join(IMAGES), &base)?;
        }
        Ok(image)
    }

    fn copy(&self, images: &Path, base: &Path) -> Result<(), DriverError> {
        let failed = |what: &Path| {
            let message = format!("Could not copy the image to `{}`", what.display());
            move |error: io::Error| DriverError::failed(message.clone()).with_source(error)
        };
        let place = base.parent().unwrap_or(images);
        fs::create_dir_all(images).map_err(failed(images))?;
        let lock = images.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(failed(&lock))?;
        file.lock().map_err(failed(&lock))?;
        if base.is_file() {
            return Ok(());
        }
        let partial = images.join("partial");
        for leftover in [partial.as_path(), place] {
            match fs::remove_dir_all(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(leftover)(error)),
                _ => {}
            }
        }
        fs::create_dir(&partial).map_err(failed(&partial))?;
        let target = partial.join(BASE);
        let digest = self.write(&target).map_err(failed(&target))?;
        if self.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
            fs::remove_dir_all(&partial).map_err(failed(&partial))?;
            let message = format!("`{}` is not what its manifest says", self.disk.display());
            return Err(DriverError::refused(message).with_hint(BUILD_HINT));
        }
        fs::rename(&partial, place).map_err(failed(place))
    }

    /// Writes the base, which nobody may change while disks are based on it, and gives the SHA-256 of its source.
    fn write(&self, target: &Path) -> io::Result<String> {
        let mut source = Digested { inner: BufReader::new(File::open(&self.disk)?), digest: Sha256::new() };
        let mut file = OpenOptions::new().write(true).create_new(true).open(target)?;
        match self.format {
            Format::Raw => vhdx::write(&mut file, &mut source, self.size, &self.folder()).map(drop)?,
            Format::Vhdx => io::copy(&mut source, &mut file).map(drop)?,
        }
        file.sync_all()?;
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(target, permissions)?;
        Ok(hexadecimal(&source.digest.finalize()))
    }
}

/// A source that is digested while it is read.
struct Digested<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder with an image of one file.
    fn images(file: &str, content: &[u8], digest: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("tiny");
        fs::create_dir(&image).unwrap();
        fs::write(image.join(file), content).unwrap();
        let manifest = serde_json::json!({"name": "tiny", "version": "1", "sha256": {file: digest}});
        fs::write(image.join(MANIFEST), manifest.to_string()).unwrap();
        folder
    }

    fn bootable() -> Vec<u8> {
        let mut content = vec![0; 2 << 20];
        content[510..512].copy_from_slice(&[0x55, 0xaa]);
        content
    }

    fn digest(content: &[u8]) -> String {
        hexadecimal(&Sha256::digest(content))
    }

    #[test]
    fn an_image_becomes_one_base_that_nobody_writes() {
        let content = bootable();
        let folder = images("boot.raw", &content, &digest(&content));
        let cache = tempfile::tempdir().unwrap();
        let found = find("tiny", &[folder.path().to_owned()]).unwrap();
        assert!(!found.is_cached(cache.path()));
        let image = found.adopt(cache.path()).unwrap();
        assert!(image.data_apart && image.size == Some(2 << 20));
        let base = image.base(cache.path());
        assert!(fs::read(&base).unwrap().starts_with(vhdx::SIGNATURE));
        assert!(fs::metadata(&base).unwrap().permissions().readonly());
        let again = found.adopt(cache.path()).unwrap();
        assert_eq!((again, found.is_cached(cache.path())), (image, true));
    }

    #[test]
    fn what_is_not_what_the_manifest_says_is_refused_and_not_kept() {
        let folder = images("disk.raw", &bootable(), &digest(b"other"));
        let cache = tempfile::tempdir().unwrap();
        let error = find("tiny", &[folder.path().to_owned()]).unwrap().adopt(cache.path()).unwrap_err();
        assert!(error.to_string().ends_with("is not what its manifest says"), "{error}");
        let left: Vec<_> =
            fs::read_dir(cache.path().join(IMAGES)).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn what_hyperv_cannot_boot_is_refused_with_a_way_out() {
        let folder = images("vmlinuz", b"x", &digest(b"x"));
        let error = find("tiny", &[folder.path().to_owned()]).unwrap_err();
        assert!(error.to_string().ends_with("has no disk that boots by itself"), "{error}");
        let path = folder.path().join("disk.qcow2");
        fs::write(&path, b"QFI\xfb").unwrap();
        let error = find(path.to_str().unwrap(), &[]).unwrap_err();
        assert!(error.hint().unwrap().contains("qemu-img convert -O vhdx"), "{error}");
        fs::write(&path, b"hello").unwrap();
        assert!(find(path.to_str().unwrap(), &[]).is_err());
        assert!(find(folder.path().to_str().unwrap(), &[]).is_err());
        assert!(find("missing", &[folder.path().to_owned()]).is_err());
    }
}

//! Images: finding them, and keeping a verified copy that every VM can be based on.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write as _},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::{self, Format};
use crate::DriverError;

/// Colon-separated folders that hold images.
pub const IMAGE_PATH_VARIABLE: &str = "MACHINE_IMAGE_PATH";

/// The folder of images in the cache; in it one folder for each image.
const IMAGES: &str = "images";
const MANIFEST: &str = "manifest.json";
const LARGEST_MANIFEST: u64 = 64 * 1024;
const LONGEST_COMMAND_LINE: usize = 1024;
const BUILD_HINT: &str =
    "Build the images with `cargo xtask image`, or name their folder in MACHINE_IMAGE_PATH";
/// Also the unit in which empty parts of a disk image are left out.
const COPY_BLOCK: usize = 64 * 1024;

/// An image as VMs use it: verified copies in the cache, which nobody changes. A record names its files from the
/// cache's folder of images on, so that a store can be moved; older records name them in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub name: String,
    pub version: String,
    pub user: String,
    pub services: Services,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

/// What QEMU boots directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub file: PathBuf,
    pub initrd: PathBuf,
    pub command_line: String,
}

/// The disk under the overlays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub path: PathBuf,
    pub format: Format,
    pub size: u64,
}

/// How the image runs services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Services {
    MachineOs,
    Systemd,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    name: String,
    version: String,
    #[serde(default)]
    boot: Option<String>,
    #[serde(default)]
    cmdline: String,
    #[serde(default, alias = "default_user")]
    user: Option<String>,
    sha256: BTreeMap<String, String>,
}

/// An image that was found and not yet copied.
#[derive(Debug)]
pub struct Found {
    name: String,
    version: String,
    user: String,
    services: Services,
    command_line: String,
    kernel: Option<(Source, Source)>,
    disk: Option<Source>,
}

/// One file of an image.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// Its name in the cache.
    file: &'static str,
    size: u64,
    /// SHA-256 in hexadecimal. `None` for a user's own disk: nothing says what it should be.
    digest: Option<String>,
}

/// Whether a text can be the name of an image, or its version.
pub fn is_image_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The folders in which images are looked for.
pub fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os(IMAGE_PATH_VARIABLE)
        .map(|list| env::split_paths(&list).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    if let Ok(executable) = env::current_exe()
        && let Some(folder) = executable.parent()
    {
        folders.push(folder.join("../share/machine/images"));
        folders.push(folder.join("../images"));
    }
    folders
}

/// What a driver looks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// An image's name, or the path of a disk, which has a `/` in it.
    pub image: &'a str,
    /// The option that named it.
    pub option: &'a str,
    /// Whether a kernel that is unpacked already is of use, which saves the guest the work of unpacking it.
    pub unpacked_kernel: bool,
    /// The folders in which images are looked for.
    pub folders: &'a [PathBuf],
}

/// Finds an image by its name or path, and refuses what cannot be one.
pub fn find(wanted: Wanted<'_>) -> Result<Found, DriverError> {
    let Wanted { image, option, unpacked_kernel, folders } = wanted;
    if image.contains('/') {
        return Found::disk(Path::new(image), option);
    }
    let Some(folder) =
        folders.iter().map(|folder| folder.join(image)).find(|path| path.join(MANIFEST).is_file())
    else {
        let places: Vec<String> = folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
        let message = format!("There is no image `{image}` in {}", places.join(", "));
        return Err(DriverError::refused(message).with_hint(BUILD_HINT));
    };
    Found::in_folder(image, &folder, unpacked_kernel)
}

impl Image {
    /// The same with its files where they are in this cache.
    #[must_use]
    pub fn in_cache(&self, cache: &Path) -> Self {
        let locate = |file: &Path| cache.join(IMAGES).join(in_images(file));
        let mut image = self.clone();
        if let Some(kernel) = &mut image.kernel {
            (kernel.file, kernel.initrd) = (locate(&kernel.file), locate(&kernel.initrd));
        }
        if let Some(base) = &mut image.base {
            base.path = locate(&base.path);
        }
        image
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let kernel = self.kernel.iter().flat_map(|kernel| [&kernel.file, &kernel.initrd]);
        kernel.chain(self.base.iter().map(|base| &base.path)).map(PathBuf::as_path)
    }

    /// The image with its files in this cache, copied again if they are gone and `named` still is the very same image.
    /// Blocks.
    pub fn provide(&self, cache: &Path, wanted: Wanted<'_>) -> Result<Self, DriverError> {
        let image = self.in_cache(cache);
        let Some(missing) = image.files().find(|file| !file.exists()).map(Path::to_owned) else {
            return Ok(image);
        };
        if let Ok(found) = find(wanted)
            && found.is_source_of(self)
        {
            found.adopt(cache)?;
            return Ok(image);
        }
        let place = missing.parent().unwrap_or(&missing);
        Err(DriverError::refused(format!("`{}` of the image is gone; the VM's own disk is there", missing.display()))
            .with_hint(format!(
                "Put `{}` back where it was, or name the folder with the image `{}`, version {}, in {IMAGE_PATH_VARIABLE}",
                place.display(),
                self.name,
                self.version
            )))
    }
}

/// A file's path from the folder of images on: the image's folder and its name.
fn in_images(file: &Path) -> PathBuf {
    let parts: Vec<_> = file.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    parts[parts.len().saturating_sub(2)..].iter().collect()
}

fn broken(folder: &Path, reason: impl Into<String>) -> DriverError {
    let message = format!("The image in `{}` is not usable: {}", folder.display(), reason.into());
    DriverError::refused(message).with_hint(BUILD_HINT)
}

impl Found {
    /// A user's own disk image: it has to have cloud-init, which cannot be seen from outside.
    fn disk(path: &Path, option: &str) -> Result<Self, DriverError> {
        let refused = |error| {
            DriverError::refused(format!("The image of `--{option}` cannot be used")).with_source(error)
        };
        let path = fs::canonicalize(path)
            .map_err(|source| refused(disk::DiskError::Read { path: path.to_owned(), source }))?;
        let facts = disk::inspect(&path).map_err(refused)?;
        let metadata = fs::metadata(&path)
            .map_err(|source| refused(disk::DiskError::Read { path: path.clone(), source }))?;
        // The file may change or go away; what it is now is known by these.
        let identity = identity(&path, &metadata);
        let file = if facts.format == Format::Qcow2 { "disk.qcow2" } else { "disk.raw" };
        Ok(Self {
            name: "disk".into(),
            version: hexadecimal(&Sha256::digest(identity))[..12].to_owned(),
            user: "docker".into(),
            services: Services::Systemd,
            command_line: String::new(),
            kernel: None,
            disk: Some(Source { path, file, size: metadata.len(), digest: None }),
        })
    }

    fn in_folder(name: &str, folder: &Path, unpacked_kernel: bool) -> Result<Self, DriverError> {
        let path = folder.join(MANIFEST);
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(LARGEST_MANIFEST).read_to_string(&mut text))
            .map_err(|error| broken(folder, "its manifest cannot be read").with_source(error))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| broken(folder, "its manifest is not understood").with_source(error))?;
        if manifest.name != name || !is_image_name(&manifest.version) {
            return Err(broken(
                folder,
                format!(
                    "it calls itself `{}`, version `{}`",
                    manifest.name.escape_debug(),
                    manifest.version.escape_debug()
                ),
            ));
        }
        if manifest.cmdline.len() > LONGEST_COMMAND_LINE || manifest.cmdline.contains(char::is_control) {
            return Err(broken(folder, "its kernel's command line makes no sense"));
        }
        let source = |file: &'static str| -> Result<Option<Source>, DriverError> {
            let Some(digest) = manifest.sha256.get(file) else { return Ok(None) };
            let path = folder.join(file);
            let metadata = fs::metadata(&path)
                .map_err(|error| broken(folder, format!("`{file}` is missing")).with_source(error))?;
            if digest.len() != 64
                || !digest.bytes().all(|byte| byte.is_ascii_hexdigit())
                || !metadata.is_file()
            {
                return Err(broken(folder, format!("`{file}` cannot be verified")));
            }
            let digest = Some(digest.to_ascii_lowercase());
            Ok(Some(Source { path, file, size: metadata.len(), digest }))
        };
        let disk = source("disk.qcow2")?;
        let direct = manifest.boot.as_deref() == Some("direct") || disk.is_none();
        let kernel = if direct {
            let unpacked = if unpacked_kernel { source("vmlinux")? } else { None };
            let kernel = unpacked.map_or_else(|| source("vmlinuz"), |found| Ok(Some(found)))?;
            let initrd = source("initrd.img")?;
            Some(kernel.zip(initrd).ok_or_else(|| broken(folder, "it has no kernel to boot"))?)
        } else {
            None
        };
        if let Some(disk) = &disk {
            disk::inspect(&disk.path)
                .map_err(|error| broken(folder, "its disk is none").with_source(error))?;
        }
        let own_os = manifest.name == "machineos";
        let user = manifest.user.unwrap_or_else(|| match name {
            "debian-12" => "debian".into(),
            _ => "docker".into(),
        });
        Ok(Self {
            name: manifest.name,
            version: manifest.version,
            user,
            services: if own_os { Services::MachineOs } else { Services::Systemd },
            command_line: manifest.cmdline,
            kernel,
            disk,
        })
    }

    /// Whether this is where the files of a recorded image came from.
    fn is_source_of(&self, image: &Image) -> bool {
        let place = self.place(Path::new(""));
        let mut files = image.files().peekable();
        files.peek().is_some()
            && files.all(|file| in_images(file).parent() == in_images(&place.join("x")).parent())
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        self.kernel.iter().flat_map(|(kernel, initrd)| [kernel, initrd]).chain(&self.disk)
    }

    /// How many bytes the cache is about to grow by.
    pub fn bytes_to_copy(&self, cache: &Path) -> u64 {
        if self.cached(&self.place(cache)) { 0 } else { self.sources().map(|source| source.size).sum() }
    }

    /// The folder of this very content in the cache.
    fn place(&self, cache: &Path) -> PathBuf {
        let mut digest = Sha256::new();
        for source in self.sources() {
            digest.update(format!("{} {}\n", source.file, source.digest.as_deref().unwrap_or_default()));
        }
        let digest = &hexadecimal(&digest.finalize())[..12];
        cache.join(IMAGES).join(format!("{}-{}-{digest}", self.name, self.version))
    }

    fn cached(&self, place: &Path) -> bool {
        self.sources().all(|source| {
            fs::metadata(place.join(source.file))
                .is_ok_and(|file| file.is_file() && file.len() == source.size)
        })
    }

    /// Copies the image to the cache, verifying it on the way, unless it is there. Blocks.
    pub fn adopt(&self, cache: &Path) -> Result<Image, DriverError> {
        let images = cache.join(IMAGES);
        let place = self.place(cache);
        if !self.cached(&place) {
            self.copy(&images, &place)?;
        }
        let base = match &self.disk {
            None => None,
            Some(source) => {
                let path = place.join(source.file);
                let facts = disk::inspect(&path).map_err(|error| {
                    DriverError::refused("The image in the cache is damaged").with_source(error)
                })?;
                Some(Base { path: in_images(&path), format: facts.format, size: facts.size })
            }
        };
        Ok(Image {
            name: self.name.clone(),
            version: self.version.clone(),
            user: self.user.clone(),
            services: self.services,
            kernel: self.kernel.as_ref().map(|(kernel, initrd)| Kernel {
                file: in_images(&place.join(kernel.file)),
                initrd: in_images(&place.join(initrd.file)),
                command_line: self.command_line.clone(),
            }),
            base,
        })
    }

    fn copy(&self, images: &Path, place: &Path) -> Result<(), DriverError> {
        let failed = |what: &Path| {
            let message = format!("Could not copy the image to `{}`", what.display());
            move |error: io::Error| DriverError::failed(message.clone()).with_source(error)
        };
        fs::create_dir_all(images).map_err(failed(images))?;
        let lock = images.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(failed(&lock))?;
        file.lock().map_err(failed(&lock))?;
        if self.cached(place) {
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
        for source in self.sources() {
            let target = partial.join(source.file);
            let digest = copy_sparse(&source.path, &target).map_err(failed(&target))?;
            if source.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
                fs::remove_dir_all(&partial).map_err(failed(&partial))?;
                let message = format!("`{}` is not what its manifest says", source.path.display());
                return Err(DriverError::refused(message).with_hint(BUILD_HINT));
            }
        }
        fs::rename(&partial, place).map_err(failed(place))
    }
}

/// What tells a file, as it is now, from others and from what it may become.
#[cfg(unix)]
fn identity(path: &Path, metadata: &fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        path.display(),
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}

/// What tells a file, as it is now, from others and from what it may become.
#[cfg(not(unix))]
fn identity(path: &Path, metadata: &fs::Metadata) -> String {
    format!("{}\n{}\n{:?}", path.display(), metadata.len(), metadata.modified().ok())
}

/// Copies a file, leaving holes where it is empty, and returns its SHA-256. The copy cannot be written.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<String> {
    let mut source = File::open(from)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o444);
    let mut target = options.open(to)?;
    let mut digest = Sha256::new();
    let mut block = vec![0; COPY_BLOCK];
    let mut size = 0_u64;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match source.read(&mut block[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        let content = &block[..filled];
        digest.update(content);
        size += filled as u64;
        if content.iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Start(size))?;
        } else {
            target.write_all(content)?;
        }
    }
    target.set_len(size)?;
    target.sync_all()?;
    Ok(hexadecimal(&digest.finalize()))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(all(test, unix))]
mod tests;

//! What a VM boots: an image by its name, or the user's own disk or disc.
//!
//! What VMs share is in the cache, written once: boot discs, and base disks under the VMs' own differencing disks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use machine_driver::{
    DriverError,
    local::image::{self as shared, Services, hexadecimal},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    boot,
    config::{Config, IMAGE},
    program::VBoxManage,
    work::blocking,
};

/// Folders in the cache.
const BOOT: &str = "boot";
const BASES: &str = "bases";
/// MachineOS then keeps containers from this machine's loopback.
const HOST_LOOPBACK_DENIED: &str = " machineos.host-loopback=deny";

/// What a VM is made from, as it is recorded. Files are named from the cache on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) user: String,
    pub(crate) services: Services,
    /// The disc that it boots from, shared with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<PathBuf>,
    /// The disk under its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<PathBuf>,
}

impl Image {
    pub(crate) fn boot_disc(&self, cache: &Path) -> Option<PathBuf> {
        self.boot.as_ref().map(|file| cache.join(file))
    }

    pub(crate) fn base_disk(&self, cache: &Path) -> Option<PathBuf> {
        self.base.as_ref().map(|file| cache.join(file))
    }
}

/// What a user's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disc,
    /// VirtualBox opens it by itself.
    Disk,
    /// Nothing but the sectors of a disk.
    Raw,
}

/// A file of the user's, looked at.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    kind: Kind,
    /// Its name in the cache: the file may change or go away, and is known by what it is now.
    name: String,
}

impl Own {
    fn look(path: &Path) -> Result<Self, DriverError> {
        let refused = |reason: &str| {
            DriverError::refused(format!(
                "`{}` cannot be used as the image of `--{IMAGE}`: {reason}",
                path.display()
            ))
        };
        let unreadable = |error: io::Error| refused("it cannot be read").with_source(error);
        let path = fs::canonicalize(path).map_err(unreadable)?;
        let facts = fs::metadata(&path).map_err(unreadable)?;
        if !facts.is_file() {
            return Err(refused("it is no file"));
        }
        let mut file = File::open(&path).map_err(unreadable)?;
        let mut head = Vec::new();
        file.by_ref().take(512).read_to_end(&mut head).map_err(unreadable)?;
        let kind = kind(&head, &mut file)
            .map_err(unreadable)?
            .ok_or_else(|| refused("it is neither a disk (VDI, VMDK, VHD, qcow2, raw) nor a disc (ISO)"))?;
        let changed = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let identity = format!("{}\n{}\n{changed:?}", path.display(), facts.len());
        let digest = &hexadecimal(&Sha256::digest(identity))[..12];
        Ok(Self { path, kind, name: format!("own-{digest}") })
    }
}

fn kind(head: &[u8], file: &mut File) -> io::Result<Option<Kind>> {
    if head.starts_with(b"<<< ") && head.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe])
        || head.starts_with(b"KDMV")
        || head.starts_with(b"# Disk DescriptorFile")
        || head.starts_with(b"QFI\xfb")
        || head.starts_with(b"conectix")
    {
        return Ok(Some(Kind::Disk));
    }
    let mut label = [0; 6];
    file.seek(SeekFrom::Start(16 * 2048))?;
    if file.read_exact(&mut label).is_ok() && label[1..] == *b"CD001" {
        return Ok(Some(Kind::Disc));
    }
    // A fixed VHD has its mark at the end.
    let size = file.seek(SeekFrom::End(0))?;
    let mut mark = [0; 8];
    if size > 512 {
        file.seek(SeekFrom::End(-512))?;
        file.read_exact(&mut mark)?;
        if mark == *b"conectix" {
            return Ok(Some(Kind::Disk));
        }
    }
    Ok((head.len() == 512 && head.ends_with(&[0x55, 0xaa]) && size >= 1 << 20).then_some(Kind::Raw))
}

/// Refuses what cannot be an image. Blocks.
pub(crate) fn check(config: &Config, folders: &[PathBuf]) -> Result<(), DriverError> {
    match config.own_image() {
        Some(path) => Own::look(path).map(drop),
        None => shared::find(config.wanted_image(folders)).map(drop),
    }
}

/// Puts into the cache what is not there yet.
pub(crate) async fn provide(
    manage: &VBoxManage,
    config: &Config,
    cache: &Path,
    folders: &[PathBuf],
) -> Result<Image, DriverError> {
    let owned = (config.clone(), cache.to_owned(), folders.to_vec());
    if let Some(path) = config.own_image() {
        let path = path.to_owned();
        let own = blocking(move || Own::look(&path)).await?;
        let mut image = Image { user: "docker".into(), services: Services::Systemd, boot: None, base: None };
        match own.kind {
            Kind::Disc => {
                let file = Path::new(BOOT).join(format!("{}.iso", own.name));
                let (from, to) = (own.path, cache.join(&file));
                blocking(move || copy_once(&from, &to)).await?;
                image.boot = Some(file);
            }
            Kind::Disk | Kind::Raw => {
                let file = Path::new(BASES).join(format!("{}.vdi", own.name));
                convert(manage, &own.path, own.kind == Kind::Raw, &cache.join(&file)).await?;
                image.base = Some(file);
            }
        }
        return Ok(image);
    }
    let (found, disc) = blocking(move || {
        let (config, cache, folders) = owned;
        let found = shared::find(config.wanted_image(&folders))?.adopt(&cache)?;
        let disc = boot_disc(&found, &config, &cache)?;
        Ok((found.in_cache(&cache), disc))
    })
    .await?;
    let base = match &found.base {
        None => None,
        Some(base) => {
            let folder = base.path.parent().and_then(Path::file_name).unwrap_or_default();
            let file = Path::new(BASES).join(format!("{}.vdi", folder.to_string_lossy()));
            let is_raw = base.format == machine_driver::local::disk::Format::Raw;
            convert(manage, &base.path, is_raw, &cache.join(&file)).await?;
            Some(file)
        }
    };
    Ok(Image { user: found.user, services: found.services, boot: disc, base })
}

/// The disc that starts the kernel of an image.
fn boot_disc(image: &shared::Image, config: &Config, cache: &Path) -> Result<Option<PathBuf>, DriverError> {
    let located = image.in_cache(cache);
    let Some(kernel) = located.kernel else { return Ok(None) };
    let failed = |error| DriverError::failed("Could not write the boot disc of the image").with_source(error);
    let deny = if image.services == Services::MachineOs && !config.host_loopback {
        HOST_LOOPBACK_DENIED
    } else {
        ""
    };
    let command_line = format!("{}{deny}", kernel.command_line);
    let folder = kernel.file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let digest = &hexadecimal(&Sha256::digest(&command_line))[..8];
    let file = Path::new(BOOT).join(format!("{folder}-{digest}.iso"));
    let path = cache.join(&file);
    let _lock = lock(&path)?;
    // Reading them costs nothing; writing is left out where the disc is there.
    let least = if path.exists() {
        boot::look(&kernel.file, &kernel.initrd, &command_line).map_err(failed)?
    } else {
        boot::write(&path, &kernel.file, &kernel.initrd, &command_line).map_err(failed)?
    }
    .least_memory;
    if config.memory < least {
        return Err(DriverError::refused(format!(
            "The image `{}` needs {least} MiB of memory, and the VM is to have {}",
            config.image, config.memory
        ))
        .with_hint("Choose more with `--virtualbox-memory`"));
    }
    Ok(Some(file))
}

/// Held while a file of the cache is made.
fn lock(path: &Path) -> Result<File, DriverError> {
    let folder = path.parent().unwrap_or(path);
    let failed = |error: io::Error| {
        DriverError::failed(format!("Could not write to `{}`", folder.display())).with_source(error)
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn copy_once(from: &Path, to: &Path) -> Result<(), DriverError> {
    let _lock = lock(to)?;
    if to.exists() {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    fs::copy(from, &partial).and_then(|_| fs::rename(&partial, to)).map_err(|error| {
        DriverError::failed(format!("Could not copy the image to `{}`", to.display())).with_source(error)
    })
}

/// Makes a base disk of an image, once.
async fn convert(manage: &VBoxManage, from: &Path, is_raw: bool, to: &Path) -> Result<(), DriverError> {
    let locked = to.to_owned();
    let _lock = blocking(move || lock(&locked)).await?;
    if to.exists() {
        return Ok(());
    }
    let partial = to.with_extension("partial.vdi");
    let (source, target) = (text(from)?, text(&partial)?);
    let attempt = || format!("Could not make a base disk of `{}`", from.display());
    forget(manage, target).await;
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DriverError::failed(attempt()).with_source(error));
        }
        _ => {}
    }
    let made = if is_raw {
        manage.take_time(&["convertfromraw", source, target, "--format", "VDI"]).await
    } else {
        let known = manage.call(&["list", "hdds"]).await.map_err(|error| error.into_error(attempt()))?;
        let made = manage.take_time(&["clonemedium", "disk", source, target, "--format", "VDI"]).await;
        // A disk of the user's that VirtualBox knew before stays known.
        let is_known =
            known.lines().any(|line| line.strip_prefix("Location:").is_some_and(|at| at.trim() == source));
        if !is_known {
            forget(manage, source).await;
        }
        made
    };
    made.map_err(|error| error.into_error(attempt()))?;
    forget(manage, target).await;
    fs::rename(&partial, to).map_err(|error| DriverError::failed(attempt()).with_source(error))
}

/// Has VirtualBox forget a disk that no VM uses; others it keeps.
async fn forget(manage: &VBoxManage, disk: &str) {
    if let Err(error) = manage.call(&["closemedium", "disk", disk]).await {
        tracing::debug!(%error, disk, "not forgotten");
    }
}

/// VBoxManage's arguments are text here.
pub(crate) fn text(path: &Path) -> Result<&str, DriverError> {
    path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(|| {
        DriverError::refused(format!(
            "The path `{}` has characters that VirtualBox does not take",
            path.display().to_string().escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_known_by_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let look = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            Own::look(&path).map(|own| own.kind)
        };
        let mut vdi = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
        vdi.resize(64, 0);
        vdi.extend([0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(look(&vdi).unwrap(), Kind::Disk);
        assert_eq!(look(b"KDMV").unwrap(), Kind::Disk);
        let mut disc = vec![0; 20 * 2048];
        disc[16 * 2048 + 1..16 * 2048 + 6].copy_from_slice(b"CD001");
        assert_eq!(look(&disc).unwrap(), Kind::Disc);
        let mut raw = vec![0; 2 << 20];
        raw[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(look(&raw).unwrap(), Kind::Raw);
        let end = raw.len() - 512;
        raw[end..end + 8].copy_from_slice(b"conectix");
        assert_eq!(look(&raw).unwrap(), Kind::Disk);
        for content in [&b""[..], b"hello", &[0; 4096]] {
            let error = look(content).unwrap_err();
            assert!(error.to_string().contains("it is neither a disk"), "{error}");
        }
        assert!(Own::look(folder.path()).unwrap_err().to_string().ends_with("it is no file"));
        assert!(Own::look(Path::new("/nonexistent/x")).is_err());
    }
}

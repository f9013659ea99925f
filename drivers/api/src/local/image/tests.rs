#![allow(clippy::unwrap_used)]
use std::os::unix::fs::MetadataExt as _;

use crate::ErrorKind;
use serde_json::json;

use super::*;

/// A folder of images with one called `tiny`.
fn images(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("tiny");
    fs::create_dir(&image).unwrap();
    let digests: BTreeMap<_, _> =
        files.iter().map(|(name, content)| (*name, hexadecimal(&Sha256::digest(content)))).collect();
    for (name, content) in files {
        fs::write(image.join(name), content).unwrap();
    }
    write_manifest(
        &folder,
        &json!({
            "name": "tiny", "version": "0.1.0-abc", "kernel": "6.1", "boot": "direct",
            "cmdline": "console=ttyS0", "inputs": "x", "sha256": digests
        }),
    );
    folder
}

fn write_manifest(folder: &tempfile::TempDir, manifest: &serde_json::Value) {
    fs::write(folder.path().join("tiny").join(MANIFEST), manifest.to_string()).unwrap();
}

fn wanted<'a>(image: &'a str, folders: &'a [PathBuf]) -> Wanted<'a> {
    Wanted { image, option: "qemu-image", unpacked_kernel: true, folders }
}

fn find_tiny(folder: &tempfile::TempDir) -> Result<Found, DriverError> {
    find(wanted("tiny", &["/nonexistent".into(), folder.path().to_owned()]))
}

const KERNEL: [(&str, &[u8]); 3] = [("vmlinuz", b"small"), ("vmlinux", b"large"), ("initrd.img", b"initrd")];

#[test]
fn an_image_is_copied_once_and_stays_when_its_source_changes() {
    let (folder, cache) = (images(&KERNEL), tempfile::tempdir().unwrap());
    let found = find_tiny(&folder).unwrap();
    assert_eq!(found.bytes_to_copy(cache.path()), 11);
    let image = found.adopt(cache.path()).unwrap();
    let kernel = image.in_cache(cache.path()).kernel.unwrap();
    assert_eq!(fs::read(&kernel.file).unwrap(), b"large");
    assert_eq!(kernel.command_line, "console=ttyS0");
    assert_eq!(fs::metadata(&kernel.file).unwrap().mode() & 0o777, 0o444);
    let first = fs::metadata(&kernel.file).unwrap().ino();
    assert_eq!(found.bytes_to_copy(cache.path()), 0);
    assert_eq!(found.adopt(cache.path()).unwrap(), image);
    assert_eq!(fs::metadata(&kernel.file).unwrap().ino(), first);

    let rebuilt = images(&[("vmlinuz", b"small"), ("initrd.img", b"other")]);
    let second = find_tiny(&rebuilt).unwrap().adopt(cache.path()).unwrap();
    let second = second.in_cache(cache.path()).kernel.unwrap();
    assert_ne!(second.file, kernel.file);
    assert_eq!(fs::read(&kernel.initrd).unwrap(), b"initrd");
}

#[test]
fn a_file_that_is_not_what_the_manifest_says_is_refused() {
    let (folder, cache) = (images(&KERNEL), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("tiny/initrd.img"), "forged").unwrap();
    let error = find_tiny(&folder).unwrap().adopt(cache.path()).unwrap_err();
    assert!(error.to_string().ends_with("is not what its manifest says"), "{error}");
    let left: Vec<_> =
        fs::read_dir(cache.path().join("images")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn what_a_crash_left_is_replaced() {
    let (folder, cache) = (images(&KERNEL), tempfile::tempdir().unwrap());
    fs::create_dir_all(cache.path().join("images/partial")).unwrap();
    fs::write(cache.path().join("images/partial/vmlinux"), "half").unwrap();
    find_tiny(&folder).unwrap().adopt(cache.path()).unwrap();
    assert!(!cache.path().join("images/partial").exists());
}

#[test]
fn broken_manifests_are_refused_before_anything_is_copied() {
    let digest = "0".repeat(64);
    for manifest in [
        json!({"name": "other", "version": "1", "sha256": {}}),
        json!({"name": "tiny", "version": "../../x", "sha256": {}}),
        json!({"name": "tiny", "version": "1", "sha256": {}}),
        json!({"name": "tiny", "version": "1", "sha256": {"vmlinuz": "short", "initrd.img": digest}}),
        json!({"name": "tiny", "version": "1", "sha256": {"vmlinuz": digest, "initrd.img": digest}, "cmdline": "a\nb"}),
        json!({"name": "tiny", "version": "1", "sha256": {"disk.qcow2": digest}}),
        json!([]),
    ] {
        let folder = images(&KERNEL);
        write_manifest(&folder, &manifest);
        let error = find_tiny(&folder).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused, "{manifest}");
        assert!(error.hint().is_some_and(|hint| hint.contains("cargo xtask image")), "{manifest}");
    }
}

#[test]
fn a_missing_image_is_refused_with_a_hint() {
    let error = find(wanted("machineos", &["/nonexistent/images".into()])).unwrap_err();
    assert_eq!(error.to_string(), "There is no image `machineos` in `/nonexistent/images`");
    assert!(error.hint().is_some());
}

#[test]
fn a_users_own_disk_is_copied_as_it_is_now() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("own.img");
    let mut content = vec![0; 3 << 20];
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    content[2 << 20] = 7;
    fs::write(&path, &content).unwrap();
    let image = find(wanted(path.to_str().unwrap(), &[])).unwrap().adopt(cache.path()).unwrap();
    let base = image.in_cache(cache.path()).base.unwrap();
    assert_eq!((base.format, base.size, image.kernel), (Format::Raw, 3 << 20, None));
    assert_eq!(fs::read(&base.path).unwrap(), content);
    assert!(fs::metadata(&base.path).unwrap().blocks() * 512 < 1 << 20, "the copy has no holes");

    fs::write(&path, "not an image any more").unwrap();
    let error = find(wanted(path.to_str().unwrap(), &[])).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused);
}

#[test]
fn a_cache_that_was_moved_is_found_whatever_the_record_says() {
    let (folder, cache) = (images(&KERNEL), tempfile::tempdir().unwrap());
    let recorded = find_tiny(&folder).unwrap().adopt(&cache.path().join("old")).unwrap();
    let in_full = recorded.in_cache(&cache.path().join("old"));
    fs::rename(cache.path().join("old"), cache.path().join("new")).unwrap();
    let place = cache.path().join("new");
    for recorded in [recorded, in_full] {
        let kernel = recorded.provide(&place, wanted("tiny", &[])).unwrap().kernel.unwrap();
        assert!(kernel.file.starts_with(&place), "{kernel:?}");
        assert_eq!(fs::read(&kernel.file).unwrap(), b"large");
    }
}

#[test]
fn a_cache_that_is_gone_is_filled_from_the_very_same_image_only() {
    let (folder, cache) = (images(&KERNEL), tempfile::tempdir().unwrap());
    let recorded = find_tiny(&folder).unwrap().adopt(cache.path()).unwrap();
    fs::remove_dir_all(cache.path().join("images")).unwrap();
    let kernel =
        recorded.provide(cache.path(), wanted("tiny", &[folder.path().to_owned()])).unwrap().kernel.unwrap();
    assert_eq!(fs::read(&kernel.file).unwrap(), b"large");

    fs::remove_dir_all(cache.path().join("images")).unwrap();
    let other = images(&[("vmlinux", b"newer"), ("initrd.img", b"initrd")]);
    for folders in [vec![], vec![other.path().to_owned()]] {
        let error = recorded.provide(cache.path(), wanted("tiny", &folders)).unwrap_err();
        assert!(error.to_string().ends_with("of the image is gone; the VM's own disk is there"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("Put `") && !hint.contains("rm")), "{error:?}");
    }
}

//! The store as a whole: real archives, hostile archives, restarts.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine_model::platform;
use engine_store::ReadError;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

mod formats;
mod making;
mod recovery;

/// A tar stream under construction; headers are made by hand so that hostile ones can be made too.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_mut_bytes();
        raw[..path.len()].copy_from_slice(path.as_bytes());
        raw[156] = kind;
        raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(if kind == b'5' { 0o755 } else { 0o4644 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path, "", content)
    }

    fn directory(self, path: &str) -> Self {
        self.entry(b'5', path, "", b"")
    }

    fn pax(self, key: &str, value: &str) -> Self {
        let mut length = key.len() + value.len() + 3;
        length += length.to_string().len();
        if length.to_string().len() + key.len() + value.len() + 3 != length {
            length += 1;
        }
        let record = format!("{length} {key}={value}\n");
        self.entry(b'x', "pax", "", record.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// What `docker save` would write for one image of these uncompressed layers.
fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    docker_archive_packed(tags, layers, <[u8]>::to_vec)
}

fn docker_archive_packed(tags: &[&str], layers: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09.123456789Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}, "Labels": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2024-05-06T07:08:09Z", "created_by": "made by hand"}],
    });
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    let mut archive = Tar::default().file("config.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        archive = archive.file(name, &pack(layer));
    }
    archive.file("manifest.json", manifest.to_string().as_bytes()).end()
}

fn open(root: &Path) -> Result<ImageStore, ImageError> {
    ImageStore::open(root, &Quarantine::of(root.parent().unwrap()))
}

struct Fixture {
    directory: tempfile::TempDir,
    store: ImageStore,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("images")).unwrap();
        Self { directory, store }
    }

    fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        self.store.load(Cursor::new(archive), &mut |_| ())
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    fn reopened(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = open(&directory.path().join("images")).unwrap();
        Self { directory, store }
    }

    fn names_in(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing of any load is left.
    fn assert_empty(&self) {
        for directory in ["tmp", "layers", "l", "configs"] {
            assert_eq!(self.names_in(directory), Vec::<String>::new(), "{directory}");
        }
        assert!(self.store.list().is_empty());
    }
}

fn base_layer() -> Vec<u8> {
    Tar::default()
        .directory("./")
        .directory("bin/")
        .file("bin/tool", b"#!/bin/sh\n")
        .entry(b'1', "bin/alias", "bin/tool", b"")
        .entry(b'2', "bin/link", "/etc/passwd", b"")
        .directory("etc")
        .file("etc/old", b"old")
        .end()
}

fn upper_layer() -> Vec<u8> {
    Tar::default()
        .file("etc/.wh.old", b"")
        .directory("opt")
        .file("opt/.wh..wh..opq", b"")
        .pax("SCHILY.xattr.user.note", "kept")
        .file("opt/new", b"new")
        .pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")
        .directory("redirected")
        .end()
}

#[test]
fn a_loaded_image_has_its_layers_ready_for_overlayfs() {
    let fixture = Fixture::new();
    let archive = docker_archive(&["busybox", "me/app:1"], &[base_layer(), upper_layer()]);
    let loaded = fixture.load(&archive).unwrap();
    assert_eq!(loaded[0].tags, ["busybox:latest", "me/app:1"]);

    let image = fixture.store.find("busybox").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(image.repo_tags, ["busybox:latest", "me/app:1"]);
    assert_eq!(image.size, 10 + 3 + 3);
    assert_eq!(image.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    assert!(image.config.exposed_ports.contains("80/tcp"));
    assert_eq!(image.diff_ids, [digest(&base_layer()), digest(&upper_layer())]);

    let directories = fixture.store.lower_dirs(&image.id).unwrap();
    let [upper, base] = directories.as_slice() else { panic!("{directories:?}") };
    let tool = fs::metadata(base.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mtime()), (7, 8, 1_600_000_000));
    assert_eq!(tool.permissions().mode() & 0o7777, 0o4644);
    assert_eq!(fs::metadata(base.join("bin/alias")).unwrap().ino(), tool.ino());
    assert_eq!(fs::read_link(base.join("bin/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(base.join("bin")).unwrap().mtime(), 1_600_000_000);

    let whiteout = fs::symlink_metadata(upper.join("etc/old")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    let attribute = |path: &Path, name: &str| {
        let mut value = [0; 16];
        rustix::fs::lgetxattr(path, name, &mut value).ok().map(|length| value[..length].to_vec())
    };
    assert_eq!(attribute(&upper.join("opt"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(attribute(&upper.join("opt/new"), "user.note").unwrap(), b"kept");
    assert_eq!(attribute(&upper.join("redirected"), "trusted.overlay.redirect"), None);
    assert!(!upper.join("opt/.wh..wh..opq").exists());
}

#[test]
fn images_are_found_by_id_prefix_and_name_and_not_otherwise() {
    let fixture = Fixture::new();
    let id = fixture.load(&docker_archive(&["busybox:1"], &[base_layer()])).unwrap()[0].id.clone();
    for text in
        [id.as_str(), id.hex(), id.short(), &id.hex()[..2], "busybox:1", "docker.io/library/busybox:1"]
    {
        assert_eq!(fixture.store.find(text).unwrap().id, id, "{text}");
    }
    for (text, said) in [
        ("busybox", "No such image: busybox:latest"),
        ("other:1", "No such image: other:1"),
        ("ffffffffffff", "No such image: ffffffffffff:latest"),
    ] {
        assert_eq!(fixture.store.find(text).unwrap_err().to_string(), said);
    }
    assert!(matches!(fixture.store.find("../x"), Err(ImageError::InvalidReference { .. })));
    assert!(matches!(fixture.store.find(""), Err(ImageError::InvalidReference { .. })));
}

#[test]
fn compressed_layers_and_archives_give_the_same_image() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd =
        |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let plain = Fixture::new();
    let id = plain.load(&docker_archive(&["a"], &[base_layer()])).unwrap()[0].id.clone();
    for archive in [
        gzip(&docker_archive(&["a"], &[base_layer()])),
        zstd(&docker_archive(&["a"], &[base_layer()])),
        docker_archive_packed(&["a"], &[base_layer()], gzip),
        docker_archive_packed(&["a"], &[base_layer()], zstd),
    ] {
        let fixture = Fixture::new();
        assert_eq!(fixture.load(&archive).unwrap()[0].id, id);
    }
}

#[test]
fn an_oci_layout_is_loaded_with_its_name_and_platform() {
    let layer = base_layer();
    let config = json!({
        "architecture": platform::architecture(), "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    })
    .to_string();
    let described = "application/vnd.oci.image.manifest.v1+json";
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": described, "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
         "platform": {"architecture": "riscv128", "os": "linux"}},
        {"mediaType": described, "digest": digest(manifest.as_bytes()), "size": manifest.len(),
         "annotations": {"org.opencontainers.image.ref.name": "registry.test/tool:2"}},
    ]});
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)[7..]);
    let archive = |manifest_said: &str| {
        Tar::default()
            .file("index.json", index.to_string().as_bytes())
            .file(&blob(manifest.as_bytes()), manifest_said.as_bytes())
            .file(&blob(config.as_bytes()), config.as_bytes())
            .file(&blob(&layer), &layer)
            .end()
    };
    let fixture = Fixture::new();
    let error = fixture.load(&archive(&manifest.replace('2', "3"))).unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    fixture.assert_empty();
    let loaded = fixture.load(&archive(&manifest)).unwrap();
    assert_eq!(loaded[0].tags, ["registry.test/tool:2"]);
    assert_eq!(loaded[0].id.as_str(), digest(config.as_bytes()));
}

#[test]
fn layers_are_shared_and_go_with_their_last_image() {
    let fixture = Fixture::new();
    let one = fixture.load(&docker_archive(&["one"], &[base_layer()])).unwrap()[0].id.clone();
    fixture.load(&docker_archive(&["two"], &[base_layer(), upper_layer()])).unwrap();
    assert_eq!(fixture.names_in("layers").len(), 2);
    assert_eq!(fixture.store.shared_size(&one), fixture.store.find("one").unwrap().size);

    let removed = fixture.store.remove("one", false, &nobody).unwrap();
    assert_eq!(removed, [Removed::Untagged("one:latest".to_owned()), Removed::Deleted(one.to_string())]);
    assert_eq!(fixture.names_in("layers").len(), 2);

    let fixture = fixture.reopened();
    let two = fixture.store.find("two").unwrap();
    assert!(fixture.store.lower_dirs(&two.id).unwrap()[1].join("bin/tool").exists());
    let removed = fixture.store.remove("two", false, &nobody).unwrap();
    assert_eq!(removed.len(), 4, "a name, an image, two layers: {removed:?}");
    fixture.assert_empty();
}

/// No container needs it.
fn nobody(_: &ImageId) -> Vec<ImageUser> {
    Vec::new()
}

/// A container that is made at the same time either is a user before the image goes, or finds that it is gone.
#[test]
fn nothing_changes_while_users_are_asked_for() {
    let fixture = Fixture::new();
    let id = fixture.load(&docker_archive(&["a:1"], &[base_layer()])).unwrap()[0].id.clone();
    let asked = std::cell::Cell::new(0);
    let removed = fixture.store.remove("a:1", false, &|image| {
        asked.set(asked.get() + 1);
        assert_eq!(*image, id);
        assert!(fixture.store.inner.state.try_lock().is_err());
        Vec::new()
    });
    assert!(removed.unwrap().contains(&Removed::Deleted(id.to_string())));
    assert_eq!(asked.get(), 1);
    assert!(fixture.store.lower_dirs(&id).is_err());
}

#[test]
fn removal_follows_dockers_rules() {
    let fixture = Fixture::new();
    let id = fixture.load(&docker_archive(&["a:1", "b:1"], &[base_layer()])).unwrap()[0].id.clone();
    let container = "0123456789abcdef".repeat(4);
    let stopped = [ImageUser { container: container.clone(), running: false }];
    let running = [ImageUser { container, running: true }];
    let remove = |text: &str, force, users: &[ImageUser]| {
        fixture.store.remove(text, force, &|_| users.to_vec()).map_err(|error| error.to_string())
    };

    let error = remove(id.short(), false, &[]).unwrap_err();
    let short = id.short();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    // One name of two: only the name goes, whoever uses the image.
    assert_eq!(remove("b:1", false, &running).unwrap(), [Removed::Untagged("b:1".to_owned())]);
    let error = remove("a:1", false, &stopped).unwrap_err();
    assert_eq!(
        error,
        format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container 0123456789ab is using its \
             referenced image {short}"
        )
    );
    let error = remove(short, false, &stopped).unwrap_err();
    assert!(
        error.ends_with("(must be forced) - image is being used by stopped container 0123456789ab"),
        "{error}"
    );
    let error = remove(short, true, &running).unwrap_err();
    assert!(
        error.ends_with("(cannot be forced) - image is being used by running container 0123456789ab"),
        "{error}"
    );

    // Forced away from a stopped container: gone for all to see, but the container can still start.
    let removed = remove(short, true, &stopped).unwrap();
    assert_eq!(removed, [Removed::Untagged("a:1".to_owned()), Removed::Deleted(id.to_string())]);
    assert!(fixture.store.find(short).is_err() && fixture.store.list().is_empty());
    let fixture = fixture.reopened();
    assert!(fixture.store.lower_dirs(&id).unwrap()[0].join("bin/tool").exists());
    fixture.store.collect_hidden(&BTreeSet::from([id.clone()])).unwrap();
    assert!(fixture.store.lower_dirs(&id).is_ok());
    fixture.store.collect_hidden(&BTreeSet::new()).unwrap();
    assert!(fixture.store.lower_dirs(&id).is_err());
    fixture.assert_empty();
}

#[test]
fn a_moved_tag_leaves_the_old_image_without_a_name() {
    let fixture = Fixture::new();
    let old = fixture.load(&docker_archive(&["app"], &[base_layer()])).unwrap()[0].id.clone();
    let new = fixture.load(&docker_archive(&["app"], &[upper_layer()])).unwrap()[0].id.clone();
    assert_eq!(fixture.store.find("app").unwrap().id, new);
    assert!(fixture.store.find(old.as_str()).unwrap().repo_tags.is_empty());
    fixture.store.tag(old.short(), "registry:5000/kept:v1").unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.find("registry:5000/kept:v1").unwrap().id, old);
    assert!(matches!(fixture.store.tag("app", "Bad"), Err(ImageError::UpperCaseReference { .. })));
    assert!(matches!(fixture.store.tag("nothing", "x"), Err(ImageError::NotFound { .. })));
}

#[test]
fn saved_images_come_back_the_same() {
    let first = Fixture::new();
    // Padding behind the end marks is part of the digest and has to come back too.
    let mut odd = upper_layer();
    odd.resize(odd.len() + 7 * 512, 0);
    let layers = [base_layer(), odd];
    let id = first.load(&docker_archive(&["app:1", "app:2"], &layers)).unwrap()[0].id.clone();
    let mut saved = Vec::new();
    first.store.save(&["app:1".to_owned(), id.to_string()], &mut saved).unwrap();
    let second = Fixture::new();
    let loaded = second.load(&saved).unwrap();
    assert_eq!(loaded, [Loaded { id: id.clone(), tags: vec!["app:1".to_owned()] }]);
    let mut again = Vec::new();
    second.store.save(&["app:1".to_owned()], &mut again).unwrap();
    assert_eq!(digest(&saved), digest(&again));

    let changed = first.store.lower_dirs(&id).unwrap()[1].join("bin/tool");
    fs::write(changed, b"#!/bin/no\n").unwrap();
    let error = first.store.save(&["app:1".to_owned()], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ImageError::NotReproducible { .. }), "{error}");
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let outside = fixture.directory.path().join("victim");
    fs::write(&outside, "safe").unwrap();
    let one_layer = |layer: Tar| docker_archive(&["evil"], &[layer.end()]);
    let mut wrong_digest = docker_archive(&["evil"], &[base_layer()]);
    let at = wrong_digest.windows(4).position(|bytes| bytes == b"#!/b").unwrap();
    wrong_digest[at] = b'?';
    let mut wrong_checksum = docker_archive(&["evil"], &[base_layer()]);
    wrong_checksum[0] ^= 1;
    let truncated = |mut archive: Vec<u8>, length: usize| {
        archive.truncate(length);
        archive
    };
    let manifest = |text: &str| Tar::default().file("manifest.json", text.as_bytes()).file("c", b"{}").end();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("not tar", b"hello".to_vec(), "ends in the middle of a header"),
        ("noise", vec![7; 4096], "not a tar archive"),
        ("empty", Vec::new(), "neither `manifest.json` nor `index.json`"),
        ("checksum", wrong_checksum, "checksum"),
        ("truncated", truncated(docker_archive(&["evil"], &[base_layer()]), 3000), "in the middle of a file"),
        ("digest", wrong_digest, "has the digest"),
        ("climbs", one_layer(Tar::default().file("a/../../victim", b"x")), "leads out of the layer"),
        (
            "hard link climbs",
            one_layer(Tar::default().entry(b'1', "a", "../../victim", b"")),
            "leads out of the layer",
        ),
        (
            "hard link to nothing",
            one_layer(Tar::default().entry(b'1', "a", "/etc/shadow", b"")),
            "No such file",
        ),
        ("whiteout device", one_layer(Tar::default().entry(b'3', "a", "", b"")), "0:0 is a whiteout"),
        ("whiteout of ..", one_layer(Tar::default().file("a/.wh...", b"")), "A whiteout without a name"),
        (
            "sparse by pax",
            one_layer(Tar::default().pax("GNU.sparse.major", "1").file("a", b"")),
            "sparse file",
        ),
        ("unknown kind", one_layer(Tar::default().entry(b'V', "a", "", b"")), "not known"),
        ("long extension", one_layer(Tar::default().entry(b'x', "a", "", &vec![b'a'; 2 << 20])), "too long"),
        ("bad pax", one_layer(Tar::default().entry(b'x', "a", "", b"99 a=b\n").file("a", b"")), "malformed"),
        ("outer climbs", Tar::default().file("../manifest.json", b"[]").end(), "leads out of it"),
        (
            "outer device",
            Tar::default().entry(b'3', "manifest.json", "", b"").end(),
            "neither a file nor a link",
        ),
        (
            "outer link",
            Tar::default().entry(b'2', "manifest.json", "/etc/passwd", b"").end(),
            "leads out of it",
        ),
        (
            "link loop",
            Tar::default().entry(b'2', "manifest.json", "manifest.json", b"").end(),
            "neither `manifest.json`",
        ),
        ("no images", manifest("[]"), "no image"),
        ("not json", manifest("{"), "manifest.json is not as it should be"),
        ("no config", manifest(r#"[{"Config":"x","Layers":[]}]"#), "it lacks `x`"),
        ("layer count", manifest(r#"[{"Config":"c","Layers":["c"]}]"#), "names 0 layers, the manifest 1"),
        (
            "bad tag",
            manifest(r#"[{"Config":"c","RepoTags":["../x"],"Layers":[]}]"#),
            "invalid reference format",
        ),
        ("xz", [&[0xfd][..], b"7zXZ\0rest"].concat(), "only plain, gzip and zstd"),
    ];
    for (what, archive, expected) in cases {
        let error = fixture.load(&archive).map(|loaded| format!("{loaded:?}")).unwrap_err();
        let said = engine_model::chain(&error);
        assert!(said.contains(expected), "{what}: {said}");
        fixture.assert_empty();
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "safe");
}

#[test]
fn symbolic_links_in_a_layer_do_not_lead_out_of_it() {
    let fixture = Fixture::new();
    let outside = fixture.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let layer = Tar::default()
        .entry(b'2', "absolute", target, b"")
        .entry(b'2', "relative", "../../../../../../../../../..", b"")
        .directory("real")
        .entry(b'2', "alias", "real", b"")
        .file("alias/through", b"1")
        .file("relative/at-root", b"2")
        // Replaces the link, not what it points to.
        .file("absolute", b"3")
        .end();
    fixture.load(&docker_archive(&["a"], &[layer])).unwrap();
    let id = fixture.store.find("a").unwrap().id;
    let lower = fixture.store.lower_dirs(&id).unwrap().remove(0);
    assert_eq!(fs::read(lower.join("real/through")).unwrap(), b"1");
    assert_eq!(fs::read(lower.join("at-root")).unwrap(), b"2");
    assert_eq!(fs::read(lower.join("absolute")).unwrap(), b"3");
    assert!(fs::read_dir(&outside).unwrap().next().is_none());

    // A file beneath a dangling absolute link: refused rather than made anywhere.
    let layer = Tar::default().entry(b'2', "absolute", target, b"").file("absolute/evil", b"x").end();
    assert!(fixture.load(&docker_archive(&["b"], &[layer])).is_err());
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
}

#[test]
fn entries_replace_earlier_ones_of_the_same_layer() {
    let fixture = Fixture::new();
    let layer = Tar::default()
        .directory("a")
        .file("a/b", b"1")
        .file("a", b"now a file")
        .file("c", b"now a directory")
        .directory("c")
        .file(".wh.d", b"")
        .directory("d")
        .file("deep/er/file", b"2")
        .end();
    fixture.load(&docker_archive(&["a"], &[layer])).unwrap();
    let id = fixture.store.find("a").unwrap().id;
    let lower = fixture.store.lower_dirs(&id).unwrap().remove(0);
    assert_eq!(fs::read(lower.join("a")).unwrap(), b"now a file");
    assert!(lower.join("c").is_dir());
    assert_eq!(fs::read(lower.join("deep/er/file")).unwrap(), b"2");
    // What lies below a directory that was hidden and made anew must stay hidden.
    let mut value = [0; 1];
    rustix::fs::lgetxattr(lower.join("d"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value, b"y");
}

#[test]
fn debris_of_a_killed_load_goes_at_the_next_start() {
    let fixture = Fixture::new();
    fixture.load(&docker_archive(&["kept"], &[base_layer()])).unwrap();
    let root = fixture.root();
    fs::create_dir_all(root.join("tmp/load-1/layer-0/diff/bin")).unwrap();
    // Killed between moving a layer to its place and writing the state.
    fs::create_dir_all(root.join("layers").join("f".repeat(64)).join("diff")).unwrap();
    fs::write(root.join("configs").join(format!("{}.json", "f".repeat(64))), "{}").unwrap();
    std::os::unix::fs::symlink("../layers/x/diff", root.join("l/99")).unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.names_in("tmp"), Vec::<String>::new());
    assert_eq!(fixture.names_in("layers").len(), 1);
    assert_eq!(fixture.names_in("l").len(), 1);
    assert_eq!(fixture.names_in("configs").len(), 1);
    assert!(fixture.store.find("kept").is_ok());
}

#[test]
fn a_store_in_use_or_from_the_future_is_not_opened() {
    let fixture = Fixture::new();
    assert!(matches!(open(&fixture.root()), Err(ImageError::Locked { .. })));
    let Fixture { directory, store } = fixture;
    drop(store);
    let root = directory.path().join("images");
    fs::write(root.join("state.json"), r#"{"version": 99, "images": {}, "names": {}}"#).unwrap();
    assert!(matches!(open(&root), Err(ImageError::State(ReadError::Newer { found: 99, .. }))));
}

#[test]
fn loads_at_the_same_time_share_their_layers() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let store = fixture.store.clone();
            scope.spawn(move || {
                let archive = docker_archive(&[&format!("app:{number}")], &[base_layer(), upper_layer()]);
                store.load(Cursor::new(archive), &mut |_| ()).unwrap();
            });
        }
    });
    assert_eq!(fixture.store.list().len(), 1);
    assert_eq!(fixture.names_in("layers").len(), 2);
    let id = fixture.store.list()[0].id.clone();
    fixture.store.remove(id.as_str(), true, &nobody).unwrap();
    fixture.assert_empty();
}

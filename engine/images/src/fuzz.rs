//! Hostile references, manifests and archives.

use std::io::Read;

use super::archive::plan;
use super::configuration::ConfigFile;
use super::reference::Reference;
use super::spool::Spool;
use super::tar_reader::TarReader;

#[test]
fn references() {
    let corpus: [&[u8]; 8] = [
        b"busybox",
        b"docker.io/other.example/library/app",
        b"docker.io/library/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"registry.example:5000/team/app:1.2.3",
        b"localhost/a/b__c.d--e:latest",
        b"docker.io/library/alpine@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"[::1]:5000/x:y@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];
    fuzz::run("references", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(name) = Reference::parse(text) else { return };
        let _ = (name.repository(), name.familiar_repository(), name.tag(), name.digest());
        // What is written down is read the same.
        assert_eq!(Reference::parse(&name.to_string()).unwrap(), name);
        assert_eq!(Reference::parse(&name.familiar()).unwrap(), name);
        let tagged = name.with_default_tag();
        assert_eq!(tagged.clone().with_default_tag(), tagged);
    });
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z","config":{"Cmd":["sh"],"Env":["A=b"],
"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},"Labels":{"a":"b"},"Healthcheck":{"Test":["CMD","x"],"Interval":1000}},
"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
"history":[{"created":"2024-01-02T03:04:05Z","created_by":"x","empty_layer":true}]}"#;

#[test]
fn image_configurations() {
    fuzz::run("image_configurations", &[CONFIG, b"{}", b"null"], |input| {
        let _ = ConfigFile::parse(input);
    });
}

#[test]
fn manifests() {
    let folder = in_memory();
    let config = folder.path().join("config");
    std::fs::write(&config, CONFIG).unwrap();
    let document = folder.path().join("document");
    let docker: &[u8] = br#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["layer.tar"]}]"#;
    let index: &[u8] = br#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":
"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"annotations":{"org.opencontainers.image.ref.name":"1"},
"platform":{"architecture":"amd64","os":"linux"}}]}"#;
    let manifest: &[u8] =
        br#"{"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
"layers":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#;
    let blob = "blobs/sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    fuzz::run("manifests", &[docker, index, manifest], |input| {
        std::fs::write(&document, input).unwrap();
        let layer = ("layer.tar", config.as_path());
        let _ = plan(&Spool::of(&[("manifest.json", &document), ("config.json", &config), layer]));
        let _ = plan(&Spool::of(&[("index.json", &document), (blob, &document), layer]));
    });
}

/// A folder whose files cost little.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let long = "long/".repeat(30) + "name";
    for (kind, path, content) in [
        (tar::EntryType::Directory, "folder/", &b""[..]),
        (tar::EntryType::Regular, "folder/file", b"content"),
        (tar::EntryType::Regular, long.as_str(), b"more"),
        (tar::EntryType::Char, "device", b""),
        (tar::EntryType::XHeader, "pax", b"20 path=another-name\n19 mtime=1700000.5\n18 SCHILY.xattr.a=b\n"),
        (tar::EntryType::Regular, "after", b"x"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    archive.append_link(&mut header, "link", "folder/file").unwrap();
    archive.into_inner().unwrap()
}

/// Makes checksums of what looks like headers right, most of the time: nothing behind them would be reached otherwise.
fn right_checksums(mutator: &mut fuzz::Mutator, input: &mut [u8]) {
    if mutator.below(8) == 0 {
        return;
    }
    for block in input.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn tar() {
    let whole = archive();
    let one = whole[..2048].to_vec();
    fuzz::run_with(
        "tar",
        &[&whole, &one],
        |mutator, input| right_checksums(mutator, input),
        |input| {
            let mut around = 0;
            let sink = |bytes: &[u8]| {
                around += bytes.len();
                Ok(())
            };
            let mut reader = TarReader::new(input, sink);
            let mut buffer = [0; 4096];
            let mut inside = 0;
            while let Ok(Some(entry)) = reader.next_entry() {
                let _ = super::layer::components(&entry.path);
                while reader.remaining() > 0 {
                    match reader.read(&mut buffer) {
                        Ok(count) if count > 0 => inside += count,
                        _ => break,
                    }
                }
            }
            // Nothing is read twice, and nothing made up.
            assert!(around + inside <= input.len(), "{around} + {inside} of {}", input.len());
        },
    );
}

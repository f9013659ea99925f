//! Archives that other tools write: holes, frames without content, a path named twice, formats that are not read.

use std::process::Command;

use super::*;

fn saved(fixture: &Fixture) -> Vec<u8> {
    let mut saved = Vec::new();
    fixture.store.save(&["a".to_owned()], &mut saved).unwrap();
    saved
}

fn lower(fixture: &Fixture) -> PathBuf {
    let id = fixture.store.find("a").unwrap().id;
    fixture.store.lower_dirs(&id).unwrap().remove(0)
}

/// Saves the image and loads it elsewhere: the layers' digests are checked on the way.
fn goes_round(fixture: &Fixture) {
    let other = Fixture::new();
    other.load(&saved(fixture)).unwrap();
    assert_eq!(fixture.store.find("a").unwrap().id, other.store.find("a").unwrap().id);
    assert_eq!(digest(&saved(fixture)), digest(&saved(&other)));
}

#[test]
fn frames_of_zstd_without_content_are_passed_over() {
    let zstd =
        |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let note = |kind: u8, length: u32| {
        let mut frame = vec![kind, 0x2a, 0x4d, 0x18];
        frame.extend(length.to_le_bytes());
        frame.resize(frame.len() + length as usize, 7);
        frame
    };
    let archive = docker_archive(&["a"], &[base_layer()]);
    let (first, second) = archive.split_at(1500);
    let pieces = [note(0x50, 0), zstd(first), note(0x5e, 70_000), zstd(second), note(0x5f, 3)];
    Fixture::new().load(&pieces.concat()).unwrap();
    let noted = |bytes: &[u8]| [note(0x53, 9), zstd(bytes), note(0x50, 1)].concat();
    Fixture::new().load(&docker_archive_packed(&["a"], &[base_layer()], noted)).unwrap();
    for torn in [
        [note(0x50, 0), zstd(&archive), note(0x50, 9)[..12].to_vec()].concat(),
        [zstd(&archive), vec![0x50, 1, 2, 3, 4, 5, 6, 7]].concat(),
    ] {
        let fixture = Fixture::new();
        assert!(fixture.load(&torn).is_err());
        fixture.assert_empty();
    }
}

#[test]
fn formats_that_are_not_read_are_named_with_a_way_out() {
    for (magic, format, tool) in
        [(&b"\xfd7zXZ\0rest"[..], "xz", "unxz"), (b"BZh51AY&SYrest", "bzip2", "bunzip2")]
    {
        let fixture = Fixture::new();
        let packed = |_: &[u8]| magic.to_vec();
        for archive in [magic.to_vec(), docker_archive_packed(&["a"], &[base_layer()], packed)] {
            let error = fixture.load(&archive).unwrap_err();
            let said = engine_model::chain(&error);
            assert!(said.contains(&format!("compressed by {format}")) && said.contains(tool), "{said}");
            assert_eq!(error.kind(), engine_model::Kind::Invalid);
            fixture.assert_empty();
        }
    }
}

#[test]
fn files_with_holes_are_whole_in_every_format_of_gnu_tar() {
    let folder = tempfile::tempdir().unwrap();
    let holes = folder.path().join("holes");
    let expected = |pieces: u64| {
        let file = fs::File::create(&holes).unwrap();
        for piece in 0..pieces {
            std::os::unix::fs::FileExt::write_all_at(
                &file,
                &[b'a' + (piece % 20) as u8; 4096],
                piece * 65_536 + 8192,
            )
            .unwrap();
        }
        file.set_len(pieces * 65_536 + 300_001).unwrap();
        fs::read(&holes).unwrap()
    };
    // More pieces than a header holds, and than one block after it; and none at all.
    for pieces in [0, 3, 60] {
        let content = expected(pieces);
        for format in [
            &["--format=gnu"][..],
            &["--format=posix", "--sparse-version=0.0"],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ] {
            let mut tar = Command::new("tar");
            tar.args(format)
                .args(["--sparse", "--create", "--file=-", "--directory"])
                .arg(folder.path())
                .arg("holes");
            let layer = tar.output().unwrap();
            assert!(layer.status.success());
            let is_shorter = layer.stdout.len() < content.len();
            assert!(is_shorter, "tar has made nothing sparse of it");
            let fixture = Fixture::new();
            fixture.load(&docker_archive(&["a"], &[layer.stdout])).unwrap();
            let unpacked = lower(&fixture).join("holes");
            assert!(fs::read(&unpacked).unwrap() == content, "{pieces} {format:?}");
            assert!(
                fs::metadata(&unpacked).unwrap().blocks() * 512 < content.len() as u64,
                "the holes are kept"
            );
            goes_round(&fixture);
        }
    }
    // The archive of a whole image can be written so, too.
    fs::write(folder.path().join("image"), docker_archive(&["a"], &[base_layer()])).unwrap();
    let unpack = Command::new("tar").args(["-xf", "image"]).current_dir(folder.path()).status().unwrap();
    assert!(unpack.success());
    fs::remove_file(folder.path().join("image")).unwrap();
    let mut tar = Command::new("tar");
    let archive = tar.args(["--sparse", "-cf", "-", "."]).current_dir(folder.path()).output().unwrap().stdout;
    Fixture::new().load(&archive).unwrap();
}

#[test]
fn maps_that_do_not_fit_are_refused() {
    let map = |map: &str, size: &str, content: &[u8]| {
        Tar::default().pax("GNU.sparse.map", map).pax("GNU.sparse.size", size).file("x", content).end()
    };
    let fixture = Fixture::new();
    fixture.load(&docker_archive(&["a"], &[map("1,2", "10", b"ab")])).unwrap();
    assert_eq!(fs::read(lower(&fixture).join("x")).unwrap(), b"\0ab\0\0\0\0\0\0\0");
    for layer in [
        map("1,2", "2", b"ab"),
        map("1,2,2,1", "10", b"abc"),
        map("1,2", "10", b"abc"),
        map("1,2,3", "10", b"ab"),
        map("18446744073709551615,2", "10", b"ab"),
        map("x,2", "10", b"ab"),
        Tar::default().entry(b'S', "x", "", b"ab").end(),
        Tar::default().pax("GNU.sparse.numbytes", "2").file("x", b"ab").end(),
        Tar::default().pax("GNU.sparse.strange", "2").file("x", b"ab").end(),
    ] {
        let fixture = Fixture::new();
        let error = fixture.load(&docker_archive(&["a"], &[layer])).unwrap_err();
        assert_eq!(error.kind(), engine_model::Kind::Invalid, "{}", engine_model::chain(&error));
        fixture.assert_empty();
    }
}

/// Of the outer archive, all that is in a file is read and hashed.
#[test]
fn an_archive_that_is_nothing_but_holes_is_refused() {
    let fixture = Fixture::new();
    let archive = Tar::default()
        .pax("GNU.sparse.map", "0,2")
        .pax("GNU.sparse.size", "16000000000000")
        .file("layer.tar", b"ab")
        .end();
    let error = fixture.load(&archive).unwrap_err();
    let text = engine_model::chain(&error);
    assert!(
        error.kind() == engine_model::Kind::Invalid && text.contains("nearly all of them holes"),
        "{text}"
    );
    fixture.assert_empty();
}

#[test]
fn a_layer_that_names_a_path_twice_is_saved_as_it_came() {
    for layer in [
        Tar::default().file("a", b"first").file("b", b"other").file("a", b"the second one").end(),
        Tar::default().directory("d").file("d/x", b"in it").file("d", b"a file now").end(),
        Tar::default().file("a", b"1").entry(b'1', "l", "a", b"").file("l", b"its own").end(),
        Tar::default().directory("d").entry(b'2', "s", "d", b"").file("s/x", b"1").file("d/x", b"two").end(),
        Tar::default()
            .directory("d")
            .directory("e")
            .entry(b'2', "s", "d", b"")
            .file("s/x", b"1")
            .entry(b'2', "s", "e", b"")
            .end(),
        Tar::default().file("a", b"").file(".wh.w", b"").file("w", b"here").entry(b'2', "a", "w", b"").end(),
    ] {
        let fixture = Fixture::new();
        fixture.load(&docker_archive(&["a"], &[base_layer(), layer])).unwrap();
        goes_round(&fixture);
        let size = fixture.store.find("a").unwrap().size;
        // Its description is made anew from what is kept.
        let layers = fixture.root().join("layers");
        for entry in fs::read_dir(&layers).unwrap() {
            fs::write(entry.unwrap().path().join("layer.json"), "{").unwrap();
        }
        let fixture = fixture.reopened();
        assert_eq!(fixture.store.find("a").unwrap().size, size);
        goes_round(&fixture);
    }
}

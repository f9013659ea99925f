//! What a store does with files of its own that it cannot read.

use super::*;

/// Two images, one on top of the other, and a third on its own.
fn three_images() -> Fixture {
    let fixture = Fixture::new();
    let layer = |name: &str| Tar::default().file(name, name.as_bytes()).end();
    fixture.load(&docker_archive(&["base:1"], &[layer("a")])).unwrap();
    fixture.load(&docker_archive(&["top:1"], &[layer("a"), layer("b")])).unwrap();
    fixture.load(&docker_archive(&["other:1"], &[layer("c")])).unwrap();
    fixture
}

fn set_aside(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.directory.path().join("quarantine")).map_or(0, Iterator::count)
}

/// The lower directories of an image, as overlayfs would use them.
fn lower(fixture: &Fixture, name: &str) -> Vec<PathBuf> {
    let id = fixture.store.find(name).unwrap().id;
    let directories = fixture.store.lower_dirs(&id).unwrap();
    assert!(directories.iter().all(|directory| directory.is_dir()), "{directories:?}");
    directories
}

#[test]
fn a_torn_description_of_a_layer_is_made_again() {
    for damage in [Some(""), Some("{\"diff_id\":\"sha"), None] {
        let fixture = three_images();
        let before = (lower(&fixture, "top:1"), fixture.store.find("top:1").unwrap().size);
        let mut saved = Vec::new();
        fixture.store.save(&["top:1".to_owned()], &mut saved).unwrap();
        for layer in fixture.names_in("layers") {
            let path = fixture.root().join("layers").join(layer).join("layer.json");
            match damage {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        let fixture = fixture.reopened();
        assert_eq!(fixture.store.list().len(), 3, "{damage:?}");
        assert_eq!((lower(&fixture, "top:1"), fixture.store.find("top:1").unwrap().size), before);
        let mut again = Vec::new();
        fixture.store.save(&["top:1".to_owned()], &mut again).unwrap();
        assert!(again == saved, "what is saved is the same, byte for byte");
        assert_eq!(set_aside(&fixture), if damage.is_some() { 3 } else { 0 });
    }
}

#[test]
fn layers_of_an_image_that_cannot_be_read_stay() {
    let fixture = three_images();
    let used = lower(&fixture, "top:1");
    let id = fixture.store.find("top:1").unwrap().id;
    let layers = fixture.names_in("layers").len();
    fs::write(fixture.root().join("configs").join(format!("{}.json", id.hex())), "{\"rootfs\":").unwrap();
    // Several starts, and removals of images that share its layers.
    let fixture = fixture.reopened().reopened();
    assert!(matches!(fixture.store.find("top:1"), Err(ImageError::Unreadable { .. })));
    fixture.store.remove("base:1", false, &nobody).unwrap();
    fixture.store.remove("other:1", false, &nobody).unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.names_in("layers").len(), layers);
    assert!(used.iter().all(|directory| directory.is_dir()), "a container goes on with them");
    // New layers do not take the short names of those that nobody knows now.
    fixture.load(&docker_archive(&["new:1"], &[Tar::default().file("d", b"d").end()])).unwrap();
    assert!(lower(&fixture, "new:1").iter().all(|directory| !used.contains(directory)));
    // Loaded again, it is whole, and what is left over goes.
    let layer = |name: &str| Tar::default().file(name, name.as_bytes()).end();
    fixture.load(&docker_archive(&["top:1"], &[layer("a"), layer("b")])).unwrap();
    lower(&fixture, "top:1");
    let fixture = fixture.reopened();
    lower(&fixture, "top:1");
    assert_eq!(fixture.names_in("layers").len(), 3);
}

#[test]
fn an_image_that_cannot_be_read_can_be_removed() {
    let fixture = three_images();
    let id = fixture.store.find("top:1").unwrap().id;
    fs::remove_file(fixture.root().join("configs").join(format!("{}.json", id.hex()))).unwrap();
    let fixture = fixture.reopened();
    assert!(
        fixture.store.remove("top:1", false, &nobody).unwrap().contains(&Removed::Deleted(id.to_string()))
    );
    assert!(matches!(fixture.store.find("top:1"), Err(ImageError::NotFound { .. })));
    let fixture = fixture.reopened();
    assert_eq!(fixture.names_in("layers").len(), 2);
}

#[test]
fn without_a_state_every_whole_image_is_there_but_its_name() {
    let fixture = three_images();
    let layers = fixture.names_in("layers").len();
    let top = fixture.store.find("top:1").unwrap();
    fs::write(fixture.root().join("state.json"), "{\"version\":1,\"ima").unwrap();
    // As a load leaves it that was cut short.
    let config = json!({ "os": "linux", "rootfs": { "diff_ids": [digest(b"not here")] } });
    fs::write(fixture.root().join("configs").join(format!("{}.json", "0".repeat(64))), config.to_string())
        .unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.list().len(), 3);
    assert_eq!(fixture.names_in("layers").len(), layers);
    let found = fixture.store.find(top.id.as_str()).unwrap();
    assert_eq!((found.size, found.repo_tags.len()), (top.size, 0));
    assert_eq!(set_aside(&fixture), 1);
    let fixture = fixture.reopened();
    assert_eq!((fixture.store.list().len(), fixture.names_in("configs").len()), (3, 3));
    // Nor is a store empty whose state is missing.
    fs::remove_file(fixture.root().join("state.json")).unwrap();
    let fixture = fixture.reopened();
    assert_eq!((fixture.store.list().len(), fixture.names_in("layers").len()), (3, layers));
}

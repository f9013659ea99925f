//! Images that are made here, and steps that are kept.

use std::os::unix::fs::symlink;

use engine_model::{Changes, NewImage, NewStep};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::*;

/// A store with one image, `base:1`, and changes on top of it.
fn changed(fixture: &Fixture) -> (ImageId, Changes, tempfile::TempDir) {
    let layer = Tar::default().directory("etc/").file("etc/kept", b"x").file("gone", b"x").end();
    fixture.load(&docker_archive(&["base:1"], &[layer])).unwrap();
    let base = fixture.store.find("base:1").unwrap().id;
    let folder = tempfile::tempdir_in(fixture.directory.path()).unwrap();
    let upper = folder.path().join("upper");
    fs::create_dir_all(upper.join("new/deep")).unwrap();
    fs::write(upper.join("new/file"), "content").unwrap();
    fs::hard_link(upper.join("new/file"), upper.join("new/again")).unwrap();
    let long = "long/".repeat(40);
    symlink(&long, upper.join("link")).unwrap();
    fs::write(upper.join("n".repeat(200)), "long name").unwrap();
    setxattr(upper.join("new/file"), "user.own", b"value", XattrFlags::empty()).unwrap();
    setxattr(upper.join("new"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    mknodat(CWD, upper.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    // Made to mount on, and nothing else.
    fs::create_dir(upper.join("etc")).unwrap();
    fs::set_permissions(upper.join("etc"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(upper.join("etc"), Some(7), Some(8)).unwrap();
    fs::write(upper.join("etc/hosts"), "").unwrap();
    fs::create_dir(upper.join("proc")).unwrap();
    let lower = fixture.store.lower_dirs(&base).unwrap();
    let mount_points = vec!["/etc/hosts".into(), "/proc".into()];
    (base, Changes { upper, lower, mount_points }, folder)
}

fn step(parent: &ImageId, key: &str) -> NewImage {
    let step = Some(NewStep { key: key.to_owned(), is_intermediate: true });
    NewImage { parent: Some(parent.clone()), created_by: key.to_owned(), step, ..NewImage::default() }
}

#[test]
fn changes_are_the_same_bytes_again_and_come_back_as_they_were() {
    let fixture = Fixture::new();
    let (base, changes, _folder) = changed(&fixture);
    let new = NewImage { parent: Some(base), names: vec!["made:1".to_owned()], ..NewImage::default() };
    fixture.store.make(&new, Layer::Changes(&changes)).unwrap();
    let image = fixture.store.find("made:1").unwrap();
    fixture.store.make(&new, Layer::Changes(&changes)).unwrap();
    assert_eq!(fixture.store.find("made:1").unwrap().diff_ids, image.diff_ids);
    let made = fixture.store.lower_dirs(&image.id).unwrap().remove(0);
    let mut names: Vec<_> =
        fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["gone", "link", "new", &"n".repeat(200)]);
    assert!(made.join("gone").symlink_metadata().unwrap().file_type().is_char_device());
    assert_eq!(fs::read_link(made.join("link")).unwrap(), Path::new(&"long/".repeat(40)));
    assert_eq!(
        made.join("new/again").metadata().unwrap().ino(),
        made.join("new/file").metadata().unwrap().ino()
    );
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(made.join("new/file"), "user.own", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"value");
    let length = rustix::fs::getxattr(made.join("new"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
    // And out again, byte for byte.
    let mut saved = Vec::new();
    fixture.store.save(&["made:1".to_owned()], &mut saved).unwrap();
    let other = Fixture::new();
    other.load(&saved).unwrap();
    assert_eq!(other.store.find("made:1").unwrap().id, fixture.store.find("made:1").unwrap().id);
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let fixture = Fixture::new();
    let (base, mut changes, _folder) = changed(&fixture);
    let before = (fixture.names_in("layers"), fixture.names_in("configs"));
    fs::write(changes.upper.join(".wh.hidden"), "").unwrap();
    let new = NewImage { parent: Some(base.clone()), ..NewImage::default() };
    assert!(fixture.store.make(&new, Layer::Changes(&changes)).is_err());
    changes.upper = "/nowhere/at/all".into();
    assert!(fixture.store.make(&new, Layer::Changes(&changes)).is_err());
    let missing = ImageId::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let orphan = NewImage { parent: Some(missing), ..NewImage::default() };
    assert!(fixture.store.make(&orphan, Layer::Nothing).is_err());
    let unnamed = NewImage { parent: Some(base), names: vec!["Bad".to_owned()], ..NewImage::default() };
    assert!(fixture.store.make(&unnamed, Layer::Nothing).is_err());
    assert_eq!((fixture.names_in("layers"), fixture.names_in("configs")), before);
    assert_eq!(fixture.names_in("tmp"), Vec::<String>::new());
}

#[test]
fn steps_are_found_shown_to_nobody_and_forgotten() {
    let fixture = Fixture::new();
    let (base, changes, _folder) = changed(&fixture);
    let store = &fixture.store;
    let one = store.make(&step(&base, "one"), Layer::Changes(&changes)).unwrap();
    let two = store.make(&step(&one, "two"), Layer::Nothing).unwrap();
    assert_eq!(store.find_step(Some(&base), "one").unwrap().id, one);
    assert!(store.find_step(Some(&one), "one").is_none() && store.find_step(None, "one").is_none());
    assert_eq!((store.list().len(), store.list_with_steps(true).len(), store.steps().len()), (1, 3, 2));
    // The result is shown, and what it is made of has its layers.
    store.finish_build(&BTreeSet::from([one.clone(), two.clone()]), Some(&two)).unwrap();
    assert_eq!((store.list().len(), store.steps().len()), (2, 1));
    let kept = &store.steps()[0];
    assert!(kept.is_shared && kept.uses == 1 && kept.size > 0, "{kept:?}");
    assert_eq!(store.forget_steps(&BTreeSet::from([one.clone(), two.clone()])).unwrap(), [one]);
    assert_eq!(store.lower_dirs(&two).unwrap().len(), 2);
    store.remove(two.as_str(), false, &|_| Vec::new()).unwrap();
    assert_eq!(fixture.names_in("layers").len(), 1);
}

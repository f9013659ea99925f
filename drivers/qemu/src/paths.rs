//! Paths from one folder of a store to another that still hold when the store is moved.

use std::path::{Component, Path, PathBuf};

/// The way from a folder to something else, if they are in one tree below the root. Both have to exist.
pub(crate) fn relative(from: &Path, to: &Path) -> Option<PathBuf> {
    // Links would lead `..` elsewhere.
    let (from, to) = (from.canonicalize().ok()?, to.canonicalize().ok()?);
    let common = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    if common < 2 {
        return None;
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(common)).collect();
    (!path.as_os_str().is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_in_one_tree_is_found_from_one_another() {
        let root = tempfile::tempdir().unwrap();
        let (host, image) = (root.path().join("machines/mc1"), root.path().join("cache/images/x"));
        fs::create_dir_all(&host).unwrap();
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("disk"), "").unwrap();
        let way = relative(&host, &image.join("disk")).unwrap();
        assert_eq!(way, Path::new("../../cache/images/x/disk"));
        // A folder that is elsewhere in truth.
        symlink(&host, root.path().join("link")).unwrap();
        let way = relative(&root.path().join("link"), &image.join("disk")).unwrap();
        assert!(host.join(way).exists());
    }

    #[test]
    fn what_is_apart_has_no_way() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(relative(root.path(), Path::new("/proc/self")), None);
        assert_eq!(relative(root.path(), &root.path().join("missing")), None);
    }
}

//! What a container has changed in its root file system.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Container, ContainerError, Containers, start};

/// Deeper trees are cut off.
const DEEPEST: usize = 200;

const MODIFIED: u8 = 0;
const ADDED: u8 = 1;
const DELETED: u8 = 2;

impl Containers {
    /// The answer to `GET /containers/{id}/changes`.
    pub async fn changes(&self, container: &Arc<Container>) -> Result<Value, ContainerError> {
        let container = Arc::clone(container);
        self.blocking(move |containers| {
            let lower = containers.0.images.lower_dirs(&container.identity().image_id)?;
            let upper = container.directory.join("upper");
            let mut found = Vec::new();
            walk(&upper, Path::new("/"), &lower, 0, &mut found);
            found.sort();
            let mounted: Vec<PathBuf> =
                container.identity().mounts.iter().map(|point| point.destination.clone()).collect();
            let found = without_mount_points(found, &mounted);
            if found.is_empty() {
                return Ok(Value::Null);
            }
            Ok(found.into_iter().map(|(path, kind)| json!({ "Path": path, "Kind": kind })).collect())
        })
        .await
    }
}

/// Mounting makes empty files and directories to mount on; those are no changes that anybody made. Neither are
/// directories that changed only because of them.
fn without_mount_points(found: Vec<(PathBuf, u8)>, mounted: &[PathBuf]) -> Vec<(PathBuf, u8)> {
    let is_mount_point = |path: &Path| {
        mounted.iter().any(|point| point == path)
            || start::FILES.iter().any(|(_, point)| path == Path::new(point))
            || path == Path::new(start::MARK)
    };
    let (ours, mut theirs): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(path, kind)| *kind == ADDED && is_mount_point(path));
    // From the inside out, so that a directory is looked at after what it holds.
    let mut index = theirs.len();
    while index > 0 {
        index -= 1;
        let folder = &theirs[index].0;
        let holds_ours = ours.iter().any(|(path, _)| path.starts_with(folder));
        let holds_theirs = theirs.iter().any(|(path, _)| path != folder && path.starts_with(folder));
        if holds_ours && !holds_theirs {
            theirs.remove(index);
        }
    }
    theirs
}

fn walk(folder: &Path, inside: &Path, lower: &[PathBuf], depth: usize, found: &mut Vec<(PathBuf, u8)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = inside.join(entry.file_name());
        let relative = path.strip_prefix("/").unwrap_or(&path);
        let existed = lower.iter().any(|layer| layer.join(relative).symlink_metadata().is_ok());
        // Overlayfs marks what is gone with a device that cannot be.
        let kind = if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
            DELETED
        } else if existed {
            MODIFIED
        } else {
            ADDED
        };
        found.push((path.clone(), kind));
        if metadata.is_dir() && depth < DEEPEST {
            walk(&entry.path(), &path, lower, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_no_changes() {
        let entry = |path: &str, kind| (PathBuf::from(path), kind);
        let found = vec![
            entry("/a", ADDED),
            entry("/a/b", ADDED),
            entry("/etc", MODIFIED),
            entry("/etc/hosts", ADDED),
            entry("/var", MODIFIED),
            entry("/var/made", ADDED),
            entry("/var/vol", ADDED),
        ];
        let left = without_mount_points(found, &["/a/b".into(), "/var/vol".into()]);
        assert_eq!(left, [entry("/var", MODIFIED), entry("/var/made", ADDED)]);
    }
}

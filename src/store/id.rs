//! The store's own id, which owns what its hosts consist of at providers: random, made once, never made anew.

use std::{fs, io, path::Path};

use super::{StoreError, atomic};

/// The file in the store's folder.
const FILE: &str = "store-id";

/// The id of the store at `root`; `None` for a store that has none yet. One that cannot be read is an error: another
/// one in its place would disown everything.
pub(super) fn read(root: &Path) -> Result<Option<String>, StoreError> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path, source }),
    };
    match text.trim().parse::<uuid::Uuid>() {
        Ok(id) => Ok(Some(id.to_string())),
        Err(_) => Err(StoreError::NoId { path }),
    }
}

/// The id of the store at `root`, whose folder exists; made if there is none. Of several processes that make one at
/// once, one wins and all return its id.
pub(super) fn ensure(root: &Path) -> Result<String, StoreError> {
    if let Some(id) = read(root)? {
        return Ok(id);
    }
    let path = root.join(FILE);
    let id = uuid::Uuid::new_v4().to_string();
    if atomic::write_new(&path, format!("{id}\n").as_bytes(), 0o600)? {
        return Ok(id);
    }
    read(root)?.ok_or(StoreError::NoId { path })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_at_once_agree_on_one() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let ids: Vec<String> = std::thread::scope(|scope| {
                let made: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure(folder.path()).unwrap())).collect();
                made.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        }
    }

    #[test]
    fn one_that_cannot_be_understood_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "half an i").unwrap();
        assert!(matches!(ensure(folder.path()), Err(StoreError::NoId { .. })));
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), "half an i");
    }
}

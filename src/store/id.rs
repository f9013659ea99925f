//! The store's own id, which owns what its hosts consist of at providers.
//!
//! It is random, and belongs to one store in one place: a copy of the store (of its folder, of the VM or of the container
//! image that it lies in) that kept it would be taken for the owner of the other's hosts. So the file also says where the
//! store lay when the id was made, and a store that finds itself elsewhere takes a new id before it makes anything more.
//! A store that was moved by renaming is where it was. What the old id owns stays with whoever still has it; hosts of
//! this store are known by its records, whatever id they were made under.
//!
//! A clone of a whole VM keeps its machine id, its name and the numbers of its folders, and so the id. Nothing that any user
//! may read tells the two apart for sure: what the firmware says is root's, the numbers of file systems are cloned,
//! network cards change in one computer as well, and each boot is another one. README says what to do.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::{
    fs::{self, File},
    io,
    path::Path,
};

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use super::{StoreError, atomic, files};

/// The file in the store's folder: the id, then where the store lay when it was made.
const FILE: &str = "store-id";
/// Held while a copy takes an id of its own.
const LOCK: &str = ".store-id.lock";

/// What the file says.
struct Known {
    id: String,
    /// `None`: not said.
    place: Option<String>,
}

fn known(root: &Path) -> Result<Option<Known>, StoreError> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path, source }),
    };
    let mut lines = text.lines();
    match lines.next().unwrap_or_default().trim().parse::<uuid::Uuid>() {
        Ok(id) => Ok(Some(Known { id: id.to_string(), place: lines.next().map(str::to_owned) })),
        Err(_) => Err(StoreError::NoId { path }),
    }
}

/// The id of the store at `root`; `None` for a store that has none yet. One that cannot be read is an error: another
/// one in its place would disown everything.
pub(super) fn read(root: &Path) -> Result<Option<String>, StoreError> {
    Ok(known(root)?.map(|known| known.id))
}

/// The id of the store at `root`, whose folder exists; made if there is none, or if the one there is was made somewhere
/// else. Of several processes that make one at once, one wins and all return its id.
pub(super) fn ensure(root: &Path) -> Result<String, StoreError> {
    let here = place(root)?;
    let is_here = |known: &Known| known.place.as_ref().is_none_or(|place| *place == here);
    match known(root)? {
        Some(known) if is_here(&known) => Ok(known.id),
        Some(_) => {
            let _lock = lock(root)?;
            // Somebody else may have been faster.
            match known_again(root)? {
                known if is_here(&known) => Ok(known.id),
                _ => {
                    let id = uuid::Uuid::new_v4().to_string();
                    atomic::write(&root.join(FILE), text(&id, &here).as_bytes(), 0o600)?;
                    Ok(id)
                }
            }
        }
        None => {
            let id = uuid::Uuid::new_v4().to_string();
            if atomic::write_new(&root.join(FILE), text(&id, &here).as_bytes(), 0o600)? {
                return Ok(id);
            }
            Ok(known_again(root)?.id)
        }
    }
}

fn known_again(root: &Path) -> Result<Known, StoreError> {
    known(root)?.ok_or_else(|| StoreError::NoId { path: root.join(FILE) })
}

fn text(id: &str, place: &str) -> String {
    format!("{id}\n{place}\n")
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join(LOCK);
    let failed = |source| StoreError::Write { path: path.clone(), source };
    let file = files::lock_file().open(&path).map_err(failed)?;
    files::lock(&file).map_err(failed)?;
    Ok(file)
}

/// Where the store lies: on which computer, under which name of it, in which folder. None of these is the path, so that
/// a folder which was renamed is the same.
fn place(root: &Path) -> Result<String, StoreError> {
    let number = system::number(root).map_err(|source| StoreError::Read { path: root.to_owned(), source })?;
    // Clones often have one of these in common, seldom both.
    Ok(format!("{} {} {number}", word(&system::computer()), word(&system::name())))
}

fn word(text: &str) -> String {
    let word: String = text.trim().chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The ids that eight processes at once are given.
    fn eight(root: &Path) -> Vec<String> {
        std::thread::scope(|scope| {
            let made: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure(root).unwrap())).collect();
            made.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn many_at_once_agree_on_one() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let ids = eight(folder.path());
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

    #[test]
    fn a_copy_takes_an_id_of_its_own_and_a_renamed_store_keeps_its() {
        let folder = tempfile::tempdir().unwrap();
        let (first, renamed, copy) =
            (folder.path().join("first"), folder.path().join("renamed"), folder.path().join("copy"));
        fs::create_dir(&first).unwrap();
        let id = ensure(&first).unwrap();
        fs::rename(&first, &renamed).unwrap();
        assert_eq!(ensure(&renamed).unwrap(), id);
        fs::create_dir(&copy).unwrap();
        fs::copy(renamed.join(FILE), copy.join(FILE)).unwrap();
        let ids = eight(&copy);
        assert!(ids.iter().all(|own| *own == ids[0] && *own != id), "{id}: {ids:?}");
        assert_eq!(read(&copy).unwrap().as_ref(), Some(&ids[0]));
        assert_eq!(ensure(&renamed).unwrap(), id);
    }
}

//! Removes names and images by docker's rules, and layers that no image needs any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use engine_model::{ImageId, ImageUser, Removed};

use super::error::ImageError;
use super::layout::LayerFile;
use super::reference::Reference;
use super::state::{self, State};
use super::{Inner, not_found, resolve, unreadable};

pub(super) fn remove(
    store: &Inner,
    text: &str,
    force: bool,
    users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
) -> Result<Vec<Removed>, ImageError> {
    let mut current = store.lock();
    if let Some(id) = unreadable(&current, text) {
        if let Some(user) = users(&id).first() {
            let reason = format!("image is being used by container {}", short(&user.container));
            return Err(in_use(&id, false, reason));
        }
        return give_up(store, &mut current, &id);
    }
    let id = resolve(&current, text)?;
    let users = &users(&id);
    let mut changed = current.clone();
    let mut removed = Vec::new();
    let by_id = id.as_str().starts_with(text) || id.hex().starts_with(text);
    let names = names_of(&changed, &id);
    if by_id {
        if !is_single(&names) && !force {
            return Err(in_use(&id, true, "image is referenced in multiple repositories".to_owned()));
        }
        check_users(&id, force, users)?;
    } else {
        if !force
            && is_single(&names)
            && let Some(user) = users.first()
        {
            return Err(ImageError::ReferenceInUse {
                reference: text.to_owned(),
                container: short(&user.container),
                image: id.short().to_owned(),
            });
        }
        let name = Reference::parse(text)?.with_default_tag();
        changed.names.remove(&name.to_string()).ok_or_else(|| not_found(text))?;
        removed.push(Removed::Untagged(name.familiar()));
        // Digests of a repository go with its last tag.
        let of_repository = |other: &Reference| other.repository() == name.repository();
        let left: Vec<Reference> = names_of(&changed, &id).into_iter().filter(of_repository).collect();
        if name.digest().is_none() && left.iter().all(|other| other.tag().is_none()) {
            for other in left {
                changed.names.remove(&other.to_string());
                removed.push(Removed::Untagged(other.familiar()));
            }
        }
        let in_the_way = !names_of(&changed, &id).is_empty() || check_users(&id, force, users).is_err();
        if in_the_way {
            changed.save(&store.paths)?;
            *current = changed;
            return Ok(removed);
        }
    }
    for name in names_of(&changed, &id) {
        changed.names.remove(&name.to_string());
        removed.push(Removed::Untagged(name.familiar()));
    }
    removed.push(Removed::Deleted(id.as_str().to_owned()));
    // A stopped container goes on needing the layers.
    if !users.is_empty() {
        if let Some(stored) = changed.images.get_mut(&id) {
            stored.record.hidden = true;
        }
        changed.save(&store.paths)?;
        *current = changed;
        return Ok(removed);
    }
    let unused = forget(&mut changed, &id);
    changed.save(&store.paths)?;
    *current = changed;
    move_away(store, &unused);
    drop(current);
    removed.extend(unused.iter().map(|(chain, _)| Removed::Deleted(chain.clone())));
    remove_config(store, &id);
    empty_trash(store);
    Ok(removed)
}

/// Forgets an image that cannot be read. The next start removes what no other image needs.
fn give_up(store: &Inner, current: &mut State, id: &ImageId) -> Result<Vec<Removed>, ImageError> {
    let mut changed = current.clone();
    let mut removed: Vec<Removed> =
        names_of(&changed, id).iter().map(|name| Removed::Untagged(name.familiar())).collect();
    changed.names.retain(|_, named| named != id);
    changed.unreadable.remove(id);
    changed.save(&store.paths)?;
    *current = changed;
    removed.push(Removed::Deleted(id.as_str().to_owned()));
    Ok(removed)
}

pub(super) fn collect_hidden(store: &Inner, needed: &BTreeSet<ImageId>) -> Result<(), ImageError> {
    let mut current = store.lock();
    let unneeded: Vec<ImageId> = current
        .images
        .iter()
        .filter(|(id, stored)| stored.record.hidden && !needed.contains(id))
        .map(|(id, _)| id.clone())
        .collect();
    if unneeded.is_empty() {
        return Ok(());
    }
    forget_all(store, &mut current, &unneeded)?;
    drop(current);
    clean_up(store, &unneeded);
    Ok(())
}

/// Forgets images, and layers that no other has. What they were made of is removed by [`clean_up`], without the lock.
pub(super) fn forget_all(store: &Inner, current: &mut State, ids: &[ImageId]) -> Result<(), ImageError> {
    let mut changed = current.clone();
    let unused: Vec<_> = ids.iter().flat_map(|id| forget(&mut changed, id)).collect();
    changed.save(&store.paths)?;
    *current = changed;
    move_away(store, &unused);
    Ok(())
}

pub(super) fn clean_up(store: &Inner, ids: &[ImageId]) {
    for id in ids {
        remove_config(store, id);
    }
    empty_trash(store);
}

/// Removes the directories of layers that the state no longer has.
pub(super) fn discard(store: &Inner, unused: &[(String, LayerFile)]) {
    if !unused.is_empty() {
        move_away(store, unused);
        empty_trash(store);
    }
}

/// Puts a directory into the trash, where the next removal or start finds it.
pub(super) fn discard_directory(store: &Inner, path: &Path) {
    let trash = tempfile::Builder::new().prefix("trash-").tempdir_in(store.paths.temporary());
    let moved = trash.map(tempfile::TempDir::keep).and_then(|trash| fs::rename(path, trash.join("layer")));
    if let Err(error) = moved {
        tracing::warn!(path = %path.display(), %error, "Could not remove a layer");
    }
}

/// Must be called with the state locked, so that a load cannot bring the same layer back in between.
fn move_away(store: &Inner, unused: &[(String, LayerFile)]) {
    for (chain, layer) in unused {
        let link = store.paths.link(layer.link);
        if let Err(error) = fs::remove_file(&link) {
            tracing::warn!(path = %link.display(), %error, "Could not remove a link");
        }
        discard_directory(store, &store.paths.layer(chain));
    }
}

fn empty_trash(store: &Inner) {
    let Ok(entries) = fs::read_dir(store.paths.temporary()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"trash-")
            && let Err(error) = state::remove(&entry.path())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %entry.path().display(), %error, "Could not remove a layer");
        }
    }
}

fn remove_config(store: &Inner, id: &ImageId) {
    let path = store.paths.config(id);
    // It may have come back meanwhile.
    let state = store.lock();
    if state.images.contains_key(id) {
        return;
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "Could not remove an image configuration");
    }
}

fn forget(changed: &mut State, id: &ImageId) -> Vec<(String, LayerFile)> {
    let chains = changed.images.remove(id).map(|stored| stored.chains).unwrap_or_default();
    changed.release(&chains)
}

fn names_of(state: &State, id: &ImageId) -> Vec<Reference> {
    let names = state.names.iter().filter(|(_, named)| *named == id);
    names.filter_map(|(name, _)| Reference::parse(name).ok()).collect()
}

/// At most one tag, with digests of the same repository beside it.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    let repositories: BTreeSet<String> = names.iter().map(Reference::repository).collect();
    tags <= 1 && repositories.len() <= 1
}

fn check_users(id: &ImageId, force: bool, users: &[ImageUser]) -> Result<(), ImageError> {
    if let Some(user) = users.iter().find(|user| user.running) {
        let reason = format!("image is being used by running container {}", short(&user.container));
        return Err(in_use(id, false, reason));
    }
    match users.first() {
        Some(user) if !force => {
            let reason = format!("image is being used by stopped container {}", short(&user.container));
            Err(in_use(id, true, reason))
        }
        _ => Ok(()),
    }
}

fn in_use(id: &ImageId, forcible: bool, reason: String) -> ImageError {
    ImageError::InUse { image: id.short().to_owned(), forcible, reason }
}

fn short(container: &str) -> String {
    container.chars().take(12).collect()
}

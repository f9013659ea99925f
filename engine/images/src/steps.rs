//! Steps of builds, kept so that the next build need not do them again.

use std::collections::BTreeSet;

use engine_model::{ImageId, KeptStep};
use jiff::Timestamp;

use super::error::ImageError;
use super::state::{State, StoredImage};
use super::{Inner, remove};

/// The newest image that the same was done for to the same parent.
pub(super) fn find(state: &State, parent: Option<&ImageId>, key: &str) -> Option<ImageId> {
    let same = state.images.iter().filter(|(_, stored)| {
        let step = stored.record.step.as_ref();
        !stored.record.hidden && step.is_some_and(|step| step.parent.as_ref() == parent && step.key == key)
    });
    same.max_by_key(|(_, stored)| stored.config.created).map(|(id, _)| id.clone())
}

/// Notes that a build has used these, and that one is what it was for.
pub(super) fn finish(
    store: &Inner,
    ids: &BTreeSet<ImageId>,
    result: Option<&ImageId>,
) -> Result<(), ImageError> {
    let mut current = store.lock();
    let mut changed = current.clone();
    let now = Timestamp::now();
    for id in ids {
        if let Some(step) = changed.images.get_mut(id).and_then(|stored| stored.record.step.as_mut()) {
            step.last_used = now;
            step.uses += 1;
        }
    }
    let result = result.and_then(|id| changed.images.get_mut(id));
    if let Some(step) = result.and_then(|stored| stored.record.step.as_mut()) {
        step.is_intermediate = false;
    }
    changed.save(&store.paths)?;
    *current = changed;
    Ok(())
}

/// Whether only builds know of it.
pub(super) fn is_intermediate(state: &State, id: &ImageId, stored: &StoredImage) -> bool {
    stored.record.step.as_ref().is_some_and(|step| step.is_intermediate)
        && !state.names.values().any(|named| named == id)
}

pub(super) fn list(state: &State) -> Vec<KeptStep> {
    let (hidden, shown): (Vec<_>, Vec<_>) =
        state.images.iter().partition(|(id, stored)| is_intermediate(state, id, stored));
    let kept = hidden.into_iter().filter_map(|(id, stored)| {
        let step = stored.record.step.as_ref()?;
        let last = stored.config.history.last();
        let own = stored.chains.last().filter(|_| last.is_none_or(|entry| !entry.empty_layer));
        Some(KeptStep {
            id: id.clone(),
            parent: step.parent.clone(),
            description: last.map(|entry| entry.created_by.clone()).unwrap_or_default(),
            size: own.and_then(|chain| state.layers.get(chain)).map_or(0, |layer| layer.file.size),
            is_shared: shown.iter().any(|(_, other)| other.chains.starts_with(&stored.chains)),
            created: stored.config.created,
            last_used: step.last_used,
            uses: step.uses,
        })
    });
    kept.collect()
}

/// Forgets steps that nobody needs, and the layers that only they had.
pub(super) fn forget(store: &Inner, unneeded: &BTreeSet<ImageId>) -> Result<Vec<ImageId>, ImageError> {
    let mut current = store.lock();
    let gone: Vec<ImageId> = current
        .images
        .iter()
        .filter(|(id, stored)| unneeded.contains(id) && is_intermediate(&current, id, stored))
        .map(|(id, _)| id.clone())
        .collect();
    remove::forget_all(store, &mut current, &gone)?;
    drop(current);
    remove::clean_up(store, &gone);
    Ok(gone)
}

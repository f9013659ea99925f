//! Steps that the history of another image tells of, for builds that take it for their cache.

use std::sync::Arc;

use engine_model::{ImageId, NewImage};

use super::configuration::{ConfigFile, Incoming};
use super::error::ImageError;
use super::intake::Intake;
use super::making::describe;
use super::state::{StepRecord, chain_ids};
use super::{Inner, not_found};

/// Where a history tells of a step.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Of the history, with the step.
    length: usize,
    /// How many layers there are by then.
    layers: usize,
}

/// Looks whether an image goes on from this parent by a step that says the same of itself. What an image was made of tells
/// nothing more than that: the client who names the image believes it.
fn place(image: &ConfigFile, parent: &ConfigFile, created_by: &str) -> Option<Place> {
    let (length, layers) = (parent.history.len(), parent.rootfs.diff_ids.len());
    let goes_on = image.history.starts_with(&parent.history)
        && image.rootfs.diff_ids.starts_with(&parent.rootfs.diff_ids);
    let step = image.history.get(length).filter(|step| goes_on && step.created_by == created_by)?;
    let layers = layers + usize::from(!step.empty_layer);
    (layers <= image.rootfs.diff_ids.len()).then_some(Place { length: length + 1, layers })
}

/// The image that one of `sources` was on its way, or is, after the step by which `new` is to be made.
pub(super) fn find(
    store: &Arc<Inner>,
    sources: &[ImageId],
    new: &NewImage,
) -> Result<Option<ImageId>, ImageError> {
    let (source, image, parent, place) = {
        let state = store.lock();
        let config = |id: &ImageId| state.images.get(id).map(|stored| stored.config.clone());
        let parent = match &new.parent {
            None => ConfigFile::default(),
            Some(id) => config(id).ok_or_else(|| not_found(id.as_str()))?,
        };
        let mut fitting = sources.iter().filter_map(|id| {
            let image = config(id)?;
            let place = place(&image, &parent, &new.created_by)?;
            Some((id.clone(), image, place))
        });
        let Some((source, image, place)) = fitting.next() else { return Ok(None) };
        (source, image, parent, place)
    };
    if place.length == image.history.len() && place.layers == image.rootfs.diff_ids.len() {
        return Ok(Some(source));
    }
    let mut intake = Intake::begin(store, "history-")?;
    let diff_ids = &image.rootfs.diff_ids[..place.layers];
    if !chain_ids(diff_ids).iter().all(|chain| intake.has(chain)) {
        return Ok(None);
    }
    let history = &image.history[..place.length];
    let created = history.last().and_then(|step| step.created).or(image.created).unwrap_or_default();
    let config = describe(new, &parent, diff_ids, history, created);
    let config = serde_json::to_vec(&config)
        .map_err(|source| ImageError::Damaged { path: intake.directory().to_owned(), source })?;
    let made = Incoming::read(config, Vec::new())?;
    let id = made.id.clone();
    let step = new.step.as_ref().map(|step| StepRecord::new(new.parent.clone(), step));
    intake.publish_with(&[made], |state| {
        if let Some(stored) = state.images.get_mut(&id)
            && stored.record.step.is_none()
        {
            stored.record.step = step;
        }
    })?;
    Ok(Some(id))
}

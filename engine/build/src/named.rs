//! What a client has given a name: another image, or files of its own, which become an image that holds nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::confine::clean;
use engine_model::{Changes, ImageId, NewImage, NewStep};
use sha2::{Digest, Sha256};

use super::address::Address;
use super::error::BuildError;
use super::flags::{Mount, MountKind};
use super::ignore::Ignored;
use super::instruction::Instruction;
use super::mounted::plain;
use super::plan::{Named, Plan, Wanted};
use super::select::{Files, Selected};
use super::stage::{Stage, blocking, failed, key};
use super::triggers::Triggers;

impl Plan {
    /// Whether the client has given this name a meaning.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.meaning(name).is_some()
    }

    /// The meaning that the client has given a name, and under which name it is known.
    pub(crate) fn meaning(&self, name: &str) -> Option<(&str, &Named)> {
        let (contexts, name) = (&self.request.contexts, name.to_ascii_lowercase());
        let found = contexts.get_key_value(&name).or_else(|| {
            let familiar = familiar(&name);
            contexts.iter().find(|(known, _)| self::familiar(known) == familiar)
        });
        found.map(|(known, named)| (known.as_str(), named))
    }

    /// What is done in a stage: what its base wants done, and its own steps.
    fn instructions(&self, stage: usize) -> impl Iterator<Item = &Instruction> {
        let triggers = self.triggers.get(stage).into_iter().flat_map(|triggers| &triggers.known);
        triggers.chain(self.dockerfile.stages[stage].steps.iter().map(|step| &step.instruction))
    }

    /// Whether the steps of a stage are done anew, whatever was done before.
    pub(crate) fn is_uncached(&self, stage: usize) -> bool {
        let name = self.dockerfile.stages[stage].name.as_deref();
        let is_listed = |listed: &String| name == Some(listed.to_ascii_lowercase().as_str());
        self.request.no_cache || self.request.no_cache_stages.iter().any(is_listed)
    }

    /// The folder that the context's files belong in, which is there.
    pub fn folder(&self) -> PathBuf {
        self.context.files()
    }

    /// The folder for the files of a name. It is not there yet, and its name tells nothing.
    pub fn folder_of(&self, name: &str) -> PathBuf {
        self.context.folder.path().join(format!("named-{}", key(&[name])))
    }

    /// The names that mean files and that the stages to be built make use of.
    pub fn folders_wanted(&self) -> Vec<String> {
        let used = |name: &&String| {
            let is_it = |text: &str| self.meaning(text).is_some_and(|(known, _)| known == name.as_str());
            self.needed.iter().any(|&stage| {
                is_it(&self.bases[stage])
                    || self.instructions(stage).any(|instruction| match instruction {
                        Instruction::Copy(copy) => copy.from.as_deref().is_some_and(is_it),
                        Instruction::Run(run) => {
                            run.mounts.iter().any(|mount| mount.from.as_deref().is_some_and(is_it))
                        }
                        _ => false,
                    })
            })
        };
        let folders = self.request.contexts.iter().filter(|(_, named)| **named == Named::Folder);
        folders.map(|(name, _)| name).filter(used).cloned().collect()
    }

    /// What of the context has to be there. Triggers may make use of anything.
    pub fn wanted(&self) -> Wanted {
        let mut paths = Vec::new();
        for &stage in &self.needed {
            if self.triggers[stage] != Triggers::default() {
                return Wanted::All;
            }
            for step in &self.dockerfile.stages[stage].steps {
                match &step.instruction {
                    Instruction::Copy(copy) if copy.from.is_none() => {
                        let is_elsewhere =
                            |source: &str| copy.is_add && !matches!(Address::of_source(source), Ok(None));
                        let files = copy.sources.iter();
                        let files = files.filter(|source| !source.starts_with("<<") && !is_elsewhere(source));
                        paths.extend(files.cloned());
                    }
                    Instruction::Run(run) => {
                        let is_own = |mount: &&Mount| mount.kind == MountKind::Bind && mount.from.is_none();
                        let own = run.mounts.iter().filter(is_own);
                        paths.extend(own.map(|mount| mount.source.clone().unwrap_or_default()));
                    }
                    _ => {}
                }
            }
        }
        narrowed(&paths)
    }
}

/// A name, in small letters, without what an image's name has as well if it is not said.
fn familiar(name: &str) -> &str {
    let name = name.strip_suffix(":latest").unwrap_or(name);
    let prefixes = ["docker.io/", "index.docker.io/"];
    let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    name.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(name)
}

/// The paths, unless one of them is everything or depends on variables.
fn narrowed(paths: &[String]) -> Wanted {
    let mut narrowed = BTreeSet::new();
    for path in paths {
        let cleaned = clean(Path::new(path));
        let cleaned = cleaned.strip_prefix("/").unwrap_or(&cleaned).to_string_lossy().into_owned();
        if cleaned.is_empty() || path.contains(['$', '"', '\'', '`']) {
            return Wanted::All;
        }
        narrowed.insert(cleaned);
    }
    if narrowed.is_empty() { Wanted::Nothing } else { Wanted::Paths(narrowed.into_iter().collect()) }
}

impl Stage<'_> {
    /// The image that a name means which the client has given a meaning.
    pub(crate) async fn named(&self, name: &str) -> Result<ImageId, BuildError> {
        let plan = &self.work.plan;
        match plan.meaning(name) {
            Some((_, Named::Image(image))) => self.image_named(image, plan.request.pull).await,
            Some((known, Named::Folder)) => self.image_of(known).await,
            None => Err(BuildError::invalid(format!("nothing is called `{name}`"))),
        }
    }

    /// An image that holds nothing but the files of a name.
    async fn image_of(&self, name: &str) -> Result<ImageId, BuildError> {
        let folder = self.work.plan.folder_of(name);
        let (work, shown) = (Arc::clone(self.work), format!("/bin/sh -c #(nop) CONTEXT {name}"));
        blocking(move || {
            let root = plain(&folder).map_err(|error| failed("reading a context", &error))?;
            let (all, mut digest) = (Selected { path: "/".into(), is_directory: true }, Sha256::new());
            let nothing = Ignored::default();
            let files = Files { root: &root, ignored: &nothing };
            files.digest(&all, &nothing, &mut digest).map_err(|error| failed("reading a context", &error))?;
            let key = key(&["context", &format!("{:x}", digest.finalize())]);
            let outside = work.outside();
            let id = if let Some(found) = outside.find_step(None, &key) {
                found.id
            } else {
                let step = Some(NewStep { key, is_intermediate: true });
                let new = NewImage { created_by: shown, step, ..NewImage::default() };
                let changes = Changes { upper: folder, lower: Vec::new(), mount_points: Vec::new() };
                outside.make(&new, Some(&changes))?
            };
            work.note(&id);
            Ok(id)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_copied_is_wanted() {
        let narrowed =
            |paths: &[&str]| narrowed(&paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>());
        assert_eq!(narrowed(&[]), Wanted::Nothing);
        assert_eq!(
            narrowed(&["./b/", "/a/*.c", "b"]),
            Wanted::Paths(vec!["a/*.c".to_owned(), "b".to_owned()])
        );
        for everything in [".", "/", "", "a/..", "$SOURCE/x"] {
            assert_eq!(narrowed(&["a", everything]), Wanted::All);
        }
    }
}

//! The steps `COPY` and `ADD`: where their files come from, whether they are the same as last time, and the layer they make.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use engine_kernel::confine::Root;
use engine_model::{Failure, ImageId, Kind};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::config::absolute;
use super::copy::{Look, Target, owner};
use super::error::BuildError;
use super::ignore::Ignored;
use super::instruction::Copy;
use super::mounted::{Layers, plain, within};
use super::outside::Outside;
use super::select::{Files, Selected};
use super::source::heredoc_name;
use super::stage::{Stage, blocking, changes, failed, key};
use super::unpack::{Keep, unpack};
use super::work::Work;

/// A step with its variables put in.
#[derive(Clone, Debug)]
struct Wanted {
    name: &'static str,
    is_add: bool,
    unpacks: bool,
    sources: Vec<String>,
    /// Names and contents of files that stand in the Dockerfile itself.
    written: Vec<(String, Vec<u8>)>,
    target: String,
    owner: Option<String>,
    mode: Option<u32>,
    exclude: Ignored,
    with_parents: bool,
}

/// Where the sources are.
enum Origin {
    Context,
    Image(Layers),
}

impl Stage<'_> {
    pub(super) async fn copy(&mut self, copy: &Copy) -> Result<(), BuildError> {
        let wanted = self.wanted(copy)?;
        let from = match &copy.from {
            None => None,
            Some(from) => self.origin(from).await?,
        };
        let origin = match &copy.from {
            None => Origin::Context,
            Some(_) => Origin::Image(self.layers_of(from.clone(), "from").await?),
        };
        let (work, asked) = (Arc::clone(self.work), wanted.clone());
        let (digest, selected, origin) = blocking(move || {
            let (digest, selected) = asked.look(&work, &origin)?;
            Ok((digest, selected, origin))
        })
        .await?;
        let look =
            format!("{:?} {:?} {:?} {}", wanted.owner, wanted.mode, wanted.exclude, wanted.with_parents);
        let key =
            key(&[wanted.name, &digest, &wanted.target, &look, if wanted.unpacks { "unpack" } else { "" }]);
        if self.find(&key).await? {
            return Ok(());
        }
        let kind = match &selected[..] {
            [one] if one.is_directory => "dir",
            [_] => "file",
            _ => "multi",
        };
        let shown = format!("/bin/sh -c #(nop) {} {kind}:{digest} in {} ", wanted.name, wanted.target);
        let new = self.new_image(key, &shown);
        let layers = self.layers("copy").await?;
        let work = Arc::clone(self.work);
        let made = blocking(move || {
            wanted.put(&work, &origin, &layers, &selected)?;
            // An image that was taken away meanwhile may have given half of it, which would be found again for ever.
            if let (Origin::Image(layers), Some(from)) = (&origin, &from)
                && work.outside().lower_dirs(from)? != layers.lower
            {
                return Err(BuildError::invalid("the image that is copied from has changed meanwhile"));
            }
            let made = work.outside().make(&new, Some(&changes(&layers)));
            let _ = std::fs::remove_dir_all(&layers.scratch);
            if let Origin::Image(from) = &origin {
                let _ = std::fs::remove_dir_all(&from.scratch);
            }
            Ok(made?)
        });
        self.made(made.await?);
        Ok(())
    }

    /// The stage or image that a name means.
    pub(super) async fn origin(&self, from: &str) -> Result<Option<ImageId>, BuildError> {
        if self.work.plan.is_named(from) {
            return Ok(Some(self.named(from).await?));
        }
        match self.work.plan.dockerfile.stage(from, self.number) {
            // Nobody would ever build it.
            // Nobody would ever build it.
            Some(stage) if !self.work.plan.needed.contains(&stage) => {
                let message = format!(
                    "the stage `{from}` is not built: only a trigger names it, of a base that was not here when the build \
                     began. It is here now; build again"
                );
                Err(BuildError::Other(Failure::new(Kind::NotFound, message)))
            }
            Some(stage) => self.work.stage(stage).await,
            None if from.parse::<usize>().is_ok() => Err(BuildError::invalid(format!(
                "invalid from flag value {from}: there is no stage of this number before this one"
            ))),
            None => Ok(Some(self.image_named(from, false).await?)),
        }
    }

    fn wanted(&self, copy: &Copy) -> Result<Wanted, BuildError> {
        let name = if copy.is_add { "ADD" } else { "COPY" };
        let (mut sources, mut written) = (Vec::new(), Vec::new());
        for source in &copy.sources {
            let heredoc = heredoc_name(source, self.escape)
                .and_then(|name| copy.heredocs.iter().find(|heredoc| heredoc.name == name));
            if let Some(heredoc) = heredoc {
                let content = if heredoc.expands {
                    self.expand_text(&heredoc.content)?
                } else {
                    heredoc.content.clone()
                };
                written.push((heredoc.name.clone(), content.into_bytes()));
                continue;
            }
            let source = self.expand(source)?;
            if copy.is_add {
                refuse_remote(&source)?;
            }
            sources.push(source);
        }
        if copy.checksum.is_some() {
            return Err(BuildError::invalid("checksum can't be specified for non-HTTP(S) sources"));
        }
        let mut target = self.expand(&copy.target)?;
        let is_directory =
            target.is_empty() || target.ends_with('/') || target == "." || target.ends_with("/.");
        target = absolute(&self.draft.config.working_dir, &target);
        if is_directory && !target.ends_with('/') {
            target.push('/');
        }
        if sources.len() + written.len() > 1 && !target.ends_with('/') {
            return Err(BuildError::invalid(format!(
                "When using {name} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        let mode = copy.mode.as_deref().map(|text| self.expand(text)).transpose()?;
        let exclude = copy.exclude.iter().map(|text| self.expand(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Wanted {
            name,
            is_add: copy.is_add,
            unpacks: copy.unpack.unwrap_or(copy.is_add),
            sources,
            written,
            target,
            owner: copy.owner.as_deref().map(|text| self.expand(text)).transpose()?,
            mode: mode.as_deref().map(octal).transpose()?,
            exclude: Ignored::of(&exclude).map_err(|error| BuildError::invalid(error.to_string()))?,
            with_parents: copy.parents,
        })
    }

    /// Text of many lines, in which quotes mean nothing.
    fn expand_text(&self, text: &str) -> Result<String, BuildError> {
        let quoted: String = text
            .chars()
            .flat_map(|one| {
                let escapes = matches!(one, '"' | '\'');
                escapes.then_some(self.escape).into_iter().chain([one])
            })
            .collect();
        self.expand(&quoted)
    }
}

/// Refuses by name what would have to be fetched.
fn refuse_remote(source: &str) -> Result<(), BuildError> {
    let is_git = source.starts_with("git@")
        || source.starts_with("git://")
        || source.starts_with("ssh://")
        || source
            .split('#')
            .next()
            .is_some_and(|address| address.contains("://") && address.strip_suffix(".git").is_some());
    if is_git {
        return Err(BuildError::unsupported(&format!("`ADD {source}`: fetching a repository of git")));
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        return Err(BuildError::unsupported(&format!(
            "`ADD {source}`: fetching a file (a `RUN` with a program that does, or a file of the context, will do)"
        )));
    }
    Ok(())
}

fn octal(text: &str) -> Result<u32, BuildError> {
    let number = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    number.ok_or_else(|| {
        BuildError::invalid(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))
    })
}

impl Wanted {
    fn look(&self, work: &Work, origin: &Origin) -> Result<(String, Vec<Selected>), BuildError> {
        let nothing = Ignored::default();
        let looked = match origin {
            Origin::Context => {
                let root = plain(&work.plan.context.files()).map_err(|error| failed(self.name, &error))?;
                self.select(&Files { root: &root, ignored: &work.plan.ignored })
            }
            Origin::Image(layers) => {
                within(&[layers], |roots| self.select(&Files { root: &roots[0], ignored: &nothing }))
            }
        };
        let (digest, selected, missing) = looked.map_err(|error| failed(self.name, &error))?;
        if let Some(missing) = missing {
            return Err(self.missing(&missing, matches!(origin, Origin::Context)));
        }
        if selected.is_empty() && self.written.is_empty() {
            return Err(BuildError::invalid(format!("{} failed: no source files were specified", self.name)));
        }
        if selected.len() + self.written.len() > 1 && !self.target.ends_with('/') {
            return Err(BuildError::invalid(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.name
            )));
        }
        Ok((digest, selected))
    }

    fn missing(&self, source: &str, of_context: bool) -> BuildError {
        let place =
            if of_context { "file not found in build context or excluded by .dockerignore: " } else { "" };
        let source = source.trim_matches('/');
        let message = format!("{} failed: {place}stat {source}: file does not exist", self.name);
        BuildError::Other(Failure::new(Kind::NotFound, message))
    }

    /// A digest of all sources, what they are, and the first one that is not there.
    fn select(&self, files: &Files<'_>) -> io::Result<(String, Vec<Selected>, Option<String>)> {
        let (mut all, mut digest) = (Vec::new(), Sha256::new());
        for source in &self.sources {
            let selected = files.select(source)?;
            if selected.is_empty() && !source.contains(['*', '?', '[']) {
                return Ok((String::new(), Vec::new(), Some(source.clone())));
            }
            for one in &selected {
                digest.update(if one.is_directory { b"d" } else { b"f" });
                if self.with_parents {
                    digest.update(one.path.as_os_str().as_encoded_bytes());
                }
                files.digest(one, &self.exclude, &mut digest)?;
            }
            all.extend(selected);
        }
        for (name, content) in &self.written {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update(Sha256::digest(content));
        }
        Ok((format!("{:x}", digest.finalize()), all, None))
    }

    fn put(
        &self,
        work: &Work,
        origin: &Origin,
        layers: &Layers,
        selected: &[Selected],
    ) -> Result<(), BuildError> {
        let (nothing, outside) = (Ignored::default(), work.outside());
        let mut refused = None;
        let all = match origin {
            Origin::Context => vec![layers],
            Origin::Image(from) => vec![layers, from],
        };
        let done = within(&all, |roots| {
            let look = match self.look_of(&roots[0]) {
                Ok(look) => look,
                Err(message) => {
                    refused = Some(BuildError::invalid(message));
                    return Ok(());
                }
            };
            let target = Target {
                root: &roots[0],
                path: &self.target,
                look: &look,
                exclude: &self.exclude,
                with_parents: self.with_parents,
            };
            let context;
            let files = if let Some(root) = roots.get(1) {
                Files { root, ignored: &nothing }
            } else {
                context = plain(&work.plan.context.files())?;
                Files { root: &context, ignored: &work.plan.ignored }
            };
            for one in selected {
                if !(self.is_add && self.unpacks && unpacked(outside, &files, one, &target)?) {
                    target.copy(&files, one)?;
                }
            }
            self.written.iter().try_for_each(|(name, content)| target.write(name, content))
        });
        match refused {
            Some(refused) => Err(refused),
            None => done.map_err(|error| failed(self.name, &error)),
        }
    }

    fn look_of(&self, root: &Root) -> Result<Look, String> {
        let owner = self.owner.as_deref().map(|text| owner(root, text)).transpose()?;
        Ok(Look { owner: owner.unwrap_or((0, 0)), mode: self.mode })
    }
}

/// Unpacks a file that is an archive; false if it is none.
fn unpacked(
    outside: &dyn Outside,
    files: &Files<'_>,
    selected: &Selected,
    target: &Target<'_>,
) -> io::Result<bool> {
    if selected.is_directory {
        return Ok(false);
    }
    let found = files.root.get(&selected.path, OFlags::PATH)?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode)
        != rustix::fs::FileType::RegularFile
    {
        return Ok(false);
    }
    let open = || files.root.get(&selected.path, OFlags::RDONLY).map(File::from);
    let plain = outside.decompress(Box::new(open()?))?;
    if !matches!(tar::Archive::new(plain).entries().map(|mut entries| entries.next()), Ok(Some(Ok(_)))) {
        return Ok(false);
    }
    let folder = Path::new(target.path);
    target.make_directories(folder)?;
    let folder = target.root.end_of_links(folder)?;
    unpack(target.root, &folder, outside.decompress(Box::new(open()?))?, Keep::Everything)?;
    Ok(true)
}

//! The steps `COPY` and `ADD`: where their files come from, whether they are the same as last time, and the layer they make.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::confine::Root;
use engine_model::{Failure, ImageId, Kind};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::address::Address;
use super::brought::{self, Brought, Place};
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
    /// Of the context or another stage; what was fetched is only unpacked if that is said.
    unpacks: bool,
    unpacks_fetched: bool,
    sources: Vec<Source>,
    checksum: Option<String>,
    keeps_git_dir: bool,
    /// Names and contents of files that stand in the Dockerfile itself.
    written: Vec<(String, Vec<u8>)>,
    target: String,
    owner: Option<String>,
    mode: Option<u32>,
    exclude: Ignored,
    with_parents: bool,
}

/// Something that is copied.
#[derive(Clone, Debug)]
enum Source {
    /// Of the context, another stage or an image.
    Path(String),
    Address(Address),
}

/// What a source means.
#[derive(Clone, Debug)]
struct Chosen {
    selected: Selected,
    /// Where it lies, if it was fetched.
    root: Option<PathBuf>,
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
        let mut origin = match &copy.from {
            None => Origin::Context,
            Some(_) => Origin::Image(self.layers_of(from.clone(), "from").await?),
        };
        let mut is_whole = self.work.plan.is_uncached(self.number);
        let (new, chosen, origin) = loop {
            let brought = self.bring_all(&wanted, is_whole).await?;
            // All of it may be as it was, and where it is not, there has to be all of it.
            is_whole = brought.iter().all(|one| one.place.is_some());
            let (work, asked) = (Arc::clone(self.work), wanted.clone());
            let (digest, chosen, looked_at) = blocking(move || {
                let (digest, chosen) = asked.look(&work, &origin, &brought)?;
                Ok((digest, chosen, origin))
            })
            .await?;
            let kind = match &chosen[..] {
                [one] if one.selected.is_directory => "dir",
                [_] => "file",
                _ => "multi",
            };
            let shown = format!("/bin/sh -c #(nop) {} {kind}:{digest} in {} ", wanted.name, wanted.target);
            let new = self.new_image(wanted.key(&digest), &shown);
            if self.find(&new, wanted.is_all_shown()).await? {
                return Ok(());
            }
            if is_whole {
                break (new, chosen, looked_at);
            }
            (origin, is_whole) = (looked_at, true);
        };
        let layers = self.layers("copy").await?;
        let work = Arc::clone(self.work);
        let made = blocking(move || {
            wanted.put(&work, &origin, &layers, &chosen)?;
            chosen
                .iter()
                .filter_map(|one| one.root.as_ref())
                .for_each(|root| drop(std::fs::remove_dir_all(root)));
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

    /// Looks at all sources that lie elsewhere, in their order.
    async fn bring_all(&self, wanted: &Wanted, whole: bool) -> Result<Vec<Brought>, BuildError> {
        let wish = brought::Wish {
            checksum: wanted.checksum.as_deref(),
            keeps_git_dir: wanted.keeps_git_dir,
            to_directory: wanted.target.ends_with('/'),
            whole,
        };
        let mut all = Vec::new();
        for (number, source) in wanted.sources.iter().enumerate() {
            if let Source::Address(address) = source {
                all.push(self.bring(number, address, wish).await?);
            }
        }
        Ok(all)
    }

    /// The stage or image that a name means.
    pub(super) async fn origin(&self, from: &str) -> Result<Option<ImageId>, BuildError> {
        if self.work.plan.is_named(from) {
            return Ok(Some(self.named(from).await?));
        }
        match self.work.plan.dockerfile.stage(from, self.number) {
            Some(stage) => self.stage(stage).await,
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
            let address = if copy.is_add { Address::of_source(&source) } else { Ok(None) };
            sources.push(match address.map_err(BuildError::invalid)? {
                Some(address) => Source::Address(address),
                None => Source::Path(source),
            });
        }
        let checksum = copy.checksum.as_deref().map(|text| self.expand(text)).transpose()?;
        if let Some(checksum) = &checksum {
            check_checksum(checksum, &sources, written.len())?;
        }
        let is_repository = |source: &Source| matches!(source, Source::Address(Address::Repository(_)));
        if copy.keep_git_dir && !sources.iter().any(is_repository) {
            return Err(BuildError::invalid(
                "keep-git-dir can't be specified for sources that are no git repositories",
            ));
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
            unpacks: copy.is_add && copy.unpack.unwrap_or(true),
            unpacks_fetched: copy.unpack.unwrap_or(false),
            checksum,
            keeps_git_dir: copy.keep_git_dir,
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

/// A checksum is of one file, or the commit of one repository.
fn check_checksum(checksum: &str, sources: &[Source], written: usize) -> Result<(), BuildError> {
    let is_hexadecimal = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let message = match sources {
        [Source::Address(Address::File(_))] if written == 0 => {
            if checksum.strip_prefix("sha256:").is_some_and(|digest| is_hexadecimal(digest, &[64])) {
                return Ok(());
            }
            format!("invalid checksum digest format: {checksum} (`sha256:` and 64 hexadecimal digits)")
        }
        [Source::Address(Address::Repository(_))] if written == 0 => {
            if is_hexadecimal(checksum, &[40, 64]) {
                return Ok(());
            }
            format!("invalid checksum: {checksum} (the whole hash of a commit)")
        }
        [_] | [] => "checksum can't be specified for non-HTTP(S) sources".to_owned(),
        _ => "checksum can't be specified for multiple sources".to_owned(),
    };
    Err(BuildError::invalid(message))
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
    /// Tells the step apart from all others on the same parent.
    fn key(&self, digest: &str) -> String {
        let look = format!("{:?} {:?} {:?} {}", self.owner, self.mode, self.exclude, self.with_parents);
        let unpacks = match (self.unpacks, self.unpacks_fetched) {
            (true, true) => "unpack all",
            (true, false) => "unpack",
            (false, _) => "",
        };
        key(&[self.name, digest, &self.target, &look, unpacks])
    }

    /// Whether the history tells all that makes it another one.
    fn is_all_shown(&self) -> bool {
        let is_plain = self.owner.is_none() && self.mode.is_none() && self.exclude.is_empty();
        let unpacks_as_usual = self.unpacks == (self.name == "ADD") && !self.unpacks_fetched;
        is_plain
            && unpacks_as_usual
            && !self.with_parents
            && self.sources.iter().all(|source| matches!(source, Source::Path(_)))
    }

    fn look(
        &self,
        work: &Work,
        origin: &Origin,
        brought: &[Brought],
    ) -> Result<(String, Vec<Chosen>), BuildError> {
        let nothing = Ignored::default();
        let looked = match origin {
            Origin::Context => {
                let root = plain(&work.plan.context.files()).map_err(|error| failed(self.name, &error))?;
                self.select(&Files { root: &root, ignored: &work.plan.ignored }, brought)
            }
            Origin::Image(layers) => {
                within(&[layers], |roots| self.select(&Files { root: &roots[0], ignored: &nothing }, brought))
            }
        };
        let (digest, chosen, missing) = looked.map_err(|error| failed(self.name, &error))?;
        if let Some(missing) = missing {
            return Err(self.missing(&missing, matches!(origin, Origin::Context)));
        }
        if chosen.is_empty() && brought.is_empty() && self.written.is_empty() {
            return Err(BuildError::invalid(format!("{} failed: no source files were specified", self.name)));
        }
        if chosen.len() + self.written.len() > 1 && !self.target.ends_with('/') {
            return Err(BuildError::invalid(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.name
            )));
        }
        Ok((digest, chosen))
    }

    fn missing(&self, source: &str, of_context: bool) -> BuildError {
        let place =
            if of_context { "file not found in build context or excluded by .dockerignore: " } else { "" };
        let source = source.trim_matches('/');
        let message = format!("{} failed: {place}stat {source}: file does not exist", self.name);
        BuildError::Other(Failure::new(Kind::NotFound, message))
    }

    /// A digest of all sources, what they are as far as they are here, and the first one that is not there.
    fn select(
        &self,
        files: &Files<'_>,
        brought: &[Brought],
    ) -> io::Result<(String, Vec<Chosen>, Option<String>)> {
        let (mut all, mut digest) = (Vec::new(), Sha256::new());
        let mut brought = brought.iter();
        for source in &self.sources {
            let source = match source {
                Source::Path(path) => path,
                Source::Address(_) => {
                    let Some(Brought { key, place }) = brought.next() else { continue };
                    digest.update(key);
                    all.extend(
                        place.clone().map(|Place { root, selected }| Chosen { selected, root: Some(root) }),
                    );
                    continue;
                }
            };
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
            all.extend(selected.into_iter().map(|selected| Chosen { selected, root: None }));
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
        chosen: &[Chosen],
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
            for one in chosen {
                let fetched = one.root.as_deref().map(plain).transpose()?;
                let own = fetched.as_ref().map(|root| Files { root, ignored: &nothing });
                let (files, unpacks) = match &own {
                    Some(own) => (own, self.unpacks_fetched),
                    None => (&files, self.unpacks),
                };
                if !(unpacks && unpacked(outside, files, &one.selected, &target)?) {
                    target.copy(files, &one.selected)?;
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

//! The work of a copy: where things go, and many of them at once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::ends::{Destination, Folder, Source, Writer};
use super::{CopyError, CopyEvent, CopyOptions, Kind, Meta, Progress};

/// How many files and directories are on their way at once.
const AT_ONCE: usize = 32;
/// As deep as `scp` goes.
const MAXIMUM_DEPTH: usize = 64;
/// After so many failures the rest will hardly be better.
const MAXIMUM_FAILURES: usize = 1000;

/// A copy that is under way.
#[derive(Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) destination: &'a Destination<'a>,
    pub(super) options: CopyOptions,
    pub(super) progress: Progress<'a>,
    pub(super) copied: &'a Copied,
}

/// How much there was so far.
#[derive(Default)]
pub(super) struct Copied {
    bytes: AtomicU64,
    entries: AtomicU64,
}

/// A directory whose entries are to be copied.
struct Directory {
    from: PathBuf,
    to: Folder,
    /// The way to it from the root of the copy.
    below: Vec<OsString>,
    depth: usize,
    /// Where links have led away from, with all links resolved.
    trail: Vec<PathBuf>,
}

/// Something that is to be copied into a directory.
enum Job {
    List(Directory),
    Enter {
        from: PathBuf,
        parent: Folder,
        below: Vec<OsString>,
        name: OsString,
        meta: Meta,
        depth: usize,
        trail: Vec<PathBuf>,
    },
    File {
        from: PathBuf,
        parent: Folder,
        name: OsString,
        meta: Meta,
    },
}

/// What became of a job.
enum Outcome {
    Done,
    /// A directory was made; its mode is set when everything is in it.
    Entered(Directory, Meta),
    Listed(Vec<Result<Job, CopyError>>),
}

impl Copy<'_> {
    pub(super) async fn run(self, from: &Path, to: &Path) -> Result<(), CopyError> {
        let meta = self.source.stat(from).await?;
        let existing = self.destination.stat(to).await?;
        let is_directory = |meta: &Meta| meta.kind == Kind::Directory;
        let ends_in_slash = self.destination.ends_in_separator(to);
        match (meta.kind, existing) {
            (Kind::Directory, _) if !self.options.recursive => {
                Err(CopyError::IsDirectory { place: self.source.label(from) })
            }
            (Kind::Directory, Some(there)) if !is_directory(&there) => {
                Err(CopyError::NotDirectory { place: self.destination.label(to) })
            }
            (Kind::Directory, there) => {
                let to = match (there, self.source.own_name(from)) {
                    (Some(_), Some(name)) => self.destination.join(to, &name)?,
                    _ => to.to_owned(),
                };
                self.copy_tree(from, &to, meta, there.is_some()).await
            }
            (Kind::File, Some(there)) if is_directory(&there) => {
                let Some(name) = self.source.own_name(from) else {
                    return Err(CopyError::IsDirectory { place: self.source.label(from) });
                };
                let to = self.destination.join(to, &name)?;
                let there = self.destination.stat(&to).await?;
                self.copy_named(from, &to, meta, there).await
            }
            (Kind::File, None) if ends_in_slash => {
                Err(CopyError::NotDirectory { place: self.destination.label(to) })
            }
            (Kind::File, there) => self.copy_named(from, to, meta, there).await,
            (Kind::Link | Kind::Other, _) => Err(CopyError::Special { place: self.source.label(from) }),
        }
    }

    /// Copies one file to the path that the user meant.
    async fn copy_named(
        self,
        from: &Path,
        to: &Path,
        meta: Meta,
        there: Option<Meta>,
    ) -> Result<(), CopyError> {
        if there.is_some() {
            self.refuse_itself(from, to, |source, destination| source == destination).await?;
        }
        let mode = there.is_none_or(|there| there.is_file()).then_some(meta);
        let writer = self.destination.create_at(to).await?;
        self.copy_content(from, to, meta, writer, mode).await
    }

    async fn copy_tree(self, from: &Path, to: &Path, meta: Meta, may_exist: bool) -> Result<(), CopyError> {
        let is_merged = may_exist && self.destination.stat(to).await?.is_some();
        let root = self.destination.open_folder(to).await?;
        self.refuse_itself(from, to, |source, destination| destination.starts_with(source)).await?;
        let mut folders = Vec::new();
        if !is_merged {
            folders.push((Vec::new(), meta));
        }
        let top = Directory {
            from: from.to_owned(),
            to: root.clone(),
            below: Vec::new(),
            depth: 0,
            trail: Vec::new(),
        };
        let mut waiting = vec![Job::List(top)];
        let mut running: FuturesUnordered<BoxFuture<'_, Result<Outcome, CopyError>>> =
            FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(job) = waiting.pop()
            {
                running.push(Box::pin(self.work(job)));
            }
            let Some(outcome) = running.next().await else { break };
            match outcome {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Entered(directory, meta)) => {
                    folders.push((directory.below.clone(), meta));
                    waiting.push(Job::List(directory));
                }
                Ok(Outcome::Listed(found)) => {
                    let (mut jobs, mut refused) = (Vec::new(), Vec::new());
                    for one in found {
                        match one {
                            Ok(job) => jobs.push(job),
                            Err(error) => refused.push(error),
                        }
                    }
                    // Files come first, so that not all directories are open at once.
                    jobs.sort_by_key(|job| matches!(job, Job::File { .. }));
                    waiting.extend(jobs);
                    failures.extend(refused);
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failures.push(error),
            }
            if failures.len() > MAXIMUM_FAILURES {
                break;
            }
        }
        drop(running);
        // Deepest first: a directory that becomes read-only is complete.
        for (below, meta) in folders.into_iter().rev() {
            let finished =
                self.destination.finish_folder(&root, &below, meta, self.options.preserve_times).await;
            failures.extend(finished.err());
        }
        CopyError::join(failures)
    }

    async fn work(self, job: Job) -> Result<Outcome, CopyError> {
        match job {
            Job::List(directory) => self.list(directory).await.map(Outcome::Listed),
            Job::Enter { from, parent, below, name, meta, depth, trail } => {
                let to = self.destination.enter(&parent, &name).await?;
                Ok(Outcome::Entered(Directory { from, to, below, depth, trail }, meta))
            }
            Job::File { from, parent, name, meta } => {
                let writer = self.destination.create(&parent, &name).await?;
                self.copy_content(
                    &from,
                    &self.destination.join(&parent.path, &name)?,
                    meta,
                    writer,
                    Some(meta),
                )
                .await?;
                Ok(Outcome::Done)
            }
        }
    }

    async fn list(self, directory: Directory) -> Result<Vec<Result<Job, CopyError>>, CopyError> {
        if directory.depth >= MAXIMUM_DEPTH {
            return Err(CopyError::TooDeep {
                place: self.source.label(&directory.from),
                limit: MAXIMUM_DEPTH,
            });
        }
        let mut jobs = Vec::new();
        let entries = self.source.list(&directory.from).await?;
        self.count_entries(entries.len(), &directory.from)?;
        for (name, meta) in entries {
            jobs.push(self.plan(&directory, name, meta).await);
        }
        Ok(jobs)
    }

    async fn plan(self, directory: &Directory, name: OsString, meta: Option<Meta>) -> Result<Job, CopyError> {
        let from = self.source.join(&directory.from, &name);
        if self.destination.host().is_some() && name.to_str().is_none() {
            return Err(CopyError::NotUnicode { place: self.source.label(&from) });
        }
        let is_link = meta.is_none_or(|meta| meta.kind == Kind::Link);
        let meta = match meta {
            Some(meta) if !is_link => meta,
            _ => self.source.stat(&from).await?,
        };
        let parent = directory.to.clone();
        match meta.kind {
            Kind::File => Ok(Job::File { from, parent, name, meta }),
            Kind::Directory => {
                let mut trail = directory.trail.clone();
                if is_link {
                    self.follow(&directory.from, &from, &mut trail).await?;
                }
                let mut below = directory.below.clone();
                below.push(name.clone());
                Ok(Job::Enter { from, parent, below, name, meta, depth: directory.depth + 1, trail })
            }
            Kind::Link | Kind::Other => Err(CopyError::Special { place: self.source.label(&from) }),
        }
    }

    /// Follows a link to a directory, unless the way has already been there.
    async fn follow(self, directory: &Path, link: &Path, trail: &mut Vec<PathBuf>) -> Result<(), CopyError> {
        let target = self.source.canonical(link).await?;
        trail.push(self.source.canonical(directory).await?);
        if trail.iter().any(|place| place.starts_with(&target)) {
            return Err(CopyError::Loop { place: self.source.label(link) });
        }
        Ok(())
    }

    async fn copy_content(
        self,
        from: &Path,
        to: &Path,
        meta: Meta,
        mut writer: Writer,
        mode: Option<Meta>,
    ) -> Result<(), CopyError> {
        (self.progress)(CopyEvent::File { name: &self.source.label(from), size: meta.size });
        let mut reader = self.source.open_file(from, meta.size).await?;
        let write_error = |source| self.destination.write_error(to, source);
        let outcome = loop {
            match reader.next().await {
                Ok(Some(data)) => {
                    if let Err(error) = self.count_bytes(data.len(), from) {
                        break Err(error);
                    }
                    if let Err(source) = writer.write(&data).await {
                        break Err(write_error(source));
                    }
                    (self.progress)(CopyEvent::Bytes(data.len() as u64));
                }
                Ok(None) => break Ok(()),
                Err(source) => break Err(self.source.read_error(from, source)),
            }
        };
        reader.close();
        let mode = mode.filter(|_| outcome.is_ok());
        let finished = writer.finish(mode, self.options.preserve_times).await.map_err(write_error);
        outcome.and(finished)
    }

    fn count_entries(self, more: usize, from: &Path) -> Result<(), CopyError> {
        let limit = self.options.limits.entries;
        if self.exceeds(&self.copied.entries, more, limit) {
            return Err(CopyError::TooManyInAll { place: self.source.label(from), limit });
        }
        Ok(())
    }

    fn count_bytes(self, more: usize, from: &Path) -> Result<(), CopyError> {
        let limit = self.options.limits.bytes;
        if self.exceeds(&self.copied.bytes, more, limit) {
            return Err(CopyError::TooMuchInAll { place: self.source.label(from), limit });
        }
        Ok(())
    }

    /// What lies here is the user's own and not bounded.
    fn exceeds(self, count: &AtomicU64, more: usize, limit: u64) -> bool {
        let more = more as u64;
        count.fetch_add(more, Ordering::Relaxed) + more > limit && self.source.host().is_some()
    }

    /// Refuses a copy onto or into itself, as far as that can be seen from here.
    async fn refuse_itself(
        self,
        from: &Path,
        to: &Path,
        is_itself: impl Fn(&Path, &Path) -> bool,
    ) -> Result<(), CopyError> {
        if self.source.host() != self.destination.host() {
            return Ok(());
        }
        let source = self.source.canonical(from).await?;
        match self.destination.canonical(to).await {
            Some(destination) if is_itself(&source, &destination) => {
                Err(CopyError::Itself { place: self.source.label(from) })
            }
            _ => Ok(()),
        }
    }
}

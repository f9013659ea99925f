//! Root file systems of images, mounted for as long as somebody works in them.

use std::io;
use std::path::{Path, PathBuf};

use engine_kernel::confine::Root;
use engine_kernel::mount::leave_mounts_of_others;
use engine_kernel::overlay::{self, Overlay};

/// An image's layers, and a place for what is changed on top of them.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    /// Top layer first; there may be none.
    pub(crate) lower: Vec<PathBuf>,
    /// Holds `upper`, `work` and what it takes to mount them; made if it is not there.
    pub(crate) scratch: PathBuf,
}

impl Layers {
    /// Where changes are kept.
    pub(crate) fn upper(&self) -> PathBuf {
        self.scratch.join("upper")
    }

    /// Where all of it is, once it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        if self.lower.is_empty() { self.upper() } else { self.scratch.join("root") }
    }

    fn prepare(&self) -> io::Result<PathBuf> {
        let root = self.scratch.join("root");
        for path in [&self.upper(), &self.scratch.join("work"), &root] {
            std::fs::create_dir_all(path)?;
        }
        Ok(root)
    }

    /// To be called by a thread with mounts of its own.
    fn mount(&self) -> io::Result<Root> {
        let root = self.prepare()?;
        if self.lower.is_empty() {
            return Root::open(&self.upper());
        }
        let work = self.scratch.join("work");
        let overlay = Overlay { lower: self.lower.clone(), upper: self.upper(), work };
        overlay::mount(&overlay, None, &root, &self.scratch)?;
        Root::open(&root)
    }
}

/// Mounts these side by side and works in them. The mounts are gone when this returns. Blocks.
pub(crate) fn within<T: Send>(
    layers: &[&Layers],
    work: impl FnOnce(&[Root]) -> io::Result<T> + Send,
) -> io::Result<T> {
    // A thread of its own, for the sake of its mount namespace.
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("build".to_owned()).spawn_scoped(scope, || {
            leave_mounts_of_others()?;
            let roots = layers.iter().map(|layers| layers.mount()).collect::<io::Result<Vec<_>>>()?;
            work(&roots)
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the work on the files was cut short")))
    })
}

/// A root file system without mounting anything.
pub(crate) fn plain(path: &Path) -> io::Result<Root> {
    Root::open(path)
}

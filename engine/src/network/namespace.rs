//! Work inside a container's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetworkError;

/// Opens the namespace that a path such as `/proc/42/ns/net` names.
pub(super) fn open(path: &Path) -> Result<File, NetworkError> {
    File::open(path).map_err(|source| NetworkError::Namespace { path: path.to_owned(), source })
}

/// Runs `work` in the namespace, on a thread of its own that ends with it: a thread of a pool would stay in there.
pub(super) fn inside<T: Send>(
    namespace: &File,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("The thread in the namespace panicked")))
    })
}

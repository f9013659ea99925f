//! Execs that a daemon before this one began: they run on, or have ended meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engine_model::chain;
use engine_shim::client::Shim;
use engine_shim::dialect::Dialect;
use tokio::sync::watch;

use super::{Exec, ExecState, PREFIX, RECORD, Record, recorded_exit};
use crate::Containers;
use crate::container::Container;

impl Containers {
    /// Finds those of a container that runs.
    pub(crate) async fn restore_execs(&self, container: &Arc<Container>) {
        let folder = container.runtime_directory.clone();
        let found = tokio::task::spawn_blocking(move || directories(&folder)).await;
        let found = found.unwrap_or_else(|panicked| Err(panicked.into()));
        let found = found.unwrap_or_else(|error| {
            tracing::error!(container = container.id, %error, "Could not look for its execs");
            Vec::new()
        });
        for directory in found {
            match engine_store::read::<Record>(&directory.join(RECORD)) {
                Ok(Some(record)) => self.restore_exec(container, directory, record).await,
                // Of an engine that wrote none. It goes with the container.
                Ok(None) => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(container = container.id, error, "An exec of it is not known any more");
                }
            }
        }
    }

    async fn restore_exec(&self, container: &Arc<Container>, directory: PathBuf, record: Record) {
        let shim = Shim::at(directory.clone(), Arc::new(Dialect::own()));
        let greeted = shim.hello().await;
        let exit = recorded_exit(&directory);
        let (dialect, process) = match (greeted, exit) {
            (Ok((dialect, Some(process))), None) => (dialect, process),
            // Nobody is left who could let it begin, so it ends.
            (Ok((_, None)), None) => return remove(directory).await,
            (Err(error), None) if !error.is_absence() => {
                let error = chain(&error);
                tracing::error!(container = container.id, error, "An exec of it is not known any more");
                return;
            }
            (_, exit) => {
                let exec = found(container, directory, record, Dialect::own());
                self.execs().insert(exec.id.clone(), Arc::clone(&exec));
                return self.exec_ended(&exec, exit).await;
            }
        };
        let exec = found(container, directory, record, dialect);
        exec.change(|state| {
            *state = ExecState { started: true, running: true, pid: process.number().unwrap_or(0), ..*state };
        });
        self.execs().insert(exec.id.clone(), Arc::clone(&exec));
        match shim.connect().await {
            Ok(connection) => self.watch_exec(&exec, connection),
            Err(_) => self.exec_ended(&exec, recorded_exit(&exec.directory)).await,
        }
    }
}

fn found(container: &Arc<Container>, directory: PathBuf, record: Record, dialect: Dialect) -> Arc<Exec> {
    Arc::new(Exec {
        id: record.id,
        container: Arc::clone(container),
        request: record.request,
        made: Instant::now(),
        directory,
        dialect: Arc::new(dialect),
        state: watch::Sender::default(),
    })
}

/// The directories of execs in that of a container's supervising process.
fn directories(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

async fn remove(directory: PathBuf) {
    let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(directory)).await;
}

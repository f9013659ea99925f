//! Execs that a daemon before this one began: they run on, or have ended meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use engine_model::chain;
use engine_model::task::vital;
use engine_shim::client::{Connection, ShimError};
use tokio::sync::watch;

use super::{Exec, ExecState, PREFIX, RECORD, Record, recorded_exit};
use crate::Containers;
use crate::container::Container;

/// How long a supervising process is left alone that cannot be reached.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What there is of an exec.
struct Found {
    directory: PathBuf,
    record: Result<Option<Record>, engine_store::ReadError>,
}

impl Containers {
    /// Finds those of a container that runs. Nobody waits for one that does not answer.
    pub(crate) async fn restore_execs(&self, container: &Arc<Container>) {
        let folder = container.runtime_directory.clone();
        let found = tokio::task::spawn_blocking(move || look(&folder)).await;
        let found = found.unwrap_or_else(|panicked| Err(panicked.into()));
        let found = found.unwrap_or_else(|error| {
            tracing::error!(container = container.id, %error, "Could not look for its execs");
            Vec::new()
        });
        for Found { directory, record } in found {
            match record {
                // This daemon's own.
                Ok(Some(record)) if self.execs().contains_key(&record.id) => {}
                Ok(Some(record)) if record.begun => self.restore_exec(container, directory, record).await,
                // Its client is gone with the daemon that would have let it begin, so it never will.
                Ok(Some(_)) => remove(directory).await,
                // Of an engine that wrote none, or just made. It goes with the container.
                Ok(None) => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(container = container.id, error, "An exec of it is not known any more");
                }
            }
        }
    }

    async fn restore_exec(&self, container: &Arc<Container>, directory: PathBuf, record: Record) {
        let state = ExecState { started: true, running: true, ..ExecState::default() };
        let exec = Arc::new(Exec {
            id: record.id,
            container: Arc::clone(container),
            request: record.request,
            is_check: record.is_check,
            made: Instant::now(),
            directory,
            dialect: OnceLock::new(),
            state: watch::Sender::new(state),
        });
        self.execs().insert(exec.id.clone(), Arc::clone(&exec));
        match recorded_exit(&exec.directory) {
            Some(exit) => self.exec_ended(&exec, Some(exit)).await,
            None => self.find_again(exec),
        }
    }

    /// Watches one of which it is not known whether it runs, as soon as that is known.
    fn find_again(&self, exec: Arc<Exec>) {
        let containers = self.clone();
        vital(async move {
            let mut said = false;
            // If it has ended with its container, that is known already.
            while exec.state().running {
                match greet(&exec).await {
                    Ok(connection) => {
                        if exec.is_check
                            && let Err(error) = exec.kill().await
                        {
                            let (container, error) = (&exec.container.id, chain(&error));
                            tracing::warn!(container, error, "An old health check of it goes on");
                        }
                        return containers.watch_exec(&exec, connection);
                    }
                    Err(error) => {
                        let exit = recorded_exit(&exec.directory);
                        if exit.is_some() || error.is_absence() {
                            return containers.exec_ended(&exec, exit).await;
                        }
                        if !std::mem::replace(&mut said, true) {
                            let (container, error) = (&exec.container.id, chain(&error));
                            tracing::warn!(container, error, "An exec of it counts as running; trying again");
                        }
                    }
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        });
    }
}

/// Learns what the supervising process speaks, and which process it supervises.
async fn greet(exec: &Exec) -> Result<Connection, ShimError> {
    let (dialect, process) = exec.shim().hello().await?;
    // Where there is none, it is just ending, with and without an exit.
    let process = process.ok_or(ShimError::Gone)?;
    let _ = exec.dialect.set(Arc::new(dialect));
    exec.change(|state| state.pid = process.number().unwrap_or(0));
    exec.shim().connect().await
}

/// The execs in the directory of a container's supervising process.
fn look(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let directory = entry.path();
            let record = engine_store::read(&directory.join(RECORD));
            found.push(Found { directory, record });
        }
    }
    Ok(found)
}

async fn remove(directory: PathBuf) {
    let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(directory)).await;
}

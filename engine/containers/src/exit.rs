//! The end of a container's process, and what comes after it: removal, or a new start.

use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine_kernel::cgroup;
use engine_model::chain;
use engine_model::life::Change;
use engine_model::spec::Restart;
use engine_model::task::vital;
use engine_shim::client::{Connection, ShimError};
use engine_shim::protocol::{self, ExitRecord, Reply, Request};
use jiff::Timestamp;

use super::record::{EXIT_FILE, State, Status};
use super::{Container, ContainerError, Containers};

/// The first pause before a restart, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Whoever ran this long starts again with the first pause.
const RAN_WELL: Duration = Duration::from_secs(10);
/// Bytes of what is said about one run.
const MOST_MESSAGES: u64 = 16 * 1024;
/// What is said of an end that nobody saw.
const UNKNOWN_CODE: i32 = 255;

/// What the processes around a container could say to nobody else: that its log could not be written, for example.
fn pass_on_messages(container: &Container) {
    let mut bytes = Vec::new();
    let path = container.runtime_directory.join(protocol::MESSAGES);
    let Ok(file) = fs::File::open(path) else { return };
    // What was read until it could not be read is said all the same.
    let _ = file.take(MOST_MESSAGES).read_to_end(&mut bytes);
    for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.is_empty()) {
        tracing::warn!(container = container.id, "{line}");
    }
}

impl Containers {
    /// Waits for the end of a running container, in the background.
    pub(super) fn watch(&self, container: &Arc<Container>, mut connection: Connection) {
        let (containers, container) = (self.clone(), Arc::clone(container));
        vital(async move {
            let told = match connection.send(&Request::Wait).await {
                Ok(()) => last_word(&mut connection, &container.id).await,
                Err(_) => None,
            };
            let exit = match told {
                Some(exit) => exit,
                None => containers.find_exit(&container).await,
            };
            containers.ended(&container, exit).await;
        });
    }

    /// What is known of the end of a container whose supervising process is gone.
    pub(super) async fn find_exit(&self, container: &Arc<Container>) -> ExitRecord {
        let path = container.directory.join(EXIT_FILE);
        let (containers, cgroup) = (self.clone(), container.cgroup());
        let found = tokio::task::spawn_blocking(move || {
            let record = engine_store::read(&path);
            if !matches!(record, Ok(Some(_))) {
                cgroup::remove(&cgroup);
            }
            record.unwrap_or_else(|error| {
                if error.is_damage() {
                    containers.set_aside(&path, &chain(&error));
                }
                None
            })
        });
        let unknown = ExitRecord { code: UNKNOWN_CODE, out_of_memory: false, finished_at: Timestamp::now() };
        found.await.ok().flatten().unwrap_or(unknown)
    }

    /// Puts on record that a container has ended, and does what its maker wanted for this case.
    pub(super) async fn ended(&self, container: &Arc<Container>, exit: ExitRecord) {
        let operation = container.operation.lock().await;
        let before = container.state();
        if !before.status.is_alive() {
            return;
        }
        self.disconnect(&container.id).await;
        self.forget_execs(&container.id);
        let stopping = container.stopping.swap(false, Ordering::AcqRel);
        let restart = !stopping && should_restart(container, &before, exit.code);
        container.change_state(|state| {
            state.status = if restart { Status::Restarting } else { Status::Exited };
            state.pid = 0;
            state.exit_code = exit.code;
            state.out_of_memory = exit.out_of_memory;
            state.finished_at = Some(exit.finished_at);
            let left = state.endpoints.drain(..);
            state.last_networks = left.map(|endpoint| (endpoint.network_name, endpoint.network_id)).collect();
            state.ports.clear();
            state.is_checked_no_more();
        });
        container.hold(None);
        let (over, containers) = (Arc::clone(container), self.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            over.unpin();
            containers.let_go_of_volumes(&over.id);
            pass_on_messages(&over);
            fs::remove_dir_all(&over.runtime_directory)
        });
        let _ = cleared.await;
        if exit.out_of_memory {
            container.tell(&self.0.events, &Change::OutOfMemory);
        }
        let seconds =
            before.started_at.map_or(0, |started| exit.finished_at.duration_since(started).as_secs().max(0));
        container.tell(&self.0.events, &Change::Ended { code: exit.code, starts_again: restart, seconds });
        if container.is_removed_at_its_end() && !container.is_being_restarted() {
            if let Err(error) = self.remove_locked(container, true).await {
                tracing::error!(container = container.id, "{}", engine_model::chain(&error));
            }
        } else if restart {
            drop(operation);
            self.restart_later(container, pause(&before, &exit));
        }
    }

    /// Starts a container again after a pause, unless somebody else does or it is stopped meanwhile.
    pub(super) fn restart_later(&self, container: &Arc<Container>, pause: Duration) {
        let (containers, container) = (self.clone(), Arc::clone(container));
        vital(async move {
            let cancelled = container.restart_now_or_never.notified();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancelled => return,
            }
            let operation = container.operation.lock().await;
            if container.status() != Status::Restarting {
                return;
            }
            container.change_state(|state| state.restart_count += 1);
            let result = containers.start_locked(&container).await;
            drop(operation);
            if let Err(error) = result {
                containers.restart_failed(&container, &error);
            }
        });
    }

    /// A start that fails counts as an end, so that a host that is short of something for a while is tried again.
    fn restart_failed(&self, container: &Arc<Container>, error: &ContainerError) {
        tracing::error!(container = container.id, "{}", engine_model::chain(error));
        let state = container.state();
        if should_restart(container, &state, state.exit_code) && !container.is_removing() {
            container.change_state(|state| state.status = Status::Restarting);
            self.restart_later(container, growing_pause(state.restart_count));
        } else {
            container.tell(&self.0.events, &Change::GivenUp);
        }
    }
}

/// Waits until a supervising process says how what it supervises has ended, or is gone. What it says that is not understood, or
/// that it does not understand, is no end.
pub(super) async fn last_word(connection: &mut Connection, container: &str) -> Option<ExitRecord> {
    loop {
        match connection.reply().await {
            Ok(Reply::Exited(exit)) => return Some(exit),
            Ok(other) => tracing::warn!(container, ?other, "The supervising process says something else"),
            Err(error @ ShimError::Strange { .. }) => {
                tracing::warn!(container, %error, "Waiting for the end");
            }
            Err(_) => return None,
        }
    }
}

/// Whether the restart policy wants a new start after an end that no client asked for.
pub(super) fn should_restart(container: &Container, state: &State, code: i32) -> bool {
    match container.spec().map_or(Restart::No, |spec| spec.restart) {
        Restart::No => false,
        Restart::Always => true,
        Restart::UnlessStopped => !state.manually_stopped,
        Restart::OnFailure { most } => code != 0 && most.is_none_or(|most| state.restart_count < most),
    }
}

fn pause(before: &State, exit: &ExitRecord) -> Duration {
    let ran = before
        .started_at
        .and_then(|started| u64::try_from(exit.finished_at.duration_since(started).as_secs()).ok())
        .unwrap_or(0);
    if ran >= RAN_WELL.as_secs() { FIRST_PAUSE } else { growing_pause(before.restart_count) }
}

fn growing_pause(restarts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << restarts.min(20)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute() {
        assert_eq!(growing_pause(0), Duration::from_millis(100));
        assert_eq!(growing_pause(3), Duration::from_millis(800));
        assert_eq!(growing_pause(40), LONGEST_PAUSE);
    }
}

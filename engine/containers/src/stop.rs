//! Ending, killing, pausing and restarting containers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine_kernel::cgroup;
use engine_model::life::Change;
use engine_shim::client::ShimError;
use engine_shim::protocol::Request;

use super::record::Status;
use super::{Container, ContainerError, Containers, signals};

/// How long a container may take to end when neither it nor the client says otherwise.
const DEFAULT_TIMEOUT: i64 = 10;
/// How long the kernel may take to kill.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

impl Containers {
    /// Asks a container to end and, after `timeout` seconds, makes it; a negative timeout waits for ever.
    pub async fn stop(
        &self,
        container: &Arc<Container>,
        timeout: Option<i64>,
        signal: Option<i32>,
    ) -> Result<(), ContainerError> {
        self.bring_down(container, timeout, signal).await?;
        container.settle().await;
        Ok(())
    }

    async fn bring_down(
        &self,
        container: &Arc<Container>,
        timeout: Option<i64>,
        signal: Option<i32>,
    ) -> Result<(), ContainerError> {
        let exits = {
            let _operation = container.operation.lock().await;
            match container.status() {
                Status::Running | Status::Paused => {}
                Status::Restarting => {
                    container.change_state(|state| {
                        state.status = Status::Exited;
                        state.manually_stopped = true;
                    });
                    container.restart_now_or_never.notify_waiters();
                    container.tell(&self.0.events, &Change::GivenUp);
                    return Ok(());
                }
                _ => return Err(ContainerError::NotModified),
            }
            container.stopping.store(true, Ordering::Release);
            container.change_state(|state| state.manually_stopped = true);
            container.life().borrow().exits
        };
        // Whatever it is, it can be stopped.
        let (own_signal, own_timeout) =
            container.spec().map_or((None, None), |spec| (spec.stop_signal, spec.stop_timeout));
        let signal = signal.or(own_signal).unwrap_or(signals::TERM);
        let timeout = timeout.or(own_timeout).unwrap_or(DEFAULT_TIMEOUT);
        let told = self.signal(container, exits, signal).await;
        if let Err(ContainerError::Shim(error @ ShimError::Unknown { .. })) = told {
            // It is there and well; who wants it to end all the same kills it.
            container.stopping.store(false, Ordering::Release);
            container.change_state(|state| state.manually_stopped = false);
            return Err(error.into());
        }
        if let Ok(sent) = told {
            if sent {
                self.thaw(container).await;
            }
            let ended = container.wait_until(|life| life.exits > exits || life.removed);
            if timeout < 0 {
                ended.await;
                container.tell(&self.0.events, &Change::Stopped);
                return Ok(());
            }
            let patience = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
            if tokio::time::timeout(patience, ended).await.is_ok() {
                container.tell(&self.0.events, &Change::Stopped);
                return Ok(());
            }
        }
        self.make_end(container, exits).await?;
        container.tell(&self.0.events, &Change::Stopped);
        Ok(())
    }

    /// Sends a signal; after one that cannot be ignored, waits for the end.
    pub async fn kill(&self, container: &Arc<Container>, signal: i32) -> Result<(), ContainerError> {
        let exits = {
            let _operation = container.operation.lock().await;
            match container.status() {
                Status::Running | Status::Paused => {}
                Status::Restarting if signal == signals::KILL => {
                    container.change_state(|state| {
                        state.status = Status::Exited;
                        state.manually_stopped = true;
                    });
                    container.restart_now_or_never.notify_waiters();
                    container.tell(&self.0.events, &Change::GivenUp);
                    return Ok(());
                }
                _ => return Err(container.ended()),
            }
            let own = container.spec().ok().and_then(|spec| spec.stop_signal);
            // Other signals say something to the program, and are no wish that it end.
            if signal == signals::KILL || signal == own.unwrap_or(signals::TERM) {
                container.stopping.store(true, Ordering::Release);
                container.change_state(|state| state.manually_stopped = true);
            }
            container.life().borrow().exits
        };
        if signal == signals::KILL {
            self.make_end(container, exits).await?;
        } else if !self.signal(container, exits, signal).await? {
            return Err(container.ended());
        }
        container.settle().await;
        Ok(())
    }

    /// Kills a container and waits until that is on record. `exits` is how often it had ended before.
    pub(super) async fn make_end(
        &self,
        container: &Arc<Container>,
        exits: u64,
    ) -> Result<(), ContainerError> {
        match self.signal(container, exits, signals::KILL).await {
            Ok(true) => self.thaw(container).await,
            // It has ended meanwhile, and that is on record; whatever runs now is not meant.
            Ok(false) if !is_run(container, exits) => return Ok(()),
            // Its process has ended, or its supervising process is gone or stuck.
            Ok(false) | Err(_) => {
                let _operation = container.operation.lock().await;
                if is_run(container, exits) {
                    let cgroup = container.cgroup();
                    tokio::task::spawn_blocking(move || cgroup::kill_all(&cgroup)).await?;
                    self.thaw(container).await;
                }
            }
        }
        let ended = container.wait_until(|life| life.exits > exits || life.removed);
        match tokio::time::timeout(KILL_TIMEOUT, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ContainerError::Refused(
                "tried to kill container, but did not receive an exit event".to_owned(),
            )),
        }
    }

    /// Sends a signal to the run of the container before which it had ended `exits` times, and says whether that run is
    /// still there to get it. What it leads to is told after it.
    async fn signal(
        &self,
        container: &Arc<Container>,
        exits: u64,
        signal: i32,
    ) -> Result<bool, ContainerError> {
        let _operation = container.operation.lock().await;
        if !is_run(container, exits) {
            return Ok(false);
        }
        let told = match container.process() {
            Some(process) => match process.signal(signal) {
                Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH) => {
                    return Ok(false);
                }
                told => told.map_err(|error| ShimError::Refused(error.to_string())),
            },
            None => container.shim().ask(&Request::Kill { signal }).await.map(drop),
        };
        match told {
            Ok(()) => {
                container.tell(&self.0.events, &Change::Signalled { signal });
                Ok(true)
            }
            Err(ShimError::Refused(message)) => Err(ContainerError::Conflict(message)),
            Err(error) => Err(error.into()),
        }
    }

    /// A paused container can neither act on a signal nor, on the older hierarchy, die.
    async fn thaw(&self, container: &Arc<Container>) {
        if container.status() == Status::Paused {
            let cgroup = container.cgroup();
            let _ = tokio::task::spawn_blocking(move || cgroup::freeze(&cgroup, false)).await;
        }
    }

    pub async fn restart(
        &self,
        container: &Arc<Container>,
        timeout: Option<i64>,
        signal: Option<i32>,
    ) -> Result<(), ContainerError> {
        // The end in between is not the one at which it may be removed.
        container.restarts.fetch_add(1, Ordering::AcqRel);
        let stopped = self.stop(container, timeout, signal).await;
        let started = match stopped {
            Ok(()) | Err(ContainerError::NotModified) => self.start(container).await,
            Err(error) => Err(error),
        };
        container.restarts.fetch_sub(1, Ordering::AcqRel);
        match started {
            Ok(()) | Err(ContainerError::NotModified) => {}
            Err(error) => return Err(error),
        }
        container.tell(&self.0.events, &Change::Restarted);
        Ok(())
    }

    pub async fn pause(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        self.freeze(container, true).await
    }

    pub async fn unpause(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        self.freeze(container, false).await
    }

    async fn freeze(&self, container: &Arc<Container>, frozen: bool) -> Result<(), ContainerError> {
        let _operation = container.operation.lock().await;
        let conflict =
            |what: &str| Err(ContainerError::Conflict(format!("Container {} is {what}", container.id)));
        match (container.status(), frozen) {
            (Status::Running, true) | (Status::Paused, false) => {}
            (Status::Paused, true) => return conflict("already paused"),
            (Status::Restarting, _) => return conflict("restarting, wait until the container is running"),
            (_, true) => return Err(container.ended()),
            _ => return conflict("not paused"),
        }
        let target = Arc::clone(container);
        tokio::task::spawn_blocking(move || target.in_cgroup(|cgroup| cgroup::freeze(cgroup, frozen)))
            .await??;
        container.change_state(|state| {
            state.status = if frozen { Status::Paused } else { Status::Running };
            if frozen {
                state.is_checked_no_more();
            }
        });
        container.tell(&self.0.events, if frozen { &Change::Paused } else { &Change::Unpaused });
        Ok(())
    }
}

/// Whether a container runs, and has ended `exits` times before.
fn is_run(container: &Container, exits: u64) -> bool {
    container.status().is_alive() && container.life().borrow().exits == exits
}

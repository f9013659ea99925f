//! Starts, stops and reboots an instance. What AWS shows of its state may be older than what was last asked of it: it is
//! asked again, which changes nothing where it was done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_ec2::types::InstanceStateName;
use machine_driver::{DriverError, HostView, Progress};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    api::Call,
    config::Config,
    error::{Answer as _, ApiError},
    launch,
    region::Region,
    state::{Book, SPOT_REQUEST},
    waiting::Waiting,
    watch::Instance,
};

/// A stop goes through the guest's own shutdown, which EC2 ends by force after some minutes.
const STOP_AT_MOST: Duration = Duration::from_mins(15);
/// How long a guest that was asked to reboot may go on answering.
const REBOOT_AT_MOST: Duration = Duration::from_mins(2);
const BANNER_AT_MOST: Duration = Duration::from_secs(2);

/// Starts the instance, or sees that it runs.
pub(crate) async fn start(
    region: &Arc<Region>,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let id = launch::instance_id(host, &book.made)?;
    let waiting = until_stopped(region, &id);
    loop {
        let instance = launch::living(host, &id, waiting.next().await?)?;
        progress.step("Starting the instance");
        let answer = region
            .api
            .start_instances()
            .instance_ids(&id)
            .send()
            .await
            .answer(Call::StartInstances, &region.api);
        match answer {
            Ok(_) => break,
            // It is still stopping, or in another state than it is shown in.
            Err(error) if error.is("IncorrectInstanceState") => {
                if instance.state == InstanceStateName::Pending {
                    break;
                }
                progress.step("Waiting until the instance has stopped");
            }
            // One-time spot instances run or are gone; they cannot be started.
            Err(error) if is_spot_refusal(&error) && instance.state == InstanceStateName::Running => break,
            Err(error) => return Err(failed(region, host, &id, error, "start").await),
        }
    }
    launch::wait_running(region, host, config, book, progress).await
}

/// Stops the instance and waits for that. `force`: as if the power was cut.
pub(crate) async fn stop(
    region: &Arc<Region>,
    host: &HostView,
    book: &mut Book<'_>,
    progress: &dyn Progress,
    force: bool,
) -> Result<(), DriverError> {
    let id = launch::instance_id(host, &book.made)?;
    known(region, host, &id).await?;
    progress.step("Stopping the instance");
    let mut backoff = region.pace.for_consistency();
    let answer = loop {
        let answer = region
            .api
            .stop_instances()
            .instance_ids(&id)
            .force(force)
            .send()
            .await
            .answer(Call::StopInstances, &region.api);
        match answer {
            Ok(answer) => break answer,
            // It was started a moment ago.
            Err(error) if error.is("IncorrectInstanceState") && backoff.wait().await => {}
            Err(error) if error.is("UnsupportedOperation") && !book.named(SPOT_REQUEST).is_empty() => {
                return Err(failed(region, host, &id, error, "stop")
                    .await
                    .with_hint("A spot instance of ours can be restarted and removed, not stopped"));
            }
            Err(error) => return Err(failed(region, host, &id, error, "stop").await),
        }
    };
    let change = answer.stopping_instances().iter().find(|change| change.instance_id() == Some(id.as_str()));
    let now = change.and_then(|change| change.current_state()?.name());
    if now != Some(&InstanceStateName::Stopped) {
        let has_stopped = |seen| {
            let instance = launch::living(host, &id, seen)?;
            Ok((instance.state == InstanceStateName::Stopped).then_some(()))
        };
        until_stopped(region, &id).until(has_stopped).await?;
    }
    book.made.public_address = None;
    book.save().await
}

/// Restarts the instance. A reboot keeps the address, unlike a stop and a start.
pub(crate) async fn restart(
    region: &Arc<Region>,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let id = launch::instance_id(host, &book.made)?;
    if known(region, host, &id).await?.state != InstanceStateName::Running {
        return start(region, host, config, book, progress).await;
    }
    progress.step("Rebooting the instance");
    let answer = region
        .api
        .reboot_instances()
        .instance_ids(&id)
        .send()
        .await
        .answer(Call::RebootInstances, &region.api);
    match answer {
        Ok(_) => {}
        // It does not run, whatever it is shown as.
        Err(error) if error.is("IncorrectInstanceState") => {
            return start(region, host, config, book, progress).await;
        }
        Err(error) => return Err(failed(region, host, &id, error, "reboot").await),
    }
    if let Some(address) = launch::address(config, &book.made) {
        wait_until_down(&address, config.ssh_port).await;
    }
    launch::wait_running(region, host, config, book, progress).await
}

/// A stop that is under way.
fn until_stopped<'a>(region: &'a Region, id: &'a str) -> Waiting<'a> {
    Waiting::new(region, id, "stop", STOP_AT_MOST).with_hint("`machine kill` stops it by force")
}

/// The instance of a host, of which AWS must know.
async fn known(region: &Arc<Region>, host: &HostView, id: &str) -> Result<Instance, DriverError> {
    let found =
        region.watch.find(id, region.pace.for_absence()).await.map_err(|error| {
            error.during(format!("Could not look for the instance {id} of `{}`", host.name))
        })?;
    launch::living(host, id, found)
}

fn is_spot_refusal(error: &ApiError) -> bool {
    error.is_any(&["UnsupportedOperation", "IncorrectSpotRequestState"])
}

/// The error of a call about an instance that was there a moment ago.
async fn failed(region: &Arc<Region>, host: &HostView, id: &str, error: ApiError, what: &str) -> DriverError {
    if error.is_not_found()
        && let Err(gone) = known(region, host, id).await
    {
        return gone;
    }
    error.during(format!("Could not {what} the instance {id} of `{}`", host.name))
}

/// Waits until nobody answers on the SSH port, so that whoever waits for SSH next does not meet the old boot.
async fn wait_until_down(host: &str, port: u16) {
    let began = Instant::now();
    while began.elapsed() < REBOOT_AT_MOST {
        let banner = async {
            let mut stream = TcpStream::connect((host, port)).await.ok()?;
            let mut start = [0; 4];
            stream.read_exact(&mut start).await.ok()?;
            (start == *b"SSH-").then_some(())
        };
        if !matches!(timeout(BANNER_AT_MOST, banner).await, Ok(Some(()))) {
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

//! A VM of Hyper-V, as the operations know it: what they are told, and what their answers mean.

use std::{
    net::IpAddr,
    path::{MAIN_SEPARATOR, Path},
    time::Duration,
};

use machine_driver::{DriverError, HostView};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    config::{Adopted, Stored},
    driver::Patience,
    facts::Facts,
    scripts::Operation,
    shell::Shell,
    state::Made,
};

/// A VM's name in Hyper-V has at most 100 characters, of which the host's id takes 36 and a dash.
const LONGEST_NAME: usize = 63;

/// How a VM is found among all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    /// The id that Hyper-V gave it, once known.
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    /// What its folder's path begins with; `None`: its name says enough.
    pub(crate) within: Option<String>,
}

impl Named {
    pub(crate) fn of(host: &HostView, made: &Made) -> Result<Self, DriverError> {
        match Stored::of(host)? {
            Stored::Ours(_) => Ok(Self { id: made.vm.clone(), name: name(host), within: None }),
            Stored::DockerMachines(Adopted { machine_name, .. }) => {
                let within = format!("{}{MAIN_SEPARATOR}", path(&folder(host)?)?);
                Ok(Self { id: None, name: machine_name, within: Some(within) })
            }
        }
    }
}

/// What the VM is called in Hyper-V: a name that people know it by, and an id that no other store has.
pub(crate) fn name(host: &HostView) -> String {
    let name: String = host.name.as_str().chars().take(LONGEST_NAME).collect();
    format!("{name}-{}", host.id)
}

pub(crate) fn folder(host: &HostView) -> Result<std::path::PathBuf, DriverError> {
    std::path::absolute(&host.folder).map_err(|error| {
        DriverError::failed(format!("Could not make out where `{}` is", host.folder.display()))
            .with_source(error)
    })
}

/// A path as it goes to PowerShell.
pub(crate) fn path(path: &Path) -> Result<&str, DriverError> {
    path.to_str().ok_or_else(|| {
        DriverError::refused(format!("`{}` is not UTF-8, and cannot be handed to PowerShell", path.display()))
    })
}

/// The Hyper-V of this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hypervisor {
    pub(crate) shell: Shell,
    pub(crate) patience: Patience,
}

/// One operation on one VM.
#[derive(Debug, Serialize)]
struct Call<'a> {
    turn: String,
    /// Milliseconds.
    patience: u128,
    machine: &'a Named,
    /// Milliseconds for the VM to come to the state that is wanted.
    limit: u128,
    /// Milliseconds between two looks.
    pause: u128,
    /// Cut the power instead of asking the guest.
    cut: bool,
}

#[derive(Debug, Deserialize)]
struct Ended {
    /// `None`: there is no such VM.
    state: Option<String>,
}

#[derive(Debug, Serialize)]
struct Asked<'a> {
    machines: Vec<Keyed<'a>>,
}

#[derive(Debug, Serialize)]
struct Keyed<'a> {
    key: usize,
    #[serde(flatten)]
    machine: &'a Named,
}

#[derive(Debug, Deserialize)]
struct Described {
    found: Vec<One>,
}

#[derive(Debug, Deserialize)]
struct One {
    key: usize,
    facts: Facts,
}

impl Hypervisor {
    async fn call(
        &self,
        operation: Operation,
        host: &HostView,
        machine: &Named,
    ) -> Result<Ended, DriverError> {
        let call = Call {
            turn: host.id.to_string(),
            patience: self.patience.turn.as_millis(),
            machine,
            limit: self.patience.state.as_millis(),
            pause: self.patience.pause.as_millis(),
            cut: operation == Operation::Kill,
        };
        self.shell.run(operation, &call).await
    }

    /// Starts it; running already is success.
    pub(crate) async fn start(&self, host: &HostView, machine: &Named) -> Result<(), DriverError> {
        match self.call(Operation::Start, host, machine).await?.state.as_deref() {
            None => Err(gone(host)),
            Some("Running") => Ok(()),
            Some(state) => {
                Err(DriverError::not_ready(format!("The VM does not come up: it is `{}`", word(state)))
                    .with_hint(format!(
                        "`machine kill {0}` turns it off; then `machine start {0}`",
                        host.name
                    )))
            }
        }
    }

    /// Has the guest shut down; off already is success.
    pub(crate) async fn stop(&self, host: &HostView, machine: &Named) -> Result<(), DriverError> {
        let kill = format!("`machine kill {}` stops it as if the power was cut", host.name);
        let ended = self.call(Operation::Stop, host, machine).await.map_err(|error| match error.hint() {
            Some(_) => error,
            None => error.with_hint(kill.clone()),
        })?;
        match ended.state.as_deref() {
            None => Err(gone(host)),
            Some("Off" | "Saved") => Ok(()),
            Some(state) => {
                let message = format!("`{}` did not shut down: it is `{}`", host.name, word(state));
                Err(DriverError::failed(message).with_hint(kill))
            }
        }
    }

    /// Cuts the power; off already is success.
    pub(crate) async fn kill(&self, host: &HostView, machine: &Named) -> Result<(), DriverError> {
        match self.call(Operation::Kill, host, machine).await?.state.as_deref() {
            None => Err(gone(host)),
            Some("Off") => Ok(()),
            Some(state) => Err(stuck(host, state)),
        }
    }

    /// Takes it out of Hyper-V; gone already is success.
    pub(crate) async fn remove(&self, host: &HostView, machine: &Named) -> Result<(), DriverError> {
        match self.call(Operation::Remove, host, machine).await?.state.as_deref() {
            None => Ok(()),
            Some(state) => Err(stuck(host, state)),
        }
    }

    /// What Hyper-V knows of each, all asked at once; `None`: there is no such VM.
    pub(crate) async fn describe(&self, machines: &[Named]) -> Result<Vec<Option<Facts>>, DriverError> {
        let keyed = machines.iter().enumerate().map(|(key, machine)| Keyed { key, machine }).collect();
        let described: Described = self.shell.run(Operation::Describe, &Asked { machines: keyed }).await?;
        let mut found = vec![None; machines.len()];
        for One { key, facts } in described.found {
            if let Some(place) = found.get_mut(key) {
                *place = Some(facts);
            }
        }
        Ok(found)
    }

    /// Waits until a VM that runs has an address. One of IPv6 is taken when there is still none of IPv4 after half of the
    /// time.
    pub(crate) async fn address(&self, host: &HostView, machine: &Named) -> Result<IpAddr, DriverError> {
        let began = Instant::now();
        loop {
            let found = self.describe(std::slice::from_ref(machine)).await?;
            let facts = found.into_iter().next().flatten().ok_or_else(|| gone(host))?;
            let waited = began.elapsed();
            match facts.address() {
                Some(address) if address.is_ipv4() || waited > self.patience.address / 2 => {
                    return Ok(address);
                }
                _ if waited > self.patience.address => return Err(no_address(host, &facts)),
                _ => sleep(self.patience.pause.max(Duration::from_millis(1))).await,
            }
        }
    }
}

/// A word of Hyper-V's, fit to be shown.
fn word(state: &str) -> String {
    state.chars().filter(char::is_ascii_alphanumeric).take(40).collect()
}

pub(crate) fn gone(host: &HostView) -> DriverError {
    DriverError::gone(format!("The VM of `{}` is not in Hyper-V any more", host.name))
        .with_hint(format!("`machine rm {}` removes what is left of the host", host.name))
}

fn stuck(host: &HostView, state: &str) -> DriverError {
    let message = format!("The VM of `{}` cannot be turned off: it is `{}`", host.name, word(state));
    DriverError::not_ready(message)
        .with_hint("Try again; if that does not help, end its process `vmwp.exe`, or restart Windows")
}

fn no_address(host: &HostView, facts: &Facts) -> DriverError {
    let error = DriverError::not_ready(format!("The VM of `{}` runs, and has no address so far", host.name));
    if facts.state().to_string() != "Running" {
        return error.with_hint(format!("It is `{}`", word(&facts.state)));
    }
    error.with_hint(
        "Its virtual switch has to lead to a network that gives out addresses (DHCP): choose one with `--hyperv-virtual-switch`",
    )
}

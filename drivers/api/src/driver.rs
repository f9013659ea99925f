//! The trait that every driver implements, with its contract.

use std::fmt::Debug;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Description, DriverError, Endpoint, Flag, Forecast, HostView, Journal, Leftover, Options, Place,
    Progress, Rule, State,
};

/// What a driver is and what it can do. Callers ask this, never the driver's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// The word after `-d`, which is also the stored `DriverName`.
    pub name: String,
    /// Other words accepted after `-d`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line for the help.
    pub summary: String,
    pub features: Features,
}

/// The abilities of a driver that its callers have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// The host runs an engine that `machine` installs over SSH. `false`: only its URL is recorded.
    pub provisioned: bool,
    /// `start`, `stop` and `kill` mean something here.
    pub power: bool,
    /// Where the key for the login comes from.
    pub login: LoginSource,
    /// Where the host's SSH host key comes from.
    pub host_key: HostKeySource,
    /// Hosts may only be changed as far as `create` was told to: no change of host name.
    pub adopted: bool,
    /// Something at the provider keeps traffic from the host that [`Driver::admit`] has not let in.
    #[serde(default)]
    pub firewall: bool,
}

/// Where the key that `machine` logs in with comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginSource {
    /// `machine` makes a key pair for the host and hands the public half to `create`.
    Generated,
    /// The user's own key or agent, named by [`Endpoint`].
    User,
    /// No login at all.
    None,
}

/// How the host's SSH host key is known before the first connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKeySource {
    /// `machine` makes the host key and the driver delivers it with the first boot.
    Delivered,
    /// The same, by a way that others may read later on: the host makes a new one at the first login.
    DeliveredOnce,
    /// The host makes its own, and the provider shows them: [`Driver::host_keys`].
    Shown,
    /// Nobody knows it: the user is asked, or names it with `--ssh-host-key`.
    User,
    /// There is no SSH.
    None,
}

/// The answer about one of the hosts of [`Driver::describe_many`], by its index there.
pub type Row = (usize, Result<Description, DriverError>);

/// One kind of place where hosts come from. Cheap to build, holds no connection.
///
/// Order of calls for a new host: `configure`, `check`, `create`, then `state` and `endpoint`.
///
/// * Every method may be repeated after a crash at any point. `create` finds what the journal says was intended
///   or made and goes on from there, making nothing twice; `remove` succeeds when there is nothing left.
/// * Before anything is made at the provider its name is written with [`Journal::intend`], after it exists its id
///   is written with [`Journal::made`]. Nothing exists that the journal does not name.
/// * Methods for different hosts may run at once; for one host the store's lock keeps them apart, except for
///   `state`, `endpoint`, `describe_many` and `console`, which take no lock and change nothing.
/// * An answer that leaves open whether something was made or is there ([`crate::ErrorKind::Unknown`]) never erases
///   what the journal says, and never has anything made a second time.
/// * A method that is dropped (Ctrl-C) leaves a state from which it can be called again.
/// * What is stored through the journal and `configure` holds no secret.
#[async_trait]
pub trait Driver: Send + Sync + Debug {
    fn info(&self) -> DriverInfo;

    /// What it can do for a host with this configuration, where that depends on it.
    fn features_of(&self, config: &Value) -> Features {
        let _ = config;
        self.info().features
    }

    /// The driver's own options, as data: the command line, the help and the documentation show these.
    fn flags(&self) -> Vec<Flag>;

    /// The options that say which account and place is meant, for commands that are about no host. A list of places
    /// may be given where `flags` takes one.
    fn scope_flags(&self) -> Vec<Flag> {
        Vec::new()
    }

    /// Turns options into the driver's configuration, which is stored in the record and given back in
    /// [`HostView::config`]. Pure: looks at nothing but its argument. Refuses values that can never work.
    async fn configure(&self, options: &Options) -> Result<Value, DriverError>;

    /// Where hosts with this configuration can be put so that they fail apart from one another, in the provider's
    /// order. The caller spreads the hosts of one command over them, by [`HostView::place`]. Empty: there is one place.
    async fn places(&self, config: &Value) -> Result<Vec<Place>, DriverError> {
        let _ = config;
        Ok(Vec::new())
    }

    /// Refuses what cannot work here and now, and says what the host would be. Changes nothing; called before anything
    /// is recorded.
    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError>;

    /// Makes the host and starts it. Returns when the provider says it runs; SSH need not answer yet.
    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError>;

    /// Starts a stopped host; running already is success.
    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError>;

    /// Stops it in an orderly way and waits for that, within a bound; stopped already is success.
    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError>;

    /// Stops it at once, as if the power was cut; stopped already is success.
    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError>;

    /// Restarts it; a stopped host is started.
    async fn restart(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.stop(host, journal, progress).await?;
        self.start(host, journal, progress).await
    }

    /// Lets in what `rules` say and what the host's own options say, and nothing else of what it let in before: the rules
    /// are the whole of what the caller wants. `create` lets nobody in by itself. Called after `create`, after each
    /// start, and whenever the members of the host's cluster or the caller's address may have changed; told the same
    /// again, it does nothing. Rules that the driver did not make are left alone. Where nothing is new but the caller's
    /// address, and that cannot be found out, what is let in stays as it is and that is noted. Drivers without
    /// [`Features::firewall`] have nothing to open, and succeed.
    async fn admit(
        &self,
        host: &HostView,
        rules: &[Rule],
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let _ = (host, rules, journal, progress);
        Ok(())
    }

    /// Removes everything that the journal names, running or not; gone already is success. The host's folder
    /// itself belongs to the store, which deletes it afterwards.
    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError>;

    /// Removes everything of a host whose record is lost: the journal is empty and tells nothing. What can be found by
    /// the host's id and folder is removed.
    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.remove(host, journal, progress).await
    }

    /// The state now. `state` is what the journal holds for this host ([`Journal::state`]).
    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError>;

    /// Where the host is reached, as far as known. Asks the provider only if it must.
    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError>;

    /// State and endpoint of many hosts, each with the state that the journal holds for it. Rows come as they become
    /// known, in any order, exactly one for each host, so that one slow account does not keep the others waiting.
    /// Drivers with a provider's API override this with one call for all.
    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        let asked: FuturesUnordered<_> = hosts
            .iter()
            .enumerate()
            .map(async |(index, (host, state))| {
                let described = match self.state(host, state).await {
                    Ok(now) => {
                        Ok(Description { state: now, endpoint: self.endpoint(host, state).await.ok() })
                    }
                    Err(error) => Err(error),
                };
                (index, described)
            })
            .collect();
        asked.boxed()
    }

    /// The end of the host's serial console log (at most `lines` lines), where the provider keeps one.
    async fn console(&self, host: &HostView, state: &Value, lines: usize) -> Option<String> {
        let _ = (host, state, lines);
        None
    }

    /// The SSH host keys as the provider shows them, as lines of `known_hosts` without the host; `None` as long as it
    /// shows none. Only for hosts whose [`HostKeySource`] is `Shown`.
    async fn host_keys(&self, host: &HostView, state: &Value) -> Result<Option<Vec<String>>, DriverError> {
        let _ = (host, state);
        Ok(None)
    }

    /// Everything at the provider that carries our marks, in the account and places that `options` (of
    /// [`Driver::scope_flags`]) name.
    async fn leftovers(&self, options: &Options) -> Result<Vec<Leftover>, DriverError> {
        let _ = options;
        Err(DriverError::unsupported(format!("The driver {} leaves nothing anywhere", self.info().name)))
    }

    /// Removes some of what [`Driver::leftovers`] found; gone already is success.
    async fn remove_leftovers(
        &self,
        options: &Options,
        leftovers: &[Leftover],
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let _ = (options, leftovers, progress);
        Err(DriverError::unsupported(format!("The driver {} leaves nothing anywhere", self.info().name)))
    }

    /// The permissions that the driver needs at the provider, in the provider's own form.
    async fn permissions(&self) -> Result<Option<Value>, DriverError> {
        Ok(None)
    }
}

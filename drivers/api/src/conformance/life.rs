//! One host from its creation to its removal, with every call made twice.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use tempfile::TempDir;

use super::{Report, Suite, Violation, fixture::Call, fixture::Host, violated};
use crate::{ErrorKind, Journal, LoginSource, State};

const CHECK: &str = "`check` changes nothing";
const CREATE: &str = "`create` ends with a running host";
const AGAIN: &str = "`create` again makes nothing twice";
const NAMED: &str = "Nothing exists that the journal does not name";
const SECRETS: &str = "What is stored holds no secret";
const POWER: &str = "`start`, `stop`, `kill` and `restart` end as they say, also the second time";
const UNSUPPORTED: &str = "What the driver cannot do it says to be unsupported";
const ENDPOINT: &str = "The endpoint is complete, and the same after a restart";
const DESCRIBE: &str = "`describe_many` says what `state` and `endpoint` say";
const REMOVE: &str = "`remove` leaves nothing, also the second time";
const SIDE: &str = "Hosts made at the same time do not disturb each other";

impl Suite<'_> {
    /// Returns the kinds of what a whole host consists of.
    pub(super) async fn life(&self, report: &mut Report) -> Result<Vec<String>, Violation> {
        let cache = tempfile::tempdir()
            .or_else(|error| violated("The suite can set up a host", error.to_string()))?;
        let features = self.driver.info().features;
        let mut host = self.host(&cache).await?;

        host.call(Call::Check).await?;
        host.call(Call::Check).await?;
        let resources = host.resources().await;
        if !resources.is_empty() || host.folder.exists() {
            return violated(CHECK, format!("{resources:?}"));
        }
        report.kept.push(CHECK);

        host.make_folder()?;
        host.call(Call::Create).await?;
        self.running(&host, CREATE).await?;
        report.kept.push(CREATE);

        let made = host.resources().await;
        host.call(Call::Create).await?;
        self.running(&host, AGAIN).await?;
        let now = host.resources().await;
        if made != now {
            return violated(AGAIN, format!("{made:?} became {now:?}"));
        }
        report.kept.push(AGAIN);
        if !made.is_empty() && host.journal.entries().is_empty() {
            return violated(NAMED, format!("{made:?}"));
        }
        report.kept.push(NAMED);
        let stored = format!("{} {} {:?}", host.view().config, host.journal.state(), host.journal.entries());
        for line in self.host_key.private.lines() {
            if stored.contains(line) {
                return violated(SECRETS, "the SSH host key is in it");
            }
        }
        report.kept.push(SECRETS);

        self.endpoint_is_whole(&host).await?;
        self.describe(&host).await?;
        report.kept.push(DESCRIBE);
        self.access(&mut host, report).await?;
        if features.power {
            self.power(&mut host).await?;
            report.kept.extend([POWER, ENDPOINT]);
        } else {
            for call in [Call::Start, Call::Stop, Call::Kill] {
                match host.attempt(call, None).await? {
                    Some(Err(error)) if *error.kind() == ErrorKind::Unsupported => {}
                    other => return violated(UNSUPPORTED, format!("`{call:?}` gave {other:?}")),
                }
            }
            report.kept.extend([UNSUPPORTED, ENDPOINT]);
        }

        let kinds = host.kinds().await;
        self.removed(&mut host, REMOVE).await?;
        self.removed(&mut host, REMOVE).await?;
        report.kept.push(REMOVE);
        if self.side_by_side {
            self.two_at_once(&cache, &kinds).await?;
            report.kept.push(SIDE);
        }
        Ok(kinds)
    }

    async fn power(&self, host: &mut Host<'_>) -> Result<(), Violation> {
        let before = host.endpoint().await?;
        let steps = [
            (Call::Start, State::Running),
            (Call::Stop, State::Stopped),
            (Call::Stop, State::Stopped),
            (Call::Kill, State::Stopped),
            (Call::Start, State::Running),
            (Call::Restart, State::Running),
            (Call::Kill, State::Stopped),
            (Call::Kill, State::Stopped),
            (Call::Restart, State::Running),
        ];
        let mut was = State::Running;
        for (call, expected) in steps {
            host.call(call).await?;
            let state = host.state().await?;
            if state != expected {
                return violated(
                    POWER,
                    format!("{call:?} of a host in state {was} left it in state {state}"),
                );
            }
            if state == State::Running && (was != State::Running || call == Call::Restart) {
                self.look(host, POWER).await?;
            }
            was = state;
        }
        let after = host.endpoint().await?;
        if before != after {
            return violated(ENDPOINT, format!("{before:?} became {after:?}"));
        }
        Ok(())
    }

    async fn endpoint_is_whole(&self, host: &Host<'_>) -> Result<(), Violation> {
        let features = self.driver.info().features;
        let endpoint = host.endpoint().await?;
        if endpoint.engine_port == 0 || !endpoint.url().contains("://") {
            return violated(ENDPOINT, format!("{endpoint:?}"));
        }
        if endpoint.ssh.is_none() != (features.login == LoginSource::None) {
            return violated(ENDPOINT, format!("{endpoint:?} of a driver with {:?}", features.login));
        }
        if features.provisioned && (endpoint.address.is_empty() || endpoint.address.contains('/')) {
            return violated(ENDPOINT, format!("`{}`", endpoint.address));
        }
        Ok(())
    }

    async fn describe(&self, host: &Host<'_>) -> Result<(), Violation> {
        let asked = [(host.view(), host.journal.state()), (host.view(), host.journal.state())];
        let mut rows: Vec<_> = self.driver.describe_many(&asked).collect().await;
        rows.sort_by_key(|(index, _)| *index);
        let (now, endpoint) = (host.state().await?, host.endpoint().await?);
        for (_, row) in &rows {
            match row {
                Ok(row)
                    if row.state == now && row.endpoint.as_ref().is_none_or(|found| *found == endpoint) => {}
                other => return violated(DESCRIBE, format!("{other:?} is not {now:?}")),
            }
        }
        let indices: Vec<usize> = rows.iter().map(|(index, _)| *index).collect();
        if indices == [0, 1] { Ok(()) } else { violated(DESCRIBE, format!("rows {indices:?} for 2 hosts")) }
    }

    pub(super) async fn running(&self, host: &Host<'_>, rule: &'static str) -> Result<(), Violation> {
        match host.state().await? {
            State::Running => self.look(host, rule).await,
            state => violated(rule, format!("the state is `{state}`")),
        }
    }

    async fn look(&self, host: &Host<'_>, rule: &'static str) -> Result<(), Violation> {
        let Some(after_start) = self.after_start else { return Ok(()) };
        let endpoint = host.endpoint().await?;
        after_start.look(&endpoint).await.or_else(|detail| violated(rule, detail))
    }

    /// Removes a host and looks for what is left of it.
    pub(super) async fn removed(&self, host: &mut Host<'_>, rule: &'static str) -> Result<(), Violation> {
        host.call(Call::Remove).await?;
        let left = host.resources().await;
        if !left.is_empty() {
            return violated(rule, format!("{left:?} is left"));
        }
        let entries = host.journal.entries();
        if !entries.is_empty() {
            return violated(rule, format!("the journal still names {entries:?}"));
        }
        if self.driver.info().features.power {
            let state = host.state().await?;
            if state != State::None {
                return violated(rule, format!("the state of what is gone is `{state}`"));
            }
        }
        Ok(())
    }

    async fn two_at_once(&self, cache: &TempDir, kinds: &[String]) -> Result<(), Violation> {
        let (mut one, mut other) = (self.host(cache).await?, self.host(cache).await?);
        one.make_folder()?;
        other.make_folder()?;
        let (first, second) = tokio::join!(one.call(Call::Create), other.call(Call::Create));
        first.and(second)?;
        for host in [&one, &other] {
            let found = host.kinds().await;
            if found != kinds {
                return violated(SIDE, format!("{kinds:?} became {found:?}"));
            }
        }
        let names = |resources: Vec<super::Resource>| resources.into_iter().collect::<BTreeSet<_>>();
        let (mine, theirs) = (names(one.resources().await), names(other.resources().await));
        if !mine.is_disjoint(&theirs) {
            return violated(SIDE, format!("{mine:?} and {theirs:?} share something"));
        }
        self.removed(&mut one, SIDE).await?;
        self.running(&other, SIDE).await?;
        self.removed(&mut other, SIDE).await
    }
}

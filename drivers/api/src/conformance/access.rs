//! Who is let in: what a driver is told is the whole of what it lets in, and it touches nothing else.

use super::{
    Report, Suite, Violation, chain,
    fixture::{Host, Plug},
    violated,
};
use crate::{Journal as _, Protocol, Rule, Source};

const ADMIT: &str = "`admit` lets in what it is told, once, however often it is told";
const DROP: &str = "`admit` takes back what it is not told any more, and nothing of others";
const CUT: &str = "What was cut off in `admit` is made good by the next one";
const NOTHING: &str = "`admit` of a driver without a firewall is a success that changes nothing";

/// Far more than any driver writes for a handful of rules.
const MOST_WRITES: usize = 100;

/// What a driver is told, one set after the other. The networks are those for documentation (RFC 5737).
struct Told {
    first: Vec<Rule>,
    second: Vec<Rule>,
    /// What somebody opens past the driver; the second set names it as well.
    by_hand: Rule,
}

impl Told {
    fn new() -> Result<Self, Violation> {
        let rule = |port: u16, from: &str| match from.parse() {
            Ok(network) => {
                Ok(Rule { protocol: Protocol::Tcp, ports: (port, port), from: Source::Network(network) })
            }
            Err(error) => violated("The suite can set up a host", format!("{error}")),
        };
        let by_hand = rule(9000, "203.0.113.9/32")?;
        let caller = Rule { protocol: Protocol::Tcp, ports: (81, 81), from: Source::Caller };
        Ok(Self {
            first: vec![rule(80, "198.51.100.0/24")?, caller],
            second: vec![rule(82, "198.51.100.0/24")?, by_hand.clone()],
            by_hand,
        })
    }
}

/// All of these, each as often as it is there.
fn all<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = rules.into_iter().cloned().collect();
    rules.sort();
    rules
}

impl Suite<'_> {
    /// Tells a host that runs whom to let in.
    pub(super) async fn access(&self, host: &mut Host<'_>, report: &mut Report) -> Result<(), Violation> {
        let told = Told::new()?;
        if !self.driver.features_of(&host.view().config).firewall {
            let before = (host.resources().await, host.journal.entries(), host.journal.state());
            self.admit(host, &told.first).await?;
            let after = (host.resources().await, host.journal.entries(), host.journal.state());
            if before != after {
                return violated(NOTHING, format!("{before:?} became {after:?}"));
            }
            report.kept.push(NOTHING);
            return Ok(());
        }
        if self.inventory.let_in(&host.view()).await.is_none() {
            self.admit(host, &told.first).await?;
            return self.admit(host, &[]).await;
        }
        let base = host.let_in().await;
        self.inventory.open_by_hand(&host.view(), &told.by_hand).await;
        let theirs = || base.iter().chain([&told.by_hand]);
        let with_second = all(theirs().chain(&told.second[..1]));

        self.admit(host, &told.first).await?;
        let once = host.let_in().await;
        // The address of whoever calls is the driver's to find out.
        let is_caller = |rule: &&Rule| rule.ports == told.first[1].ports;
        let others: Vec<&Rule> = once.iter().filter(|rule| !is_caller(rule)).collect();
        let callers: Vec<&Rule> = once.iter().filter(is_caller).collect();
        if all(others) != all(theirs().chain(&told.first[..1])) || callers.len() != 1 {
            return violated(ADMIT, format!("{once:?} for {:?} beside {:?}", told.first, all(theirs())));
        }
        self.admit(host, &told.first).await?;
        let twice = host.let_in().await;
        if once != twice {
            return violated(ADMIT, format!("{once:?} became {twice:?}"));
        }
        report.kept.push(ADMIT);

        self.lets_in(host, &told.second, &with_second, DROP, "the second set").await?;
        self.lets_in(host, &[], &all(theirs()), DROP, "an empty set").await?;
        report.kept.push(DROP);

        for write in 0..MOST_WRITES {
            let mut reached = false;
            for plug in [Plug::Before(write), Plug::After(write)] {
                host.journal.plug_in(Some(plug));
                let cut = host.admit(&told.first).await?.is_err();
                host.journal.plug_in(None);
                reached |= cut;
                report.crashes += usize::from(cut);
                self.lets_in(host, &told.second, &with_second, CUT, &format!("{plug:?}")).await?;
                self.lets_in(host, &[], &all(theirs()), CUT, &format!("an empty set after {plug:?}")).await?;
            }
            if !reached {
                report.kept.push(CUT);
                return Ok(());
            }
        }
        violated(CUT, format!("`admit` writes more than {MOST_WRITES} times"))
    }

    async fn admit(&self, host: &mut Host<'_>, rules: &[Rule]) -> Result<(), Violation> {
        match host.admit(rules).await? {
            Ok(()) => Ok(()),
            Err(error) => violated(super::fixture::CALL, format!("`admit`: {}", chain(&error))),
        }
    }

    async fn lets_in(
        &self,
        host: &mut Host<'_>,
        told: &[Rule],
        expected: &[Rule],
        rule: &'static str,
        at: &str,
    ) -> Result<(), Violation> {
        self.admit(host, told).await?;
        let found = host.let_in().await;
        if found == expected { Ok(()) } else { violated(rule, format!("{at}: {found:?}, not {expected:?}")) }
    }
}

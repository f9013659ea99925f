//! What one security group lets in: rules are added and taken back, and those of others are left alone.

use std::collections::BTreeSet;

use machine_driver::{DriverError, Rule};

use crate::{
    api::{Api, Call},
    backoff::Backoff,
    error::{Answer as _, ApiError},
    groups::Group,
    region::Region,
    retries, rules,
    state::Book,
};

/// How many rules are remembered that were taken back. A caller who moves takes three with them.
const MOST_CLOSED: usize = 48;

/// Has the host's own group let in what is wanted, and no more what we let in before. Rules of others are neither counted
/// as ours nor taken away. The record knows of each rule of ours from before it exists until after it is gone.
pub(crate) async fn reconcile(
    region: &Region,
    group: &Group,
    wanted: BTreeSet<Rule>,
    book: &mut Book<'_>,
) -> Result<(), DriverError> {
    let before: BTreeSet<Rule> = book.made.rules.union(&book.made.opening).cloned().collect();
    // What we took back may be listed for a while: that it is listed says nothing.
    let is_there =
        |rule: &Rule| rules::has(&group.present, rule, &group.id) && !book.made.closed.contains(rule);
    let is_theirs = |rule: &Rule| is_there(rule) && !before.contains(rule);
    let wanted: BTreeSet<Rule> = wanted.into_iter().filter(|rule| !is_theirs(rule)).collect();
    let opening: BTreeSet<Rule> = wanted.iter().filter(|rule| !is_there(rule)).cloned().collect();
    let closing: Vec<Rule> = before.difference(&wanted).cloned().collect();
    if opening.is_empty() && closing.is_empty() && book.made.rules == wanted {
        book.made.opening.clear();
        return book.save().await;
    }
    book.made.opening =
        before.union(&opening).filter(|rule| !book.made.rules.contains(*rule)).cloned().collect();
    book.save().await?;
    let mut theirs = BTreeSet::new();
    let mut adding = Adding::of(region, opening);
    while let Some(there) = adding.next(region, &group.id).await? {
        // It was there all along, and was not listed yet. After a kill it must not be taken for ours.
        if !before.contains(&there) {
            book.made.opening.remove(&there);
            book.save().await?;
            theirs.insert(there);
        }
    }
    revoke(&region.api, &group.id, &closing).await?;
    book.made.rules = wanted.into_iter().filter(|rule| !theirs.contains(rule)).collect();
    book.made.opening.clear();
    book.made.closed.extend(closing);
    book.made.closed.retain(|rule| !book.made.rules.contains(rule));
    let surplus = book.made.closed.len().saturating_sub(MOST_CLOSED);
    book.made.closed.drain(..surplus);
    book.save().await
}

/// Adds rules that may be there already.
pub(crate) async fn allow(region: &Region, group: &str, rules: BTreeSet<Rule>) -> Result<(), DriverError> {
    let mut adding = Adding::of(region, rules);
    while adding.next(region, group).await?.is_some() {}
    Ok(())
}

/// Rules that are being added.
struct Adding {
    /// What is left to add together, and whether nothing of it was added by a try of ours that nobody answered.
    batches: Vec<(Vec<Rule>, bool)>,
    backoff: Backoff,
}

impl Adding {
    fn of(region: &Region, rules: BTreeSet<Rule>) -> Self {
        let rules: Vec<Rule> = rules.into_iter().collect();
        let batches = if rules.is_empty() { Vec::new() } else { vec![(rules, true)] };
        Self { batches, backoff: region.pace.for_consistency() }
    }

    /// Goes on until a rule is found that was there before, for certain: of a call that was sent twice, the answer is
    /// about the second time only. `None`: all are there.
    async fn next(&mut self, region: &Region, group: &str) -> Result<Option<Rule>, DriverError> {
        while let Some((mut batch, was_sure)) = self.batches.pop() {
            region.use_group(group);
            let call = Box::pin(authorize(&region.api, group, &batch));
            let (answer, sent) = retries::counted(call).await;
            let is_sure = was_sure && sent == 1;
            match answer {
                Ok(()) => {}
                Err(error) if error.is("InvalidPermission.Duplicate") => {
                    if batch.len() > 1 {
                        // One that is there already refuses all that came with it.
                        self.batches.extend(batch.into_iter().map(|rule| (vec![rule], is_sure)));
                    } else if is_sure && let Some(rule) = batch.pop() {
                        return Ok(Some(rule));
                    }
                }
                Err(error) if error.is_not_found() && self.backoff.wait().await => {
                    self.batches.push((batch, is_sure));
                }
                Err(error) => {
                    return Err(error.during(format!("Could not add rules to the security group {group}")));
                }
            }
        }
        Ok(None)
    }
}

async fn authorize(api: &Api, group: &str, rules: &[Rule]) -> Result<(), ApiError> {
    let permissions = rules.iter().map(|rule| rules::permission(rule, group)).collect();
    let answer = api
        .authorize_security_group_ingress()
        .group_id(group)
        .set_ip_permissions(Some(permissions))
        .send()
        .await
        .answer(Call::AuthorizeSecurityGroupIngress, api);
    answer.map(drop)
}

/// Takes rules away. One by one: one that is gone already refuses all that come with it.
async fn revoke(api: &Api, group: &str, rules: &[Rule]) -> Result<(), DriverError> {
    for rule in rules {
        let answer = api
            .revoke_security_group_ingress()
            .group_id(group)
            .ip_permissions(rules::permission(rule, group))
            .send()
            .await
            .answer(Call::RevokeSecurityGroupIngress, api);
        match answer {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                return Err(error.during(format!("Could not take rules from the security group {group}")));
            }
        }
    }
    Ok(())
}

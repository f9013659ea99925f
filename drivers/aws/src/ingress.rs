//! What one security group lets in: rules are added and taken back, and those of others are left alone.

use std::collections::BTreeSet;

use machine_driver::{DriverError, Rule};

use crate::{
    api::{Api, Call},
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
    let there = allow(region, &group.id, &opening).await?;
    revoke(&region.api, &group.id, &closing).await?;
    // Those were there all along, and were not listed yet.
    let is_ours = |rule: &Rule| !there.contains(rule) || before.contains(rule);
    book.made.rules = wanted.into_iter().filter(is_ours).collect();
    book.made.opening.clear();
    book.made.closed.extend(closing);
    book.made.closed.retain(|rule| !book.made.rules.contains(rule));
    let surplus = book.made.closed.len().saturating_sub(MOST_CLOSED);
    book.made.closed.drain(..surplus);
    book.save().await
}

/// Adds rules. Returns those that were there before, for certain: of a call that was sent twice, the answer is about the
/// second time only.
pub(crate) async fn allow(
    region: &Region,
    group: &str,
    rules: &BTreeSet<Rule>,
) -> Result<BTreeSet<Rule>, DriverError> {
    let attempt = || format!("Could not add rules to the security group {group}");
    let mut there = BTreeSet::new();
    if rules.is_empty() {
        return Ok(there);
    }
    region.use_group(group);
    let mut backoff = region.pace.for_consistency();
    let mut batches: Vec<(Vec<Rule>, bool)> = vec![(rules.iter().cloned().collect(), true)];
    while let Some((batch, was_sure)) = batches.pop() {
        let call = Box::pin(authorize(&region.api, group, &batch));
        let (answer, sent) = retries::counted(call).await;
        let is_sure = was_sure && sent == 1;
        match answer {
            Ok(()) => {}
            Err(error) if error.is("InvalidPermission.Duplicate") => {
                if batch.len() > 1 {
                    // One that is there already refuses all that came with it.
                    batches.extend(batch.into_iter().map(|rule| (vec![rule], is_sure)));
                } else if is_sure {
                    there.extend(batch);
                }
            }
            Err(error) if error.is_not_found() && backoff.wait().await => batches.push((batch, is_sure)),
            Err(error) => return Err(error.during(attempt())),
        }
    }
    Ok(there)
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

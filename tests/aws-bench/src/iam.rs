//! IAM: whether a policy allows a call, by its actions, resources and conditions, as far as a driver's policy has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{amis, bench::Bench, call::Call, faults::ApiError, form::Form};

/// A policy document. What the bench could not honour is refused when it is set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(default)]
    version: String,
    statement: Vec<Statement>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(default)]
    sid: Option<String>,
    effect: Effect,
    action: Words,
    resource: Words,
    #[serde(default)]
    condition: Conditions,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Effect {
    Allow,
}

/// One word or several.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Several(Vec<String>),
}

impl Words {
    fn any(&self, holds: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::One(word) => holds(word),
            Self::Several(words) => words.iter().any(|word| holds(word)),
        }
    }
}

/// By context key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Conditions {
    null: BTreeMap<String, Words>,
    string_equals: BTreeMap<String, Words>,
    string_like: BTreeMap<String, Words>,
}

impl Conditions {
    fn hold(&self, context: &Context) -> bool {
        let null = self.null.iter().all(|(key, wanted)| {
            let absent = !context.contains_key(key);
            wanted.any(|word| word == if absent { "true" } else { "false" })
        });
        let compared = |conditions: &BTreeMap<String, Words>, same: fn(&str, &str) -> bool| {
            conditions.iter().all(|(key, wanted)| {
                context.get(key).is_some_and(|found| wanted.any(|word| same(word, found)))
            })
        };
        null && compared(&self.string_equals, |wanted, found| wanted == found)
            && compared(&self.string_like, matches)
    }
}

/// What is known of a request besides action and resource.
type Context = BTreeMap<String, String>;

/// One thing that has to be allowed for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    action: String,
    /// `*` for actions that know no resources.
    resource: String,
    context: Context,
    /// Kind and id of something that is there, whose tags count.
    existing: Option<(&'static str, String)>,
}

impl Policy {
    fn allows(&self, need: &Need) -> bool {
        self.statement.iter().any(|statement| {
            statement.action.any(|pattern| matches(pattern, &need.action))
                && statement.resource.any(|pattern| {
                    if need.resource == "*" { pattern == "*" } else { matches(pattern, &need.resource) }
                })
                && statement.condition.hold(&need.context)
        })
    }
}

/// `*` stands for anything, `?` for one character.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            text.char_indices().any(|(at, _)| matches(rest, &text[at..])) || matches(rest, "")
        }
        (Some('?'), Some(c)) => matches(&pattern[1..], &text[c.len_utf8()..]),
        (Some(wanted), Some(c)) if wanted == c => {
            matches(&pattern[wanted.len_utf8()..], &text[c.len_utf8()..])
        }
        _ => false,
    }
}

/// The error for a call that the policy does not allow.
pub(crate) async fn denied(bench: &Bench, call: &Call) -> Option<ApiError> {
    let policy = bench.lock().faults.policy.clone()?;
    let mut needs = needs(call);
    for need in &mut needs {
        if let Some((kind, id)) = &need.existing {
            need.context.extend(tags(bench, call, kind, id).await);
        }
    }
    let missing = needs.into_iter().find(|need| !policy.allows(need))?;
    let (code, status) =
        if call.json.is_null() { ("UnauthorizedOperation", 403) } else { ("AccessDeniedException", 400) };
    let message = format!(
        "You are not authorized to perform this operation. User: arn:aws:iam::{}:user/bench is not authorized to \
         perform: {} on resource: {}",
        amis::ACCOUNT,
        missing.action,
        missing.resource
    );
    Some(ApiError { status, code: code.to_owned(), message })
}

/// The kind of resource that a call acts on, and the parameter that names it.
const ACTS_ON: [(&str, &str, &str); 11] = [
    ("AuthorizeSecurityGroupIngress", "security-group", "GroupId"),
    ("CancelSpotInstanceRequests", "spot-instances-request", "SpotInstanceRequestId"),
    ("DeleteKeyPair", "key-pair", "KeyName"),
    ("DeleteSecurityGroup", "security-group", "GroupId"),
    ("DeleteVolume", "volume", "VolumeId"),
    ("GetConsoleOutput", "instance", "InstanceId"),
    ("RebootInstances", "instance", "InstanceId"),
    ("RevokeSecurityGroupIngress", "security-group", "GroupId"),
    ("StartInstances", "instance", "InstanceId"),
    ("StopInstances", "instance", "InstanceId"),
    ("TerminateInstances", "instance", "InstanceId"),
];

/// Everything that has to be allowed for a call.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html>
fn needs(call: &Call) -> Vec<Need> {
    let service = if call.service.is_empty() { "ec2" } else { &call.service };
    let action = format!("{service}:{}", call.action);
    let need = |resource: String, context: Context| Need {
        action: action.clone(),
        resource,
        context,
        existing: None,
    };
    let existing = |kind: &'static str, id: &str| Need {
        existing: Some((kind, id.to_owned())),
        ..need(arn(call, kind, id), Context::new())
    };
    let mut needs = Vec::new();
    if let Some((_, kind, parameter)) = ACTS_ON.iter().find(|(name, _, _)| *name == call.action) {
        let mut ids = call.form.list(parameter);
        ids.extend(call.form.get(parameter).map(str::to_owned));
        for id in ids {
            needs.push(existing(kind, &id));
        }
    } else {
        match (service, call.action.as_str()) {
            ("ssm", "GetParameter") => {
                let name = call.json["Name"].as_str().unwrap_or_default();
                needs.push(need(format!("arn:aws:ssm:{}::parameter{name}", call.region), Context::new()));
            }
            ("ec2", "CreateSecurityGroup") => {
                needs.push(need(arn(call, "security-group", "new"), asked(&call.form, "security-group")));
                let vpc = call.form.get("VpcId").unwrap_or("vpc-default");
                needs.push(need(arn(call, "vpc", vpc), Context::new()));
            }
            ("ec2", "ModifyInstanceAttribute") => {
                needs.extend(call.form.get("InstanceId").map(|id| existing("instance", id)));
                needs.extend(call.form.list("GroupId").iter().map(|id| existing("security-group", id)));
                for number in call.form.numbers("BlockDeviceMapping") {
                    let volume = call.form.get(&format!("BlockDeviceMapping.{number}.Ebs.VolumeId"));
                    needs.extend(volume.map(|id| existing("volume", id)));
                }
            }
            ("ec2", "ImportKeyPair") => {
                let name = call.form.get("KeyName").unwrap_or_default();
                needs.push(need(arn(call, "key-pair", name), asked(&call.form, "key-pair")));
            }
            ("ec2", "RunInstances") => {
                for kind in ["instance", "volume", "network-interface"] {
                    needs.push(need(arn(call, kind, "new"), asked(&call.form, kind)));
                }
                if call.is_spot() {
                    let kind = "spot-instances-request";
                    needs.push(need(arn(call, kind, "new"), asked(&call.form, kind)));
                }
                for (kind, id) in launched_with(&call.form) {
                    needs.push(existing(kind, &id));
                }
            }
            _ => needs.push(need("*".to_owned(), Context::new())),
        }
    }
    for number in call.form.numbers("TagSpecification") {
        let kind = call.form.get(&format!("TagSpecification.{number}.ResourceType")).unwrap_or_default();
        let mut context = asked(&call.form, kind);
        context.insert("ec2:CreateAction".to_owned(), call.action.clone());
        needs.push(Need { action: "ec2:CreateTags".to_owned(), ..need(arn(call, kind, "new"), context) });
    }
    let profile =
        ["Name", "Arn"].iter().find_map(|part| call.form.get(&format!("IamInstanceProfile.{part}")));
    if let Some(profile) = profile {
        let role = profile.rsplit('/').next().unwrap_or_default();
        let context = Context::from([("iam:PassedToService".to_owned(), "ec2.amazonaws.com".to_owned())]);
        let resource = format!("arn:aws:iam::{}:role/{role}", amis::ACCOUNT);
        needs.push(Need { action: "iam:PassRole".to_owned(), ..need(resource, context) });
    }
    needs
}

/// What an instance is launched with: kinds and ids of what is there already.
fn launched_with(form: &Form) -> Vec<(&'static str, String)> {
    let mut with = Vec::new();
    let mut add = |kind: &'static str, id: Option<&str>| with.extend(id.map(|id| (kind, id.to_owned())));
    add("image", form.get("ImageId"));
    add("key-pair", form.get("KeyName"));
    add("placement-group", form.get("Placement.GroupName"));
    add("subnet", form.get("SubnetId"));
    for number in form.numbers("NetworkInterface") {
        add("subnet", form.get(&format!("NetworkInterface.{number}.SubnetId")));
        for group in form.list(&format!("NetworkInterface.{number}.SecurityGroupId")) {
            add("security-group", Some(&group));
        }
    }
    for group in form.list("SecurityGroupId") {
        add("security-group", Some(&group));
    }
    with
}

fn arn(call: &Call, kind: &str, id: &str) -> String {
    // Images belong to no account in their names.
    let account = if kind == "image" { "" } else { amis::ACCOUNT };
    format!("arn:aws:ec2:{}:{account}:{kind}/{id}", call.region)
}

/// The tags that a call puts on a new thing.
fn asked(form: &Form, kind: &str) -> Context {
    form.tags_for(kind).into_iter().map(|(key, value)| (format!("aws:RequestTag/{key}"), value)).collect()
}

/// The tags of a thing that is there. Of one that nothing is known of any more there are none, and a condition on its
/// tags does not hold.
async fn tags(bench: &Bench, call: &Call, kind: &str, id: &str) -> Context {
    let named = |tags: Vec<(String, String)>| -> Context {
        tags.into_iter().map(|(key, value)| (format!("aws:ResourceTag/{key}"), value)).collect()
    };
    {
        let state = bench.lock();
        if state.forgotten.contains(id) {
            return Context::new();
        }
        if let Some(request) = state.spot_requests.get(id) {
            return named(request.tags.clone());
        }
    }
    let (pairs, list): (Vec<(&str, &str)>, _) = if kind == "key-pair" {
        (vec![("Action", "DescribeKeyPairs"), ("KeyName.1", id)], "keySet")
    } else {
        let filter = [("Filter.1.Name", "resource-id"), ("Filter.1.Value.1", id)];
        ([("Action", "DescribeTags")].into_iter().chain(filter).collect(), "tagSet")
    };
    let Ok(reply) = bench.moto.query(&call.region, &pairs).await else { return Context::new() };
    let items = match (kind, reply.items(list).first()) {
        ("key-pair", Some(pair)) => pair.items("tagSet"),
        _ => reply.items(list),
    };
    named(
        items
            .iter()
            .filter_map(|tag| Some((tag.value("key")?.to_owned(), tag.value("value")?.to_owned())))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn need(action: &str, resource: &str, context: &[(&str, &str)]) -> Need {
        let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Need { action: action.to_owned(), resource: resource.to_owned(), context, existing: None }
    }

    #[test]
    fn resources_and_conditions_count() {
        let policy: Policy = serde_json::from_value(json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*" },
            { "Effect": "Allow", "Action": ["ec2:TerminateInstances"], "Resource": "arn:aws:ec2:*:*:instance/*",
              "Condition": { "Null": { "aws:ResourceTag/ours": "false" } } },
            { "Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::*:role/machine-*",
              "Condition": { "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } } },
        ]}))
        .unwrap();
        let instance = "arn:aws:ec2:eu-west-1:1:instance/i-1";
        assert!(policy.allows(&need("ec2:DescribeVpcs", "*", &[])));
        assert!(!policy.allows(&need("ec2:TerminateInstances", instance, &[])));
        assert!(policy.allows(&need("ec2:TerminateInstances", instance, &[("aws:ResourceTag/ours", "x")])));
        let volume = "arn:aws:ec2:eu-west-1:1:volume/vol-1";
        assert!(!policy.allows(&need("ec2:TerminateInstances", volume, &[("aws:ResourceTag/ours", "x")])));
        let passed = [("iam:PassedToService", "ec2.amazonaws.com")];
        assert!(policy.allows(&need("iam:PassRole", "arn:aws:iam::1:role/machine-web", &passed)));
        assert!(!policy.allows(&need("iam:PassRole", "arn:aws:iam::1:role/admin", &passed)));
        assert!(!policy.allows(&need("iam:PassRole", "arn:aws:iam::1:role/machine-web", &[])));
    }

    #[test]
    fn tags_roles_and_what_is_used_need_permissions_of_their_own() {
        let form = Form::of(&[
            ("ImageId", "ami-1"),
            ("NetworkInterface.1.SecurityGroupId.1", "sg-1"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "ours"),
            ("TagSpecification.1.Tag.1.Value", "x"),
            ("IamInstanceProfile.Name", "web"),
        ]);
        let call = Call {
            service: "ec2".to_owned(),
            region: "r".to_owned(),
            action: "RunInstances".to_owned(),
            form,
            json: Value::Null,
        };
        let needs = needs(&call);
        let texts: Vec<String> =
            needs.iter().map(|need| format!("{} {}", need.action, need.resource)).collect();
        assert_eq!(
            texts,
            [
                "ec2:RunInstances arn:aws:ec2:r:123456789012:instance/new",
                "ec2:RunInstances arn:aws:ec2:r:123456789012:volume/new",
                "ec2:RunInstances arn:aws:ec2:r:123456789012:network-interface/new",
                "ec2:RunInstances arn:aws:ec2:r::image/ami-1",
                "ec2:RunInstances arn:aws:ec2:r:123456789012:security-group/sg-1",
                "ec2:CreateTags arn:aws:ec2:r:123456789012:instance/new",
                "iam:PassRole arn:aws:iam::123456789012:role/web",
            ]
        );
        let tagged = |need: &Need| need.context.contains_key("aws:RequestTag/ours");
        assert_eq!(
            needs.iter().map(tagged).collect::<Vec<_>>(),
            [true, false, false, false, false, true, false]
        );
    }

    #[test]
    fn a_change_of_groups_is_about_the_instance_and_each_group() {
        let form = Form::of(&[("InstanceId", "i-1"), ("GroupId.1", "sg-1"), ("GroupId.2", "sg-2")]);
        let call = Call {
            service: "ec2".to_owned(),
            region: "r".to_owned(),
            action: "ModifyInstanceAttribute".to_owned(),
            form,
            json: Value::Null,
        };
        let resources: Vec<String> = needs(&call).into_iter().map(|need| need.resource).collect();
        let arn = |rest: &str| format!("arn:aws:ec2:r:123456789012:{rest}");
        assert_eq!(resources, ["instance/i-1", "security-group/sg-1", "security-group/sg-2"].map(arn));
    }

    #[test]
    fn what_the_bench_cannot_honour_is_refused() {
        for statement in [
            json!({ "Effect": "Deny", "Action": "*", "Resource": "*" }),
            json!({ "Effect": "Allow", "NotAction": "*", "Resource": "*" }),
            json!({ "Effect": "Allow", "Action": "*", "Resource": "*", "Condition": { "Bool": { "a": "b" } } }),
        ] {
            let document = json!({ "Statement": [statement] });
            assert!(serde_json::from_value::<Policy>(document.clone()).is_err(), "{document}");
        }
    }

    #[test]
    fn stars_and_question_marks_stand_for_others() {
        assert!(
            matches("ec2:Describe*", "ec2:DescribeVpcs") && !matches("ec2:Describe*", "ec2:RunInstances")
        );
        assert!(
            matches("a*c", "abbc") && matches("a*", "a") && matches("a?c", "abc") && !matches("a?c", "ac")
        );
    }
}

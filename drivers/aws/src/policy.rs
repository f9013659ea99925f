//! The least-privilege policy for what the driver does, made from the list of calls that it makes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    api::{Call, IMPLIED, Reach},
    tags,
};

/// What an instance is launched with, besides what is made for it.
const LAUNCHED_WITH: [&str; 8] = [
    "arn:aws:ec2:*::image/*",
    "arn:aws:ec2:*::snapshot/*",
    "arn:aws:ec2:*:*:image/*",
    "arn:aws:ec2:*:*:key-pair/*",
    "arn:aws:ec2:*:*:placement-group/*",
    "arn:aws:ec2:*:*:security-group/*",
    "arn:aws:ec2:*:*:snapshot/*",
    "arn:aws:ec2:*:*:subnet/*",
];
/// Roles that are meant for hosts. Whoever may pass any role to an instance may do whatever any role may.
const ROLES: &str = "machine-*";
const MADE_WITH_AN_INSTANCE: [&str; 4] =
    ["instance", "network-interface", "spot-instances-request", "volume"];

fn arn(kind: &str) -> String {
    format!("arn:aws:ec2:*:*:{kind}/*")
}

/// Only with our tag in the request.
fn tagged_now() -> Value {
    json!({ "Null": { format!("aws:RequestTag/{}", tags::NAME): "false" } })
}

/// Only on what has our tag.
fn tagged_before() -> Value {
    json!({ "Null": { format!("aws:ResourceTag/{}", tags::NAME): "false" } })
}

/// A policy document for IAM.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html>
pub(crate) fn document() -> Value {
    let permissions = Call::ALL.iter().map(|call| (call.action(), call.reach())).chain(IMPLIED);
    let mut everywhere: Vec<&str> = Vec::new();
    let mut ours: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    let mut statements = Vec::new();
    for (action, reach) in permissions {
        match reach {
            Reach::Account => everywhere.push(action),
            Reach::Ours(kinds) => ours.entry(kinds.to_vec()).or_default().push(action),
            Reach::New(kind) => {
                statements.push(json!({
                    "Effect": "Allow", "Action": action, "Resource": arn(kind), "Condition": tagged_now(),
                }));
                if kind == "security-group" {
                    statements.push(json!({ "Effect": "Allow", "Action": action, "Resource": arn("vpc") }));
                }
            }
            Reach::Launch => {
                let made: Vec<String> = MADE_WITH_AN_INSTANCE.iter().map(|kind| arn(kind)).collect();
                statements.push(json!({
                    "Effect": "Allow", "Action": action, "Resource": made, "Condition": tagged_now(),
                }));
                statements.push(json!({ "Effect": "Allow", "Action": action, "Resource": LAUNCHED_WITH }));
            }
            Reach::Membership => {
                statements.push(json!({
                    "Effect": "Allow", "Action": action, "Resource": arn("instance"),
                    "Condition": tagged_before(),
                }));
                statements
                    .push(json!({ "Effect": "Allow", "Action": action, "Resource": arn("security-group") }));
            }
            Reach::WhileMaking(calls) => statements.push(json!({
                "Effect": "Allow", "Action": action, "Resource": "arn:aws:ec2:*:*:*/*",
                "Condition": { "StringEquals": { "ec2:CreateAction": calls } },
            })),
            Reach::PublicParameters => statements.push(json!({
                "Effect": "Allow", "Action": action, "Resource": "arn:aws:ssm:*::parameter/aws/service/*",
            })),
            Reach::InstanceProfile => statements.push(json!({
                "Effect": "Allow", "Action": action, "Resource": format!("arn:aws:iam::*:role/{ROLES}"),
                "Condition": { "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } },
            })),
        }
    }
    for (kinds, actions) in ours {
        let resources: Vec<String> = kinds.iter().map(|kind| arn(kind)).collect();
        statements.push(json!({
            "Effect": "Allow", "Action": actions, "Resource": resources, "Condition": tagged_before(),
        }));
    }
    statements.insert(0, json!({ "Effect": "Allow", "Action": everywhere, "Resource": "*" }));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn actions(document: &Value) -> BTreeSet<String> {
        let statements = document["Statement"].as_array().unwrap();
        statements
            .iter()
            .flat_map(|statement| match &statement["Action"] {
                Value::String(action) => vec![action.clone()],
                list => list.as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect(),
            })
            .collect()
    }

    /// The calls in the source, each as `.name()` of the API's wrapper.
    #[test]
    fn the_policy_allows_what_the_code_calls_and_nothing_else() {
        let sources = [
            include_str!("console.rs"),
            include_str!("delete.rs"),
            include_str!("gc.rs"),
            include_str!("groups.rs"),
            include_str!("image.rs"),
            include_str!("ingress.rs"),
            include_str!("keys.rs"),
            include_str!("launch.rs"),
            include_str!("membership.rs"),
            include_str!("placement.rs"),
            include_str!("power.rs"),
            include_str!("removal.rs"),
            include_str!("request.rs"),
            include_str!("watch.rs"),
        ]
        .concat();
        let mut expected: BTreeSet<String> = IMPLIED.iter().map(|(action, _)| (*action).to_owned()).collect();
        for call in Call::ALL {
            let mut snake = String::new();
            for c in call.name().chars() {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            assert!(sources.contains(&format!(".{snake}()")), "{} is allowed and never called", call.name());
            assert!(
                sources.contains(&format!("Call::{}", call.name())),
                "errors of {} do not name it",
                call.name()
            );
            expected.insert(call.action().to_owned());
        }
        assert_eq!(actions(&document()), expected);
    }

    #[test]
    fn what_changes_things_is_limited_to_what_is_ours() {
        let document = document();
        for statement in document["Statement"].as_array().unwrap() {
            if statement["Resource"] != "*" {
                continue;
            }
            for action in statement["Action"].as_array().unwrap() {
                let name = action.as_str().unwrap();
                assert!(name.starts_with("ec2:Describe"), "{name} reaches everything");
            }
        }
    }
}

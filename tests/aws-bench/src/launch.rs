//! `RunInstances`: what the emulator does not check or do itself, and the instances that come of it.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use uuid::Uuid;

use crate::{
    amis::{self, Ami, ROOT_SIZE},
    bench::{Bench, Instance, now},
    call::Call,
    ec2::{Outcome, forward},
    faults::ApiError,
    form::Form,
    log, power,
    rewrite::Phase,
    spot::SpotRequest,
    xml::Element,
};

/// What user data may be, before encoding.
const MOST_USER_DATA: usize = 16 * 1024;

pub(crate) async fn run(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    if call.form.is_true("DryRun") {
        return forward(bench, call, &complete(&call.form)).await;
    }
    let pending = match call.form.get("ClientToken") {
        None => None,
        Some(_) => match bench.tokens.enter(&call.region, &call.form).await {
            Err(error) => return Ok(Outcome::Error(error)),
            Ok(Ok(reply)) => return Ok(Outcome::Reply(reply)),
            Ok(Err(pending)) => Some(pending),
        },
    };
    let form = complete(&call.form);
    if let Err(error) = check(&form) {
        return Ok(Outcome::Error(error));
    }
    let named = named_groups(&form);
    if !named.is_empty() {
        // The emulator would make a group that an interface names and that does not exist.
        let mut describe = Form::of(&[("Action", "DescribeSecurityGroups")]);
        describe.set_list("GroupId", &named);
        let answer = bench.moto.ask(&call.region, &describe).await?;
        if !answer.status.is_success() {
            return Ok(Outcome::Answer(answer));
        }
    }
    let reply = match forward(bench, call, &form).await? {
        Outcome::Reply(reply) => reply,
        other => return Ok(other),
    };
    let mut made = Vec::new();
    for item in reply.items("instancesSet") {
        let instance = adopt(bench, call, &form, item).await?;
        let id = instance.id.clone();
        let mut state = bench.lock();
        state.born.insert(id.clone(), Instant::now());
        state.instances.insert(id.clone(), instance);
        made.push(id);
    }
    if form.is_true("DisableApiTermination") {
        for id in &made {
            protect(bench, &call.region, id).await?;
        }
    }
    for id in &made {
        power::boot(bench, id)?;
    }
    if let Some(pending) = pending {
        pending.done(reply.clone());
    }
    Ok(Outcome::Reply(reply))
}

/// The emulator holds to the protection against termination, and forgets to note it when an instance is made.
async fn protect(bench: &Bench, region: &str, id: &str) -> Result<()> {
    let form = Form::of(&[
        ("Action", "ModifyInstanceAttribute"),
        ("InstanceId", id),
        ("DisableApiTermination.Value", "true"),
    ]);
    bench.moto.ask(region, &form).await.map(drop)
}

/// Says what AWS takes for granted and the emulator does not.
fn complete(form: &Form) -> Form {
    let mut form = form.clone();
    if let Some(count) = form.get("MaxCount").map(str::to_owned) {
        // The emulator runs the least number; AWS the greatest for which there is room.
        form.set("MinCount", count);
    }
    if let Some(parameter) = form.get("ImageId").and_then(|id| id.strip_prefix("resolve:ssm:"))
        && let Some(ami) = amis::of_parameter(parameter)
    {
        form.set("ImageId", ami.id);
    }
    for number in form.numbers("NetworkInterface") {
        let key = format!("NetworkInterface.{number}.DeleteOnTermination");
        if form.get(&key).is_none() {
            form.set(key, "true");
        }
    }
    let root = form.get("ImageId").and_then(Ami::find).map_or("/dev/xvda", Ami::root_device);
    let mappings = form.numbers("BlockDeviceMapping");
    let has_root = mappings
        .iter()
        .any(|number| form.get(&format!("BlockDeviceMapping.{number}.DeviceName")) == Some(root));
    if !has_root {
        let number = mappings.last().map_or(1, |last| last + 1);
        form.set(format!("BlockDeviceMapping.{number}.DeviceName"), root);
    }
    for number in form.numbers("BlockDeviceMapping") {
        let prefix = format!("BlockDeviceMapping.{number}");
        let is_root = form.get(&format!("{prefix}.DeviceName")) == Some(root);
        for (name, value) in [("DeleteOnTermination", "true"), ("VolumeSize", &ROOT_SIZE.to_string())] {
            let key = format!("{prefix}.Ebs.{name}");
            if is_root && form.get(&key).is_none() {
                form.set(key, value);
            }
        }
    }
    form
}

/// GiB.
fn root_size(form: &Form) -> u64 {
    let root = form.get("ImageId").and_then(Ami::find).map_or("/dev/xvda", Ami::root_device);
    form.numbers("BlockDeviceMapping")
        .into_iter()
        .map(|number| format!("BlockDeviceMapping.{number}"))
        .find(|prefix| form.get(&format!("{prefix}.DeviceName")) == Some(root))
        .and_then(|prefix| form.get(&format!("{prefix}.Ebs.VolumeSize"))?.parse().ok())
        .unwrap_or(ROOT_SIZE)
}

fn user_data(form: &Form) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(text) = form.get("UserData").filter(|text| !text.is_empty()) else { return Ok(None) };
    let malformed = || ApiError::new("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.");
    let data = BASE64_STANDARD.decode(text).map_err(|_| malformed())?;
    if data.len() > MOST_USER_DATA {
        let message = format!("User data is limited to {MOST_USER_DATA} bytes");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    Ok(Some(data))
}

/// What AWS refuses and the emulator takes.
fn check(form: &Form) -> Result<(), ApiError> {
    user_data(form)?;
    let size = root_size(form);
    if size < ROOT_SIZE {
        let message = format!(
            "Volume of size {size}GB is smaller than snapshot 'snap-0', expect size >= {ROOT_SIZE}GB"
        );
        return Err(ApiError::new("InvalidBlockDeviceMapping", message));
    }
    if let (Some(ami), Some(kind)) = (form.get("ImageId").and_then(Ami::find), form.get("InstanceType")) {
        let wanted = architecture(kind);
        if wanted != ami.architecture {
            let message = format!(
                "The architecture '{wanted}' of the specified instance type does not match the architecture '{}' of \
                 the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
                ami.architecture
            );
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    }
    Ok(())
}

/// Of an instance type: the `g` after the generation's number stands for Graviton.
fn architecture(kind: &str) -> &'static str {
    let family = kind.split('.').next().unwrap_or_default();
    let options = family.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    if family == "a1" || options.contains('g') { "arm64" } else { "x86_64" }
}

fn named_groups(form: &Form) -> Vec<String> {
    let mut groups = form.list("SecurityGroupId");
    for number in form.numbers("NetworkInterface") {
        groups.extend(form.list(&format!("NetworkInterface.{number}.SecurityGroupId")));
    }
    let unique: BTreeSet<String> = groups.into_iter().collect();
    unique.into_iter().collect()
}

/// Takes over an instance that the emulator made.
async fn adopt(bench: &Arc<Bench>, call: &Call, form: &Form, item: &Element) -> Result<Instance> {
    let text = |name: &str| item.value(name).map(str::to_owned);
    let id = text("instanceId").context("The emulator made an instance without an id")?;
    let image = text("imageId").unwrap_or_default();
    let ami = Ami::find(&image).with_context(|| format!("`{image}` is none of the bench's images"))?;
    let interface = item.items("networkInterfaceSet").first();
    let listed = |of: &Element| -> Vec<(String, String)> {
        let pair = |group: &Element| {
            Some((
                group.value("groupId")?.to_owned(),
                group.value("groupName").unwrap_or_default().to_owned(),
            ))
        };
        of.items("groupSet").iter().filter_map(pair).collect()
    };
    let mut groups = interface.map(listed).unwrap_or_default();
    for group in listed(item) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let interface_id = interface.and_then(|found| found.value("networkInterfaceId")).map(str::to_owned);
    if let Some(interface) = &interface_id {
        tag(bench, call, interface).await;
    }
    let key = match form.get("KeyName") {
        None => None,
        Some(name) => Some((name.to_owned(), public_key(bench, call, name).await)),
    };
    let zone = item.child("placement").and_then(|placement| placement.value("availabilityZone"));
    let zone = zone.unwrap_or_default().to_owned();
    let instance_type = text("instanceType").unwrap_or_default();
    let spot_request = call.is_spot().then(|| {
        let request = SpotRequest::of(call, &id, ami.id, &instance_type, &zone);
        let request_id = request.id.clone();
        bench.lock().spot_requests.insert(request_id.clone(), request);
        request_id
    });
    let option = |name: &str| form.get(&format!("MetadataOptions.{name}"));
    let random = Uuid::new_v4().to_string();
    Ok(Instance {
        region: call.region.clone(),
        zone,
        subnet: text("subnetId"),
        vpc: text("vpcId"),
        ami,
        kind: instance_type,
        groups,
        key,
        user_data: user_data(form).unwrap_or_default(),
        metadata_enabled: option("HttpEndpoint") != Some("disabled"),
        tokens_required: option("HttpTokens") == Some("required"),
        phase: Phase::Pending,
        before: None,
        wants_public: text("ipAddress").is_some(),
        public: None,
        private: bench.addresses.take()?,
        mac: interface
            .and_then(|interface| interface.value("macAddress"))
            .unwrap_or("02:00:00:00:00:01")
            .to_owned(),
        interface: interface_id,
        disk: root_size(form),
        terminate_on_shutdown: form.get("InstanceInitiatedShutdownBehavior") == Some("terminate"),
        spot_request,
        interruption: None,
        reason: None,
        client_token: form.get("ClientToken").unwrap_or_default().to_owned(),
        uuid: format!("ec2{}", &random[3..]),
        folder: bench.folder.join(&id),
        launched: now(),
        generation: 0,
        vm: None,
        guest: None,
        launching: Arc::default(),
        metadata: None,
        console: bench.lock().settings.console.clone(),
        id,
    })
}

/// The emulator leaves interfaces untagged.
async fn tag(bench: &Bench, call: &Call, interface: &str) {
    let tags = call.form.tags_for("network-interface");
    if tags.is_empty() {
        return;
    }
    let mut form = Form::of(&[("Action", "CreateTags"), ("ResourceId.1", interface)]);
    for (number, (key, value)) in (1..).zip(tags) {
        form.set(format!("Tag.{number}.Key"), key);
        form.set(format!("Tag.{number}.Value"), value);
    }
    if let Err(error) = bench.moto.query_form(&call.region, &form).await {
        log(&format!("{interface}: {error:#}"));
    }
}

/// The key as it was imported; for a key that was made there, what the emulator has of it.
async fn public_key(bench: &Bench, call: &Call, name: &str) -> String {
    let remembered = bench.lock().keys.get(&(call.region.clone(), name.to_owned())).cloned();
    if let Some(key) = remembered {
        return key;
    }
    let describe = [("Action", "DescribeKeyPairs"), ("KeyName.1", name), ("IncludePublicKey", "true")];
    let found = bench.moto.query(&call.region, &describe).await.ok();
    let key = found.as_ref().and_then(|reply| reply.items("keySet").first()?.value("publicKey"));
    key.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_takes_for_granted_is_said() {
        let form = complete(&Form::of(&[
            ("ImageId", "ami-0b2404a0000000001"),
            ("MinCount", "1"),
            ("MaxCount", "3"),
        ]));
        assert_eq!(form.get("MinCount"), Some("3"));
        assert_eq!(form.get("BlockDeviceMapping.1.DeviceName"), Some("/dev/sda1"));
        assert_eq!(form.get("BlockDeviceMapping.1.Ebs.DeleteOnTermination"), Some("true"));
        assert_eq!(root_size(&form), ROOT_SIZE);
        let form = complete(&Form::of(&[
            ("ImageId", "resolve:ssm:/aws/service/debian/release/12/latest/amd64"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "16"),
        ]));
        assert_eq!(form.get("ImageId"), Some("ami-0deb12a0000000001"));
        assert_eq!((root_size(&form), form.numbers("BlockDeviceMapping").len()), (16, 1));
    }

    #[test]
    fn what_aws_refuses_is_refused() {
        let code = |pairs: &[(&str, &str)]| check(&Form::of(pairs)).err().map(|error| error.code);
        let image = ("ImageId", "ami-0deb12a0000000001");
        assert_eq!(code(&[image, ("InstanceType", "t3.small")]), None);
        assert_eq!(code(&[image, ("InstanceType", "t4g.small")]).as_deref(), Some("InvalidParameterValue"));
        assert_eq!(code(&[("UserData", "%%")]).as_deref(), Some("InvalidUserData.Malformed"));
        let long = BASE64_STANDARD.encode(vec![0; MOST_USER_DATA + 1]);
        assert_eq!(code(&[("UserData", &long)]).as_deref(), Some("InvalidParameterValue"));
        let small = [
            image,
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "4"),
        ];
        assert_eq!(code(&small).as_deref(), Some("InvalidBlockDeviceMapping"));
    }

    #[test]
    fn graviton_is_known_by_its_letter() {
        for (kind, wanted) in [
            ("t3.micro", "x86_64"),
            ("g4dn.xlarge", "x86_64"),
            ("m7gd.large", "arm64"),
            ("a1.large", "arm64"),
        ] {
            assert_eq!(architecture(kind), wanted, "{kind}");
        }
    }
}

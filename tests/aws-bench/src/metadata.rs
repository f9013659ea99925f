//! The instance metadata service of one VM: tokens (IMDSv2), and the tree of what the instance may know of itself.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::UnixListener, task::AbortHandle};
use uuid::Uuid;

use crate::{
    amis::ACCOUNT,
    bench::{Bench, Instance},
    log, vm,
};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const LIFETIME: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const LONGEST_LIFETIME: u64 = 21_600;
/// What cloud-init and others ask for.
const VERSIONS: [&str; 8] =
    ["1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2019-10-01", "2020-10-27", "2021-03-23", "latest"];

type Tokens = Arc<Mutex<BTreeMap<String, Instant>>>;

/// Listens in the VM's folder until it is aborted.
pub(crate) fn serve(bench: &Arc<Bench>, id: &str, folder: &Path) -> Result<AbortHandle> {
    let listener = {
        // The path of the folder may be longer than a socket's address can be.
        let folder = File::open(folder)?;
        UnixListener::bind(format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), vm::METADATA))
            .context("Could not listen for metadata")?
    };
    let (bench, id, tokens) = (bench.clone(), id.to_owned(), Tokens::default());
    let task = tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log(&format!("{id}: metadata: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (bench, id, tokens) = (bench.clone(), id.clone(), tokens.clone());
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (status, body) = respond(
                        &bench,
                        &id,
                        &tokens,
                        request.method(),
                        request.uri().path(),
                        request.headers(),
                    );
                    let mut response = Response::new(Full::new(body));
                    *response.status_mut() = status;
                    let headers = response.headers_mut();
                    headers.insert("content-type", hyper::header::HeaderValue::from_static("text/plain"));
                    headers.insert("server", hyper::header::HeaderValue::from_static("EC2ws"));
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    });
    Ok(task.abort_handle())
}

fn respond(
    bench: &Bench,
    id: &str,
    tokens: &Tokens,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> (StatusCode, Bytes) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let state = bench.lock();
    let Some(instance) = state.instances.get(id) else { return (StatusCode::NOT_FOUND, Bytes::new()) };
    if !instance.metadata_enabled || header("x-forwarded-for").is_some() {
        return (StatusCode::FORBIDDEN, Bytes::new());
    }
    let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    if method == Method::PUT {
        let lifetime = header(LIFETIME).and_then(|text| text.parse().ok());
        return match (path, lifetime) {
            ("/latest/api/token", Some(seconds @ 1..=LONGEST_LIFETIME)) => {
                let token = Uuid::new_v4().simple().to_string();
                tokens.insert(token.clone(), Instant::now() + Duration::from_secs(seconds));
                (StatusCode::OK, token.into())
            }
            ("/latest/api/token", _) => (StatusCode::BAD_REQUEST, Bytes::new()),
            _ => (StatusCode::FORBIDDEN, Bytes::new()),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, Bytes::new());
    }
    let valid = match header(TOKEN) {
        Some(token) => tokens.get(token).is_some_and(|end| Instant::now() < *end),
        None => !instance.tokens_required,
    };
    if !valid {
        return (StatusCode::UNAUTHORIZED, Bytes::new());
    }
    match look_up(instance, path) {
        Some(body) => (StatusCode::OK, body),
        None => (StatusCode::NOT_FOUND, Bytes::new()),
    }
}

/// The tree of files below a version, as the service has it.
fn tree(instance: &Instance) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut add = |path: &str, value: &str| {
        tree.insert(format!("meta-data/{path}"), value.to_owned());
    };
    let private = instance.private.to_string();
    let local_name = format!("ip-{}.{}.compute.internal", private.replace('.', "-"), instance.region);
    let group_names: Vec<&str> = instance.groups.iter().map(|(_, name)| name.as_str()).collect();
    let group_ids: Vec<&str> = instance.groups.iter().map(|(id, _)| id.as_str()).collect();
    let (group_names, group_ids) = (group_names.join("\n"), group_ids.join("\n"));
    add("ami-id", instance.ami.id);
    add("ami-launch-index", "0");
    add("ami-manifest-path", "(unknown)");
    add("hostname", &local_name);
    add("instance-action", "none");
    add("instance-id", &instance.id);
    add("instance-life-cycle", if instance.spot_request.is_some() { "spot" } else { "on-demand" });
    add("instance-type", &instance.kind);
    add("local-hostname", &local_name);
    add("local-ipv4", &private);
    add("mac", &instance.mac);
    add("placement/availability-zone", &instance.zone);
    add("placement/region", &instance.region);
    add("profile", "default-hvm");
    add("reservation-id", &format!("r-{}", instance.id.trim_start_matches("i-")));
    add("security-groups", &group_names);
    add("services/domain", "amazonaws.com");
    add("services/partition", "aws");
    add("block-device-mapping/ami", instance.ami.root_device().trim_start_matches("/dev/"));
    add("block-device-mapping/root", instance.ami.root_device());
    if let Some((_, key)) = &instance.key {
        add("public-keys/0/openssh-key", key.trim());
    }
    let interface = format!("network/interfaces/macs/{}", instance.mac);
    let mut add_interface = |name: &str, value: &str| add(&format!("{interface}/{name}"), value);
    add_interface("device-number", "0");
    add_interface("interface-id", instance.interface.as_deref().unwrap_or_default());
    add_interface("local-hostname", &local_name);
    add_interface("local-ipv4s", &private);
    add_interface("mac", &instance.mac);
    add_interface("owner-id", ACCOUNT);
    add_interface("security-group-ids", &group_ids);
    add_interface("security-groups", &group_names);
    add_interface("subnet-id", instance.subnet.as_deref().unwrap_or_default());
    add_interface("vpc-id", instance.vpc.as_deref().unwrap_or_default());
    // The network as the VM really has it, so that who configures it from here is not led astray.
    add_interface("subnet-ipv4-cidr-block", "169.254.0.0/16");
    if let Some(public) = instance.public {
        add_interface("public-hostname", &public.to_string());
        add_interface("public-ipv4s", &public.to_string());
        add("public-hostname", &public.to_string());
        add("public-ipv4", &public.to_string());
    }
    if let Some(time) = &instance.interruption {
        add("spot/instance-action", &json!({ "action": "terminate", "time": time }).to_string());
        add("spot/termination-time", time);
    }
    let document = json!({
        "accountId": ACCOUNT,
        "architecture": instance.ami.architecture,
        "availabilityZone": instance.zone,
        "imageId": instance.ami.id,
        "instanceId": instance.id,
        "instanceType": instance.kind,
        "pendingTime": instance.launched,
        "privateIp": private,
        "region": instance.region,
        "version": "2017-09-30",
    });
    tree.insert("dynamic/instance-identity/document".to_owned(), document.to_string());
    tree
}

/// A file, or the listing of a folder.
fn look_up(instance: &Instance, path: &str) -> Option<Bytes> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Some(VERSIONS.join("\n").into());
    }
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if !VERSIONS.contains(&version) {
        return None;
    }
    let rest = rest.trim_matches('/');
    if rest == "user-data" {
        return instance.user_data.clone().map(Bytes::from);
    }
    if rest == "meta-data/public-keys" {
        return instance.key.as_ref().map(|(name, _)| format!("0={name}").into());
    }
    let tree = tree(instance);
    if let Some(value) = tree.get(rest) {
        return Some(value.clone().into());
    }
    let prefix = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    let mut names: Vec<String> = tree
        .keys()
        .filter_map(|name| name.strip_prefix(&prefix))
        .map(|name| match name.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => name.to_owned(),
        })
        .collect();
    if rest.is_empty() && instance.user_data.is_some() {
        names.push("user-data".to_owned());
    }
    names.dedup();
    if names.is_empty() { None } else { Some(names.join("\n").into()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{amis::AMIS, console::Console, rewrite::Phase};

    pub(crate) fn instance() -> Instance {
        Instance {
            id: "i-1".to_owned(),
            region: "eu-west-1".to_owned(),
            zone: "eu-west-1a".to_owned(),
            subnet: Some("subnet-1".to_owned()),
            vpc: None,
            ami: &AMIS[0],
            kind: "t3.small".to_owned(),
            groups: vec![("sg-1".to_owned(), "web".to_owned())],
            key: Some(("mine".to_owned(), "ssh-ed25519 AAAA\n".to_owned())),
            user_data: None,
            metadata_enabled: true,
            tokens_required: true,
            phase: Phase::Running,
            before: None,
            wants_public: true,
            public: Some(Ipv4Addr::new(127, 40, 0, 1)),
            private: Ipv4Addr::new(127, 40, 0, 2),
            mac: "02:00:00:00:00:01".to_owned(),
            interface: None,
            disk: 8,
            terminate_on_shutdown: false,
            spot_request: None,
            interruption: None,
            reason: None,
            client_token: String::new(),
            uuid: String::new(),
            folder: "/f".into(),
            launched: String::new(),
            generation: 0,
            vm: None,
            guest: None,
            launching: Arc::default(),
            metadata: None,
            console: Console::default(),
        }
    }

    fn get(instance: &Instance, path: &str) -> Option<String> {
        look_up(instance, path).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_tree_is_listed_and_read() {
        let instance = instance();
        let read = |path: &str| get(&instance, path);
        assert_eq!(read("/latest/meta-data/instance-id").as_deref(), Some("i-1"));
        assert_eq!(read("/2021-03-23/meta-data/placement/").as_deref(), Some("availability-zone\nregion"));
        assert_eq!(read("/latest/meta-data/public-keys/").as_deref(), Some("0=mine"));
        assert_eq!(read("/latest/meta-data/public-keys/0/openssh-key").as_deref(), Some("ssh-ed25519 AAAA"));
        let macs = read("/latest/meta-data/network/interfaces/macs/");
        assert_eq!(macs.as_deref(), Some("02:00:00:00:00:01/"));
        assert!(read("/latest/").unwrap().lines().eq(["dynamic/", "meta-data/"]));
        for absent in
            ["/latest/user-data", "/latest/meta-data/spot/instance-action", "/1999-01-01/meta-data/"]
        {
            assert_eq!(read(absent), None, "{absent}");
        }
    }

    #[test]
    fn an_interruption_is_announced_and_user_data_are_bytes() {
        let mut instance = instance();
        instance.interruption = Some("2026-01-01T00:00:00Z".to_owned());
        instance.user_data = Some(vec![0, 255]);
        let action = get(&instance, "/latest/meta-data/spot/instance-action").unwrap();
        assert_eq!(action, r#"{"action":"terminate","time":"2026-01-01T00:00:00Z"}"#);
        assert_eq!(look_up(&instance, "/latest/user-data").unwrap(), vec![0, 255]);
    }
}

//! Hostile messages: packets of files, the bodies of calls, and what statuses say.

use bytes::BytesMut;
use prost::Message;

use super::grpc::{framed, take};
use super::messages::RpcStatus;
use super::messages::control::{DiskUsageRequest, PruneRequest, SolveRequest, StatusRequest};
use super::messages::gateway::{ReturnRequest, SolveRequest as GatewaySolveRequest};
use super::messages::session::{BytesMessage, CredentialsResponse, Packet, Stat, packet};
use super::options::{Options, check_syntax, syntax};
use super::tree::{Bounds, Tree};

fn framed_all(packets: &[Packet]) -> Vec<u8> {
    packets.iter().flat_map(|packet| framed(packet).to_vec()).collect()
}

fn stat(path: &str, mode: u32, link: &str) -> Packet {
    let stat = Stat { path: path.into(), mode, link: link.into(), size: 3, ..Stat::default() };
    Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() }
}

/// Whatever is sent, nothing gets out of the folder.
#[test]
fn packets() {
    let data = |id, data: &[u8]| Packet { kind: packet::DATA, id, data: data.to_vec(), ..Packet::default() };
    let whole = framed_all(&[
        stat("a", (1 << 31) | 0o755, ""),
        stat("a/b", 0o644, ""),
        stat("a/c", (1 << 27) | 0o777, "../../x"),
        stat("a/d", 0o644, "a/b"),
        Packet::default(),
        data(1, b"abc"),
        data(1, b""),
    ]);
    let lies = framed_all(&[stat("../x", 0o644, ""), stat("/x", 0o644, "/etc"), data(7, b"x")]);
    let odd = framed_all(&[stat("a", 1 << 26, ""), Packet { kind: packet::ERROR, ..Packet::default() }]);
    fuzz::run("packets", &[&whole, &lies, &odd], |input| {
        // In memory: these are thousands of folders.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap_or_else(|error| panic!("no folder to fuzz in: {error}"));
        let inside = folder.path().join("in");
        let made = std::fs::create_dir(&inside).and_then(|()| Tree::new(&inside, Bounds::ALL));
        let mut tree = made.unwrap_or_else(|error| panic!("no folder to fuzz in: {error}"));
        let mut buffer = BytesMut::from(input);
        while let Ok(Some(packet)) = take::<Packet>(&mut buffer) {
            if tree.take(packet).is_err() {
                break;
            }
        }
        let outside = std::fs::read_dir(folder.path()).map(Iterator::count);
        assert_eq!(outside.ok(), Some(1), "something got out");
    });
}

#[test]
fn bodies() {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let solve = SolveRequest {
        reference: "x".to_owned(),
        exporter: "moby".to_owned(),
        exporter_attributes: pairs(&[("name", "a,b")]),
        session: "y".to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attributes: pairs(&[
            ("build-arg:A", "b"),
            ("ulimit", "nofile=1:2"),
            ("context:x", "local:y"),
        ]),
        ..SolveRequest::default()
    };
    let gateway = GatewaySolveRequest {
        frontend: "gateway.v0".to_owned(),
        frontend_options: pairs(&[
            ("source", "docker/dockerfile:1"),
            ("add-hosts", "a=1"),
            ("cache-imports", "[]"),
        ]),
        ..GatewaySolveRequest::default()
    };
    fuzz::run("bodies", &[&framed(&solve), &framed(&gateway)], |input| {
        let buffer = || BytesMut::from(input);
        if let Ok(Some(request)) = take::<SolveRequest>(&mut buffer()) {
            let _ = Options::understand(&request.frontend_attributes);
        }
        if let Ok(Some(request)) = take::<GatewaySolveRequest>(&mut buffer()) {
            let _ = Options::understand(&request.frontend_options);
        }
        let _ = take::<ReturnRequest>(&mut buffer());
        let _ = take::<StatusRequest>(&mut buffer());
        let _ = take::<PruneRequest>(&mut buffer());
        let _ = take::<DiskUsageRequest>(&mut buffer());
        let _ = take::<CredentialsResponse>(&mut buffer());
        let _ = take::<BytesMessage>(&mut buffer());
        let _ = RpcStatus::decode(input);
    });
}

#[test]
fn syntaxes() {
    let corpus: [&[u8]; 3] = [
        b"# syntax=docker/dockerfile:1\nFROM x",
        b"# escape=`\n#syntax = a/b@sha256:0\n",
        b"\xef\xbb\xbf#syntax=r:5/x:y",
    ];
    fuzz::run("syntaxes", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = syntax(text).map(check_syntax);
    });
}

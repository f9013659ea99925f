//! Hostile requests to a supervising process, replies of one, and files of a container that it reads.

use std::os::unix::net::UnixStream;

use super::log::LogLine;
use super::peer::Peer;
use super::protocol::{LINE_LIMIT, Reply, ShimConfig};

#[test]
fn shim_requests() {
    let corpus: [&[u8]; 6] = [
        b"{\"Hello\":{\"version\":2}}\n{\"Later\":{}}\n",
        b"\"Start\"\n\"Wait\"\n{\"Kill\":{\"signal\":9}}\n",
        b"{\"Resize\":{\"rows\":24,\"columns\":80}}\n",
        b"{\"Attach\":{\"stdin\":true,\"stdout\":true,\"stderr\":false}}\nmore",
        b"\"Follow\"\n",
        b"{\"Exec\":{\"directory\":\"/run/x\"}}\n",
    ];
    let (socket, _other) = UnixStream::pair().unwrap();
    fuzz::run("shim_requests", &corpus, |input| {
        let mut peer = Peer::new(socket.try_clone().unwrap()).unwrap();
        // In pieces, as they come over a socket.
        for piece in input.chunks(7) {
            peer.take(piece);
            while peer.next_request().is_some() {}
            if peer.dead {
                break;
            }
        }
        assert!(peer.dead || peer.leftover().len() <= LINE_LIMIT);
    });
}

#[test]
fn shim_replies() {
    let corpus: [&[u8]; 6] = [
        b"{\"Hello\":{\"version\":2,\"requests\":[\"Hello\",\"Wait\"]}}",
        b"{\"Created\":{\"pid\":42}}",
        b"{\"Exited\":{\"code\":137,\"out_of_memory\":true,\"finished_at\":\"2026-01-02T03:04:05Z\"}}",
        b"{\"Failed\":{\"message\":\"exec: no such file\"}}",
        b"\"Done\"",
        br#"{"id":"x","task":{"Exec":{"container_directory":"/","init_pid":1,"process":{},"seccomp":null}},"terminal":false,
"console_size":[1,2],"open_stdin":false,"stdin_once":false,"log":{"path":"/x","max_size":1,"max_files":2},"exit_file":"/",
"user":"","groups":["a"],"cgroup":"/"}"#,
    ];
    fuzz::run("shim_replies", &corpus, |input| {
        if let Ok(reply) = serde_json::from_slice::<Reply>(input) {
            let again = serde_json::to_vec(&reply).unwrap();
            assert_eq!(serde_json::from_slice::<Reply>(&again).unwrap(), reply);
        }
        let _ = serde_json::from_slice::<ShimConfig>(input);
        let _ = serde_json::from_slice::<LogLine>(input);
    });
}

#[test]
fn users() {
    let corpus: [&[u8]; 2] = [
        b"postgres:disk\nroot:x:0:0:root:/root:/bin/sh\npostgres:x:70:71:p:/var/lib/p:/bin/sh\n",
        b"70\nroot:x:0:root\ndisk:x:81:root,postgres\nssl:x:80:other\n",
    ];
    fuzz::run("users", &corpus, |input| {
        let text = String::from_utf8_lossy(input);
        let (name, file) = text.split_once('\n').unwrap_or((&text, ""));
        if let Ok(user) = super::users::resolve_in(file, file, name, &[name.to_owned()]) {
            assert_eq!(user.additional_gids.first(), Some(&user.gid));
            assert!(user.home.starts_with('/'));
        }
    });
}

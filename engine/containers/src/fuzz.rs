//! Hostile requests, signals and archives for containers.

use std::fs;
use std::path::Path;

use engine_kernel::confine::Root;
use engine_model::wire::CreateRequest;

use super::tree::unpack;

#[test]
fn create_requests() {
    let corpus: [&[u8]; 2] = [
        br#"{"Image":"busybox","Cmd":["sh","-c","x"],"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Tty":true,"StopSignal":"RTMIN+3",
"Volumes":{"/v":{}},"HostConfig":{"Memory":6291456,"NanoCpus":1000000,"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8000-8010"}]},
"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"Binds":["/a:/b:ro"],"Tmpfs":{"/t":"size=1m,mode=1777"}}}"#,
        br#"{"Image":"x","HostConfig":{"NetworkMode":"container:x","Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x",
"CgroupPermissions":"rwm"}],"DeviceCgroupRules":["c 1:3 rwm"],"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"ExtraHosts":["a:1.2.3.4"],
"LogConfig":{"Type":"json-file","Config":{"max-size":"10m"}},"Mounts":[{"Type":"tmpfs","Target":"/m","TmpfsOptions":{"SizeBytes":10}}]},
"NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"10.0.0.1"},"Aliases":["a"]}}}}"#,
    ];
    fuzz::run("create_requests", &corpus, |input| {
        let Ok(request) = CreateRequest::read(input) else { return };
        let networks = request
            .networking_config
            .endpoints_config
            .clone()
            .into_iter()
            .map(|(network, endpoint)| (network, endpoint.unwrap_or_default()))
            .collect();
        let _ = super::unsupported::refuse(&request);
        let _ = super::sensible::check(&request.config, &request.host_config);
        let _ = super::understand::request(&request.config, &request.host_config, &networks, false);
        let volumes = request.config.volumes.iter().flatten().map(|(path, _)| path);
        let _ = super::mounts::parse(&request.host_config, volumes, Vec::new(), Path::new("/nowhere"));
    });
}

#[test]
fn signals() {
    let corpus: [&[u8]; 4] = [b"SIGTERM", b"RTMIN+3", b"SIGRTMAX-1", b"9"];
    fuzz::run("signals", &corpus, |input| {
        if let Some(number) = std::str::from_utf8(input).ok().and_then(super::signals::parse) {
            assert!((1..=64).contains(&number));
        }
    });
}

/// What is unpacked stays below its root, whatever the archive says.
#[test]
fn archives() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        match link {
            "" => archive.append_data(&mut header, path, content).unwrap(),
            link => archive.append_link(&mut header, path, link).unwrap(),
        }
    };
    add(tar::EntryType::Directory, "folder", "", b"");
    add(tar::EntryType::Regular, "folder/file", "", b"content");
    add(tar::EntryType::Symlink, "up", "../../outside", b"");
    add(tar::EntryType::Link, "hard", "folder/file", b"");
    add(tar::EntryType::Regular, "up/climbed", "", b"x");
    let archive = archive.into_inner().unwrap();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "as it was").unwrap();
    let mend = |mutator: &mut fuzz::Mutator, input: &mut Vec<u8>| {
        if mutator.below(8) > 0 {
            for block in input.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    };
    fuzz::run_with("archives", &[&archive], mend, |input| {
        fs::create_dir(&inside).unwrap();
        let root = Root::open(&inside).unwrap();
        let _ = unpack(&root, Path::new("/"), input, false, None);
        fs::remove_dir_all(&inside).unwrap();
        let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    });
}

#![allow(clippy::unwrap_used)]
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;

fn seed() -> Seed {
    Seed {
        instance_id: "7c7c7d6e-0000-4000-8000-000000000001".into(),
        hostname: "mc1".into(),
        user: "docker".into(),
        authorized_keys: vec!["ssh-ed25519 AAAA \"quoted\" 'comment' # not a comment: {{x}}".into()],
        host_key: Some(HostKey {
            public: "ssh-ed25519 AAAAhost".into(),
            private: "-----BEGIN OPENSSH PRIVATE KEY-----\nline: 1\n---\n-----END OPENSSH PRIVATE KEY-----\n"
                .into(),
        }),
        write_files: vec![SeedFile {
            path: "/etc/services/x/run".into(),
            content: b"#!/bin/sh\necho '\0\xff'\n".to_vec(),
            mode: 0o755,
        }],
        runcmd: vec![vec![
            "echo".into(),
            "yes".into(),
            "0600".into(),
            "a: b\n- c".into(),
            "2026-01-01".into(),
        ]],
        ..Seed::default()
    }
}

fn parse(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn user_data_says_exactly_what_it_was_told() {
    let text = seed().user_data().unwrap();
    assert!(text.starts_with("#cloud-config\n"), "{text}");
    let data = parse(&text);
    assert_eq!(data["hostname"], "mc1");
    assert_eq!(data["users"][0]["name"], "docker");
    assert_eq!(data["users"][0]["sudo"], "ALL=(ALL) NOPASSWD:ALL");
    assert_eq!(data["users"][0]["ssh_authorized_keys"], json!(seed().authorized_keys));
    assert_eq!(data["ssh_keys"]["ed25519_private"], seed().host_key.unwrap().private.as_str());
    assert_eq!(data["write_files"][0]["permissions"], "0755");
    let content = STANDARD.decode(data["write_files"][0]["content"].as_str().unwrap()).unwrap();
    assert_eq!(content, seed().write_files[0].content);
    assert_eq!(data["runcmd"], json!(seed().runcmd));
}

/// A reader of YAML 1.1 takes plain `yes`, `0600` and `2026-01-01` for a boolean, a number and a date.
#[test]
fn every_string_is_quoted() {
    let text = seed().user_data().unwrap();
    for word in ["yes", "0600", "2026-01-01", "0755"] {
        let quoted = text.contains(&format!("'{word}'")) || text.contains(&format!("\"{word}\""));
        assert!(quoted, "`{word}` is not quoted in\n{text}");
    }
}

#[test]
fn values_that_could_break_out_are_refused() {
    let changes: [fn(&mut Seed); 7] = [
        |seed| seed.hostname = "a\nb".into(),
        |seed| seed.hostname = String::new(),
        |seed| seed.user = "root:0".into(),
        |seed| seed.instance_id = "../x".into(),
        |seed| seed.authorized_keys = vec!["ssh-ed25519 A\ncommand".into()],
        |seed| seed.write_files[0].path = "/etc/../../x".into(),
        |seed| seed.write_files[0].path = "relative".into(),
    ];
    for change in changes {
        let mut seed = seed();
        change(&mut seed);
        assert!(matches!(seed.image(), Err(SeedError::Value { .. })), "{seed:?}");
    }
}

#[test]
fn a_seed_that_is_too_large_is_refused() {
    let mut seed = seed();
    seed.write_files[0].content = vec![0; LARGEST_USER_DATA];
    assert!(matches!(seed.image(), Err(SeedError::TooLarge { .. })));
}

#[test]
fn debug_shows_no_secret() {
    let mut seed = seed();
    seed.write_files[0].content = b"secret".to_vec();
    let text = format!("{seed:?}");
    assert!(!text.contains("PRIVATE") && !text.contains("115, 101, 99"), "{text}");
}

#[test]
fn network_config_is_version_2() {
    let mut seed = seed();
    assert_eq!(seed.network_config().unwrap(), None);
    seed.network = Some(Network {
        interfaces: vec![Interface {
            name: "private".into(),
            mac: Some("52:54:00:00:00:01".into()),
            addresses: vec!["192.168.56.10/24".into()],
            gateway: Some(Ipv4Addr::new(192, 168, 56, 1).into()),
            nameservers: vec![Ipv4Addr::new(192, 168, 56, 2).into()],
            ..Interface::default()
        }],
    });
    assert_eq!(
        parse(&seed.network_config().unwrap().unwrap()),
        json!({"version": 2, "ethernets": {"private": {
            "match": {"macaddress": "52:54:00:00:00:01"},
            "dhcp4": false,
            "addresses": ["192.168.56.10/24"],
            "gateway4": "192.168.56.1",
            "nameservers": {"addresses": ["192.168.56.2"]},
        }}})
    );
}

/// Reads the image as Linux does: the Joliet tree, from its descriptor.
fn files_of(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let number = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let descriptor = (16..30).map(|sector| sector * 2048).find(|at| image[*at] == 2).unwrap();
    assert_eq!(&image[descriptor + 1..descriptor + 6], b"CD001");
    assert_eq!(&image[descriptor + 88..descriptor + 91], b"%/E");
    assert_eq!(number(descriptor + 80) * 2048, image.len());
    let mut at = number(descriptor + 156 + 2) * 2048;
    let mut files = BTreeMap::new();
    while image[at] != 0 {
        let name = &image[at + 33..at + 33 + usize::from(image[at + 32])];
        if image[at + 25] & 2 == 0 {
            let units: Vec<u16> = name.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            let (start, size) = (number(at + 2) * 2048, number(at + 10));
            files.insert(String::from_utf16(&units).unwrap(), image[start..start + size].to_vec());
        }
        at += usize::from(image[at]);
    }
    files
}

#[test]
fn the_image_holds_the_files_and_the_label() {
    let mut seed = seed();
    seed.network = Some(Network::default());
    seed.write_files[0].content = vec![b'x'; 5000];
    let image = seed.image().unwrap();
    assert_eq!(&image[16 * 2048 + 40..][..6], b"cidata");
    let files = files_of(&image);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["meta-data;1", "network-config;1", "user-data;1"]);
    assert_eq!(files["user-data;1"], seed.user_data().unwrap().into_bytes());
    assert_eq!(files["meta-data;1"], seed.meta_data().unwrap().into_bytes());
    assert_eq!(image, seed.image().unwrap());
}

#[cfg(unix)]
#[test]
fn the_file_is_private_and_whole() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.iso");
    fs::write(folder.path().join("seed.iso.partial"), "left by a crash").unwrap();
    seed().write(&path).unwrap();
    let first = fs::metadata(&path).unwrap();
    assert_eq!(first.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&path).unwrap(), seed().image().unwrap());
    seed().write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino(), "written again without need");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

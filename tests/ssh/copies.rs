//! `scp` in all directions.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use machine::ssh::{CopyError, CopyLimits, CopyOptions, Place, Session, copy};

use crate::server::{Server, wait};

const LIMITS: CopyLimits = CopyLimits { bytes: 100 << 20, entries: 10_000 };
const FILES: CopyOptions = CopyOptions { recursive: false, preserve_times: false, limits: LIMITS };
const TREES: CopyOptions = CopyOptions { recursive: true, preserve_times: true, limits: LIMITS };

async fn copied(from: &Place<'_>, to: &Place<'_>, options: CopyOptions) -> Result<(), CopyError> {
    copy(from, to, options, &|_| {}).await
}

fn local(path: &Path) -> Place<'static> {
    Place::Local(path.to_owned())
}

fn remote<'a>(session: &'a Session, path: &Path) -> Place<'a> {
    Place::Remote { session, name: "mc1".to_owned(), path: path.to_str().unwrap().to_owned() }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

/// All that is in a directory: mode and content by path.
fn contents(root: &Path) -> BTreeMap<Vec<u8>, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            found.insert(name, (metadata.mode() & 0o7777, None));
        } else {
            found.insert(name, (metadata.mode() & 0o7777, Some(fs::read(&path).unwrap())));
        }
    }
    found
}

/// A tree with all that makes trees difficult.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and deeper")).unwrap();
    for (name, mode) in [
        ("plain", 0o644),
        ("script.sh", 0o755),
        ("secret", 0o600),
        ("read only", 0o444),
        ("two  blanks ", 0o644),
        ("new\nline", 0o644),
        ("-rf", 0o644),
        ("ünïcödé 🐳", 0o640),
        ("$(touch x);`id`'\"\\*?", 0o644),
        ("deep/er/and deeper/file", 0o644),
        ("empty", 0o644),
    ] {
        let content = if name == "empty" { String::new() } else { name.repeat(3000) };
        fs::write(root.join(name), content).unwrap();
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::create_dir(root.join("empty directory")).unwrap();
    fs::set_permissions(root.join("empty directory"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::set_permissions(root.join("deep/er"), PermissionsExt::from_mode(0o555)).unwrap();
}

#[test]
fn trees_arrive_whole_in_every_direction() {
    let (one, two) = (Server::start(), Server::start());
    let planted = one.path("planted");
    plant(&planted);
    let expected = contents(&planted);
    wait(async {
        let (first, second) = (one.session().await, two.session().await);
        // There, and where nothing is yet.
        copied(&local(&planted), &remote(&first, &one.path("there")), TREES).await.unwrap();
        assert_eq!(contents(&one.path("there")), expected);
        // From one host to another, into a directory.
        fs::create_dir(two.path("into")).unwrap();
        copied(&remote(&first, &one.path("there")), &remote(&second, &two.path("into")), TREES)
            .await
            .unwrap();
        assert_eq!(contents(&two.path("into/there")), expected);
        // And back, over what is there already.
        fs::create_dir_all(one.path("back/there")).unwrap();
        fs::write(one.path("back/there/plain"), "something longer than before".repeat(9000)).unwrap();
        copied(&remote(&second, &two.path("into/there/")), &local(&one.path("back")), TREES).await.unwrap();
        let mut back = contents(&one.path("back/there"));
        back.insert(Vec::new(), expected[&Vec::new()].clone());
        assert_eq!(back, expected);
        // `.` has no name, so its entries go there.
        copied(&remote(&second, &two.path("into/there/.")), &local(&one.path("dot")), TREES).await.unwrap();
        assert_eq!(contents(&one.path("dot")), expected);
    });
    let time = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(time(&one.path("back/there/secret")), time(&planted.join("secret")));
    assert_eq!((one.logins(), two.logins()), (1, 1));
}

#[test]
fn many_small_files_and_a_big_one() {
    let server = Server::start();
    let many = server.path("many");
    for directory in 0..10 {
        fs::create_dir_all(many.join(directory.to_string())).unwrap();
        for file in 0..100 {
            fs::write(many.join(format!("{directory}/{file}")), format!("file {file} of {directory}"))
                .unwrap();
        }
    }
    let big: Vec<u8> =
        (0..20u32 * 1024 * 1024).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(server.path("big"), &big).unwrap();
    let bytes = AtomicU64::new(0);
    wait(async {
        let session = server.session().await;
        copied(&local(&many), &remote(&session, &server.path("there")), TREES).await.unwrap();
        copied(&remote(&session, &server.path("there")), &local(&server.path("back")), TREES).await.unwrap();
        assert_eq!(contents(&server.path("back")), contents(&many));
        assert_eq!(contents(&many).len(), 1011);

        let progress = |event: machine::ssh::CopyEvent<'_>| {
            if let machine::ssh::CopyEvent::Bytes(count) = event {
                bytes.fetch_add(count, Ordering::Relaxed);
            }
        };
        copy(&local(&server.path("big")), &remote(&session, &server.path("big2")), FILES, &progress)
            .await
            .unwrap();
        copied(&remote(&session, &server.path("big2")), &local(&server.path("big3")), FILES).await.unwrap();
    });
    assert_eq!(bytes.into_inner(), big.len() as u64);
    assert!(fs::read(server.path("big3")).unwrap() == big);
    assert_eq!(server.logins(), 1);
}

#[test]
fn destinations_are_those_of_scp() {
    let home = tempfile::tempdir().unwrap();
    let start = format!("Subsystem sftp internal-sftp -d {}", home.path().display());
    let server = Server::start_with(&start);
    let file = server.path("file");
    fs::write(&file, "content").unwrap();
    fs::create_dir(server.path("directory")).unwrap();
    wait(async {
        let session = server.session().await;
        let to = |path: &str| remote(&session, Path::new(path));
        // The home is where relative paths begin.
        copied(&local(&file), &to(""), FILES).await.unwrap();
        assert_eq!(fs::read(home.path().join("file")).unwrap(), b"content");
        copied(&local(&file), &to("renamed"), FILES).await.unwrap();
        copied(&local(&file), &to("~/with tilde"), FILES).await.unwrap();
        for name in ["renamed", "with tilde"] {
            assert_eq!(fs::read(home.path().join(name)).unwrap(), b"content");
        }
        copied(&to("renamed"), &local(&server.path("directory")), FILES).await.unwrap();
        assert_eq!(fs::read(server.path("directory/renamed")).unwrap(), b"content");
        // Files that are made up as they are read have no size.
        copied(&to("/proc/self/status"), &local(&server.path("status")), FILES).await.unwrap();
        assert!(fs::read_to_string(server.path("status")).unwrap().contains("Uid:"));
        // A device keeps its mode.
        copied(&local(&file), &to("/dev/null"), FILES).await.unwrap();
        assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o777, 0o666);

        let place = |name: &str| server.path(name).display().to_string();
        let error = copied(&local(&server.path("directory")), &to("x"), FILES).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{}` is a directory", place("directory")));
        assert!(error.hint().unwrap().contains("-r"));
        let error = copied(&to("none"), &local(&file), FILES).await.unwrap_err();
        assert_eq!(chain(&error), "Could not read `mc1:none`: No such file");
        let error = copied(&local(&file), &to("no/such/place"), FILES).await.unwrap_err();
        assert_eq!(chain(&error), "Could not write `mc1:no/such/place`: No such file");
        let error = copied(&local(&file), &to("newdir/"), FILES).await.unwrap_err();
        assert_eq!(error.to_string(), "`mc1:newdir/` is not a directory");
        let error = copied(&local(&server.path("directory")), &to("renamed"), TREES).await.unwrap_err();
        assert_eq!(error.to_string(), "`mc1:renamed` is not a directory");
        let error = copied(&to("/dev/zero"), &local(&file), FILES).await.unwrap_err();
        assert!(matches!(error, CopyError::Special { .. }), "{error}");
        let error = copied(&to("renamed"), &to("./renamed"), FILES).await.unwrap_err();
        assert!(matches!(error, CopyError::Itself { .. }), "{error}");
        let error = copied(&to("."), &to("inside"), TREES).await.unwrap_err();
        assert!(matches!(error, CopyError::Itself { .. }), "{error}");
        assert_eq!(fs::read(home.path().join("renamed")).unwrap(), b"content");
    });
}

#[test]
fn links_are_followed_where_they_are_read_and_refused_where_they_are_written() {
    let server = Server::start();
    let (tree, outside) = (server.path("tree"), server.path("outside"));
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("linked"), "linked").unwrap();
    fs::write(tree.join("sub/file"), "new").unwrap();
    fs::write(tree.join("top"), "new").unwrap();
    symlink(outside.join("linked"), tree.join("link to file")).unwrap();
    symlink(&outside, tree.join("link to directory")).unwrap();
    symlink("..", tree.join("sub/loop")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    wait(async {
        let session = server.session().await;
        for from in [local(&tree), remote(&session, &tree)] {
            let to = server.path("copy");
            let _ = fs::remove_dir_all(&to);
            let error = copied(&from, &local(&to), TREES).await.unwrap_err();
            let CopyError::Several { count: 2, first, rest } = &error else { panic!("{}", chain(&error)) };
            let mut both = [chain(first), chain(&rest[0])];
            both.sort();
            assert!(both[0].contains("dangling") && both[0].contains("No such file"), "{both:?}");
            assert!(both[1].contains("sub/loop` is a link to a directory that it lies in"), "{both:?}");
            assert_eq!(fs::read(to.join("link to file")).unwrap(), b"linked");
            assert_eq!(fs::read(to.join("link to directory/linked")).unwrap(), b"linked");
            assert!(fs::symlink_metadata(to.join("link to directory")).unwrap().is_dir());
        }
        // What lies in wait at the destination leads nowhere.
        for name in ["loop", "link to file", "link to directory", "dangling"] {
            let _ = fs::remove_file(tree.join("sub").join(name));
            let _ = fs::remove_file(tree.join(name));
        }
        let trap = server.path("trap/tree");
        fs::create_dir_all(&trap).unwrap();
        symlink(&outside, trap.join("sub")).unwrap();
        symlink(outside.join("victim"), trap.join("top")).unwrap();
        let error = copied(&remote(&session, &tree), &local(&server.path("trap")), TREES).await.unwrap_err();
        assert!(matches!(error, CopyError::Several { count: 2, .. }), "{}", chain(&error));
        let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [OsStr::new("linked")]);
    });
}

#[test]
fn names_that_cannot_be_sent_are_reported_and_the_rest_arrives() {
    let server = Server::start();
    let tree = server.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"latin-\xe9")), "x").unwrap();
    fs::write(tree.join("good"), "x").unwrap();
    wait(async {
        let session = server.session().await;
        let error = copied(&local(&tree), &remote(&session, &server.path("there")), TREES).await.unwrap_err();
        assert!(matches!(error, CopyError::NotUnicode { .. }), "{error}");
        assert!(server.path("there/good").exists());
        let error = copied(&remote(&session, &tree), &local(&server.path("back")), TREES).await.unwrap_err();
        assert!(chain(&error).contains("latin-"), "{}", chain(&error));
        assert!(server.path("back/good").exists());
        copied(&local(&tree), &local(&server.path("here")), TREES).await.unwrap();
        assert_eq!(contents(&server.path("here")), contents(&tree));
    });
}

/// Speaks just enough of the protocol to list a directory with a name that climbs out of it.
const HOSTILE: &str = r"
import os, struct, sys
i, o = sys.stdin.buffer, sys.stdout.buffer
text = lambda s: struct.pack('>I', len(s)) + s
attributes = lambda mode: struct.pack('>IQI', 5, 4, mode)
def answer(kind, body):
    o.write(struct.pack('>IB', len(body) + 1, kind) + body); o.flush()
listed = False
while True:
    head = i.read(4)
    if len(head) < 4: break
    packet = i.read(struct.unpack('>I', head)[0])
    kind, id = packet[0], packet[1:5]
    if kind == 1: answer(2, struct.pack('>I', 3))
    elif kind in (7, 17): answer(105, id + attributes(0o40755))
    elif kind == 16: answer(104, id + struct.pack('>I', 1) + text(b'/hostile') + text(b'') + attributes(0o40755))
    elif kind == 11: answer(102, id + text(b'h'))
    elif kind == 12 and not listed:
        listed = True
        name = sys.argv[1].encode()
        answer(104, id + struct.pack('>I', 1) + text(name) + text(b'') + attributes(0o100644))
    elif kind == 12: answer(101, id + struct.pack('>I', 1) + text(b'') + text(b''))
    elif kind == 3: answer(102, id + text(b'f'))
    elif kind == 5: answer(103, id + text(b'evil'))
    else: answer(101, id + struct.pack('>I', 0) + text(b'') + text(b''))
";

#[test]
fn hosts_cannot_write_where_they_like() {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), HOSTILE).unwrap();
    for name in ["../evil", "/tmp/evil", "..", "sub/evil"] {
        let subsystem = format!("Subsystem sftp /usr/bin/python3 {} '{name}'", script.path().display());
        let server = Server::start_with(&subsystem);
        fs::create_dir_all(server.path("target/tree")).unwrap();
        wait(async {
            let session = server.session().await;
            let from = remote(&session, Path::new("tree"));
            let outcome = copied(&from, &local(&server.path("target")), TREES).await;
            if name == ".." {
                // Every directory lists itself and its parent; they are no entries.
                outcome.unwrap();
            } else {
                let error = outcome.unwrap_err();
                assert!(matches!(error, CopyError::HostileName { .. }), "{}", chain(&error));
            }
        });
        assert!(!server.path("target/evil").exists() && !server.path("evil").exists());
    }
}

#[test]
fn a_host_without_sftp_says_so() {
    let server = Server::start_with("Subsystem sftp /no/such/server\n");
    wait(async {
        let session = server.session().await;
        let error = copied(&local(&server.path("key.pub")), &remote(&session, &server.path("x")), FILES)
            .await
            .unwrap_err();
        // The server starts a shell that finds nothing, so the conversation ends before it has begun.
        assert!(matches!(error, CopyError::NoSftp { .. }), "{}", chain(&error));
        assert!(chain(&error).len() > error.to_string().len(), "{} has no reason", chain(&error));
        assert!(error.hint().unwrap().contains("sftp-server"));
    });
    let server = Server::start_with("Subsystem other /bin/true\n");
    wait(async {
        let session = server.session().await;
        let error = copied(&local(&server.path("key.pub")), &remote(&session, &server.path("x")), FILES)
            .await
            .unwrap_err();
        assert_eq!(chain(&error), "The SSH server of `mc1` does not transfer files: it refused the request");
    });
}

#[test]
fn what_a_host_sends_is_bounded() {
    let server = Server::start();
    for folder in 0..5 {
        fs::create_dir_all(server.path("tree").join(folder.to_string())).unwrap();
        for file in 0..4 {
            fs::write(server.path("tree").join(format!("{folder}/{file}")), [0; 1000]).unwrap();
        }
    }
    wait(async {
        let session = server.session().await;
        let (tree, to) = (remote(&session, &server.path("tree")), |name: &str| local(&server.path(name)));
        // 25 files and folders, 20000 bytes.
        let within = |bytes, entries| CopyOptions { limits: CopyLimits { bytes, entries }, ..TREES };
        copied(&tree, &to("all"), within(20_000, 25)).await.unwrap();
        let error = copied(&tree, &to("files"), within(20_000, 24)).await.unwrap_err();
        assert!(matches!(error, CopyError::TooManyInAll { limit: 24, .. }), "{}", chain(&error));
        assert!(error.to_string().contains("mc1:") && error.hint().unwrap().contains("--max-files"));
        let error = copied(&tree, &to("bytes"), within(19_999, 25)).await.unwrap_err();
        assert!(matches!(error, CopyError::TooMuchInAll { limit: 19_999, .. }), "{}", chain(&error));
        assert!(error.hint().unwrap().contains("--max-size"));
        // One file that never ends, and says that it is empty.
        let endless = remote(&session, Path::new("/proc/self/pagemap"));
        let one = CopyOptions { limits: CopyLimits { bytes: 1 << 20, entries: 1 }, ..FILES };
        let error = copied(&endless, &to("endless"), one).await.unwrap_err();
        assert!(error.to_string().ends_with("are more than 1 MiB"), "{}", chain(&error));
        // What lies here is the user's own.
        copied(&to("tree"), &remote(&session, &server.path("there")), within(1, 1)).await.unwrap();
        copied(&to("tree"), &to("here"), within(1, 1)).await.unwrap();
    });
}

#[test]
fn a_connection_that_dies_ends_the_copy() {
    let server = Server::start();
    fs::write(server.path("big"), vec![0; 50_000_000]).unwrap();
    wait(async {
        let session = server.session().await;
        let cut = |event: machine::ssh::CopyEvent<'_>| {
            if matches!(event, machine::ssh::CopyEvent::Bytes(_)) {
                server.cut();
            }
        };
        let to = remote(&session, &server.path("there"));
        let error = copy(&local(&server.path("big")), &to, FILES, &cut).await.unwrap_err();
        assert!(matches!(error, CopyError::Ssh(machine::ssh::SshError::Lost { .. })), "{}", chain(&error));
    });
}

//! Killed before any other change of a folder: the making of a store's authority, a host's files, their removal.
//!
//! strace kills right before a call that names, renames or removes a file; every file of a store is written under another
//! name and then renamed.

use std::time::SystemTime;

use super::*;

const CALLS: &str = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat";

/// The `number`-th call of its kind on the main thread, where all of `machine`'s own writing is done.
#[derive(Debug)]
struct Change {
    call: String,
    number: usize,
}

impl Store {
    fn strace(&self, options: &[&str], words: &[&str]) -> Child {
        let mut command = Command::new("strace");
        self.settings(&mut command);
        // The tracer is not the child, so that it may outlive it with the VM.
        command.args(["-D", "-f", "-qq"]).args(options).arg(env!("CARGO_BIN_EXE_machine")).args(words);
        command.spawn().unwrap()
    }

    /// Runs a command, and returns what it changed, but for the writes of the record, which have tests of their own.
    fn changes(&self, words: &[&str]) -> Vec<Change> {
        let file = self.folder.path().join("trace");
        let trace = format!("trace={CALLS}");
        self.end(self.strace(&["-o", file.to_str().unwrap(), "-e", &trace], words), words);
        let text = fs::read_to_string(&file).unwrap();
        let main = text.split_whitespace().next().unwrap_or_default().to_owned();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut changes = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix(&main)) {
            let Some((call, rest)) = line.trim_start().split_once('(') else { continue };
            let number = counts.entry(call.to_owned()).or_default();
            *number += 1;
            // One that failed has changed nothing.
            if rest.ends_with(" = 0") && !rest.contains("/mc1/config.json\"") {
                changes.push(Change { call: call.to_owned(), number: *number });
            }
        }
        changes
    }

    fn killed_before(&self, change: &Change, words: &[&str]) -> End {
        let inject = format!("inject={}:signal=KILL:when={}", change.call, change.number);
        let trace = format!("trace={}", change.call);
        self.end(self.strace(&["-o", "/dev/null", "-e", &trace, "-e", &inject], words), words)
    }

    /// Whoever reads the store's certificates finds pairs that belong together, signed by the authority that is there.
    fn assert_one_authority(&self, when: &str) {
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.args(arguments.split(' ')).current_dir(self.root().join("certs"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{when}: openssl {arguments}: {output:?}");
            output.stdout
        };
        for (certificate, key) in [("ca.pem", "ca-key.pem"), ("cert.pem", "key.pem")] {
            let of_certificate = openssl(&format!("x509 -noout -pubkey -in {certificate}"));
            assert_eq!(of_certificate, openssl(&format!("pkey -pubout -in {key}")), "{when}: {certificate}");
        }
        openssl("verify -CAfile ca.pem cert.pem");
    }

    /// What has a name that nobody looks for, anywhere in the store.
    fn leftovers(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.root()]);
        while let Some(folder) = folders.pop() {
            // Killed early, there is no store yet.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with(".new-") || name.starts_with(".tmp-") {
                    found.push(entry.path());
                } else if entry.file_type().unwrap().is_dir() && name != "cache" {
                    folders.push(entry.path());
                }
            }
        }
        found
    }

    /// Makes leftovers so old that no living process can still be about to use them.
    fn age(&self) {
        for path in self.leftovers() {
            let time = SystemTime::now() - Duration::from_hours(1);
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
    }
}

/// Each change on a store of its own: the first host of a store makes its authority as well.
#[test]
fn a_first_create_that_was_killed_at_any_change_goes_on() {
    let Some(rehearsal) = Store::new() else { return };
    let changes = rehearsal.changes(&rehearsal.create());
    assert!(changes.len() > 15, "the trap does not work: {changes:?}");
    for change in &changes {
        let (store, when) = (Store::new().unwrap(), format!("killed before {change:?}"));
        assert_eq!(store.killed_before(change, &store.create()), End::Killed, "{when}");
        store.age();
        store.create_to_its_vm(&when);
        store.assert_one_authority(&when);
        assert_eq!(store.leftovers(), Vec::<PathBuf>::new(), "{when}");
        store.remove();
        store.assert_nothing_left(&when);
    }
}

#[test]
fn an_rm_that_was_killed_at_any_change_is_finished_by_another() {
    let Some(store) = Store::new() else { return };
    store.create_to_its_vm("rehearsal");
    let changes = store.changes(&["rm", "-y", "mc1"]);
    assert!(changes.len() > 10, "the trap does not work: {changes:?}");
    for change in &changes {
        let when = format!("killed before {change:?}");
        store.create_to_its_vm(&when);
        assert_eq!(store.killed_before(change, &["rm", "-y", "mc1"]), End::Killed, "{when}");
        store.age();
        // That there is no such host any more is an answer, too.
        store.start(&["rm", "-y", "mc1"]).wait().unwrap();
        store.assert_nothing_left(&when);
    }
}

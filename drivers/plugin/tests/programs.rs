//! Drivers in other languages: one that keeps the contract, and hostile ones, which harm nothing.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::StreamExt as _;
use machine_driver::{
    Driver, DriverError, ErrorKind, HostId, HostView, Journal, MemoryJournal, Options, Silent, State,
    conformance::Suite,
};
use machine_driver_plugin::{Limits, PlugIn};
use serde_json::{Value, json};
use tempfile::TempDir;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/machine-driver-folder");

#[tokio::test(flavor = "multi_thread")]
async fn the_example_passes_the_suite_of_all_drivers() {
    let driver = PlugIn::open("folder", Path::new(EXAMPLE)).await.unwrap();
    let report = Suite::new(&driver, &driver)
        .option("folder-url", "tcp://192.0.2.7:2375")
        .requires("folder-url")
        .refuses("folder-url", "nonsense")
        .limit(Duration::from_mins(2))
        .run()
        .await
        .unwrap();
    assert!(report.crashes > 16, "{report:?}");
}

/// What `hello` answers, for programs that misbehave later.
const HELLO: &str = r#"{"result":{"contract":2,"info":{"name":"bad","summary":"Bad","features":{"provisioned":false,"power":true,"login":"none","host_key":"none","adopted":true}},"flags":[]}}"#;

/// A program that says who it is, and does what `body` says when it is asked anything else. `$request` has the request.
struct Bad {
    folder: TempDir,
}

impl Bad {
    fn program(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine-driver-bad");
        // By another process: a descriptor of ours that a fork beside us holds open would make the file busy.
        let mut writer = Command::new("sh")
            .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        Self { folder }
    }

    fn later(body: &str) -> Self {
        Self::program(&format!(
            "#!/bin/sh\nread -r request\ncase $request in *'\"call\":\"hello\"'*) echo '{HELLO}'; exit;; esac\n{body}\n"
        ))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("machine-driver-bad")
    }

    async fn open(&self) -> Result<PlugIn, DriverError> {
        let limits = Limits { question: Duration::from_secs(20), work: Duration::from_secs(20) };
        PlugIn::open_within("bad", &self.path(), limits, Duration::from_secs(20)).await
    }

    /// The same with so little patience that silence is noticed at once.
    async fn open_impatiently(&self) -> Result<PlugIn, DriverError> {
        let moment = Duration::from_secs(3);
        PlugIn::open_within(
            "bad",
            &self.path(),
            Limits { question: moment, work: moment },
            Duration::from_secs(20),
        )
        .await
    }
}

fn host() -> HostView {
    HostView {
        name: "a".parse().unwrap(),
        id: HostId::random(),
        owner: String::new(),
        folder: "/nonexistent".into(),
        cache: "/nonexistent".into(),
        config: json!({}),
        place: None,
        login: None,
        host_key: None,
    }
}

/// The error and all its causes.
fn whole(error: &DriverError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_says_of_itself_is_checked() {
    let told = |change: &dyn Fn(&mut Value)| {
        let mut hello: Value = serde_json::from_str(HELLO).unwrap();
        change(&mut hello["result"]);
        Bad::program(&format!("#!/bin/sh\necho '{hello}'\n"))
    };
    let flag = |name: &str| json!({"name": name, "kind": "text", "value_name": "X", "help": "H"});
    for (bad, part) in [
        (told(&|hello| hello["contract"] = json!(3)), "speaks the edition 3"),
        (told(&|hello| hello["contract"] = json!("2")), "speaks the edition none"),
        (told(&|hello| hello["info"]["name"] = json!("aws")), "it calls itself `aws`"),
        (told(&|hello| hello["info"]["features"] = json!(7)), "says of itself what cannot be"),
        (told(&|hello| hello["flags"] = json!([flag("driver")])), "does not begin with `--bad-`"),
        (told(&|hello| hello["flags"] = json!([flag("bad-x"), flag("bad-x")])), "is there twice"),
        (told(&|hello| hello["info"]["aliases"] = json!(["../x"])), "no good as another name"),
        (Bad::program("#!/bin/sh\nexit 3\n"), "ended in the middle of `hello`"),
        (Bad::program("#!/bin/sh\necho '{\"step\":7}'\n"), "a line begins"),
        (Bad::program("#!/bin/sh\necho 'no \"JSON\"'\n"), "a line begins `no \"JSON\"`"),
    ] {
        let error = bad.open().await.unwrap_err();
        assert!(whole(&error).contains(part), "{part}: {}", whole(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_without_end_and_wrong_types_end_the_call() {
    for (body, part) in [
        ("head -c 3000000 /dev/zero | tr '\\0' x", "longer than 1 MiB"),
        (
            "while :; do echo '{\"note\":\"'; head -c 500000 /dev/zero | tr '\\0' x; echo '\"}'; done",
            "a line begins",
        ),
        ("yes '{\"note\":\"again\"}'", "it talks without end"),
        ("echo '[]'", "a line begins"),
        ("echo '{\"intend\":{\"kind\":\"disk\",\"name\":7}}'", "a line begins"),
        (
            "echo '{\"intend\":{\"kind\":\"disk\",\"name\":\"a\\u001b[2Jb\"}}'",
            "the name of a resource is no good",
        ),
        ("echo '{\"row\":{\"host\":0}}'", "a row says nothing"),
        ("echo '{\"result\":1'", "a line begins"),
        ("printf '\\377\\376\\n'", "a line begins"),
        ("echo oops >&2; exit 1", "ended in the middle of `create`: oops"),
        // A child of it holds its output open.
        ("sleep 1000 & exit 1", "ended in the middle of `create`"),
        (
            "while :; do echo '{\"gone\":{\"kind\":\"a\",\"name\":\"b\"}}'; read -r written; done",
            "without end",
        ),
        ("awk 'BEGIN { for (i = 0; i < 5000; i++) printf \"[\" ; print \"\" }'", "a line begins"),
    ] {
        let bad = Bad::later(body);
        let driver = bad.open().await.unwrap();
        let mut journal = MemoryJournal::default();
        let error = driver.create(&host(), &mut journal, &Silent).await.unwrap_err();
        let text = whole(&error);
        assert!(text.contains(part), "{body}: {text}");
        assert_eq!(*error.kind(), ErrorKind::Unknown, "what was begun may have been done: {body}");
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
        assert!(text.len() < 2000, "{text}");
        assert!(journal.entries().is_empty(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_call_and_everything_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("children");
    let bad = Bad::later(&format!("sleep 1000 & echo $! $$ >{0}.new; mv {0}.new {0}; wait", mark.display()));
    let driver = bad.open_impatiently().await.unwrap();
    let error = driver.create(&host(), &mut MemoryJournal::default(), &Silent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unknown, "{error}");
    let pids = fs::read_to_string(&mark).unwrap();
    for pid in pids.split_whitespace() {
        let mut gone = false;
        for _ in 0..500 {
            // A killed process that nobody has waited for yet has no command line any more.
            gone = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty();
            if gone {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(gone, "process {pid} lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_without_an_answer_do_not_make_a_question_longer() {
    let bad = Bad::later("while :; do echo '{\"note\":\"wait\"}'; sleep 1; done");
    let driver = bad.open_impatiently().await.unwrap();
    let error = driver.configure(&Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("did not answer `configure` within 3 seconds"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_after_any_line_leaves_a_true_journal() {
    let lines = [
        r#"{"step":"One"}"#,
        r#"{"intend":{"kind":"disk","name":"d","place":"here"}}"#,
        r#"{"made":{"kind":"disk","name":"d","id":"7","state":{"disk":7}}}"#,
        r#"{"intend":{"kind":"instance","name":"i"}}"#,
    ];
    for count in 0..=lines.len() {
        let body: String = lines[..count]
            .iter()
            .map(|line| {
                let wait = if line.contains("step") { "" } else { "read -r written\n" };
                format!("echo '{line}'\n{wait}")
            })
            .collect();
        let bad = Bad::later(&format!("{body}kill -9 $$"));
        let driver = bad.open().await.unwrap();
        let mut journal = MemoryJournal::default();
        let error = driver.create(&host(), &mut journal, &Silent).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unknown);
        let told: Vec<(String, Option<String>)> =
            journal.entries().into_iter().map(|entry| (entry.name, entry.id)).collect();
        let disk = |id: Option<&str>| ("d".to_owned(), id.map(str::to_owned));
        let expected = match count {
            0 | 1 => vec![],
            2 => vec![disk(None)],
            3 => vec![disk(Some("7"))],
            _ => vec![disk(Some("7")), ("i".to_owned(), None)],
        };
        assert_eq!(told, expected, "after {count} lines");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_stops_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("went-on");
    let bad = Bad::later(&format!(
        "echo '{{\"intend\":{{\"kind\":\"disk\",\"name\":\"d\"}}}}'\nread -r written || exit 1\ntouch {}\necho '{{\"result\":null}}'",
        mark.display()
    ));
    let driver = bad.open().await.unwrap();
    let mut journal = MemoryJournal { writes_left: Some(0), ..MemoryJournal::default() };
    let error = driver.create(&host(), &mut journal, &Silent).await.unwrap_err();
    assert_eq!(error.to_string(), "Could not write the journal");
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_has_its_row_whatever_the_program_tells() {
    let row = |host: usize| {
        format!("echo '{{\"row\":{{\"host\":{host},\"state\":\"Running\",\"endpoint\":null}}}}'")
    };
    let ended = "echo '{\"result\":null}'";
    for (body, good) in [
        (format!("{}\n{}\n{ended}", row(1), row(0)), [true, true]),
        (format!("{}\n{ended}", row(1)), [false, true]),
        (format!("{}\nexit 1", row(0)), [true, false]),
        (format!("{}\n{}\n{}", row(0), row(0), row(1)), [true, false]),
        (format!("{}\n{}", row(9), row(0)), [false, false]),
        ("exit 1".to_owned(), [false, false]),
        (
            format!(
                "case $request in *describe_many*) echo '{{\"error\":{{\"kind\":\"unsupported\",\"message\":\"no\"}}}}';; *) echo '{{\"result\":\"{}\"}}';; esac",
                State::Stopped
            ),
            [true, true],
        ),
    ] {
        let bad = Bad::later(&body);
        let driver = bad.open().await.unwrap();
        let hosts = [(host(), Value::Null), (host(), Value::Null)];
        let mut rows: Vec<_> = driver.describe_many(&hosts).collect().await;
        rows.sort_by_key(|(index, _)| *index);
        let found: Vec<(usize, bool)> = rows.iter().map(|(index, row)| (*index, row.is_ok())).collect();
        assert_eq!(found, [(0, good[0]), (1, good[1])], "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_options_that_would_do_harm_are_refused() {
    let answer =
        json!({"result": {"address": "-oProxyCommand=x", "engine_port": 1, "url": null, "ssh": null}});
    let bad = Bad::later(&format!("echo '{answer}'"));
    let driver = bad.open().await.unwrap();
    let error = driver.endpoint(&host(), &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("the host's address is no good"), "{error}");
    let answer = json!({"error": {
        "kind": "refused", "message": "a\u{1b}[31mb", "hint": "c\nd", "causes": ["e\u{7}"],
    }});
    let bad = Bad::later(&format!("printf '%s\\n' '{answer}'"));
    let driver = bad.open().await.unwrap();
    let error = driver.configure(&Options::default()).await.unwrap_err();
    assert_eq!((whole(&error).as_str(), error.hint()), ("a [31mb: e", Some("c d")));
}

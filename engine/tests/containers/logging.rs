//! Log drivers: what reaches servers of each kind, and who waits for one that is slow or gone.

use flate2::read::GzDecoder;

use super::*;
use harness::run;

/// Says much more than sockets and pipes hold.
const MUCH: &str = "yes a-line-that-is-a-little-longer-than-others-are | head -c 20000000";

/// A log server in the engine's network; it ends with the test.
struct Recorder {
    child: std::process::Child,
    file: PathBuf,
}

impl Recorder {
    fn start(engine: &Engine, kind: &str, address: &str, more: &[&Path]) -> Self {
        let file = engine.path(format!("recorded-{kind}-{}", address.replace('/', "_")));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/recorder.py");
        let mut command = engine.enter("python3");
        command.arg(script).arg(kind).arg(address).arg(&file).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "{kind}: the tests need python3");
        Self { child, file }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits for it.
    fn expect(&self, what: &str) -> String {
        wait_for(what, || self.text().contains(what));
        self.text()
    }

    fn datagrams(&self) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        let mut rest = bytes.as_slice();
        let mut datagrams = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (datagram, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            datagrams.push(datagram.to_vec());
            rest = after;
        }
        datagrams
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script in a container with these options of its log.
fn logged(engine: &Engine, name: &str, driver: &str, options: &[&str], script: &str) -> harness::Output {
    let mut arguments = vec!["run", "--name", name, "--label", "tier=front", "--log-driver", driver];
    for option in options {
        arguments.extend(["--log-opt", option]);
    }
    arguments.extend(["busybox", "sh", "-c", script]);
    engine.docker(&arguments)
}

/// The processes that pass on what this engine's containers say.
fn log_processes(engine: &Engine) -> Vec<String> {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let own = network(&engine.pid().to_string());
    let is_one = |process: &String| {
        fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line == b"/proc/self/exe\0log\0")
            && network(process) == own
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_one).collect()
}

#[test]
fn syslog_in_each_form_and_over_each_way() {
    let engine = engine();
    let tcp = Recorder::start(&engine, "tcp", "6001", &[]);
    let udp = Recorder::start(&engine, "udp", "6002", &[]);
    let local = engine.path("log.sock");
    let unix = Recorder::start(&engine, "unixgram", local.to_str().unwrap(), &[]);
    let script = "echo out; echo err >&2";

    let options = [
        "syslog-address=tcp://127.0.0.1:6001",
        "syslog-format=rfc5424",
        "tag={{.Name}}",
        "syslog-facility=local0",
    ];
    logged(&engine, "first", "syslog", &options, script).ok();
    tcp.expect(" first - err\n");
    let mut text: Vec<String> = tcp.text().lines().map(str::to_owned).collect();
    text.sort();
    assert!(text[0].starts_with("<131>1 20") && text[0].ends_with(" first - err"), "{text:?}");
    assert!(text[1].starts_with("<134>1 20") && text[1].ends_with(" first - out"), "{text:?}");
    // What goes elsewhere can be read here as well, unless one does not want that.
    assert_eq!(engine.docker(["logs", "first"]).stdout, "out\n");

    logged(
        &engine,
        "second",
        "syslog",
        &["syslog-address=udp://127.0.0.1:6002", "cache-disabled=true"],
        script,
    )
    .ok();
    wait_for("two datagrams", || udp.datagrams().len() == 2);
    let id = inspect(&engine, "second")["Id"].as_str().unwrap()[..12].to_owned();
    let seen = udp.text();
    assert!(
        seen.contains("<30>") && seen.contains(&format!(" {id}[")) && seen.contains("]: out\n"),
        "{seen}"
    );
    let refused = engine.docker(["logs", "second"]).failed();
    assert!(refused.contains("configured logging driver does not support reading"), "{refused}");

    let address = format!("syslog-address=unixgram://{}", local.display());
    logged(&engine, "third", "syslog", &[&address], script).ok();
    unix.expect("]: out\n");
    wait_for("the ends of all that pass on", || log_processes(&engine).is_empty());
}

#[test]
fn syslog_over_tls_believes_whom_it_is_told_to() {
    let engine = engine();
    let [authority, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| engine.path(name));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&authority, made.cert.pem()).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = Recorder::start(&engine, "tls", "6514", &[&certificate, &key]);
    let address = "syslog-address=tcp+tls://127.0.0.1:6514";
    let stranger = logged(&engine, "stranger", "syslog", &[address], "echo never").failed();
    assert!(
        stranger.contains("failed to initialize logging driver: Could not reach tcp+tls://127.0.0.1:6514"),
        "{stranger}"
    );
    assert_eq!(status(&engine, "stranger"), "created");
    let trusted = format!("syslog-tls-ca-cert={}", authority.display());
    logged(&engine, "first", "syslog", &[address, &trusted, "syslog-format=rfc5424micro"], "echo out").ok();
    let text = server.expect(" - out\n");
    let (length, message) = text.split_once(' ').unwrap();
    assert_eq!(length.parse(), Ok(message.len()), "{text}");
    logged(&engine, "second", "syslog", &[address, "syslog-tls-skip-verify=true"], "echo skipped").ok();
    server.expect("]: skipped\n");
}

#[test]
fn gelf_in_datagrams_and_over_tcp() {
    let engine = engine();
    let udp = Recorder::start(&engine, "udp", "12201", &[]);
    let tcp = Recorder::start(&engine, "tcp", "12202", &[]);
    let unpack = |datagram: &[u8]| {
        let mut text = String::new();
        GzDecoder::new(datagram).read_to_string(&mut text).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let options = ["gelf-address=udp://127.0.0.1:12201", "labels=tier"];
    logged(&engine, "first", "gelf", &options, "echo hello; echo; echo oh >&2").ok();
    wait_for("both messages", || udp.datagrams().len() == 2);
    let messages: Vec<Value> = udp.datagrams().iter().map(|datagram| unpack(datagram)).collect();
    let hello = messages.iter().find(|message| message["short_message"] == "hello").unwrap();
    let oh = messages.iter().find(|message| message["short_message"] == "oh").unwrap();
    assert_eq!((&hello["version"], &hello["level"], &oh["level"]), (&json!("1.1"), &json!(6), &json!(3)));
    assert_eq!((&hello["_container_name"], &hello["_tier"]), (&json!("first"), &json!("front")));
    assert_eq!(hello["_container_id"], inspect(&engine, "first")["Id"]);
    assert_eq!(hello["_command"], "sh -c echo hello; echo; echo oh >&2");

    // More than a datagram holds comes in chunks, all with the same number.
    let long = "head -c 12000 /dev/urandom | od -An -tx1 | tr -d ' \\n'";
    let options = ["gelf-address=udp://127.0.0.1:12201", "gelf-compression-type=none"];
    logged(&engine, "long", "gelf", &options, long).ok();
    wait_for("two parts of a line, in chunks", || {
        udp.datagrams().iter().filter(|datagram| datagram.starts_with(&[0x1e, 0x0f])).count() >= 18
    });

    logged(&engine, "second", "gelf", &["gelf-address=tcp://127.0.0.1:12202"], "echo over tcp").ok();
    let text = tcp.expect("over tcp");
    let message: Value = serde_json::from_str(text.strip_suffix('\0').unwrap()).unwrap();
    assert_eq!(message["short_message"], "over tcp");
}

#[test]
fn fluentd_acknowledges_and_is_waited_for() {
    let engine = engine();
    // Nobody is there.
    let refused =
        logged(&engine, "early", "fluentd", &["fluentd-address=127.0.0.1:24224"], "echo x").failed();
    assert!(
        refused.contains("failed to initialize logging driver: Could not reach tcp://127.0.0.1:24224"),
        "{refused}"
    );
    // Who does not wait for it starts, and what was said before it comes is sent when it does.
    let options = ["fluentd-async=true", "fluentd-retry-wait=100ms", "tag=t.{{.Name}}"];
    let mut arguments = vec!["run", "-d", "--name", "patient", "--log-driver", "fluentd"];
    for option in &options {
        arguments.extend(["--log-opt", option]);
    }
    arguments.extend(["busybox", "sh", "-c", "echo early; exec sleep 1000"]);
    engine.docker(&arguments).ok();
    wait_for("the first line, here", || engine.docker(["logs", "patient"]).stdout == "early\n");
    let server = Recorder::start(&engine, "fluentd", "24224", &[]);
    let text = server.expect("early");
    assert!(
        text.contains("t.patient") && text.contains("container_name") && text.contains("/patient"),
        "{text}"
    );

    let options = ["fluentd-request-ack=true", "fluentd-sub-second-precision=true", "labels=tier"];
    logged(
        &engine,
        "second",
        "fluentd",
        &options,
        "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done",
    )
    .ok();
    let text = server.expect("line 49");
    assert_eq!(text.matches("line ").count(), 50, "each once");
    assert!(text.contains("tier") && text.contains("front"), "{text}");
}

#[test]
fn cloudwatch_gets_signed_events_in_batches() {
    let mut engine = Engine::prepare("{}", &[]);
    let credentials = engine.path("aws-credentials");
    fs::write(&credentials, "[default]\naws_access_key_id=AKIDEXAMPLE\naws_secret_access_key=secret\n")
        .unwrap();
    engine.variables.push(("AWS_SHARED_CREDENTIALS_FILE".to_owned(), credentials.display().to_string()));
    engine.launch();
    engine.load_busybox();
    let server = Recorder::start(&engine, "http", "8123", &[]);
    let options = [
        "awslogs-endpoint=http://127.0.0.1:8123",
        "awslogs-region=eu-north-1",
        "awslogs-group=web",
        "tag={{.Name}}:x",
        "awslogs-multiline-pattern=^begin",
    ];
    logged(&engine, "first", "awslogs", &options, "echo begin one; echo ' more'; echo begin two").ok();
    let text = server.expect("begin two");
    let requests: Vec<&str> = text.split("POST / HTTP/1.1").skip(1).collect();
    assert_eq!(requests.len(), 2, "{text}");
    assert!(requests[0].to_lowercase().contains("x-amz-target: logs_20140328.createlogstream"), "{text}");
    assert!(
        requests[1].contains("Credential=AKIDEXAMPLE/")
            && requests[1].contains("/eu-north-1/logs/aws4_request"),
        "{text}"
    );
    let body: Value = serde_json::from_str(requests[1].split("\r\n\r\n").last().unwrap().trim()).unwrap();
    assert_eq!((&body["logGroupName"], &body["logStreamName"]), (&json!("web"), &json!("first_x")));
    let texts: Vec<&str> = body["logEvents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["begin one\n more\n", "begin two\n"]);
}

#[test]
fn nobody_waits_in_non_blocking_mode() {
    let engine = engine();
    let deaf = Recorder::start(&engine, "deaf", "6001", &[]);
    let options = ["syslog-address=tcp://127.0.0.1:6001", "mode=non-blocking", "max-buffer-size=64k"];
    logged(&engine, "first", "syslog", &options, MUCH).ok();
    assert_eq!(deaf.bytes(), b"");
    // Files are written by somebody else, too, and whoever follows them hears of it.
    let options = ["mode=non-blocking", "max-size=20k", "max-file=3"];
    logged(
        &engine,
        "file",
        "json-file",
        &options,
        "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; printf end",
    )
    .ok();
    let text = engine.docker(["logs", "--tail", "2", "file"]).stdout;
    assert_eq!(text, "line 199\nend\n");
    let own = ["run", "-di", "--name", "asked", "--log-opt", "mode=non-blocking", "busybox", "sh", "-c"];
    engine.docker(own.iter().chain(&["read x; echo got $x; exec sleep 1000"])).ok();
    let mut follower = engine.docker_command(["logs", "-f", "asked"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut attached = takeover(&engine, "/containers/asked/attach?stream=1&stdin=1", "");
    attached.write_all(b"it\n").unwrap();
    let mut line = String::new();
    BufReader::new(follower.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "got it\n");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn in_blocking_mode_the_container_waits_and_nothing_is_lost() {
    let engine = engine();
    let deaf = Recorder::start(&engine, "deaf", "6001", &[]);
    let run = [
        "run",
        "-d",
        "--name",
        "first",
        "--log-driver",
        "syslog",
        "--log-opt",
        "syslog-address=tcp://127.0.0.1:6001",
    ];
    engine.docker(run.iter().chain(&["busybox", "sh", "-c", MUCH])).ok();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(status(&engine, "first"), "running", "it waits for the log");
    // It can be ended all the same, and does not hold up the next one.
    engine.docker(["rm", "-f", "first"]).ok();
    drop(deaf);
    wait_for("the end of what passed it on", || log_processes(&engine).is_empty());
}

#[test]
fn logs_go_on_while_the_daemon_is_gone() {
    let mut engine = engine();
    let server = Recorder::start(&engine, "tcp", "6001", &[]);
    let options = ["--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:6001"];
    let script = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done";
    engine
        .docker(
            ["run", "-d", "--name", "first"].iter().chain(&options).chain(&["busybox", "sh", "-c", script]),
        )
        .ok();
    server.expect("line 1\n");
    engine.kill();
    let seen = server.text().lines().count();
    wait_for("more lines without a daemon", || server.text().lines().count() > seen + 5);
    engine.launch();
    engine.docker(["kill", "first"]).ok();
    wait_for("the end of what passed it on", || log_processes(&engine).is_empty());
    // The numbers have no gap.
    let numbers: Vec<usize> =
        server.text().lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(index, number)| index == *number), "{numbers:?}");
}

#[test]
fn a_log_process_that_is_killed_is_missed_and_said() {
    let engine = engine();
    let server = Recorder::start(&engine, "tcp", "6001", &[]);
    let options = ["--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:6001"];
    let script = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done";
    engine
        .docker(
            ["run", "-d", "--name", "first"].iter().chain(&options).chain(&["busybox", "sh", "-c", script]),
        )
        .ok();
    server.expect("line 1\n");
    let [process] = &log_processes(&engine)[..] else { panic!("one process passes it on") };
    run(Command::new("kill").args(["-KILL", process]), b"").ok();
    // The container runs on, and what is kept here goes on.
    let before = engine.docker(["logs", "first"]).stdout.lines().count();
    wait_for("more lines here", || engine.docker(["logs", "first"]).stdout.lines().count() > before);
    assert_eq!(status(&engine, "first"), "running");
    engine.docker(["kill", "first"]).ok();
    wait_for("the word of it", || engine.log().contains("The log process is gone"));
}

#[test]
fn what_is_lost_when_a_container_ends_is_said() {
    let engine = engine();
    let server = Recorder::start(&engine, "tcp", "6001", &[]);
    let options = ["--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:6001"];
    engine
        .docker(["run", "-d", "-i", "--name", "first"].iter().chain(&options).chain(&["busybox", "cat"]))
        .ok();
    drop(server);
    let mut input = takeover(&engine, "/containers/first/attach?stream=1&stdin=1", "");
    input.write_all(b"never seen\n").unwrap();
    wait_for("the line, here", || engine.docker(["logs", "first"]).stdout == "never seen\n");
    engine.docker(["rm", "-f", "first"]).ok();
    let expected = "Failed to log a message: Could not reach tcp://127.0.0.1:6001";
    wait_for("the word of it", || engine.log().contains(expected));
}

#[test]
fn what_the_daemon_knows_is_not_for_containers() {
    let mut engine = Engine::prepare("{}", &[]);
    for (name, value) in [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hush")] {
        engine.variables.push((name.to_owned(), value.to_owned()));
    }
    engine.launch();
    engine.load_busybox();
    let server = Recorder::start(&engine, "http", "8123", &[]);
    let options = ["awslogs-endpoint=http://127.0.0.1:8123", "awslogs-region=x", "awslogs-group=g"];
    let mut arguments = vec!["run", "--rm", "--init", "--cap-add", "SYS_PTRACE", "--log-driver", "awslogs"];
    for option in &options {
        arguments.extend(["--log-opt", option]);
    }
    arguments.extend(["busybox", "sh", "-c", "cat /proc/1/environ | tr '\\0' '\\n'; echo end"]);
    let said = engine.docker(&arguments).ok();
    assert!(said.ends_with("end\n") && !said.contains("hush") && !said.contains("AWS_"), "{said}");
    server.expect("AKIDEXAMPLE");
}

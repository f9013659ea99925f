//! Attach, logs, wait and terminals.

use super::*;

#[test]
fn a_terminal_has_a_size_and_an_end() {
    let engine = engine();
    create(
        &engine,
        "tty",
        &json!({ "Image": "busybox", "Cmd": ["sh"], "Tty": true, "OpenStdin": true, "StdinOnce": true,
                 "HostConfig": { "ConsoleSize": [11, 22] } }),
    );
    let mut stream = takeover(&engine, "/containers/tty/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    assert_eq!(post(&engine, "/containers/tty/start"), 204);
    let mut seen = String::new();
    let mut read_until = |stream: &mut UnixStream, wanted: &str| {
        let mut buffer = [0; 1024];
        while !seen.contains(wanted) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        seen.clear();
    };
    stream.write_all(b"stty size; tty\n").unwrap();
    read_until(&mut stream, "11 22\r\n");
    assert_eq!(post(&engine, "/containers/tty/resize?h=33&w=44"), 200);
    stream.write_all(b"stty size; test -t 2 && echo is-a-'terminal'\n").unwrap();
    read_until(&mut stream, "33 44\r\nis-a-terminal\r\n");
    // Ctrl-P, Ctrl-Q: leaves it running, and one can come back.
    stream.write_all(b"\x10\x11").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(status(&engine, "tty"), "running");
    let mut stream = takeover(&engine, "/containers/tty/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    stream.write_all(b"exit 6\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    wait_for("the end", || status(&engine, "tty") == "exited");
    assert_eq!(inspect(&engine, "tty")["State"]["ExitCode"], 6);
}

#[test]
fn attach_frames_streams_and_closes_halves() {
    let engine = engine();
    let script = "cat; echo done >&2";
    create(
        &engine,
        "framed",
        &json!({ "Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true, "StdinOnce": true }),
    );
    let mut first = takeover(&engine, "/containers/framed/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    let mut second = takeover(&engine, "/containers/framed/attach?stream=1&stderr=1", "");
    assert_eq!(post(&engine, "/containers/framed/start"), 204);
    first.write_all(b"some input").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let read = |stream: &mut UnixStream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        frames(&bytes)
    };
    assert_eq!(read(&mut first), ("some input".to_owned(), "done\n".to_owned()));
    assert_eq!(read(&mut second), (String::new(), "done\n".to_owned()));
    let mut late = takeover(&engine, "/containers/framed/attach?logs=1&stdout=1&stderr=1", "");
    assert_eq!(read(&mut late), ("some input".to_owned(), "done\n".to_owned()));
}

#[test]
fn logs_rotate_follow_and_filter() {
    let engine = Engine::start_with("{\"log-opts\":{\"max-size\":\"2k\",\"max-file\":\"3\"}}", &[]);
    engine.load_busybox();
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done";
    engine.docker(["run", "--name", "chatty", "busybox", "sh", "-c", script]).ok();
    let log_path = inspect(&engine, "chatty")["LogPath"].as_str().unwrap().to_owned();
    let folder = Path::new(&log_path).parent().unwrap();
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() < 2300));
    let lines = engine.docker(["logs", "chatty"]).ok();
    let numbers: Vec<u32> = lines.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert!(
        numbers.last() == Some(&299)
            && numbers.len() > 30
            && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1])
    );
    assert_eq!(engine.docker(["logs", "--tail", "2", "chatty"]).ok(), "line 298\nline 299\n");
    assert_eq!(engine.docker(["logs", "--since", "2040-01-01T00:00:00", "chatty"]).ok(), "");
    let stamped = engine.docker(["logs", "-t", "-n", "1", "chatty"]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 299\n"), "{stamped}");
    let own = ["run", "-d", "--name", "growing", "--log-opt", "max-size=1k", "busybox", "sh", "-c"];
    let script = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; echo end >&2";
    engine.docker(own.into_iter().chain([script])).ok();
    let followed = engine.docker(["logs", "-f", "growing"]);
    let seen: Vec<u32> = followed.stdout.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert_eq!(
        (seen.len() > 50, seen.last(), followed.stderr.as_str()),
        (true, Some(&99), "end\n"),
        "{seen:?}"
    );
    engine.docker(["run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "x"]).ok();
    assert!(
        engine
            .docker(["logs", "mute"])
            .failed()
            .contains("configured logging driver does not support reading")
    );
    let bad = engine.docker(["run", "--rm", "--log-opt", "max-size=much", "busybox", "true"]).failed();
    assert!(bad.contains("max-size"), "{bad}");
}

#[test]
fn a_flood_of_output_arrives_whole_and_a_slow_reader_is_waited_for() {
    let engine = engine();
    let script =
        "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789 $i; i=$((i+1)); done";
    let begin = Instant::now();
    let mut command =
        engine.docker_command(["run", "--rm", "--name", "flood", "busybox", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text.lines().count(), 20000, "after {:?}", begin.elapsed());
    assert!(text.lines().enumerate().all(|(number, line)| line.ends_with(&format!(" {number}"))));
}

#[test]
fn wait_answers_its_header_at_once() {
    let engine = engine();
    create(&engine, "waited", &json!({ "Image": "busybox", "Cmd": ["sh", "-c", "sleep 0.5; exit 4"] }));
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(b"POST /v1.47/containers/waited/wait?condition=next-exit HTTP/1.1\r\nHost: e\r\n\r\n")
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    let not_running = engine.http("POST", "/containers/waited/wait", b"");
    assert_eq!(not_running.json()["StatusCode"], 0);
    assert_eq!(post(&engine, "/containers/waited/start"), 204);
    let mut rest = String::new();
    while !rest.contains("StatusCode") {
        line.clear();
        reader.read_line(&mut line).unwrap();
        rest.push_str(&line);
    }
    assert!(rest.contains("{\"StatusCode\":4}"), "{rest}");
    assert_eq!(engine.http("POST", "/containers/waited/wait?condition=never", b"").status, 400);
}

/// What counts is what whoever reads it says, not what was said when the exec was made; and fields in whatever case.
#[test]
fn output_of_execs_is_framed_as_their_readers_ask() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "some", "busybox", "sleep", "1000"]).ok();
    let script = "echo out; echo err >&2";
    for (has_terminal, asked, expected) in [
        (false, false, &b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"[..]),
        (false, true, b"out\nerr\n"),
        (true, false, b"out\r\nerr\r\n"),
        (true, true, b"out\r\nerr\r\n"),
    ] {
        let made = json!({ "cmd": ["sh", "-c", script], "TTY": has_terminal, "attachStdout": true,
            "AttachStderr": true });
        let made = engine.http("POST", "/containers/some/exec", made.to_string().as_bytes()).json();
        let path = format!("/exec/{}/start", made["Id"].as_str().unwrap());
        let answer = engine.http("POST", &path, json!({ "tty": asked }).to_string().as_bytes());
        let kind = if asked { "raw" } else { "multiplexed" };
        assert_eq!(answer.headers["content-type"], format!("application/vnd.docker.{kind}-stream"));
        let mut bare = Vec::new();
        if has_terminal && !asked {
            // In how many frames is a matter of time.
            let mut rest = &answer.body[..];
            while let [1, 0, 0, 0, a, b, c, d, more @ ..] = rest {
                let (now, later) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
                bare.extend_from_slice(now);
                rest = later;
            }
            assert_eq!(rest, b"");
        } else {
            bare = answer.body;
        }
        let (bare, expected) = (String::from_utf8_lossy(&bare), String::from_utf8_lossy(expected));
        // The two outputs of a process without a terminal are two streams.
        if has_terminal || bare.find("out") < bare.find("err") {
            assert_eq!(bare, expected, "{has_terminal} {asked}");
        }
    }
}

#[test]
fn the_usual_options_of_logs_are_for_whoever_names_the_usual_driver() {
    let engine = Engine::start_with("{\"log-opts\":{\"max-size\":\"2k\",\"max-file\":\"3\"}}", &[]);
    engine.load_busybox();
    let options = |more: &[&str]| {
        let id = engine.docker(["create"].iter().chain(more).chain(&["busybox"])).ok();
        inspect(&engine, id.trim())["HostConfig"]["LogConfig"]["Config"].clone()
    };
    assert_eq!(options(&["--log-driver", "json-file"]), json!({ "max-size": "2k", "max-file": "3" }));
    let own = ["--log-driver", "json-file", "--log-opt", "max-file=2"];
    assert_eq!(options(&own), json!({ "max-size": "2k", "max-file": "2" }));
    assert_eq!(options(&["--log-driver", "local"]), json!({}));
    assert_eq!(options(&["--log-driver", "none"]), json!({}));
}

/// A web socket (RFC 6455), by hand.
struct Socket(BufReader<UnixStream>);

impl Socket {
    fn open(engine: &Engine, path: &str) -> Self {
        let mut stream = UnixStream::connect(engine.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the answer to the RFC's own key: {head}");
        Self(reader)
    }

    /// Whatever a client says is masked, here with nothing.
    fn say(&mut self, opcode: u8, bytes: &[u8]) {
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(bytes.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(bytes);
        self.0.get_mut().write_all(&frame).unwrap();
    }

    /// The next message: its kind and what is in it.
    fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 2];
        self.0.read_exact(&mut header).unwrap();
        let mut length = usize::from(header[1]);
        if length == 126 {
            let mut long = [0; 2];
            self.0.read_exact(&mut long).unwrap();
            length = usize::from(u16::from_be_bytes(long));
        }
        let mut content = vec![0; length];
        self.0.read_exact(&mut content).unwrap();
        (header[0] & 15, content)
    }

    /// What comes in binary messages, until all of this is there.
    fn until(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            let (kind, content) = self.hear();
            assert_eq!(kind, 2, "{heard:?} {content:?}");
            heard.extend(content);
        }
        String::from_utf8(heard).unwrap()
    }
}

#[test]
fn a_web_socket_carries_output_and_input() {
    let engine = engine();
    let script = "echo begun; while read line; do
        case $line in error) echo wrong >&2;; *) echo heard $line;; esac; test $line = end && exit 3; done";
    engine.docker(["run", "-d", "-i", "--name", "some", "busybox", "sh", "-c", script]).ok();
    wait_for("the log", || engine.docker(["logs", "some"]).stdout == "begun\n");
    let all = "/containers/some/attach/ws?logs=1&stream=1&stdin=1&stdout=1&stderr=1";
    let mut socket = Socket::open(&engine, all);
    assert_eq!(socket.until("begun\n"), "begun\n");
    socket.say(1, b"error\n");
    assert_eq!(socket.until("wrong\n"), "wrong\n");
    socket.say(1, b"text\n");
    assert_eq!(socket.until("heard text\n"), "heard text\n");
    socket.say(9, b"ping");
    assert_eq!(socket.hear(), (10, b"ping".to_vec()));
    // One that leaves takes nothing with it.
    drop(socket);
    let mut socket = Socket::open(&engine, "/v1.51/containers/some/attach/ws?stream=1&stdin=1&stdout=1");
    socket.say(2, b"binary\n");
    assert_eq!(socket.until("heard binary\n"), "heard binary\n");
    socket.say(2, b"end\n");
    assert_eq!(socket.until("heard end\n"), "heard end\n");
    assert_eq!(socket.hear().0, 8);
    assert_eq!(engine.docker(["wait", "some"]).ok(), "3\n");

    // The keys of a terminal leave the container alone.
    let run = ["run", "-d", "-it", "--name", "shown", "busybox", "cat"];
    engine.docker(run).ok();
    let mut socket =
        Socket::open(&engine, "/containers/shown/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x");
    socket.say(1, b"seen\r");
    assert_eq!(socket.until("seen\r\nseen\r\n"), "seen\r\nseen\r\n");
    socket.say(1, b"\x01x");
    let mut end = [0; 1];
    assert_eq!(socket.0.read(&mut end).unwrap(), 0);
    assert_eq!(status(&engine, "shown"), "running");
    let plain = engine.http("GET", "/containers/some/attach/ws", b"");
    assert_eq!(plain.status, 400, "{}", plain.text());
}

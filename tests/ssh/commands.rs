//! Commands and forwards over a session.

use std::time::Duration;

use machine::ssh::{ExitStatus, Session, SshError, Stream, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{Server, own_address, wait};

#[test]
fn commands_report_how_they_ended() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Session>();
    let server = Server::start();
    wait(async {
        let session = server.session().await;
        for code in [0, 1, 7, 255] {
            let output = session.output(&format!("exit {code}"), b"").await.unwrap();
            assert_eq!(output.status, ExitStatus::Code(code));
        }
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
            let output = session.output(&format!("kill -{signal} $$"), b"").await.unwrap();
            assert_eq!(output.status, ExitStatus::Signal(signal.to_owned()));
            assert_eq!(output.status.code(), code);
        }
        let missing = session.output("/no/such/program", b"").await.unwrap();
        assert_eq!(missing.status, ExitStatus::Code(127));
        session.close().await;
    });
    assert_eq!(server.logins(), 1, "{}", server.log());
}

#[test]
fn commands_arrive_as_they_are() {
    let server = Server::start();
    wait(async {
        let session = server.session().await;
        let script = "printf '%s|' \"a  b\" 'c\"d' \\$HOME \"ü\"; : '\n' # comment\nprintf second\\ line";
        let output = session.output(script, b"").await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a  b|c\"d|$HOME|ü|second line");
        let mixed = session.output("echo out; echo err >&2; exit 3", b"").await.unwrap();
        assert_eq!((mixed.stdout, mixed.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        assert_eq!(mixed.status, ExitStatus::Code(3));
    });
}

#[test]
fn much_data_goes_both_ways_at_once() {
    let server = Server::start();
    let data: Vec<u8> =
        (0..20u32 * 1024 * 1024).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    wait(async {
        let session = server.session().await;
        let output = session.output("cat", &data).await.unwrap();
        assert!(output.status.success());
        assert!(output.stdout == data, "{} bytes came back", output.stdout.len());
        // A command that reads nothing and one that is fed nothing both end.
        assert!(session.output("true", &data).await.unwrap().status.success());
        assert_eq!(session.output("wc -c", b"").await.unwrap().stdout, b"0\n");
        let error = session.output("yes", b"").await.unwrap_err();
        assert!(matches!(error, SshError::TooMuchOutput { .. }), "{error}");
        assert_eq!(session.output("echo still here", b"").await.unwrap().stdout, b"still here\n");
    });
    assert_eq!(server.logins(), 1, "{}", server.log());
}

#[test]
fn keys_are_exchanged_anew_in_the_middle_of_everything() {
    let server = Server::start_with("RekeyLimit 1M");
    let data: Vec<u8> =
        (0..6u32 * 1024 * 1024).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    wait(async {
        let session = server.session().await;
        assert!(session.output("cat", &data).await.unwrap().stdout == data);
        session.close().await;
    });
    // The goodbye was heard.
    server.wait_for_log("Received disconnect");
}

#[test]
fn lines_come_while_the_command_runs() {
    let server = Server::start();
    wait(async {
        let session = server.session().await;
        let (mut feed, stdin) = tokio::io::duplex(64);
        let (seen, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let command = "echo ready >&2; while read line; do echo \"got $line\"; done; printf end; exit 4";
        let running = session.stream(command, stdin, |stream, line| {
            seen.send((stream, line.to_owned())).unwrap();
        });
        let talking = async {
            assert_eq!(lines.recv().await.unwrap(), (Stream::Err, "ready".to_owned()));
            for word in ["one", "two"] {
                feed.write_all(format!("{word}\n").as_bytes()).await.unwrap();
                assert_eq!(lines.recv().await.unwrap(), (Stream::Out, format!("got {word}")));
            }
            drop(feed);
            assert_eq!(lines.recv().await.unwrap(), (Stream::Out, "end".to_owned()));
        };
        let (status, ()) = tokio::join!(running, talking);
        assert_eq!(status.unwrap(), ExitStatus::Code(4));
    });
}

#[test]
fn commands_run_side_by_side() {
    let server = Server::start();
    wait(async {
        let session = server.session().await;
        let commands: Vec<_> = (0..20).map(|number| format!("sleep 0.2; echo {number}")).collect();
        let all = commands.iter().map(|command| session.output(command, b""));
        for (number, output) in futures_util::future::join_all(all).await.into_iter().enumerate() {
            assert_eq!(output.unwrap().stdout, format!("{number}\n").into_bytes());
        }
    });
    assert_eq!(server.logins(), 1, "{}", server.log());
}

#[test]
fn a_connection_that_dies_is_an_error_and_no_success() {
    let server = Server::start();
    wait(async {
        let session = server.session().await;
        let command = "echo begun; sleep 100";
        let running = session.stream(command, tokio::io::empty(), |_, line| {
            assert_eq!(line, "begun");
            server.cut();
        });
        let outcome =
            tokio::time::timeout(Duration::from_secs(10), running).await.expect("it is noticed at once");
        let error = outcome.unwrap_err();
        assert!(matches!(error, SshError::Lost { .. }), "{error}");
        assert_eq!(error.layer(), "connection");
        let expected = format!("The connection to `{}` was lost while running `{command}`: ", server.host);
        assert!(error.to_string().starts_with(&expected), "{error}");
        // And so is every use of it from then on.
        let error = session.output("true", b"").await.unwrap_err();
        assert!(matches!(error, SshError::Lost { .. }), "{error}");
    });
}

#[test]
fn an_abandoned_command_does_not_stay() {
    let server = Server::start();
    let marker = server.path("marker");
    wait(async {
        let session = server.session().await;
        let command = format!("trap '' PIPE; while echo; do sleep 0.05; done; touch {}", marker.display());
        let abandoned = session.stream(&command, tokio::io::empty(), |_, _| {});
        tokio::time::timeout(Duration::from_millis(300), abandoned).await.unwrap_err();
        // The channel is closed, so the command can no longer write.
        for _ in 0..100 {
            if marker.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the command still runs");
    });
}

/// Stands between us and the server, and on demand passes nothing on any more, as a pulled cable does.
async fn pullable_cable(server: &Server) -> (machine::ssh::Target, tokio::sync::watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let target =
        machine::ssh::Target { host: address.ip().to_string(), port: address.port(), ..server.target() };
    let (pull, mut pulled) = tokio::sync::watch::channel(false);
    let inner = (server.host.clone(), server.port);
    tokio::spawn(async move {
        let (mut outside, _) = listener.accept().await.unwrap();
        let mut inside = tokio::net::TcpStream::connect(inner).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut outside, &mut inside) => {}
            () = async { drop(pulled.wait_for(|pulled| *pulled).await) } => {}
        }
        std::future::pending::<()>().await;
    });
    (target, pull)
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    let server = Server::start();
    let timeouts = Timeouts { idle: Duration::from_secs(2), ..Timeouts::default() };
    wait(async {
        // While we wait for output, and while we send as much as we can.
        for stdin in [
            &mut tokio::io::empty() as &mut (dyn tokio::io::AsyncRead + Unpin + Send),
            &mut tokio::io::repeat(7),
        ] {
            let (target, pull) = pullable_cable(&server).await;
            let session = Session::connect(&target, &timeouts).await.unwrap();
            let running = session.stream("echo begun; cat > /dev/null; sleep 100", stdin, |_, _| {
                let _ = pull.send(true);
            });
            let error = tokio::time::timeout(Duration::from_secs(15), running).await.unwrap().unwrap_err();
            assert!(error.to_string().ends_with("the server stopped answering"), "{error}");
        }
    });
}

#[test]
fn ports_and_sockets_of_the_host_are_reached() {
    let server = Server::start();
    let socket = server.path("socket");
    wait(async {
        let unix = tokio::net::UnixListener::bind(&socket).unwrap();
        let tcp = tokio::net::TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = unix.accept().await.unwrap();
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        tokio::spawn(async move {
            let (mut stream, _) = tcp.accept().await.unwrap();
            stream.write_all(b"hello and goodbye").await.unwrap();
        });
        let session = server.session().await;
        let mut greeting = String::new();
        let mut stream = session.open_tcp(&address.ip().to_string(), address.port()).await.unwrap();
        stream.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "hello and goodbye");

        let (mut reader, mut writer) =
            tokio::io::split(session.open_unix(socket.to_str().unwrap()).await.unwrap());
        let data = vec![7; 3_000_000];
        let sending = async {
            writer.write_all(&data).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut echoed = Vec::new();
        let ((), received) = tokio::join!(sending, reader.read_to_end(&mut echoed));
        assert_eq!(received.unwrap(), data.len());

        let error = session.open_unix("/no/such/socket").await.unwrap_err();
        assert_eq!(error.layer(), "channel");
        assert!(error.to_string().contains("/no/such/socket"), "{error}");

        // The end of the session is not the end of a file.
        let silent = tokio::net::TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = silent.local_addr().unwrap();
        let mut stream = session.open_tcp(&address.ip().to_string(), address.port()).await.unwrap();
        server.cut();
        assert!(stream.read(&mut [0; 10]).await.is_err());
    });
}

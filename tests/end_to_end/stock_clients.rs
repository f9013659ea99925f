//! What people do on a host with the clients that they have: images from a registry and to one, a Dockerfile, an application
//! of several services, and requests that go on being answered whatever becomes of the daemon.
//!
//! The public registry cannot be had here. A mirror on the host stands in for it: Debian's registry, in a container.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use crate::{
    bench::{Bench, until},
    machineos::http,
};

/// Where hosts that this is to be tried on look first.
pub(crate) const MIRROR: &str = "http://localhost:5000";
const A_MINUTE: Duration = Duration::from_mins(1);

/// Whatever a host needs for it has been done: it has the image of busybox, and the mirror in its configuration.
pub(crate) fn stock_clients(bench: &Bench, host: &str) {
    with_plugins(bench);
    a_registry_as_a_container(bench, host);
    hello_world(bench, host);
    the_dockerfile_of_the_documents(bench, host);
    a_repository_of_ones_own(bench, host);
    an_application_of_three_services(bench, host);
    requests_are_answered_all_the_while(bench, host);
    bench.docker(host, &["rm", "-f", "-v", "registry", "docs", "hello"]);
}

/// The client finds buildx and compose, as Debian has them.
fn with_plugins(bench: &Bench) {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/tools/docker-plugins/usr/libexec/docker/cli-plugins");
    let link = bench.folder().join("cli-plugins");
    assert!(plugins.exists(), "no plug-ins: run `cargo xtask test`");
    if !link.exists() {
        std::os::unix::fs::symlink(plugins, link).unwrap();
    }
}

/// A folder with these files.
fn folder(bench: &Bench, name: &str, files: &[(&str, &str)]) -> String {
    let folder = bench.folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    for (file, content) in files {
        fs::write(folder.join(file), content).unwrap();
    }
    folder.display().to_string()
}

fn a_registry_as_a_container(bench: &Bench, host: &str) {
    let dockerfile = "FROM scratch\nCOPY . /\nEXPOSE 5000\nVOLUME /var/lib/registry\n\
                      ENTRYPOINT [\"/docker-registry\", \"serve\", \"/config.yml\"]\n";
    let config = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\n\
                  http:\n  addr: :5000\n";
    let context = folder(bench, "registry", &[("Dockerfile", dockerfile), ("config.yml", config)]);
    // With the libraries that it wants.
    let program = Path::new("/usr/bin/docker-registry");
    let told = Command::new("ldd").arg(program).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let libraries = told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries {
        let copy = Path::new(&context).join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    fs::copy(program, Path::new(&context).join("docker-registry")).unwrap();
    bench.docker(host, &["build", "-q", "-t", "registry:2", &context]);
    let run = ["run", "-d", "-p", "5000:5000", "--restart=always", "--name", "registry", "registry:2"];
    bench.docker(host, &run);
}

/// Puts an image where the public registry's would be found, and forgets it.
fn publish(bench: &Bench, host: &str, name: &str, files: &[(&str, &str)]) {
    let public = format!("localhost:5000/library/{name}");
    let context = folder(bench, &name.replace(':', "-"), files);
    bench.docker(host, &["build", "-q", "-t", &public, &context]);
    until("the registry takes it", A_MINUTE, || {
        bench.try_docker(host, &["push", "-q", &public]).status.success().then_some(())
    });
    bench.docker(host, &["rmi", &public]);
}

fn hello_world(bench: &Bench, host: &str) {
    let dockerfile = "FROM busybox\nCMD [\"echo\", \"Hello from Docker!\"]\n";
    publish(bench, host, "hello-world", &[("Dockerfile", dockerfile)]);
    let run = bench.try_docker(host, &["run", "--name", "hello", "hello-world"]);
    assert_eq!(String::from_utf8_lossy(&run.stdout), "Hello from Docker!\n");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("Unable to find image 'hello-world:latest' locally"), "{said}");
    assert!(said.contains("Status: Downloaded newer image for hello-world:latest"), "{said}");
}

/// Its base is played: programs of these names, which do what is asked of them here.
fn the_dockerfile_of_the_documents(bench: &Bench, host: &str) {
    let base = "FROM busybox\nCOPY --chmod=755 pip python /bin/\n";
    let pip = "#!/bin/sh\necho \"installed $(cat \"$5\")\"\n";
    let python = "#!/bin/sh\nexec sh \"$@\"\n";
    publish(bench, host, "python:2.7-slim", &[("Dockerfile", base), ("pip", pip), ("python", python)]);
    let dockerfile = "FROM python:2.7-slim\n\n# Set the working directory to /app\nWORKDIR /app\n\nCOPY . /app\n\n\
                      RUN pip install --trusted-host pypi.python.org -r requirements.txt\n\nEXPOSE 80\n\n\
                      ENV NAME World\n\nCMD [\"python\", \"app.py\"]\n";
    let app = "mkdir /www; echo \"Hello $NAME!\" >/www/index.html; exec httpd -f -p 80 -h /www\n";
    let files = [("Dockerfile", dockerfile), ("app.py", app), ("requirements.txt", "Flask\n")];
    let context = folder(bench, "friendlyhello", &files);
    bench.docker(host, &["build", "-t", "friendlyhello", &context]);
    bench.docker(host, &["run", "-d", "--name", "docs", "-p", "4000:80", "friendlyhello"]);
    let address = bench.machine(&["ip", host]);
    let page = until("the published port answers", A_MINUTE, || http(address.trim(), 4000));
    assert_eq!(page, "Hello World!\n");
}

/// To the registry and back, also while the host reaches nothing but itself.
fn a_repository_of_ones_own(bench: &Bench, host: &str) {
    let name = "localhost:5000/my-app";
    bench.docker(host, &["tag", "friendlyhello", name]);
    bench.docker(host, &["push", name]);
    let pull_again = |how: &str| {
        bench.docker(host, &["rmi", name]);
        let said = bench.machine(&["ssh", host, how]);
        assert!(said.contains("Status: Downloaded newer image for localhost:5000/my-app:latest"), "{said}");
        assert_eq!(bench.docker(host, &["run", "--rm", name, "cat", "requirements.txt"]), "Flask\n");
    };
    bench.docker(host, &["rm", "-f", "docs"]);
    bench.docker(host, &["rmi", "friendlyhello"]);
    pull_again("docker pull localhost:5000/my-app");
    // Only those on the same link, among whom is this machine, are in reach.
    pull_again(
        "sudo ip route add blackhole 0.0.0.0/1 && sudo ip route add blackhole 128.0.0.0/1 && \
         docker pull localhost:5000/my-app; \
         sudo ip route del blackhole 0.0.0.0/1; sudo ip route del blackhole 128.0.0.0/1",
    );
    bench.docker(host, &["run", "-d", "--name", "docs", "-p", "4000:80", name]);
}

const COMPOSE: &str = r#"
services:
  web:
    build: .
    ports: ["8081:80"]
    networks: [back]
    depends_on:
      cache: { condition: service_healthy }
      worker: { condition: service_started }
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://localhost/"]
      interval: 1s
      retries: 30
  cache:
    image: busybox
    command: ["sh", "-c", "sleep 2; httpd -f -h /www"]
    networks: [back]
    healthcheck:
      test: ["CMD-SHELL", "wget -q -O /dev/null http://localhost/"]
      interval: 1s
      retries: 30
  worker:
    image: busybox
    command: ["sh", "-c", "while true; do wget -q -O - http://cache/ >/data/seen.new && mv /data/seen.new /data/seen; sleep 1; done"]
    networks: [back]
    volumes: ["data:/data"]
    stop_grace_period: 1s
networks:
  back:
volumes:
  data:
"#;

fn an_application_of_three_services(bench: &Bench, host: &str) {
    let dockerfile = "FROM busybox\nRUN mkdir /site && echo \"three services\" >/site/index.html\n\
                      CMD [\"httpd\", \"-f\", \"-h\", \"/site\"]\n";
    let context = folder(bench, "three", &[("Dockerfile", dockerfile), ("compose.yaml", COMPOSE)]);
    let file = Path::new(&context).join("compose.yaml").display().to_string();
    let compose = |arguments: &[&str]| {
        bench.docker(host, &[&["compose", "-p", "three", "-f", &file], arguments].concat())
    };
    compose(&["up", "-d", "--build", "--wait"]);
    let health = compose(&["ps", "--format", "{{.Service}} {{.State}} {{.Health}}"]);
    let mut health: Vec<&str> = health.lines().map(str::trim_end).collect();
    health.sort_unstable();
    assert_eq!(health, ["cache running healthy", "web running healthy", "worker running"]);
    let address = bench.machine(&["ip", host]);
    let page = until("the published port answers", A_MINUTE, || http(address.trim(), 8081));
    assert_eq!(page, "three services\n");
    let found = compose(&["exec", "-T", "worker", "nslookup", "web", "127.0.0.11"]);
    assert!(found.contains("Name:") && found.contains("web") && found.contains("Address"), "{found}");
    until("the worker has written", A_MINUTE, || {
        let seen = ["run", "--rm", "-v", "three_data:/data", "busybox", "cat", "/data/seen"];
        bench.docker(host, &seen).contains("hello from a container").then_some(())
    });
    compose(&["down", "-v", "--rmi", "local"]);
    for kind in ["ps -aq", "volume ls -q", "network ls -q"] {
        let list: Vec<&str> =
            kind.split(' ').chain(["--filter", "label=com.docker.compose.project=three"]).collect();
        assert_eq!(bench.docker(host, &list), "", "{kind}");
    }
}

/// Says so when it is dropped, also by what has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// From outside, with connections of their own, while the daemon is killed, started again and replaced by another build.
fn requests_are_answered_all_the_while(bench: &Bench, host: &str) {
    let address = bench.machine(&["ip", host]);
    until("the published port answers", A_MINUTE, || http(address.trim(), 4000));
    let pid = |bench: &Bench| {
        until("the daemon answers", A_MINUTE, || {
            bench.try_docker(host, &["version"]).status.success().then_some(())?;
            Some(bench.machine(&["ssh", host, "sudo cat /run/engine.pid"]))
        })
    };
    let started = bench.docker(host, &["inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "docs"]);
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let asking = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let page = http(address.trim(), 4000);
                assert_eq!(page.as_deref(), Some("Hello World!\n"), "after {answered:?} requests");
                answered.fetch_add(1, Ordering::AcqRel);
            }
        });
        let mut before = pid(bench);
        // The last one: a build that is not what `machine` has, which it replaces.
        let other = "cp /usr/local/bin/engine /tmp/other && echo >>/tmp/other && \
                     sudo mv /tmp/other /usr/local/bin/engine";
        for what in ["sudo kill -9 $(sudo cat /run/engine.pid)", "sudo service engine restart", other] {
            bench.machine(&["ssh", host, what]);
            if what == other {
                bench.machine(&["upgrade", host]);
            }
            until("there is another daemon", A_MINUTE, || {
                let now = pid(bench);
                (now != before).then(|| before = now)
            });
        }
        // Some that come when all is over.
        let enough = answered.load(Ordering::Acquire) + 20;
        until("more requests are answered", A_MINUTE, || {
            (asking.is_finished() || answered.load(Ordering::Acquire) > enough).then_some(())
        });
        drop(over);
        asking.join().unwrap();
    });
    let now = bench.docker(host, &["inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "docs"]);
    assert_eq!(now, started);
    eprintln!("{answered:?} requests were answered, none was not");
}

//! Images on their way: built, pushed to a registry on loopback, pulled back.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Peer, Row, of_three, row, seconds, timed};
use crate::run::{check, root};

/// Of one layer that no compression makes smaller, and how many there are.
const LAYER: usize = 50_000_000;
const LAYERS: usize = 10;
/// `RUN` steps of what is built.
const STEPS: usize = 20;
const REPOSITORY: &str = "localhost:5000/big";

pub(super) fn figures(both: &[Peer; 2], folder: &Path, rows: &mut Vec<Row>) -> Result<()> {
    build(both, &folder.join("steps"), rows)?;
    travel(both, &folder.join("big"), rows)
}

/// The builder of this machine's own CLI: the classic one, or buildx' where the plug-in is.
fn builder(peer: &Peer, arguments: &[&str], buildx: bool) -> Result<Command> {
    let mut command = peer.docker(arguments);
    let plugins = peer.folder().join("config/cli-plugins");
    if buildx {
        let found = root().join("target/tools/docker-plugins/usr/libexec/docker/cli-plugins/docker-buildx");
        fs::create_dir_all(&plugins)?;
        fs::copy(found, plugins.join("docker-buildx"))?;
        command.env_remove("DOCKER_BUILDKIT");
    } else {
        command.env("DOCKER_BUILDKIT", "0");
    }
    command.stderr(Stdio::null());
    Ok(command)
}

fn build(both: &[Peer; 2], folder: &Path, rows: &mut Vec<Row>) -> Result<()> {
    fs::create_dir_all(folder)?;
    let steps: String = (0..STEPS).map(|step| format!("RUN echo {step} > /step{step}\n")).collect();
    fs::write(folder.join("Dockerfile"), format!("FROM busybox\n{steps}"))?;
    let path = folder.display().to_string();
    for (buildx, cold, cached) in [
        (
            false,
            "docker build of 20 steps, cold, POST /build (median of 3)",
            "docker build of 20 steps, cached, POST /build",
        ),
        (
            true,
            "docker build of 20 steps, cold, buildx (median of 3)",
            "docker build of 20 steps, cached, buildx",
        ),
    ] {
        let time = |more: &'static [&str]| {
            of_three(both, |peer| {
                let arguments = [&["build", "-q", "-t", "steps"], more, &[path.as_str()]].concat();
                timed(|| check(&mut builder(peer, &arguments, buildx)?))
            })
        };
        row(rows, cold, |time| seconds(*time), &time(&["--no-cache"])?);
        row(rows, cached, |time| seconds(*time), &time(&[])?);
    }
    Ok(())
}

fn travel(both: &[Peer; 2], folder: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let context = folder.join("context");
    fs::create_dir_all(&context)?;
    let mut random = fs::File::open("/dev/urandom")?;
    let mut content = vec![0; LAYER];
    let mut dockerfile = "FROM scratch\n".to_owned();
    for layer in 0..LAYERS {
        random.read_exact(&mut content)?;
        fs::write(context.join(layer.to_string()), &content)?;
        dockerfile.push_str(&format!("COPY {layer} /{layer}\n"));
    }
    fs::write(context.join("Dockerfile"), dockerfile)?;
    for peer in both {
        check(&mut builder(
            peer,
            &["build", "-q", "-t", REPOSITORY, &context.display().to_string()],
            false,
        )?)?;
    }
    fs::remove_dir_all(&context)?;
    let push = of_three(both, |peer| {
        // It has nothing yet, each time.
        let registry = Registry::start(peer, folder)?;
        let time = timed(|| check(&mut peer.docker(&["push", "-q", REPOSITORY])))?;
        drop(registry);
        Ok(time)
    })?;
    row(rows, "docker push of 500 MB in ten layers (median of 3)", |time| seconds(*time), &push);
    let mut times = Vec::new();
    for peer in both {
        let _registry = Registry::start(peer, folder)?;
        check(&mut peer.docker(&["push", "-q", REPOSITORY]))?;
        let mut three = Vec::new();
        for _ in 0..3 {
            check(&mut peer.docker(&["rmi", REPOSITORY]))?;
            // Layers that the builder still has would not be fetched.
            check(&mut peer.docker(&["builder", "prune", "-af"]))?;
            three.push(timed(|| check(&mut peer.docker(&["pull", "-q", REPOSITORY])))?);
        }
        three.sort();
        times.push(three[1]);
        check(&mut peer.docker(&["rmi", REPOSITORY]))?;
    }
    row(
        rows,
        "docker pull of 500 MB in ten layers (median of 3)",
        |time| seconds(*time),
        &[times[0], times[1]],
    );
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// Debian's registry in a peer's network, with an empty store.
struct Registry {
    process: Child,
    store: PathBuf,
}

impl Registry {
    fn start(peer: &Peer, folder: &Path) -> Result<Self> {
        let store = folder.join("registry");
        let _ = fs::remove_dir_all(&store);
        fs::create_dir_all(&store)?;
        let config = folder.join("registry.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:5000}}\n",
                store.display()
            ),
        )?;
        let process = peer
            .in_network("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("Could not run `docker-registry` of Debian's package of that name")?;
        let registry = Self { process, store };
        let began = Instant::now();
        while !peer
            .in_network("busybox")
            .args(["nc", "127.0.0.1", "5000", "-e", "true"])
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            if began.elapsed() > Duration::from_secs(30) {
                bail!("The registry does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.store);
    }
}

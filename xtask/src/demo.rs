//! The demo: a VM boots, our engine is installed on it over SSH, and the stock docker CLI runs a container there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Make},
    run::{Times, check, output, root, say},
    setup,
};

const HOST: &str = "demo";

/// What is shown is how it works, not how small it is.
const MAKE: Make = Make::Quick;

pub(crate) fn run(keep: bool) -> Result<()> {
    let mut times = Times::default();
    let docker = times.part("Preparing the system", || {
        setup::for_demo()?;
        setup::docker_cli()
    })?;
    times.part("Building the engine", || build::engine(MAKE))?;
    times.part("Building the image of MachineOS", || build::machineos(MAKE))?;
    times.part("Building machine", || build::machine(MAKE))?;
    let store = root().join("target/demo");
    // A demo that was interrupted has left its host.
    if store.join("machines").join(HOST).exists() {
        machine(&store, &["rm", "-f", HOST])?;
    }
    times.part("machine create demo", || machine(&store, &["create", "-d", "qemu", HOST]))?;
    let environment = environment(&store)?;
    let shown: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    say(&format!("   eval \"$(machine env {HOST})\"     # {}", shown.join(" ")));
    let client = |arguments: &[&str]| {
        let mut command = Command::new(&docker);
        command.args(arguments).envs(environment.iter().cloned());
        say(&format!("   $ docker {}", arguments.join(" ")));
        command
    };
    let archive = times.part("docker load: an image of Debian's busybox", || {
        let archive = busybox_image(&root().join("target/demo-image"))?;
        check(&mut client(&["load", "-i", &archive.display().to_string()]))?;
        Ok(archive)
    })?;
    let said = times.part("docker run: the container", || {
        let began = Instant::now();
        let said = output(&mut client(&["run", "--rm", "busybox", "echo", "hello from a container"]))?;
        say(&format!("   {}   ({:.2} s)", said.trim(), began.elapsed().as_secs_f64()));
        Ok(said)
    })?;
    if said.trim() != "hello from a container" {
        bail!("The container said `{}`", said.trim());
    }
    check(&mut client(&["version", "--format", "client {{.Client.Version}}, server {{.Server.Version}}"]))?;
    if keep {
        say(&format!("\nThe host `{HOST}` goes on: MACHINE_STORAGE_PATH={} machine ls", store.display()));
    } else {
        times.part("machine rm demo", || machine(&store, &["rm", "-y", HOST]))?;
    }
    times.print();
    say(&format!(
        "\nNow by hand:\n  export PATH=\"{}:$PATH\"\n  machine create mc1\n  eval \"$(machine env mc1)\"\n  docker load -i {}\n  docker run --rm busybox echo hello",
        MAKE.dist().join("bin").display(),
        archive.display(),
    ));
    Ok(())
}

fn machine(store: &Path, arguments: &[&str]) -> Result<()> {
    say(&format!("   $ machine {}", arguments.join(" ")));
    check(Command::new(MAKE.machine_program()).arg("--storage-path").arg(store).args(arguments))
}

/// What `machine env` says, as variables.
fn environment(store: &Path) -> Result<Vec<(String, String)>> {
    let text = output(
        Command::new(MAKE.machine_program())
            .arg("--storage-path")
            .arg(store)
            .args(["env", "--shell", "bash", HOST]),
    )?;
    text.lines()
        .filter_map(|line| line.strip_prefix("export "))
        .map(|line| {
            let (name, value) = line.split_once('=').context("`machine env` printed no variable")?;
            Ok((name.to_owned(), value.trim_matches('"').to_owned()))
        })
        .collect()
}

/// A docker archive with one layer: Debian's static busybox and links to it.
pub(crate) fn busybox_image(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("busybox.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let layer = folder.join("layer");
    let _ = fs::remove_dir_all(folder);
    for part in ["bin", "etc", "tmp", "root", "www"] {
        fs::create_dir_all(layer.join(part))?;
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).context("Could not copy `/bin/busybox`")?;
    for name in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| *name != "busybox")
    {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name))?;
    }
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    fs::write(layer.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(layer.join("www/index.html"), "hello from a container's web server\n")?;
    image_of(&layer, folder, "busybox")?;
    Ok(archive)
}

/// Packs what is in `layer` as the image `name`: the docker archive `NAME.tar` in `folder`, which is for that alone.
pub(crate) fn image_of(layer: &Path, folder: &Path, name: &str) -> Result<()> {
    let pack = |folder: &Path, file: &Path, what: &[&str]| {
        check(
            Command::new("tar")
                .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"])
                .arg(file)
                .arg("-C")
                .arg(folder)
                .args(what),
        )
    };
    let layer_tar = folder.join("layer.tar");
    pack(layer, &layer_tar, &["."])?;
    let digest = output(Command::new("sha256sum").arg(&layer_tar))?;
    let digest = digest.split_whitespace().next().context("sha256sum printed nothing")?;
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created":"1970-01-01T00:00:00Z","created_by":"cargo xtask"}}]}}"#
    );
    fs::write(folder.join("config.json"), config)?;
    fs::write(
        folder.join("manifest.json"),
        format!(r#"[{{"Config":"config.json","RepoTags":["{name}:latest"],"Layers":["layer.tar"]}}]"#),
    )?;
    let archive = folder.join(name).with_extension("tar");
    pack(folder, &archive, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(())
}

//! Starts the emulator and the endpoint in front of it, and ends with all that it started.

mod addresses;
mod amis;
mod bench;
mod call;
mod child;
mod console;
mod control;
mod ec2;
mod faults;
mod filters;
mod form;
mod groups;
mod iam;
mod image;
mod launch;
mod left;
mod metadata;
mod moto;
mod pipe;
mod power;
mod proxy;
mod qmp;
mod reply;
mod rewrite;
mod spot;
mod tokens;
mod vm;
mod xml;

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio::{
    net::TcpListener,
    process::Child,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    addresses::Addresses,
    bench::{Bench, Settings},
    image::Images,
    moto::Moto,
};

#[derive(Debug, Parser)]
#[command(
    name = "aws-bench",
    about = "Plays AWS EC2 on loopback, with a real VM for every instance that runs"
)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Hidden>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// Joins stdin and stdout to a metadata service; QEMU runs this for each connection.
    #[command(hide = true)]
    MetadataPipe { socket: PathBuf },
}

#[derive(Debug, Args)]
struct Options {
    /// The port of the endpoint; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where VMs are kept; a temporary folder when absent
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The emulator's program
    #[arg(long, env = "MOTO_SERVER", default_value = "moto_server")]
    moto: PathBuf,
    /// The address of an emulator that another bench started and shares, in place of one of its own
    #[arg(long)]
    emulator: Option<SocketAddr>,
    /// The folder of images, as `cargo xtask image` makes it
    #[arg(long, default_value = "target/images")]
    images: PathBuf,
    /// Debian's images boot a real Debian, not MachineOS
    #[arg(long)]
    debian_ami_real: bool,
    /// Instances have states and addresses only
    #[arg(long)]
    no_vms: bool,
    /// The program `machine-guest`, which then plays each instance: SSH and an engine, without a VM
    #[arg(long, requires = "no_vms")]
    guests: Option<PathBuf>,
    /// How many VMs boot at once
    #[arg(long, default_value_t = 2)]
    boots_at_once: usize,
    /// End when stdin ends
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Says something to whoever runs the bench.
fn log(message: &str) {
    let _ = writeln!(std::io::stderr(), "aws-bench: {message}");
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Hidden::MetadataPipe { socket }) = arguments.command {
        // Nobody is told when it fails: the guest sees that the connection ends.
        let _ = pipe::run(&socket);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(run(arguments.options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn run(options: Options) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut temporary = None;
    let folder = match &options.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder).context("Could not make the folder")?;
            folder.canonicalize()?
        }
        None => temporary.insert(tempfile::Builder::new().prefix("aws-bench-").tempdir()?).path().to_owned(),
    };
    let (moto, mut child) = if let Some(address) = options.emulator {
        (Moto::at(address), None)
    } else {
        let (moto, child) = Moto::start(&options.moto, &folder).await?;
        (moto, Some(child))
    };
    let emulator = moto.address();
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await.context("Could not listen")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let settings = Settings {
        vms: !options.no_vms,
        guests: options.guests,
        debian_ami_real: options.debian_ami_real,
        ..Settings::default()
    };
    let program = std::env::current_exe().context("Could not find this program")?;
    let bench = Arc::new(Bench::new(
        moto,
        Images(absolute(&options.images)?),
        folder,
        program,
        Addresses::lease()?,
        options.boots_at_once.max(1),
        settings,
    ));
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", json!({ "endpoint": endpoint, "pid": std::process::id(), "emulator": emulator }))?;
    stdout.flush()?;
    tokio::select! {
        () = proxy::serve(bench.clone(), listener) => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = stdin_closes(), if options.until_stdin_closes => {}
        status = ends(child.as_mut()) => log(&format!("The emulator ended: {status:?}")),
    }
    power::kill_all(&bench).await;
    if let Some(child) = &mut child {
        let _ = child.kill().await;
    }
    Ok(())
}

/// When the emulator ends, if it is this bench's own.
async fn ends(child: Option<&mut Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// A thread of its own: the runtime would wait at its end for a read that it has begun.
async fn stdin_closes() {
    let (closed, closing) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = closed.send(());
    });
    let _ = closing.await;
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context("The folder of images makes no sense")
}

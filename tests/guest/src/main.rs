//! A guest, until its standard input ends: `machine-guest DISK USER PORT=FROM …`.

use std::{
    env, io,
    io::Write as _,
    path::{Path, absolute},
    process::ExitCode,
    sync::Arc,
};

use guest::{READY, disk::Disk, inside::Inside};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "machine-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let usage = || io::Error::other("DISK USER PORT=FROM … are wanted");
    let words: Vec<String> = env::args().skip(1).collect();
    let [folder, user, ports @ ..] = &words[..] else { return Err(usage()) };
    let disk = Disk::boot(&absolute(Path::new(folder))?, user)?;
    let inside = Arc::new(Inside::start(&disk, user)?);
    for word in ports {
        let (port, from) = word.split_once('=').ok_or_else(usage)?;
        inside.lead_in(port.parse().map_err(io::Error::other)?, from)?;
    }
    let mut output = io::stdout();
    writeln!(output, "{READY}")?;
    output.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    inside.end();
    Ok(())
}

//! The docker command line over the API.
//!
//! It is a client like the stock one: it talks HTTP to a daemon, on a unix socket or over TLS, and knows nothing of this
//! engine's insides. Flags, columns, texts and exit codes are those that scripts depend on.

mod arguments;
mod client;
mod commands;
mod confirm;
mod contexts;
mod create;
mod credentials;
mod detach;
mod endpoint;
mod failure;
mod filters;
mod format;
#[cfg(test)]
mod fuzz;
mod output;
mod packing;
mod parser;
mod session;
mod stdcopy;
mod table;
mod terminal;
mod tls;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use self::client::Client;
use self::failure::{Failure, Outcome};
use self::parser::Parsed;

/// Runs one command; the arguments begin with the program's name.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let parsed = match parser::parse(arguments) {
        Ok(parsed) => parsed,
        Err(refusal) => return refusal.report(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Input(error)),
    };
    let outcome = runtime.block_on(execute(parsed));
    // A thread may still wait for the terminal; nobody waits for it.
    runtime.shutdown_background();
    outcome.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS)
}

async fn execute(parsed: Parsed) -> Outcome {
    // Contexts are the client's own: the current one may be what is wrong.
    if let parser::Command::Context(command) = parsed.command {
        return commands::context::run(&parsed.global, command);
    }
    let client = Client::new(parsed.global.endpoint()?, parsed.global.config.clone())?;
    parser::dispatch(&client, parsed.command).await
}

fn report(failure: &Failure) -> ExitCode {
    let (code, text) = failure.report();
    if let Some(text) = text {
        output::say(text);
    }
    ExitCode::from(code)
}

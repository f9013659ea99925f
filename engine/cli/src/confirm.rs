//! Asks the person before something is removed.

use std::io::{self, BufRead as _};

use crate::failure::{Failure, Outcome};
use crate::output;

/// Asks the person; anything but a yes is a no.
pub(crate) fn confirmed(warning: &str, force: bool) -> Outcome<bool> {
    if force {
        return Ok(true);
    }
    output::raw(format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::Input)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

//! What the kernel command line says to MachineOS: `machineos.shell`, `machineos.user=NAME` and
//! `machineos.host-loopback=deny`.

use std::fs;

use crate::seed::cloud_config::{EntryError, check_name};

/// The account that gets the keys of a seed which says of none whose they are.
const DEFAULT_USER: &str = "docker";

/// Whether a shell on the console was asked for.
pub(crate) fn wants_shell() -> bool {
    read().split_whitespace().any(|word| word == "machineos.shell")
}

/// Whether the loopback services of the machine that this one runs on are not to be reached.
pub(crate) fn denies_host_loopback() -> bool {
    denies(&read())
}

fn denies(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "machineos.host-loopback=deny")
}

/// The name of the default account, and a complaint if the one that was asked for cannot be had.
pub(crate) fn default_user() -> (String, Result<(), EntryError>) {
    user_in(&read())
}

fn read() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn user_in(line: &str) -> (String, Result<(), EntryError>) {
    // As with the kernel's own parameters, the last one wins.
    let wanted = line.split_whitespace().filter_map(|word| word.strip_prefix("machineos.user=")).next_back();
    match wanted.map(|name| (name, check_name(name))) {
        Some((name, Ok(()))) => (name.to_owned(), Ok(())),
        Some((_, Err(failure))) => (DEFAULT_USER.to_owned(), Err(failure)),
        None => (DEFAULT_USER.to_owned(), Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_denied_by_the_very_word() {
        assert!(denies("quiet machineos.host-loopback=deny\n"));
        assert!(!denies("quiet machineos.host-loopback=allow xmachineos.host-loopback=deny"));
    }

    #[test]
    fn the_default_user_is_named_on_the_line() {
        let named = |line| user_in(line).0;
        assert_eq!(named("quiet machineos.user=jo panic=10\n"), "jo");
        assert_eq!(named("machineos.user=jo machineos.user=mo"), "mo");
        assert_eq!(named("quiet xmachineos.user=jo"), DEFAULT_USER);
        for line in ["machineos.user=", "machineos.user=../x", "machineos.user=A"] {
            let (name, verdict) = user_in(line);
            assert_eq!(name, DEFAULT_USER);
            assert!(verdict.is_err(), "{line}");
        }
    }
}

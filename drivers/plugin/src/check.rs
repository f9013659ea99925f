//! What is checked of everything that a driver in another process says.

use machine_driver::{Description, DriverError, Endpoint, Flag, FlagKind, Leftover};
use serde_json::Value;

use crate::wire::Hello;

/// Longest text that is shown or stored, in characters; what is longer is cut.
const TEXT: usize = 1000;
/// Longest name of a resource, an option or a place, in characters; what is longer is refused.
const NAME: usize = 200;
/// Most options of a driver.
const FLAGS: usize = 300;
/// Longest state of a driver, in bytes of JSON: it is part of every write of the record.
const STATE: usize = 256 << 10;

/// A lower-case word, with digits and dashes inside.
pub(crate) fn is_word(text: &str) -> bool {
    text.len() <= NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A text as it may be shown: one line, without control characters, bounded.
pub(crate) fn text(text: &str) -> String {
    let visible = |c: char| if c.is_control() || is_invisible(c) { ' ' } else { c };
    text.chars().take(TEXT).map(visible).collect::<String>().trim().to_owned()
}

/// Characters that turn or hide what stands beside them (Unicode's bidirectional and zero-width controls).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A name that is stored and compared: refused rather than changed.
pub(crate) fn name(what: &str, name: &str) -> Result<(), String> {
    let good = !name.is_empty() && name.chars().count() <= NAME && text(name) == name;
    if good { Ok(()) } else { Err(format!("{what} is no good: `{}`", shown(name))) }
}

pub(crate) fn state(state: &Value) -> Result<(), String> {
    let size = state.to_string().len();
    if size <= STATE { Ok(()) } else { Err(format!("its state has {size} bytes; {STATE} are allowed")) }
}

/// An error, with texts that can be shown.
pub(crate) fn error(error: &DriverError) -> DriverError {
    let mut causes = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source.filter(|_| causes.len() < 20) {
        causes.push(text(&cause.to_string()));
        source = cause.source();
    }
    let checked = DriverError::new(error.kind().clone(), text(&error.to_string())).with_causes(causes);
    match error.hint() {
        Some(hint) => checked.with_hint(text(hint)),
        None => checked,
    }
}

pub(crate) fn endpoint(endpoint: &Endpoint) -> Result<(), String> {
    let plain = |text: &str| {
        text.len() <= NAME && !text.contains(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c))
    };
    let address = &endpoint.address;
    // A dash in front would be an option of whatever program is given it.
    if !plain(address) || address.starts_with('-') || address.contains('/') {
        return Err(format!("the host's address is no good: `{}`", shown(address)));
    }
    if endpoint.engine_port == 0 {
        return Err("the engine's port is 0".to_owned());
    }
    if let Some(url) = &endpoint.url
        && !(plain(url) && url.contains("://"))
    {
        return Err(format!("the engine's URL is no good: `{}`", shown(url)));
    }
    if let Some(ssh) = &endpoint.ssh {
        for (what, word) in [("SSH address", &ssh.host), ("SSH user", &ssh.user)] {
            if word.is_empty() || !plain(word) || word.starts_with('-') {
                return Err(format!("the {what} is no good: `{}`", shown(word)));
            }
        }
        if ssh.port == 0 {
            return Err("the SSH port is 0".to_owned());
        }
    }
    match &endpoint.inside {
        Some(inside) => name("the name of the inside network", &inside.network),
        None => Ok(()),
    }
}

pub(crate) fn description(description: &Description) -> Result<(), String> {
    description.endpoint.as_ref().map_or(Ok(()), endpoint)
}

pub(crate) fn leftover(mut found: Leftover) -> Leftover {
    for field in [&mut found.kind, &mut found.place, &mut found.host_name, &mut found.owner] {
        *field = text(field);
    }
    found
}

/// What a driver says about itself: its own name, and options that cannot be taken for anybody else's.
pub(crate) fn hello(expected: &str, hello: &mut Hello) -> Result<(), String> {
    let info = &mut hello.info;
    if info.name != expected {
        return Err(format!("it calls itself `{}`", shown(&info.name)));
    }
    if let Some(alias) = info.aliases.iter().find(|alias| !is_word(alias)) {
        return Err(format!("`{}` is no good as another name of it", shown(alias)));
    }
    info.summary = text(&info.summary);
    if hello.flags.len() + hello.scope_flags.len() > FLAGS {
        return Err(format!("it has more than {FLAGS} options"));
    }
    for flags in [&mut hello.flags, &mut hello.scope_flags] {
        let mut names = std::collections::BTreeSet::new();
        for one in flags {
            flag(expected, one)?;
            for name in std::iter::once(&one.name).chain(&one.aliases) {
                if !names.insert(name.clone()) {
                    return Err(format!("its option `--{name}` is there twice"));
                }
            }
        }
    }
    Ok(())
}

fn flag(driver: &str, flag: &mut Flag) -> Result<(), String> {
    for name in std::iter::once(&flag.name).chain(&flag.aliases) {
        let prefixed = name.strip_prefix(driver).is_some_and(|rest| rest.starts_with('-'));
        if !is_word(name) || !prefixed {
            return Err(format!("its option `--{}` does not begin with `--{driver}-`", shown(name)));
        }
    }
    let is_variable = |name: &str| {
        !name.is_empty()
            && name.len() <= NAME
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    if let Some(variable) = flag.environment.as_ref().filter(|variable| !is_variable(variable)) {
        return Err(format!("`{}` is no name of an environment variable", shown(variable)));
    }
    flag.help = text(&flag.help);
    flag.value_name = text(&flag.value_name);
    if flag.value_name.is_empty() && !matches!(flag.kind, FlagKind::Switch | FlagKind::Retired) {
        "VALUE".clone_into(&mut flag.value_name);
    }
    flag.default = flag.default.take().map(|value| text(&value));
    Ok(())
}

/// Foreign words inside a message, never longer than a line.
pub(crate) fn shown(foreign: &str) -> String {
    text(&foreign.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        assert_eq!(text("a\u{1b}[2Jb\nc\u{202e}d\u{7}"), "a [2Jb c d");
        assert_eq!(text(&"x".repeat(5000)).len(), 1000);
        assert!(name("a name", "tab\there").is_err());
        assert!(name("a name", "disk 1").is_ok());
    }

    #[test]
    fn addresses_that_are_options_or_paths_are_refused() {
        let good =
            Endpoint { address: "192.0.2.7".into(), engine_port: 2376, url: None, ssh: None, inside: None };
        assert_eq!(endpoint(&good), Ok(()));
        for address in ["-oProxyCommand=x", "a b", "a\nb", "../x", &"a".repeat(300)] {
            assert!(
                endpoint(&Endpoint { address: address.to_owned(), ..good.clone() }).is_err(),
                "{address}"
            );
        }
        assert!(endpoint(&Endpoint { engine_port: 0, ..good.clone() }).is_err());
        assert!(endpoint(&Endpoint { url: Some("nonsense".into()), ..good }).is_err());
    }
}

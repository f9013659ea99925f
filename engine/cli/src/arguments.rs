//! Brings a command line in the stock client's habits into a form that the parser takes.
//!
//! The stock client takes `--flag=false`, values that begin with a dash (`-e -X`), and stops looking for options at the
//! image of `run`. Here every value is bound to its option (`--env=-X`) and a `--` is put where options end.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

/// The command line in the parser's form; the first argument is the program.
pub(crate) fn normalise(root: &Command, arguments: &[OsString]) -> Vec<OsString> {
    let mut out: Vec<OsString> = arguments.iter().take(1).cloned().collect();
    let mut rest = arguments.iter().skip(1);
    let mut command = root;
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            out.push(argument.clone());
            continue;
        };
        if text == "--" {
            out.push(argument.clone());
            break;
        }
        if let Some(long) = text.strip_prefix("--") {
            self::long(command, long, argument, &mut rest, &mut out);
        } else if text.len() > 1 && text.starts_with('-') {
            short(command, &text[1..], argument, &mut rest, &mut out);
        } else if let Some(sub) = command.find_subcommand(text) {
            out.push(argument.clone());
            command = sub;
        } else {
            let takes_the_rest = command.get_positionals().any(Arg::is_trailing_var_arg_set);
            if takes_the_rest {
                out.push(OsString::from("--"));
            }
            out.push(argument.clone());
            if takes_the_rest {
                break;
            }
        }
    }
    out.extend(rest.cloned());
    out
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

/// What Go takes for a boolean.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn bound(name: &str, value: &OsStr) -> OsString {
    let mut bound = OsString::from(format!("--{name}="));
    bound.push(value);
    bound
}

fn long<'a>(
    command: &Command,
    long: &str,
    whole: &OsString,
    rest: &mut impl Iterator<Item = &'a OsString>,
    out: &mut Vec<OsString>,
) {
    let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
    let Some(found) = command.get_arguments().find(|argument| argument.get_long() == Some(name)) else {
        out.push(whole.clone());
        return;
    };
    match (takes_value(found), value) {
        (true, None) if is_optional_boolean(found) => out.push(bound(name, OsStr::new("true"))),
        (true, None) => match rest.next() {
            Some(next) => out.push(bound(name, next)),
            None => out.push(whole.clone()),
        },
        (false, Some(value)) => match boolean(value) {
            Some(true) => out.push(OsString::from(format!("--{name}"))),
            Some(false) => {}
            None => out.push(whole.clone()),
        },
        _ => out.push(whole.clone()),
    }
}

/// An option with a default of true takes a value, but only after an equals sign.
fn is_optional_boolean(argument: &Arg) -> bool {
    argument.is_require_equals_set()
}

fn short<'a>(
    command: &Command,
    cluster: &str,
    whole: &OsString,
    rest: &mut impl Iterator<Item = &'a OsString>,
    out: &mut Vec<OsString>,
) {
    for (at, letter) in cluster.char_indices() {
        let found = command.get_arguments().find(|argument| argument.get_short() == Some(letter));
        let Some(found) = found else {
            let help = letter == 'h' && cluster == "h";
            out.push(if at == 0 || help {
                whole.clone()
            } else {
                OsString::from(format!("-{}", &cluster[at..]))
            });
            return;
        };
        let after = &cluster[at + letter.len_utf8()..];
        if takes_value(found) {
            let name = found.get_long().unwrap_or_default();
            match after.strip_prefix('=').or_else(|| (!after.is_empty()).then_some(after)) {
                Some(value) => out.push(bound(name, OsStr::new(value))),
                None => match rest.next() {
                    Some(next) => out.push(bound(name, next)),
                    None => out.push(OsString::from(format!("--{name}"))),
                },
            }
            return;
        }
        if let Some(value) = after.strip_prefix('=') {
            match boolean(value) {
                Some(true) => out.push(OsString::from(format!("-{letter}"))),
                Some(false) => {}
                None => out.push(whole.clone()),
            }
            return;
        }
        // A flag given twice is given once.
        let flag = OsString::from(format!("-{letter}"));
        if !matches!(found.get_action(), ArgAction::SetTrue) || !out.contains(&flag) {
            out.push(flag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Command {
        Command::new("docker")
            .arg(Arg::new("host").short('H').long("host").action(ArgAction::Append))
            .subcommand(
                Command::new("run")
                    .arg(Arg::new("tty").short('t').long("tty").action(ArgAction::SetTrue))
                    .arg(Arg::new("interactive").short('i').long("interactive").action(ArgAction::SetTrue))
                    .arg(Arg::new("env").short('e').long("env").action(ArgAction::Append))
                    .arg(Arg::new("sig-proxy").long("sig-proxy").num_args(0..=1).require_equals(true))
                    .arg(Arg::new("image"))
                    .arg(Arg::new("command").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true)),
            )
    }

    fn normalised(line: &str) -> String {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let words: Vec<String> = normalise(&root(), &arguments)
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    #[test]
    fn options_end_at_the_image() {
        assert_eq!(normalised("docker run -it busybox -e x -t"), "docker run -i -t -- busybox -e x -t");
        assert_eq!(normalised("docker -H x run busybox run"), "docker --host=x run -- busybox run");
        assert_eq!(normalised("docker run -t -- busybox sh"), "docker run -t -- busybox sh");
    }

    #[test]
    fn values_are_bound() {
        assert_eq!(
            normalised("docker run -e -X=1 -eA=B -ite C --env -D b"),
            "docker run --env=-X=1 --env=A=B -i -t --env=C --env=-D -- b"
        );
        assert_eq!(normalised("docker run -e"), "docker run --env");
    }

    #[test]
    fn booleans_may_have_values() {
        assert_eq!(normalised("docker run --tty=true -i=false b"), "docker run --tty -- b");
        assert_eq!(normalised("docker run --tty=maybe b"), "docker run --tty=maybe -- b");
        assert_eq!(normalised("docker run --sig-proxy b"), "docker run --sig-proxy=true -- b");
        assert_eq!(normalised("docker run --sig-proxy=false b"), "docker run --sig-proxy=false -- b");
    }

    #[test]
    fn what_is_unknown_stays() {
        assert_eq!(normalised("docker run --foo -z b"), "docker run --foo -z -- b");
        assert_eq!(normalised("docker nope --x"), "docker nope --x");
    }
}

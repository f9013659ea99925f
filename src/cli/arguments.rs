//! docker-machine's habits on the command line: one dash or two for long options, and `ssh` unparsed.

use std::{collections::HashSet, ffi::OsString};

use clap::Command;

/// Rewrites what Go's `flag` accepted and clap does not: `-driver x` and `-driver=x` are `--driver x`.
///
/// The words after `ssh NAME` are the remote command's and stay as they are.
pub(super) fn normalise(command: &Command, words: Vec<OsString>) -> Vec<OsString> {
    let mut known: HashSet<String> = HashSet::new();
    collect(command, &mut known);
    let mut seen_ssh = false;
    let mut verbatim = false;
    let mut result = Vec::with_capacity(words.len());
    for (index, word) in words.into_iter().enumerate() {
        let text = word.to_string_lossy().into_owned();
        if index == 0 || verbatim {
            result.push(word);
            continue;
        }
        if text == "--" {
            verbatim = true;
        } else if !text.starts_with('-') {
            if seen_ssh {
                verbatim = true;
            }
            seen_ssh |= text == "ssh";
        } else if !text.starts_with("--") && text.len() > 2 {
            let name = text[1..].split('=').next().unwrap_or_default();
            if known.contains(name) {
                result.push(format!("-{text}").into());
                continue;
            }
        }
        result.push(word);
    }
    result
}

fn collect(command: &Command, names: &mut HashSet<String>) {
    for argument in command.get_arguments() {
        names.extend(argument.get_long().map(str::to_owned));
        names.extend(argument.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned));
    }
    names.insert("help".to_owned());
    for subcommand in command.get_subcommands() {
        collect(subcommand, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(words: &[&str]) -> Vec<String> {
        let command = Command::new("machine")
            .arg(clap::Arg::new("storage-path").long("storage-path").short('s'))
            .subcommand(Command::new("create").arg(clap::Arg::new("driver").long("driver").short('d')))
            .subcommand(Command::new("ssh"));
        let words = words.iter().map(OsString::from).collect();
        normalise(&command, words).into_iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_dash_is_as_good_as_two_for_long_names_only() {
        assert_eq!(
            normalised(&["machine", "-storage-path=/x", "create", "-driver", "none", "-d", "qemu", "-x"]),
            ["machine", "--storage-path=/x", "create", "--driver", "none", "-d", "qemu", "-x"]
        );
    }

    #[test]
    fn what_follows_ssh_and_a_name_is_left_alone() {
        assert_eq!(
            normalised(&["machine", "ssh", "mc1", "-driver", "x"]),
            ["machine", "ssh", "mc1", "-driver", "x"]
        );
    }

    #[test]
    fn what_follows_two_dashes_is_left_alone() {
        assert_eq!(
            normalised(&["machine", "create", "--", "-driver"]),
            ["machine", "create", "--", "-driver"]
        );
    }
}

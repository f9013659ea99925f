//! The languages of shells: how each sets a variable, takes it back, quotes a word, and runs what a command prints.

#[cfg(windows)]
mod windows;

#[cfg(windows)]
use windows::started_by;

use super::settings::Environment;
use crate::ui::Failure;

/// How variables are set and taken back in a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shell {
    Posix,
    Fish,
    Pwsh,
    Cmd,
    Tcsh,
    Emacs,
}

/// What `--shell` takes.
pub(super) const HELP: &str = if cfg!(windows) {
    "The shell: bash, zsh, sh, fish, powershell, cmd, tcsh or emacs [default: by $SHELL, else the one that runs this]"
} else {
    "The shell: bash, zsh, sh, fish, powershell, cmd, tcsh or emacs [default: by $SHELL]"
};

/// What `env --help` says about them.
pub(super) const FORMS: &str = "\
In each shell:
  bash, zsh, sh   eval \"$(machine env mc1)\"
  fish            machine env mc1 | source
  PowerShell      machine env mc1 | Invoke-Expression
  tcsh            eval `machine env mc1`
  cmd             @FOR /f \"tokens=*\" %i IN ('machine env mc1') DO @%i
  emacs           (with-temp-buffer (shell-command \"machine env mc1\" (current-buffer))
                    (eval-buffer))";

impl Shell {
    /// The shell that was named, or else the user's login shell, or the one that has started us. A word that is none of the
    /// others is one of the many descendants of the Bourne shell.
    pub(super) fn find(named: Option<&str>, environment: &Environment) -> Result<Self, Failure> {
        let word = match named {
            Some(word) => word.to_owned(),
            None => Some(program(&environment.shell))
                .filter(|word| !word.is_empty())
                .or_else(started_by)
                .unwrap_or_default(),
        };
        Ok(match word.as_str() {
            "" => {
                return Err(Failure::text("Error: Unknown shell")
                    .verbatim()
                    .with_hint("Name it with `--shell`, such as `--shell bash`"));
            }
            "fish" => Self::Fish,
            "powershell" | "pwsh" => Self::Pwsh,
            "cmd" => Self::Cmd,
            "tcsh" | "csh" => Self::Tcsh,
            "emacs" => Self::Emacs,
            _ => Self::Posix,
        })
    }

    /// A line that sets a variable, in docker-machine's form, with `value` arriving as it is.
    pub(super) fn set(self, name: &str, value: &str) -> Result<String, Failure> {
        Ok(match self {
            Self::Posix => format!("export {name}=\"{}\"\n", escaped(value, r#"\"$`"#, '\\')),
            // A line break outside of the quotes survives fish's command substitution as well.
            Self::Fish => {
                format!("set -gx {name} \"{}\";\n", escaped(value, r#"\"$"#, '\\').replace('\n', "\"\\n\""))
            }
            Self::Pwsh => {
                let value = escaped(value, "`\"$\u{201c}\u{201d}\u{201e}", '`');
                format!("$Env:{name} = \"{}\"\n", value.replace('\n', "`n").replace('\r', "`r"))
            }
            Self::Cmd if value.contains(['\n', '\r']) => {
                return Err(Failure::text(format!(
                    "`cmd` cannot set `{name}`, whose value has a line break"
                ))
                .with_hint("Use another shell, or a store whose path has none"));
            }
            Self::Cmd => format!("SET {name}={value}\n"),
            Self::Tcsh => format!("setenv {name} {};\n", tcsh_word(value)),
            Self::Emacs => format!("(setenv \"{name}\" \"{}\")\n", escaped(value, r#"\""#, '\\')),
        })
    }

    /// A line that takes a variable back.
    pub(super) fn unset(self, name: &str) -> String {
        match self {
            Self::Posix => format!("unset {name}\n"),
            Self::Fish => format!("set -e {name};\n"),
            Self::Pwsh => format!("Remove-Item Env:\\\\{name}\n"),
            Self::Cmd => format!("SET {name}=\n"),
            Self::Tcsh => format!("unsetenv {name};\n"),
            Self::Emacs => format!("(setenv \"{name}\" nil)\n"),
        }
    }

    /// Two comment lines that say how to run what the command `words` prints; nothing where a comment could not hold the
    /// command.
    pub(super) fn hint(self, words: &[String]) -> String {
        let intro = "Run this command to configure your shell: ";
        let command = words.iter().map(|word| self.quoted(word)).collect::<Vec<_>>().join(" ");
        // Everything here is run by the shell: a comment ends with its line, tcsh's with its quotes.
        if command.contains(|c: char| c.is_control()) || (self == Self::Tcsh && command.contains(['\'', '!']))
        {
            return String::new();
        }
        match self {
            Self::Posix => format!("# {intro}\n# eval \"$({command})\"\n"),
            Self::Fish => format!("# {intro}\n# {command} | source\n"),
            Self::Pwsh => format!("# {intro}\n# & {command} | Invoke-Expression\n"),
            Self::Cmd => format!("REM {intro}\nREM \t@FOR /f \"tokens=*\" %i IN ('{command}') DO @%i\n"),
            // tcsh has no comments in what `eval` runs, and `:` alone would run what stands in backquotes.
            Self::Tcsh => format!(": '{intro}';\n: 'eval `{command}`'\n"),
            Self::Emacs => format!(
                ";; {intro}\n;; (with-temp-buffer (shell-command \"{}\" (current-buffer)) (eval-buffer))\n",
                escaped(&command, r#"\""#, '\\')
            ),
        }
    }

    /// A word of a command line to be typed in this shell.
    pub(super) fn quoted(self, word: &str) -> String {
        if !word.is_empty() && word.chars().all(is_plain) {
            return word.to_owned();
        }
        match self {
            Self::Posix | Self::Emacs => format!("'{}'", word.replace('\'', r"'\''")),
            Self::Fish => format!("'{}'", escaped(word, r"\'", '\\')),
            Self::Pwsh => format!("'{}'", word.replace('\'', "''")),
            Self::Cmd => format!("\"{word}\""),
            Self::Tcsh => word.chars().fold(String::new(), |mut text, character| {
                if !is_plain(character) {
                    text.push('\\');
                }
                text.push(character);
                text
            }),
        }
    }
}

/// The name of a program, as it is called.
fn program(path: &str) -> String {
    let name = path.rsplit(std::path::is_separator).next().unwrap_or_default();
    name.strip_suffix(std::env::consts::EXE_SUFFIX).unwrap_or(name).to_owned()
}

/// Where `$SHELL` says which shell it is, nobody has to look.
#[cfg(not(windows))]
fn started_by() -> Option<String> {
    None
}

/// Means itself in every shell.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || "_-./:,=@%+".contains(character)
}

fn escaped(value: &str, special: &str, escape: char) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if special.contains(character) {
            text.push(escape);
        }
        text.push(character);
    }
    text
}

/// A word that survives tcsh's backquotes and `eval`, which split words at blanks and line breaks, and look for `$`, `!`
/// and file names: everything unusual is an octal number in `$'…'`.
fn tcsh_word(value: &str) -> String {
    if value.chars().all(is_plain) {
        return format!("\"{value}\"");
    }
    let mut text = String::from("$'");
    for character in value.chars() {
        if is_plain(character) || !character.is_ascii() {
            text.push(character);
        } else {
            text.push_str(&format!("\\{:03o}", u32::from(character)));
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn hints_quote_what_their_shell_would_split() {
        let command = words(&["/opt/my tools/machine", "-s", "/it's", "env", "mc1"]);
        assert!(
            Shell::Posix
                .hint(&command)
                .ends_with("\n# eval \"$('/opt/my tools/machine' -s '/it'\\''s' env mc1)\"\n")
        );
        assert!(
            Shell::Fish
                .hint(&command)
                .ends_with("\n# '/opt/my tools/machine' -s '/it\\'s' env mc1 | source\n")
        );
        assert!(Shell::Pwsh.hint(&command).contains("& '/opt/my tools/machine' -s '/it''s' env mc1 |"));
        assert!(Shell::Cmd.hint(&command).contains("('\"/opt/my tools/machine\" -s \"/it's\" env mc1')"));
        assert!(Shell::Tcsh.hint(&words(&["machine", "-s", "/a b"])).contains("`machine -s /a\\ b`"));
    }

    #[test]
    fn a_hint_that_would_not_stay_a_comment_is_not_given() {
        let command = words(&["machine", "-s", "/x\ntouch /tmp/owned", "env"]);
        for shell in [Shell::Posix, Shell::Fish, Shell::Pwsh, Shell::Cmd, Shell::Tcsh, Shell::Emacs] {
            assert_eq!(shell.hint(&command), "", "{shell:?}");
        }
        assert_eq!(Shell::Tcsh.hint(&words(&["machine", "-s", "/it's"])), "");
    }

    #[test]
    fn cmd_refuses_what_it_cannot_set() {
        assert!(Shell::Cmd.set("A", "x\ny").unwrap_err().message().contains("`A`"));
        assert_eq!(Shell::Pwsh.set("A", "x\n`\"$").unwrap(), "$Env:A = \"x`n```\"`$\"\n");
    }
}

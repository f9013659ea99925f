//! What a person at the terminal is asked on the way to a login.

use std::{path::Path, sync::Arc};

use crate::{
    lifecycle::{HostKeyQuestion, Prompter},
    ssh::fingerprint_of,
    ui::{Questions, Ui},
};

/// How often somebody may answer with neither yes nor no.
const ATTEMPTS: usize = 3;

/// Asks whoever is at the terminal.
pub(super) fn at_the_terminal(ui: &Ui) -> Arc<dyn Prompter> {
    Arc::new(AtTheTerminal { questions: ui.questions() })
}

#[derive(Debug)]
struct AtTheTerminal {
    questions: Questions,
}

impl Prompter for AtTheTerminal {
    fn accepts(&self, question: &HostKeyQuestion<'_>) -> bool {
        let HostKeyQuestion { host, address, port, recorded, offered } = question;
        let known: Vec<String> = recorded.iter().filter_map(|key| fingerprint_of(key)).collect();
        let known = if known.is_empty() {
            "is not known here".to_owned()
        } else {
            format!("was {}", known.join(" or "))
        };
        let mut text = format!(
            "The SSH host key of `{host}` ({address}, port {port}) {known}. It shows {} {}\n\
             Is that the right one? (yes, no, or the fingerprint that you expect): ",
            offered.kind(),
            offered.fingerprint
        );
        for _ in 0..ATTEMPTS {
            match self.questions.ask(&text).as_deref().map(str::trim) {
                Some("yes") => return true,
                Some(answer) if answer.starts_with("SHA256:") => return answer == offered.fingerprint,
                None | Some("no" | "n") => return false,
                Some(_) => "Please type yes, no or the fingerprint: ".clone_into(&mut text),
            }
        }
        false
    }

    fn passphrase(&self, key_file: &Path) -> Option<String> {
        self.questions.ask_hidden(&format!("Passphrase for `{}`: ", key_file.display()))
    }
}

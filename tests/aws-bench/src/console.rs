//! The serial console as the API shows it, which a test can falsify.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

/// What the API gives at most.
const LONGEST: usize = 64 * 1024;

/// How an instance's console is falsified. Sent as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Console {
    /// In place of what the VM wrote.
    output: Option<String>,
    /// What is replaced in it, and by what.
    replace: Vec<(String, String)>,
    /// How many of the next calls are answered with nothing.
    empty_calls: u32,
}

impl Console {
    /// The next answer.
    pub(crate) fn read(&mut self, file: &Path) -> Vec<u8> {
        if self.empty_calls > 0 {
            self.empty_calls -= 1;
            return Vec::new();
        }
        let mut output = match &self.output {
            Some(output) => output.clone().into_bytes(),
            None => fs::read(file).unwrap_or_default(),
        };
        if !self.replace.is_empty() {
            let mut text = String::from_utf8_lossy(&output).into_owned();
            for (from, to) in &self.replace {
                text = text.replace(from, to);
            }
            output = text.into_bytes();
        }
        output.split_off(output.len().saturating_sub(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_vm_wrote_is_falsified_and_kept_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("console");
        fs::write(&file, "SHA256:right").unwrap();
        assert_eq!(Console::default().read(&file), b"SHA256:right");
        let mut console: Console =
            serde_json::from_str(r#"{"replace": [["right", "wrong"]], "empty_calls": 1}"#).unwrap();
        assert_eq!(console.read(&file), b"");
        assert_eq!(console.read(&file), b"SHA256:wrong");
        let mut console: Console = serde_json::from_str(r#"{"output": "x"}"#).unwrap();
        assert_eq!(console.read(&file), b"x");
    }
}

//! PowerShell as a process: one for each operation, bounded in time and in what it says.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use machine_driver::DriverError;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use crate::{
    failure::{self, Answer},
    scripts::{Operation, arguments},
};

/// Names the PowerShell to run, where it is not the system's.
pub const POWERSHELL_VARIABLE: &str = "MACHINE_HYPERV_POWERSHELL";

/// A thousand VMs with their addresses are far below.
const LARGEST_ANSWER: u64 = 4 << 20;
/// As much of what goes to standard error is kept.
const LONGEST_COMPLAINT: usize = 16 * 1024;
/// As much of what is no answer is shown.
const SHOWN: usize = 200;
/// A process of Windows without a window of its own.
#[cfg(windows)]
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// The PowerShell that operations run in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shell {
    program: Option<PathBuf>,
}

impl Shell {
    /// This program and no other.
    pub(crate) fn at(program: PathBuf) -> Self {
        Self { program: Some(program) }
    }

    /// Runs an operation and reads what it answers.
    pub(crate) async fn run<T: DeserializeOwned>(
        &self,
        operation: Operation,
        request: &(impl Serialize + Sync),
    ) -> Result<T, DriverError> {
        let program = self.program()?;
        let request = serde_json::to_string(request).map_err(|error| {
            DriverError::failed("Could not write what PowerShell is asked").with_source(error)
        })?;
        let said = match timeout(operation.limit(), talk(&program, operation, &ascii(&request))).await {
            Ok(said) => said?,
            Err(_) => return Err(late(operation)),
        };
        let answer = said.answer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&said.answer);
        match serde_json::from_slice::<Answer<T>>(answer) {
            Ok(Answer::Answer(answer)) => Ok(answer),
            Ok(Answer::Error(failure)) => Err(failure::told(operation, failure)),
            Err(error) => Err(not_understood(operation, &said, &error)),
        }
    }

    fn program(&self) -> Result<PathBuf, DriverError> {
        if let Some(given) = self.program.clone().or_else(|| env::var_os(POWERSHELL_VARIABLE).map(Into::into))
        {
            return Ok(given);
        }
        if cfg!(not(windows)) {
            return Err(failure::not_windows());
        }
        // It comes with Windows, and its modules are the ones that Hyper-V's was made for; PowerShell 7 is the second choice.
        let own = env::var_os("SystemRoot").map(|root| {
            Path::new(&root).join("System32").join("WindowsPowerShell").join("v1.0").join("powershell.exe")
        });
        Ok(own.filter(|path| path.is_file()).unwrap_or_else(|| "pwsh.exe".into()))
    }
}

/// What a run said.
struct Said {
    answer: Vec<u8>,
    complaint: Vec<u8>,
    status: String,
}

async fn talk(program: &Path, operation: Operation, request: &str) -> Result<Said, DriverError> {
    let mut command = Command::new(program);
    command
        .args(arguments(&operation.script()))
        // One version's path of modules is not the other's, and PowerShell 7 hands its own on to what it starts.
        .env_remove("PSModulePath")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(windows)]
    command.creation_flags(CREATE_NO_WINDOW);
    let mut child = command.spawn().map_err(|error| failure::no_powershell(program, error))?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // Who ends before it has read everything says why on its own.
            let _ = input.write_all(request.as_bytes()).await;
        }
    };
    let read = async {
        let mut answer = Vec::new();
        if let Some(output) = output {
            output.take(LARGEST_ANSWER + 1).read_to_end(&mut answer).await?;
        }
        Ok::<_, io::Error>(answer)
    };
    let reading = async { tokio::join!(write, read, beginning(errors)) };
    let ((), answer, complaint) = reading.await;
    let lost = |error| unclear(operation).with_source(error);
    let answer = answer.map_err(lost)?;
    if answer.len() as u64 > LARGEST_ANSWER {
        let _ = child.start_kill();
        return Err(
            unclear(operation).with_source(format!("It answered with more than {LARGEST_ANSWER} bytes"))
        );
    }
    let status = child.wait().await.map_err(lost)?.to_string();
    Ok(Said { answer, complaint, status })
}

/// The beginning of what is said; the rest is read, so that nobody waits, and dropped.
async fn beginning(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut source) = source else { return kept };
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = source.read(&mut piece).await {
        let room = LONGEST_COMPLAINT.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..count.min(room)]);
    }
    kept
}

/// JSON that is the same bytes in every code page: Windows PowerShell reads its input in the console's.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// An error that says whether something may have been done.
fn unclear(operation: Operation) -> DriverError {
    if operation.changes() {
        DriverError::unknown(format!("{}, or nobody can say whether it was done", operation.attempt()))
    } else {
        DriverError::refused(operation.attempt())
    }
}

fn late(operation: Operation) -> DriverError {
    let limit: Duration = operation.limit();
    unclear(operation)
        .with_source(format!("PowerShell did not come to an end within {} seconds", limit.as_secs()))
}

fn not_understood(operation: Operation, said: &Said, error: &serde_json::Error) -> DriverError {
    let cause = |text: String| unclear(operation).with_source(text);
    let shown = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
    };
    let (answer, complaint) = (shown(&said.answer), shown(&said.complaint));
    match (answer.is_empty(), complaint.is_empty()) {
        (true, true) => cause(format!("PowerShell ended without an answer ({})", said.status)),
        (true, false) => cause(format!("PowerShell ended without an answer: {complaint}")),
        (false, _) => cause(format!("PowerShell's answer is not understood ({error}): {answer}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_goes_to_powershell_is_ascii_and_means_the_same() {
        let value = serde_json::json!({"name": "Größe 日本 \u{1f600} \"$(x)`'"});
        let text = ascii(&value.to_string());
        assert!(text.is_ascii() && !text.contains('\n'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[cfg(not(windows))]
    #[test]
    fn elsewhere_than_on_windows_the_driver_is_refused() {
        let error = Shell::default().program().unwrap_err();
        assert_eq!(error.to_string(), "Hyper-V is a part of Windows, and this is none");
    }
}

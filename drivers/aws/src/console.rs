//! SSH host keys as a host's console shows them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    api::{Api, Call},
    error::{Answer as _, ApiError},
};

/// What cloud-init puts round the keys.
const BEGIN: &str = "-----BEGIN SSH HOST KEY KEYS-----";
const END: &str = "-----END SSH HOST KEY KEYS-----";
/// AWS keeps 64 KiB.
const LONGEST: usize = 256 * 1024;
const MOST_KEYS: usize = 16;

/// The console's text as far as AWS has it; empty before the first lines arrive.
pub(crate) async fn text(api: &Api, instance: &str) -> Result<String, ApiError> {
    let ask = |latest: bool| api.get_console_output().instance_id(instance).latest(latest).send();
    let mut answer = ask(true).await.answer(Call::GetConsoleOutput, api);
    // Types before Nitro show what was there some minutes ago.
    if answer.as_ref().is_err_and(|error| error.is("UnsupportedOperation")) {
        answer = ask(false).await.answer(Call::GetConsoleOutput, api);
    }
    let output = answer?.output.unwrap_or_default();
    let bytes = STANDARD.decode(output.trim()).unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LONGEST)..]).into_owned())
}

/// The host keys of the last boot that showed them all; `None` while there are none.
pub(crate) fn host_keys(console: &str) -> Option<Vec<String>> {
    let begin = console.rfind(BEGIN)?;
    let (block, _) = console[begin + BEGIN.len()..].split_once(END)?;
    let keys: Vec<String> = block.lines().filter_map(key).take(MOST_KEYS).collect();
    (!keys.is_empty()).then_some(keys)
}

/// A line may have a timestamp or a prefix before the key.
fn key(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("ssh-") || word.starts_with("ecdsa-sha2-"))?;
    let (kind, data) = (words[at], words.get(at + 1)?);
    STANDARD.decode(data).ok().filter(|data| data.len() > 16)?;
    Some(format!("{kind} {data}"))
}

/// The last lines of a console.
pub(crate) fn tail(console: &str, lines: usize) -> String {
    let all: Vec<&str> = console.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn the_last_whole_block_counts() {
        let other = KEY.replace("IJdD", "IJdE");
        let console = format!(
            "boot\n{BEGIN}\r\n{other} root@old\r\n{END}\r\nboot\n{BEGIN}\n[   9.1] ci: {KEY} root@new\n{END}\nlogin:"
        );
        assert_eq!(host_keys(&console).unwrap(), [KEY]);
    }

    #[test]
    fn half_a_block_is_none() {
        assert_eq!(host_keys(&format!("{BEGIN}\n{KEY}\n")), None);
        assert_eq!(host_keys(""), None);
        assert_eq!(host_keys(&format!("{BEGIN}\nssh-ed25519 ???\n{END}")), None);
    }
}

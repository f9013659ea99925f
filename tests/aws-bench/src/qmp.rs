//! The QEMU Machine Protocol: one command on a connection of its own.

use std::{fs::File, os::fd::AsRawFd as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

pub(crate) const SOCKET: &str = "qmp.sock";
const LIMIT: Duration = Duration::from_secs(10);

/// Runs one command. The path of the folder may be longer than a socket's address can be.
pub(crate) async fn execute(folder: &Path, command: &str, arguments: Value) -> Result<Value> {
    let talk = async {
        let folder = File::open(folder)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())).await?;
        let mut stream = BufReader::new(stream);
        read_until(&mut stream, "QMP").await?;
        send(&mut stream, json!({ "execute": "qmp_capabilities" })).await?;
        read_until(&mut stream, "return").await?;
        send(&mut stream, json!({ "execute": command, "arguments": arguments })).await?;
        read_until(&mut stream, "return").await
    };
    timeout(LIMIT, talk)
        .await
        .map_err(anyhow::Error::from)
        .and_then(|done| done)
        .with_context(|| format!("QEMU did not do `{command}`"))
}

/// Runs a command of the human monitor, which prints something when it goes wrong.
pub(crate) async fn human(folder: &Path, command: &str) -> Result<String> {
    let said = execute(folder, "human-monitor-command", json!({ "command-line": command })).await?;
    Ok(said.as_str().unwrap_or_default().trim().to_owned())
}

async fn send(stream: &mut BufReader<UnixStream>, message: Value) -> Result<()> {
    stream.write_all(format!("{message}\n").as_bytes()).await?;
    Ok(())
}

/// Skips events until a message with this key.
async fn read_until(stream: &mut BufReader<UnixStream>, key: &str) -> Result<Value> {
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            bail!("the monitor closed the connection");
        }
        let mut message: Value = serde_json::from_str(&line)?;
        if let Some(error) = message.get("error") {
            bail!("refused: {}", error["desc"]);
        }
        if let Some(value) = message.get_mut(key) {
            return Ok(value.take());
        }
    }
}

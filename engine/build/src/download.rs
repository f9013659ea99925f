//! Brings a file from a server: bounded, digested, and looked at whether it is the one that was wanted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine_model::{Failure, Kind};
use futures_util::StreamExt as _;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::address::file_name;
use super::error::BuildError;
use super::known::{Seen, time};
use super::outside::{Arriving, Told, Validators};
use super::shop::Shop;

/// No honest file is larger, and a stream without an end comes to one.
pub(crate) const MOST_BYTES: u64 = 64 << 30;
const TELL_EVERY: Duration = Duration::from_millis(150);

/// A file that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Downloaded {
    pub(crate) path: PathBuf,
    pub(crate) seen: Seen,
    /// When it was changed, as its server says; the beginning of time if it says nothing.
    pub(crate) modified: jiff::Timestamp,
}

/// Where a file goes to, and who is told how it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) told: &'a mpsc::Sender<Told>,
    pub(crate) cancelled: &'a CancellationToken,
    pub(crate) largest: u64,
}

/// Brings a file into a folder. `None` if it is still what `known` says.
pub(crate) async fn download(
    shop: &Shop,
    address: &str,
    known: &Validators,
    way: Way<'_>,
) -> Result<Option<Downloaded>, BuildError> {
    let work = async {
        let Some(arriving) = shop.outside.fetch(address, known).await? else { return Ok(None) };
        let downloaded = receive(address, arriving, way).await?;
        shop.known.note(address, downloaded.seen.clone());
        Ok(Some(downloaded))
    };
    tokio::select! {
        done = work => done,
        () = way.cancelled.cancelled() => Err(BuildError::Cancelled),
    }
}

async fn receive(address: &str, mut arriving: Arriving, way: Way<'_>) -> Result<Downloaded, BuildError> {
    let name = file_name(address, &arriving.disposition);
    let shown = name.clone().unwrap_or_else(|| "file".to_owned());
    let too_large = || {
        let message = format!("the file `{shown}` has more than {} bytes", way.largest);
        BuildError::Other(Failure::new(Kind::Invalid, message))
    };
    if arriving.length.is_some_and(|length| length > way.largest) {
        return Err(too_large());
    }
    let tell = |status: &str, current: u64| {
        let detail = json!({ "current": current, "total": arriving.length.unwrap_or(0) });
        // A client that is slow gets less of it.
        let _ =
            way.told.try_send(Told::Line(json!({ "id": shown, "status": status, "progressDetail": detail })));
    };
    let failed = |error: std::io::Error| BuildError::Other(Failure::of(Kind::Internal, &error));
    let path = way.folder.join("content");
    let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
    let (mut digest, mut bytes, mut last) = (Sha256::new(), 0, None::<Instant>);
    while let Some(piece) = arriving.pieces.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if bytes > way.largest {
            return Err(too_large());
        }
        digest.update(&piece);
        file.write_all(&piece).await.map_err(failed)?;
        if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            tell("Downloading", bytes);
            last = Some(Instant::now());
        }
    }
    file.flush().await.map_err(failed)?;
    tell("Download complete", bytes);
    let modified = time(&arriving.validators.modified).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let digest = format!("sha256:{:x}", digest.finalize());
    Ok(Downloaded { path, seen: Seen { validators: arriving.validators, digest, name }, modified })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    async fn received(arriving: Arriving) -> Result<Downloaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let (told, _listener) = mpsc::channel(1);
        let cancelled = CancellationToken::new();
        let way = Way { folder: folder.path(), told: &told, cancelled: &cancelled, largest: 1000 };
        receive("http://h/file", arriving, way).await.map_err(|error| error.to_string())
    }

    fn arriving(length: Option<u64>, pieces: Vec<Result<Bytes, Failure>>) -> Arriving {
        Arriving {
            validators: Validators::default(),
            length,
            disposition: String::new(),
            pieces: stream::iter(pieces).boxed(),
        }
    }

    #[tokio::test]
    async fn a_file_is_bounded_whatever_its_server_says() {
        let downloaded = received(arriving(None, vec![Ok(Bytes::from("abc"))])).await.unwrap();
        assert_eq!(
            downloaded.seen.digest,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(downloaded.modified, jiff::Timestamp::UNIX_EPOCH);
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![0; 100]))).boxed();
        let endless = Arriving { pieces: endless, ..arriving(None, Vec::new()) };
        let too_large = "the file `file` has more than 1000 bytes";
        assert_eq!(received(endless).await.unwrap_err(), too_large);
        assert_eq!(received(arriving(Some(1001), Vec::new())).await.unwrap_err(), too_large);
        let broken = vec![Ok(Bytes::from("abc")), Err(Failure::new(Kind::Internal, "it broke off"))];
        assert_eq!(received(arriving(None, broken)).await.unwrap_err(), "it broke off");
    }
}

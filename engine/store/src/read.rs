//! Reading a file that the engine has written, and saying exactly why it could not be read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A larger file is not one of ours: the largest have some hundred bytes for each of a hundred thousand containers.
const LARGEST: u64 = 64 * 1024 * 1024;

/// Why there is a file but not what it says.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Could not read `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be understood", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("`{}` is larger than anything that the engine writes", path.display())]
    TooLarge { path: PathBuf },
    /// Not damage: it is to be left as it is.
    #[error("`{}` was written by a newer engine (format {found}, this one reads up to {known})", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
}

impl ReadError {
    /// Whether the file itself is at fault. Anything else may pass: then it is to be left where it is.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::TooLarge { .. })
    }
}

/// What a file says; `None` if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    bytes(path)?.map(|bytes| parse(path, &bytes)).transpose()
}

/// What a file says that names its format in `version` (containers' records: `format`). Formats up to `known` are read;
/// a newer one is told apart from damage, whatever it looks like.
pub fn read_versioned<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, ReadError> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(alias = "format")]
        version: u32,
    }
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    match serde_json::from_slice::<Version>(&bytes) {
        Ok(Version { version: found }) if found > known => {
            Err(ReadError::Newer { path: path.to_owned(), found, known })
        }
        _ => parse(path, &bytes).map(Some),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|source| ReadError::Damaged { path: path.to_owned(), source })
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_newer_format_is_not_damage() {
        #[derive(Debug, Deserialize)]
        struct Record {
            #[expect(dead_code, reason = "that it is there is what counts")]
            names: Vec<String>,
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        for newer in ["{\"version\":3,\"names\":{}}", "{\"format\":3}"] {
            fs::write(&path, newer).unwrap();
            let error = read_versioned::<Record>(&path, 2).unwrap_err();
            assert!(matches!(error, ReadError::Newer { found: 3, known: 2, .. }), "{error:?}");
        }
        fs::write(&path, "{\"version\":2,\"names\":[]}").unwrap();
        assert!(read_versioned::<Record>(&path, 2).unwrap().is_some());
        fs::write(&path, "{\"version\":2,\"nam").unwrap();
        assert!(matches!(read_versioned::<Record>(&path, 2), Err(ReadError::Damaged { .. })));
    }

    #[test]
    fn nothing_something_and_damage_are_three_things() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read::<u32>(&path).unwrap(), None);
        fs::write(&path, "7").unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), Some(7));
        for damage in ["", "{", "\"x\""] {
            fs::write(&path, damage).unwrap();
            assert!(matches!(read::<u32>(&path), Err(ReadError::Damaged { .. })), "{damage:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read::<u32>(&path), Err(ReadError::Io { .. })));
        let endless = fs::File::create(folder.path().join("large")).unwrap();
        endless.set_len(LARGEST + 1).unwrap();
        assert!(matches!(read::<u32>(&folder.path().join("large")), Err(ReadError::TooLarge { .. })));
    }
}

//! Reads a file that somebody else may have written: no more of it than it should have.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::StoreError;

/// No certificate and no key that anybody uses comes near. In bytes.
const FILE_AT_MOST: u64 = 256 * 1024;

/// A file's text; `None` if it is not there. What is there and cannot be read is an error.
pub(super) fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let failed = |source| StoreError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut text = String::new();
    file.take(FILE_AT_MOST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_AT_MOST {
        return Err(StoreError::TooLarge { path: path.to_owned(), at_most: FILE_AT_MOST });
    }
    Ok(Some(text))
}

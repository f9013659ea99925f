//! Contexts: daemons that the user has given names to, in the files that the stock client keeps them in.
//!
//! `contexts/meta/ID/meta.json` and `contexts/tls/ID/docker/{ca,cert,key}.pem` below the folder of the client's files, where `ID` is the
//! SHA-256 of the name; `currentContext` in `config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::{Failure, Outcome};

/// The one that is not kept: what `DOCKER_HOST` says, or the local daemon.
pub(crate) const DEFAULT: &str = "default";
/// A file of a context is shorter.
const LONGEST: u64 = 1 << 20;
/// What is kept of TLS, by the names of the options.
pub(crate) const TLS: [(&str, &str); 3] = [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")];

/// `meta.json`. What else it says is kept.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Meta {
    #[serde(rename = "Name")]
    pub(crate) name: String,
    #[serde(rename = "Metadata", default)]
    pub(crate) metadata: Map<String, Value>,
    #[serde(rename = "Endpoints", default)]
    pub(crate) endpoints: BTreeMap<String, Value>,
}

impl Meta {
    pub(crate) fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn set_description(&mut self, text: &str) {
        self.metadata.insert("Description".to_owned(), text.into());
    }

    /// Where its daemon is.
    pub(crate) fn host(&self) -> &str {
        self.endpoints.get("docker").and_then(|endpoint| endpoint["Host"].as_str()).unwrap_or_default()
    }

    pub(crate) fn skips_verification(&self) -> bool {
        self.endpoints.get("docker").is_some_and(|endpoint| endpoint["SkipTLSVerify"] == true)
    }

    pub(crate) fn set_endpoint(&mut self, host: &str, skip_verification: bool) {
        let endpoint = serde_json::json!({ "Host": host, "SkipTLSVerify": skip_verification });
        self.endpoints.insert("docker".to_owned(), endpoint);
    }
}

/// The folder of the client's files.
#[derive(Clone, Debug)]
pub(crate) struct Store(PathBuf);

impl Store {
    /// The folder that is named, or `DOCKER_CONFIG`'s, or the user's own.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = folder.map(Path::to_owned).or_else(|| variable("DOCKER_CONFIG"));
        Self(folder.or_else(|| variable("HOME").map(|home| home.join(".docker"))).unwrap_or_default())
    }

    /// Where what is said of a context is.
    pub(crate) fn meta(&self, name: &str) -> PathBuf {
        self.0.join("contexts/meta").join(id(name))
    }

    /// Where its certificates are.
    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.0.join("contexts/tls").join(id(name))
    }

    /// The certificates that it has.
    pub(crate) fn certificates(&self, name: &str) -> Vec<PathBuf> {
        let folder = self.tls(name).join("docker");
        TLS.iter().map(|(_, file)| folder.join(file)).filter(|path| path.exists()).collect()
    }

    pub(crate) fn read(&self, name: &str) -> Outcome<Meta> {
        let path = self.meta(name).join("meta.json");
        Self::parse(&path).map_err(|error| match error {
            Failure::ReadFile { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Failure::refused(format!(
                    "context {name:?}: context not found: open {}: no such file or directory",
                    path.display()
                ))
            }
            error => error,
        })
    }

    fn parse(path: &Path) -> Outcome<Meta> {
        use std::io::Read as _;
        let failed = |source| Failure::ReadFile { path: path.display().to_string(), source };
        let mut text = String::new();
        fs::File::open(path).map_err(failed)?.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::refused(format!("Could not understand `{}`: {error}", path.display())))
    }

    /// All that are kept, by their names.
    pub(crate) fn list(&self) -> Outcome<Vec<Meta>> {
        let folder = self.0.join("contexts/meta");
        let failed = |source| Failure::ReadFile { path: folder.display().to_string(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path().join("meta.json");
            match Self::parse(&path) {
                Ok(meta) => found.push(meta),
                Err(Failure::ReadFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|first, second| crate::units::natural_order(&first.name, &second.name));
        Ok(found)
    }

    pub(crate) fn write(&self, meta: &Meta) -> Outcome {
        let text = serde_json::to_vec(meta).map_err(|error| Failure::refused(error.to_string()))?;
        write(&self.meta(&meta.name), "meta.json", &text, 0o755)
    }

    /// Keeps a certificate, or a key, for a context.
    pub(crate) fn write_certificate(&self, name: &str, file: &str, content: &[u8]) -> Outcome {
        write(&self.tls(name).join("docker"), file, content, 0o700)
    }

    pub(crate) fn remove(&self, name: &str) -> Outcome {
        for folder in [self.tls(name), self.meta(name)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::WriteFile { path: folder.display().to_string(), source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the user has chosen.
    pub(crate) fn chosen(&self) -> Outcome<Option<String>> {
        let config = self.config()?;
        let name = config.get("currentContext").and_then(Value::as_str).filter(|name| !name.is_empty());
        Ok(name.map(str::to_owned))
    }

    pub(crate) fn choose(&self, name: &str) -> Outcome {
        let mut config = self.config()?;
        let changed = if name == DEFAULT {
            config.shift_remove("currentContext").is_some()
        } else {
            config.insert("currentContext".to_owned(), name.into()) != Some(name.into())
        };
        if !changed {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&config).map_err(|error| Failure::refused(error.to_string()))?;
        write(&self.0, "config.json", &text, 0o700)
    }

    fn config(&self) -> Outcome<Map<String, Value>> {
        let path = self.0.join("config.json");
        match fs::read(&path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(Map::new()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::refused(format!("Could not understand `{}`: {error}", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
            Err(source) => Err(Failure::ReadFile { path: path.display().to_string(), source }),
        }
    }
}

fn id(name: &str) -> String {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a context may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let mut rest = name.chars();
    rest.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() > 1
        && rest.all(|other| other.is_ascii_alphanumeric() || "_.+-".contains(other))
}

/// A whole file, or the one that was there. A link to a file elsewhere stays one.
fn write(folder: &Path, name: &str, content: &[u8], mode: u32) -> Outcome {
    let path = folder.join(name);
    let failed = |source| Failure::WriteFile { path: path.display().to_string(), source };
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(failed)?;
    let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    let new = place.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, &place).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names() {
        for name in ["mc1", "a.b_c+d-e", "0x"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a", "-a", "a/b", "..", "a b"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_chosen_stands_beside_what_else_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Some(folder.path()));
        fs::write(folder.path().join("config.json"), r#"{"detachKeys":"ctrl-x"}"#).unwrap();
        store.choose("mc1").unwrap();
        assert_eq!(store.chosen().unwrap().as_deref(), Some("mc1"));
        store.choose(DEFAULT).unwrap();
        assert_eq!(store.chosen().unwrap(), None);
        assert_eq!(store.config().unwrap()["detachKeys"], "ctrl-x");
        fs::write(folder.path().join("config.json"), "{").unwrap();
        assert!(store.choose("mc1").is_err(), "what cannot be read is not written over");
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Some(folder.path()));
        let mut meta = Meta { name: "mc1".to_owned(), ..Meta::default() };
        meta.set_endpoint("tcp://10.0.0.1:2376", false);
        store.write(&meta).unwrap();
        store.write_certificate("mc1", "ca.pem", b"x").unwrap();
        assert_eq!(store.read("mc1").unwrap().host(), "tcp://10.0.0.1:2376");
        assert_eq!((store.list().unwrap().len(), store.certificates("mc1").len()), (1, 1));
        store.remove("mc1").unwrap();
        assert!(store.read("mc1").is_err() && store.list().unwrap().is_empty());
    }
}

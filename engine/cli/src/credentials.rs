//! The user's logins at registries: docker's `config.json`, and the programs (`docker-credential-NAME`) that it names to keep them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome};

/// How the default registry is called in the file.
pub(crate) const DEFAULT: &str = "https://index.docker.io/v1/";
/// What programs that keep logins say instead of a user, when the secret is a token.
const TOKEN: &str = "<token>";

/// A login at one registry. What is secret is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Login {
    /// As the API takes it.
    pub(crate) fn to_json(&self, registry: &str) -> Value {
        let mut all = json!({"username": self.username, "serveraddress": registry});
        if self.identity_token.is_empty() {
            all["password"] = json!(self.password);
        } else {
            all["identitytoken"] = json!(self.identity_token);
        }
        all
    }
}

/// The file, and where it lies.
#[derive(Debug)]
pub(crate) struct Logins {
    path: PathBuf,
    file: Map<String, Value>,
}

/// The registry of an image's name, as the file calls it.
pub(crate) fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => key_of(first),
        _ => DEFAULT.to_owned(),
    }
}

/// What the file calls the registry that a user names.
pub(crate) fn key_of(address: &str) -> String {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DEFAULT.to_owned(),
        host => host.to_owned(),
    }
}

impl Logins {
    /// Reads `config.json` in the folder that is named, or `DOCKER_CONFIG`'s, or the user's own.
    pub(crate) fn read(folder: Option<&Path>) -> Outcome<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = folder
            .map(Path::to_owned)
            .or_else(|| variable("DOCKER_CONFIG"))
            .or_else(|| variable("HOME").map(|home| home.join(".docker")))
            .ok_or_else(|| {
                Failure::refused("there is no folder for logins: neither HOME nor DOCKER_CONFIG is set")
            })?;
        let path = folder.join("config.json");
        let file = match fs::read(&path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::refused(format!("Could not understand `{}`: {error}", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(source) => return Err(Failure::ReadFile { path: path.display().to_string(), source }),
        };
        Ok(Self { path, file })
    }

    /// The program that keeps the login at this registry, if one does.
    fn keeper(&self, registry: &str) -> Option<String> {
        let of_registry =
            self.file.get("credHelpers").and_then(|all| all.get(registry)).and_then(Value::as_str);
        let of_all = self.file.get("credsStore").and_then(Value::as_str);
        of_registry.or(of_all).filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// Every registry that there may be a login at.
    fn registries(&self) -> Outcome<BTreeSet<String>> {
        let keys = |name: &str| {
            let map = self.file.get(name).and_then(Value::as_object);
            map.into_iter().flat_map(Map::keys).map(|key| key_of(key)).collect::<Vec<_>>()
        };
        let mut all: BTreeSet<String> = keys("auths").into_iter().chain(keys("credHelpers")).collect();
        if let Some(name) =
            self.file.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty())
        {
            let answer = ask(name, "list", "")?.unwrap_or_default();
            let list: Map<String, Value> = serde_json::from_slice(&answer)
                .map_err(|error| Failure::refused(format!("`docker-credential-{name} list`: {error}")))?;
            all.extend(list.keys().map(|key| key_of(key)));
        }
        Ok(all)
    }

    /// The login at this registry.
    pub(crate) fn get(&self, registry: &str) -> Outcome<Option<Login>> {
        if let Some(name) = self.keeper(registry) {
            let Some(answer) = ask(&name, "get", registry)? else { return Ok(None) };
            let answer: Value = serde_json::from_slice(&answer)
                .map_err(|error| Failure::refused(format!("`docker-credential-{name} get`: {error}")))?;
            let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
            let (username, secret) = (text("Username"), text("Secret"));
            return Ok(Some(if username == TOKEN {
                Login { identity_token: secret, ..Login::default() }
            } else {
                Login { username, password: secret, identity_token: String::new() }
            }));
        }
        let all = self.file.get("auths").and_then(Value::as_object);
        // Files of older clients call a registry by its URL.
        let entry = all.and_then(|all| {
            all.get(registry)
                .or_else(|| all.iter().find(|(key, _)| key_of(key) == registry).map(|(_, entry)| entry))
        });
        let Some(entry) = entry else { return Ok(None) };
        let pair = entry["auth"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let (username, password) = pair.split_once(':').unwrap_or_default();
        Ok(Some(Login {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            identity_token: entry["identitytoken"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    /// Keeps a login. Whether it is kept in the file, where whoever reads the file reads it.
    pub(crate) fn set(&mut self, registry: &str, login: &Login) -> Outcome<bool> {
        if let Some(name) = self.keeper(registry) {
            let is_token = !login.identity_token.is_empty();
            let secret = if is_token { &login.identity_token } else { &login.password };
            let username = if is_token { TOKEN } else { &login.username };
            let told = json!({"ServerURL": registry, "Username": username, "Secret": secret}).to_string();
            ask(&name, "store", &told)?;
            self.entries().insert(registry.to_owned(), json!({}));
            self.write()?;
            return Ok(false);
        }
        let password = if login.identity_token.is_empty() { login.password.as_str() } else { "" };
        let mut entry = json!({"auth": STANDARD.encode(format!("{}:{password}", login.username))});
        if !login.identity_token.is_empty() {
            entry["identitytoken"] = json!(login.identity_token);
        }
        self.entries().insert(registry.to_owned(), entry);
        self.write()?;
        Ok(true)
    }

    /// Forgets a login. Whether there was one.
    pub(crate) fn erase(&mut self, registry: &str) -> Outcome<bool> {
        if let Some(name) = self.keeper(registry) {
            ask(&name, "erase", registry)?;
        }
        let entries = self.entries();
        let keys: BTreeSet<String> = entries.keys().filter(|key| key_of(key) == registry).cloned().collect();
        for key in &keys {
            entries.remove(key);
        }
        if keys.is_empty() {
            return Ok(false);
        }
        self.write()?;
        Ok(true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&mut self) -> &mut Map<String, Value> {
        let auths = self.file.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        match auths {
            Value::Object(map) => map,
            _ => unreachable!("it has just been made an object"),
        }
    }

    fn write(&self) -> Outcome {
        let failed = |source| Failure::WriteFile { path: self.path.display().to_string(), source };
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let text = serde_json::to_string_pretty(&self.file).map_err(io::Error::other).map_err(failed)?;
        // A link to a file elsewhere stays one.
        let place = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut file = tempfile::NamedTempFile::new_in(place.parent().unwrap_or(folder)).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        file.persist(&place).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// The value of `X-Registry-Auth` for an image; nothing if there is no login.
pub(crate) fn header(folder: Option<&Path>, image: &str) -> Outcome<Option<String>> {
    let registry = registry_of(image);
    let login = Logins::read(folder)?.get(&registry)?;
    Ok(login.map(|login| URL_SAFE.encode(login.to_json(&registry).to_string())))
}

/// The value of `X-Registry-Config`: all logins, as a build may need any of them.
pub(crate) fn all_header(folder: Option<&Path>) -> Outcome<Option<String>> {
    let logins = Logins::read(folder)?;
    let mut known = Map::new();
    for registry in logins.registries()? {
        if let Some(login) = logins.get(&registry)? {
            known.insert(registry.clone(), login.to_json(&registry));
        }
    }
    Ok((!known.is_empty()).then(|| URL_SAFE.encode(Value::Object(known).to_string())))
}

/// Has a program do something with a login. Nothing, if it has none.
fn ask(name: &str, action: &str, input: &str) -> Outcome<Option<Vec<u8>>> {
    let program = format!("docker-credential-{name}");
    let failed = |error: &dyn std::fmt::Display| Failure::refused(format!("`{program} {action}`: {error}"));
    // It is a name in the user's own file, and still no path.
    if name.contains('/') {
        return Err(failed(&"this is no name of a program"));
    }
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it closes the pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // The protocol's word for it.
    if said.contains("credentials not found") {
        return Ok(None);
    }
    Err(failed(&if said.is_empty() { output.status.to_string() } else { said }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn login() -> Login {
        Login { username: "me".into(), password: "a:b".into(), identity_token: String::new() }
    }

    #[test]
    fn a_login_is_kept_beside_what_else_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(
            &path,
            r#"{"detachKeys":"ctrl-x","auths":{"https://old.example/v1/":{"auth":"bWU6eA=="}}}"#,
        )
        .unwrap();
        let mut logins = Logins::read(Some(folder.path())).unwrap();
        assert_eq!(logins.get("old.example").unwrap().unwrap().password, "x");
        assert!(logins.set("localhost:5000", &login()).unwrap());
        let token = Login { identity_token: "t".into(), ..login() };
        logins.set(DEFAULT, &token).unwrap();
        let mut again = Logins::read(Some(folder.path())).unwrap();
        assert_eq!(again.get("localhost:5000").unwrap(), Some(login()));
        assert_eq!(again.get(DEFAULT).unwrap().unwrap().identity_token, "t");
        assert_eq!(again.file["detachKeys"], "ctrl-x");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(again.erase("old.example").unwrap() && !again.erase("old.example").unwrap());
        fs::write(&path, "{").unwrap();
        assert!(Logins::read(Some(folder.path())).is_err(), "what cannot be read is not written over");
    }

    #[test]
    fn a_registry_has_one_name() {
        for (image, key) in [
            ("busybox", DEFAULT),
            ("me/app:1", DEFAULT),
            ("docker.io/me/app", DEFAULT),
            ("localhost/app", "localhost"),
            ("registry:5000/a/b", "registry:5000"),
        ] {
            assert_eq!(registry_of(image), key, "{image}");
        }
        assert_eq!(key_of("https://registry.example/v2/"), "registry.example");
    }
}

//! `-v`, `--mount` and `--tmpfs`.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::units;

/// What the options of a container say about its filesystems.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "The API calls one kind of mounts so")]
pub(crate) struct Mounts {
    /// Bind mounts and named volumes, as written.
    pub(crate) binds: Vec<String>,
    /// Anonymous volumes.
    pub(crate) volumes: Map<String, Value>,
    pub(crate) mounts: Vec<Value>,
    pub(crate) tmpfs: Map<String, Value>,
}

impl Mounts {
    /// Reads the values of `-v`, `--mount` and `--tmpfs`.
    pub(crate) fn parse(volumes: &[String], mounts: &[String], tmpfs: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for text in volumes {
            parsed.volume(text)?;
        }
        for text in mounts {
            parsed.mounts.push(
                mount(text)
                    .map_err(|error| format!("invalid argument {text:?} for \"--mount\" flag: {error}"))?,
            );
        }
        for text in tmpfs {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            parsed.tmpfs.insert(path.to_owned(), Value::from(options));
        }
        Ok(parsed)
    }

    fn volume(&mut self, text: &str) -> Result<(), String> {
        let parts: Vec<&str> = text.split(':').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(format!("invalid spec: {text}: empty section between colons"));
        }
        match parts.as_slice() {
            [path] => {
                self.volumes.insert((*path).to_owned(), json!({}));
            }
            [source, rest @ ..] if rest.len() <= 2 => {
                let source = absolute(source)?;
                self.binds.push(format!("{source}:{}", rest.join(":")));
            }
            _ => return Err(format!("invalid spec: {text}: too many colons")),
        }
        Ok(())
    }
}

/// A path of the host that begins with a dot, from the root; anything else as it is.
fn absolute(source: &str) -> Result<String, String> {
    if !source.starts_with('.') {
        return Ok(source.to_owned());
    }
    let current =
        env::current_dir().map_err(|error| format!("could not find the current directory: {error}"))?;
    Ok(lexically_joined(&current, Path::new(source)).to_string_lossy().into_owned())
}

fn lexically_joined(base: &Path, relative: &Path) -> PathBuf {
    let mut joined = base.to_path_buf();
    for component in relative.components() {
        match component {
            std::path::Component::ParentDir => {
                joined.pop();
            }
            std::path::Component::Normal(part) => joined.push(part),
            _ => {}
        }
    }
    joined
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    }
}

fn mount(text: &str) -> Result<Value, String> {
    let mut kind = "volume".to_owned();
    let mut source = String::new();
    let mut target = String::new();
    let mut read_only = false;
    let mut consistency: Option<&str> = None;
    let mut bind = Map::new();
    let mut volume = Map::new();
    let mut labels = Map::new();
    let mut driver_options = Map::new();
    let mut driver = String::new();
    let mut tmpfs = Map::new();
    let mut image = Map::new();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        let needed = || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
        match key.as_str() {
            "readonly" | "ro" => read_only = flag(&key, value)?,
            "volume-nocopy" => {
                volume.insert("NoCopy".to_owned(), Value::Bool(flag(&key, value)?));
            }
            "bind-nonrecursive" => {
                bind.insert("NonRecursive".to_owned(), Value::Bool(flag(&key, value)?));
            }
            "bind-create-src" => {
                bind.insert("CreateMountpoint".to_owned(), Value::Bool(flag(&key, value)?));
            }
            "bind-recursive" => match needed()? {
                "enabled" => {}
                "disabled" => drop(bind.insert("NonRecursive".to_owned(), Value::Bool(true))),
                "writable" => drop(bind.insert("ReadOnlyNonRecursive".to_owned(), Value::Bool(true))),
                "readonly" => drop(bind.insert("ReadOnlyForceRecursive".to_owned(), Value::Bool(true))),
                other => {
                    return Err(format!(
                        "invalid value for {key}: {other} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            "type" => kind = needed()?.to_lowercase(),
            "source" | "src" => source = absolute(needed()?)?,
            "target" | "dst" | "destination" => needed()?.clone_into(&mut target),
            "consistency" => consistency = Some(needed()?),
            "bind-propagation" => {
                bind.insert("Propagation".to_owned(), Value::from(needed()?.to_lowercase()));
            }
            "volume-driver" => needed()?.clone_into(&mut driver),
            "volume-subpath" => {
                volume.insert("Subpath".to_owned(), Value::from(needed()?));
            }
            "image-subpath" => {
                image.insert("Subpath".to_owned(), Value::from(needed()?));
            }
            "volume-label" | "volume-opt" => {
                let (name, value) = needed()?.split_once('=').unwrap_or((needed()?, ""));
                let map = if key == "volume-label" { &mut labels } else { &mut driver_options };
                map.insert(name.to_owned(), Value::from(value));
            }
            "tmpfs-size" => {
                tmpfs.insert("SizeBytes".to_owned(), Value::from(units::parse_size(needed()?)?));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(needed()?, 8)
                    .map_err(|_| format!("invalid value for {key}: {}", value.unwrap_or_default()))?;
                tmpfs.insert("Mode".to_owned(), Value::from(mode));
            }
            _ if value.is_none() => return Err(format!("invalid field '{field}' must be a key=value pair")),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if target.is_empty() {
        return Err("target is required".to_owned());
    }
    for (options, wanted) in [
        (&bind, "bind"),
        (&volume, "volume"),
        (&labels, "volume"),
        (&driver_options, "volume"),
        (&tmpfs, "tmpfs"),
        (&image, "image"),
    ] {
        if !options.is_empty() && kind != wanted {
            return Err(format!("cannot mix '{wanted}-*' options with mount type '{kind}'"));
        }
    }
    let mut result = Map::new();
    result.insert("Type".to_owned(), Value::from(kind.as_str()));
    if !source.is_empty() {
        result.insert("Source".to_owned(), Value::from(source));
    }
    result.insert("Target".to_owned(), Value::from(target));
    if read_only {
        result.insert("ReadOnly".to_owned(), Value::Bool(true));
    }
    if let Some(consistency) = consistency {
        result.insert("Consistency".to_owned(), Value::from(consistency));
    }
    if !bind.is_empty() {
        result.insert("BindOptions".to_owned(), Value::Object(bind));
    }
    if !labels.is_empty() {
        volume.insert("Labels".to_owned(), Value::Object(labels));
    }
    if !driver.is_empty() || !driver_options.is_empty() {
        volume.insert("DriverConfig".to_owned(), json!({"Name": driver, "Options": driver_options}));
    }
    if !volume.is_empty() {
        result.insert("VolumeOptions".to_owned(), Value::Object(volume));
    }
    if !image.is_empty() {
        result.insert("ImageOptions".to_owned(), Value::Object(image));
    }
    if !tmpfs.is_empty() {
        result.insert("TmpfsOptions".to_owned(), Value::Object(tmpfs));
    }
    Ok(Value::Object(result))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn volumes_are_binds_or_anonymous() {
        let volumes: Vec<String> =
            ["/data", "/a:/b:ro", "name:/c", "./x/../y:/d"].map(str::to_owned).to_vec();
        let mounts = Mounts::parse(&volumes, &[], &[]).unwrap();
        let here = env::current_dir().unwrap().join("y");
        assert_eq!(mounts.volumes.keys().collect::<Vec<_>>(), ["/data"]);
        assert_eq!(
            mounts.binds,
            ["/a:/b:ro".to_owned(), "name:/c".to_owned(), format!("{}:/d", here.display())]
        );
        for text in [":", "/a:", "a:b:c:d", ""] {
            assert!(Mounts::parse(&[text.to_owned()], &[], &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_have_options_of_their_kind() {
        for (text, json) in [
            (
                "type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared",
                r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"rshared"}}"#,
            ),
            (
                "src=data,target=/d,volume-opt=o=1,volume-driver=local",
                r#"{"Type":"volume","Source":"data","Target":"/d","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"o":"1"}}}}"#,
            ),
            (
                "type=bind,src=/a,dst=/b,ro,bind-recursive=writable",
                r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true}}"#,
            ),
            (
                "type=image,src=busybox,dst=/b,image-subpath=etc",
                r#"{"Type":"image","Source":"busybox","Target":"/b","ImageOptions":{"Subpath":"etc"}}"#,
            ),
            (
                "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1777",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023}}"#,
            ),
        ] {
            assert_eq!(mount(text).unwrap().to_string(), json, "{text}");
        }
        for (text, message) in [
            ("type=bind,src=/a", "target is required"),
            ("type=bind,target=/a,foo=1", "unexpected key 'foo' in 'foo=1'"),
            ("type=bind,target=/a,foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind,target=/a,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
        ] {
            assert_eq!(mount(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn tmpfs_has_a_path_and_options() {
        let mounts = Mounts::parse(&[], &[], &["/run:rw,size=64m".to_owned(), "/tmp".to_owned()]).unwrap();
        assert_eq!(Value::Object(mounts.tmpfs).to_string(), r#"{"/run":"rw,size=64m","/tmp":""}"#);
    }
}

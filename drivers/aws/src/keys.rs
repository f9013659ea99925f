//! The key pair that an instance lets in: the host's own, or one of the user's.

use std::path::{Path, PathBuf};

use aws_sdk_ec2::{primitives::Blob, types::ResourceType};
use machine_driver::{DriverError, HostView, Progress};

use crate::{
    api::{Api, Call},
    config::Config,
    error::Answer as _,
    state::{Book, KEY_PAIR},
    tags,
};

/// The public half beside a private key.
fn public_path(private: &Path) -> PathBuf {
    let mut path = private.as_os_str().to_owned();
    path.push(".pub");
    path.into()
}

/// The line to let in: of the user's key, or of the one that was made for this host.
pub(crate) fn public_line(host: &HostView, config: &Config) -> Result<String, DriverError> {
    let Some(private) = &config.key_file else {
        return host
            .login
            .as_ref()
            .map(|key| key.public.clone())
            .ok_or_else(|| DriverError::failed("The instance cannot be made without a key to log in with"));
    };
    let path = public_path(private);
    std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|error| {
        DriverError::invalid(format!("Could not read the public key `{}`", path.display()))
            .with_hint("`--aws-ssh-keypath` names the private key; its public half is beside it, in FILE.pub")
            .with_source(error)
    })
}

/// Refuses keys that are not there.
pub(crate) async fn check(api: &Api, host: &HostView, config: &Config) -> Result<(), DriverError> {
    let Some(private) = &config.key_file else { return Ok(()) };
    if !private.is_file() {
        return Err(DriverError::invalid(format!("SSH key does not exist: \"{}\"", private.display())));
    }
    let Some(name) = &config.key_pair else { return public_line(host, config).map(drop) };
    let answer = api.describe_key_pairs().key_names(name).send().await.answer(Call::DescribeKeyPairs, api);
    match answer {
        Ok(answer) if !answer.key_pairs().is_empty() => Ok(()),
        Ok(_) => Err(missing(name, api)),
        Err(error) if error.is_not_found() => Err(missing(name, api)),
        Err(error) => Err(error.during(format!("Could not look up the key pair `{name}`"))),
    }
}

fn missing(name: &str, api: &Api) -> DriverError {
    DriverError::invalid(format!("There is no key pair `{name}` in {}", api.region))
        .with_hint("Without `--aws-keypair-name` the key is imported for the host, and goes with it")
}

/// Imports the host's key, once.
pub(crate) async fn ensure(
    api: &Api,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    if let Some(name) = &config.key_pair {
        book.made.key_pair = Some(name.clone());
        return book.save().await;
    }
    let name = tags::name_of_ours(host);
    book.intend(KEY_PAIR, &name).await?;
    progress.step("Importing the key");
    let imported = api
        .import_key_pair()
        .key_name(&name)
        .public_key_material(Blob::new(public_line(host, config)?))
        .tag_specifications(tags::on(ResourceType::KeyPair, &tags::of_host(host, &config.tags)))
        .send()
        .await
        .answer(Call::ImportKeyPair, api);
    let id = match imported {
        Ok(imported) => imported.key_pair_id,
        // The name has our id in it: an earlier run or a lost reply made it.
        Err(error) if error.is("InvalidKeyPair.Duplicate") => None,
        Err(error) => return Err(error.during(format!("Could not import the key pair {name}"))),
    };
    book.made.key_pair = Some(name.clone());
    book.made(KEY_PAIR, &name, id.as_deref()).await
}

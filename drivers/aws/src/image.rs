//! Machine images: from a name to an AMI of the right architecture, with who logs in and what its root disk is.

use machine_driver::DriverError;

use crate::{
    api::{Api, Call},
    error::{Answer as _, ApiError},
    region::Region,
    state::Image,
};

/// Where a distribution publishes its images' ids. `{}` stands for the architecture, in that distribution's words.
struct Known {
    name: &'static str,
    parameter: &'static str,
    intel: &'static str,
    arm: &'static str,
}

/// <https://wiki.debian.org/Cloud/AmazonEC2Image>, <https://documentation.ubuntu.com/aws/>,
/// <https://docs.aws.amazon.com/linux/al2023/ug/ec2.html>
const KNOWN: [Known; 5] = [
    Known {
        name: "debian-12",
        parameter: "/aws/service/debian/release/12/latest/{}",
        intel: "amd64",
        arm: "arm64",
    },
    Known {
        name: "debian-13",
        parameter: "/aws/service/debian/release/13/latest/{}",
        intel: "amd64",
        arm: "arm64",
    },
    Known {
        name: "ubuntu-22.04",
        parameter: "/aws/service/canonical/ubuntu/server/22.04/stable/current/{}/hvm/ebs-gp2/ami-id",
        intel: "amd64",
        arm: "arm64",
    },
    Known {
        name: "ubuntu-24.04",
        parameter: "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id",
        intel: "amd64",
        arm: "arm64",
    },
    Known {
        name: "al2023",
        parameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}",
        intel: "x86_64",
        arm: "arm64",
    },
];

/// Whose images have which user, by the beginning of their names and the account that publishes them.
const USERS: [(&str, &str, &str); 4] = [
    ("136693071363", "debian-", "admin"),
    ("099720109477", "ubuntu/", "ubuntu"),
    ("137112412989", "al20", "ec2-user"),
    ("", "machineos-", "docker"),
];

/// What is named with `--aws-image`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Id(String),
    Parameter(String),
}

fn wanted(text: &str, architecture: &str) -> Result<Wanted, DriverError> {
    if let Some(known) = KNOWN.iter().find(|known| known.name == text) {
        let word = if architecture == "arm64" { known.arm } else { known.intel };
        return Ok(Wanted::Parameter(known.parameter.replace("{}", word)));
    }
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c));
    if text.starts_with("ami-") && text[4..].chars().all(|c| c.is_ascii_hexdigit()) && text.len() > 4 {
        return Ok(Wanted::Id(text.to_owned()));
    }
    if text.starts_with('/') && plain(text) {
        return Ok(Wanted::Parameter(text.to_owned()));
    }
    let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    Err(DriverError::invalid(format!("There is no image `{text}`")).with_hint(format!(
        "Name one of {}, an AMI such as ami-0123456789abcdef0, or an SSM parameter that begins with /",
        names.join(", ")
    )))
}

/// Finds the image for a type's architectures and pins it.
pub(crate) async fn resolve(
    region: &Region,
    name: &str,
    user: Option<&str>,
    architectures: &[String],
) -> Result<Image, DriverError> {
    let key = (name.to_owned(), user.map(str::to_owned), architectures.to_vec());
    region.images.get(key, Box::pin(ask(&region.api, name, user, architectures))).await
}

async fn ask(
    api: &Api,
    name: &str,
    user: Option<&str>,
    architectures: &[String],
) -> Result<Image, DriverError> {
    let preferred = architectures.first().map_or("x86_64", String::as_str);
    let id = match wanted(name, preferred)? {
        Wanted::Id(id) => id,
        Wanted::Parameter(parameter) => read_parameter(api, &parameter).await?,
    };
    let found = describe(api, &id).await.map_err(|error| {
        if error.is_any(&["InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"]) {
            missing(&id, &api.region)
        } else {
            error.during(format!("Could not look up the image {id}"))
        }
    })?;
    let image = found.ok_or_else(|| missing(&id, &api.region))?;
    let architecture = image.architecture().map(|a| a.as_str().to_owned()).unwrap_or_default();
    if !architectures.is_empty() && !architectures.contains(&architecture) {
        return Err(DriverError::invalid(format!(
            "The image {id} is for {architecture}, the instance type for {}",
            architectures.join(" and ")
        ))
        .with_hint("Choose another image with `--aws-image` or another type with `--aws-instance-type`"));
    }
    if image.platform().is_some() {
        return Err(DriverError::invalid(format!("The image {id} is not Linux")));
    }
    let full_name = image.name().unwrap_or_default().to_owned();
    let user = match user {
        Some(user) => user.to_owned(),
        None => login_user(image.owner_id().unwrap_or_default(), &full_name).ok_or_else(|| {
            DriverError::invalid(format!("Who logs in to the image {id} (`{full_name}`) is not known"))
                .with_hint("Name its user with `--aws-ssh-user`, such as ubuntu, admin, ec2-user or docker")
        })?,
    };
    let root_device = image.root_device_name().unwrap_or("/dev/xvda").to_owned();
    let root_size = image
        .block_device_mappings()
        .iter()
        .filter(|mapping| mapping.device_name() == Some(root_device.as_str()))
        .filter_map(|mapping| mapping.ebs()?.volume_size())
        .max()
        .unwrap_or(0);
    let other_devices = image
        .block_device_mappings()
        .iter()
        .filter(|mapping| mapping.ebs().is_some())
        .filter_map(|mapping| mapping.device_name())
        .filter(|device| *device != root_device)
        .map(str::to_owned)
        .collect();
    Ok(Image { id, name: full_name, architecture, user, root_device, root_size, other_devices })
}

async fn read_parameter(api: &Api, parameter: &str) -> Result<String, DriverError> {
    let answer = api.get_parameter().name(parameter).send().await.answer(Call::GetParameter, api).map_err(
        |error| {
            if error.is("ParameterNotFound") {
                DriverError::invalid(format!("There is no image at `{parameter}` in {}", api.region))
                    .with_hint("Choose another one with `--aws-image`, or another region")
            } else {
                error.during(format!("Could not look up the image at `{parameter}`"))
            }
        },
    )?;
    let value = answer.parameter().and_then(|parameter| parameter.value()).unwrap_or_default().trim();
    match wanted(value, "") {
        Ok(Wanted::Id(id)) => Ok(id),
        _ => Err(DriverError::failed(format!(
            "The parameter `{parameter}` holds no image but `{}`",
            value.chars().take(40).collect::<String>().escape_debug()
        ))),
    }
}

async fn describe(api: &Api, id: &str) -> Result<Option<aws_sdk_ec2::types::Image>, ApiError> {
    let answer = api.describe_images().image_ids(id).send().await.answer(Call::DescribeImages, api)?;
    Ok(answer.images.unwrap_or_default().into_iter().next())
}

fn missing(id: &str, region: &str) -> DriverError {
    DriverError::invalid(format!("There is no image {id} in {region} that this account may use"))
        .with_hint("AMIs have another id in each region; names like debian-12 work in all")
}

fn login_user(owner: &str, name: &str) -> Option<String> {
    USERS
        .iter()
        .find(|(account, prefix, _)| (account.is_empty() || *account == owner) && name.starts_with(prefix))
        .map(|(_, _, user)| (*user).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_follow_the_architecture() {
        let parameter = |name, architecture| match wanted(name, architecture).unwrap() {
            Wanted::Parameter(parameter) => parameter,
            Wanted::Id(id) => id,
        };
        assert_eq!(parameter("debian-12", "x86_64"), "/aws/service/debian/release/12/latest/amd64");
        assert_eq!(parameter("debian-12", "arm64"), "/aws/service/debian/release/12/latest/arm64");
        assert!(parameter("al2023", "x86_64").ends_with("x86_64"));
        assert_eq!(parameter("ami-0abc", "arm64"), "ami-0abc");
        assert_eq!(parameter("/my/image", "arm64"), "/my/image");
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_choices() {
        for text in ["", "debian", "ami-", "ami-xyz", "/a b", "../x"] {
            let error = wanted(text, "x86_64").unwrap_err();
            assert!(error.hint().unwrap().contains("debian-12"), "{text}");
        }
    }

    #[test]
    fn a_name_alone_makes_nobody_a_publisher() {
        assert_eq!(login_user("136693071363", "debian-12-amd64").as_deref(), Some("admin"));
        assert_eq!(login_user("1", "debian-12-amd64"), None);
    }
}

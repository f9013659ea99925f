//! Which Linux a host runs, by its `os-release`.

use std::fmt;

/// The kinds of distributions that provisioning knows; the others are served by what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and what is made of them.
    Debian,
    /// RHEL, CentOS, Rocky, AlmaLinux, Oracle Linux, Fedora.
    RedHat,
    /// SLES and openSUSE.
    Suse,
    Alpine,
    Arch,
    /// Amazon Linux.
    Amazon,
    MachineOs,
    /// Anything else.
    Other,
}

/// What `os-release` says, bounded and without control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, such as `debian`.
    pub id: String,
    /// The words of `ID_LIKE`.
    pub id_like: Vec<String>,
    /// `VERSION_ID`, such as `12`.
    pub version_id: String,
    /// `PRETTY_NAME`, else `NAME`.
    pub name: String,
}

impl OsRelease {
    /// Reads the lines of `os-release`. What is malformed in it is passed over.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut release = Self::default();
        let mut short_name = String::new();
        for line in lines {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = unquote(value);
            match key {
                "ID" => release.id = identifier(&value),
                "ID_LIKE" => {
                    release.id_like = value
                        .split_whitespace()
                        .map(identifier)
                        .filter(|id| !id.is_empty())
                        .take(8)
                        .collect();
                }
                "VERSION_ID" => release.version_id = printable(&value),
                "PRETTY_NAME" => release.name = printable(&value),
                "NAME" => short_name = printable(&value),
                _ => {}
            }
        }
        if release.name.is_empty() {
            release.name = short_name;
        }
        release
    }

    /// By `ID`, else by the first known word of `ID_LIKE`.
    pub fn family(&self) -> Family {
        std::iter::once(&self.id)
            .chain(&self.id_like)
            .map(|id| family_of(id))
            .find(|family| *family != Family::Other)
            .unwrap_or(Family::Other)
    }
}

/// What a person calls it.
impl fmt::Display for OsRelease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name.as_str(), self.id.as_str()) {
            ("", "") => formatter.write_str("an unknown Linux"),
            ("", id) => write!(formatter, "{id} {}", self.version_id),
            (name, _) => formatter.write_str(name),
        }
    }
}

fn family_of(id: &str) -> Family {
    match id {
        "debian" | "ubuntu" | "raspbian" | "linuxmint" | "pop" => Family::Debian,
        "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "fedora" => Family::RedHat,
        "suse" | "sles" | "sled" | "opensuse" => Family::Suse,
        "alpine" => Family::Alpine,
        "arch" | "archarm" | "manjaro" => Family::Arch,
        "amzn" => Family::Amazon,
        "machineos" => Family::MachineOs,
        _ if id.starts_with("opensuse-") => Family::Suse,
        _ => Family::Other,
    }
}

/// The value as a shell would read it: between single or double quotes, or bare.
fn unquote(value: &str) -> String {
    let mut characters = value.chars();
    let mut text = String::new();
    let mut quote = None;
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if character == open => quote = None,
            (None | Some('"'), '\\') => text.extend(characters.next()),
            _ => text.push(character),
        }
    }
    text
}

fn identifier(text: &str) -> String {
    let known = |character: &char| character.is_ascii_alphanumeric() || "._-".contains(*character);
    text.chars().filter(known).take(64).collect::<String>().to_ascii_lowercase()
}

fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(text: &str) -> Family {
        OsRelease::parse(text.lines()).family()
    }

    #[test]
    fn all_quotings_are_read() {
        let release = OsRelease::parse([
            "# comment",
            "",
            "NAME='Some Linux'",
            "ID=\"debian\"",
            "VERSION_ID='12'",
            "PRETTY_NAME=\"A \\\"quoted\\\" \\$name = with equals\"",
            "ID_LIKE='one  two'",
        ]);
        assert_eq!(release.id, "debian");
        assert_eq!(release.version_id, "12");
        assert_eq!(release.name, "A \"quoted\" $name = with equals");
        assert_eq!(release.id_like, ["one", "two"]);
    }

    #[test]
    fn distributions_are_recognised() {
        for (text, expected) in [
            ("ID=debian", Family::Debian),
            ("ID=ubuntu\nID_LIKE=debian", Family::Debian),
            ("ID=raspbian\nID_LIKE=debian", Family::Debian),
            ("ID=elementary\nID_LIKE=ubuntu", Family::Debian),
            ("ID=\"rhel\"\nID_LIKE=\"fedora\"", Family::RedHat),
            ("ID='centos'\nID_LIKE='rhel fedora'", Family::RedHat),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"", Family::RedHat),
            ("ID=\"almalinux\"", Family::RedHat),
            ("ID=\"ol\"\nID_LIKE=\"fedora\"", Family::RedHat),
            ("ID=fedora", Family::RedHat),
            ("ID=\"cloudlinux\"\nID_LIKE=\"rhel fedora centos\"", Family::RedHat),
            ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"", Family::Suse),
            ("ID=\"sles\"\nID_LIKE=\"suse\"", Family::Suse),
            ("ID=alpine", Family::Alpine),
            ("ID=arch", Family::Arch),
            ("ID=endeavouros\nID_LIKE=\"arch\"", Family::Arch),
            ("ID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"", Family::Amazon),
            ("ID=machineos", Family::MachineOs),
            ("ID=void", Family::Other),
            ("", Family::Other),
        ] {
            assert_eq!(family(text), expected, "{text}");
        }
    }

    #[test]
    fn hostile_text_is_bounded_and_harmless() {
        let long = "x".repeat(100_000);
        let release = OsRelease::parse([
            "no equals sign",
            "=",
            "ID=$(reboot);`id`",
            "PRETTY_NAME=\"\u{1b}[2Junclosed",
            &format!("VERSION_ID={long}"),
            "ID_LIKE=\"../.. \u{7} debian\"",
            "NAME=\\",
        ]);
        assert_eq!(release.id, "rebootid");
        assert_eq!(release.name, "[2Junclosed");
        assert_eq!(release.version_id.len(), 128);
        assert_eq!(release.id_like, ["../..".replace('/', ""), "debian".to_owned()]);
        assert_eq!(release.family(), Family::Debian);
    }
}

//! Platforms of images, and the one that this engine runs containers of.

use std::fmt;

/// This machine's architecture in the words of images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// An operating system, an architecture and perhaps a variant of it, in the words of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty for what every machine of the architecture runs.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: architecture().to_owned(), variant: String::new() }
    }

    /// Takes `os`, `architecture`, `os/architecture` and `os/architecture/variant`, in the words that people use.
    pub fn parse(text: &str) -> Option<Self> {
        const SYSTEMS: [&str; 4] = ["linux", "windows", "darwin", "freebsd"];
        let text = text.to_lowercase();
        let parts: Vec<&str> = text.split('/').collect();
        let host = Self::host();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(is_word) {
            return None;
        }
        match parts[..] {
            [os] if SYSTEMS.contains(&os) => Some(Self { os: os.to_owned(), ..host }),
            [architecture] => Some(Self::of("linux", architecture, "")),
            [os, architecture] => Some(Self::of(os, architecture, "")),
            [os, architecture, variant] => Some(Self::of(os, architecture, variant)),
            _ => None,
        }
    }

    /// In one spelling, whatever the document calls it.
    pub fn of(os: &str, architecture: &str, variant: &str) -> Self {
        let os = if os.is_empty() { "linux" } else { os };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "v8" | "8" | "") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", ""),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "5" | "6" | "7" | "8") => (
                "arm",
                match variant {
                    "5" => "v5",
                    "6" => "v6",
                    "7" => "v7",
                    _ => "v8",
                },
            ),
            other => other,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// How well something for `other` does for this platform: `None` if not at all, more is better.
    pub fn fitness(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        match (self.variant.as_str(), other.variant.as_str()) {
            (wanted, found) if wanted == found => Some(u8::MAX),
            // Machines of arm without a word are taken for new ones.
            ("", found) if self.architecture == "arm" => found.trim_start_matches('v').parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_the_words_that_people_use() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("LINUX/ARM64/v8", "linux/arm64"),
            ("linux/arm/7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
            ("windows/amd64", "windows/amd64"),
        ] {
            let platform = Platform::parse(text).map(|platform| platform.to_string());
            assert_eq!(platform.as_deref(), Some(shown), "{text}");
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/\u{7}"] {
            assert_eq!(Platform::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_best_of_several_is_found() {
        let wanted = Platform::of("linux", "arm", "");
        let fitness = |variant| wanted.fitness(&Platform::of("linux", "arm", variant));
        assert!(fitness("v7") > fitness("v6") && fitness("") > fitness("v7"));
        assert_eq!(Platform::of("linux", "amd64", "").fitness(&Platform::of("linux", "amd64", "v3")), None);
        assert_eq!(Platform::of("linux", "amd64", "").fitness(&Platform::of("windows", "amd64", "")), None);
        assert_eq!(Platform::of("linux", "amd64", "v3").fitness(&Platform::of("linux", "amd64", "")), None);
    }
}

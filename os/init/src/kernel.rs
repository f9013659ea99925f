//! Kernel modules: which ones a device or a name asks for, and loading them with what they need.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Loads one module file. That it is there already is fine.
pub(crate) fn insert(file: &Path) -> io::Result<()> {
    let module = fs::File::open(file)?;
    match rustix::system::finit_module(&module, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The modules of the running kernel, as `depmod` listed them.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    folder: PathBuf,
    /// Module name to its file and the files it needs, nearest first.
    needs: HashMap<String, Vec<String>>,
    /// The kind of an alias (`pci`, `virtio`, `fs-ext4`…) to patterns and module names.
    aliases: HashMap<String, Vec<(String, String)>>,
    loaded: HashSet<String>,
}

impl Modules {
    /// Reads the lists of the running kernel.
    pub(crate) fn of_this_kernel() -> io::Result<Modules> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = Path::new("/lib/modules").join(release);
        let dependencies = fs::read_to_string(folder.join("modules.dep"))?;
        let aliases = fs::read_to_string(folder.join("modules.alias"))?;
        Ok(Modules::parse(folder, &dependencies, &aliases))
    }

    fn parse(folder: PathBuf, dependencies: &str, aliases: &str) -> Modules {
        let mut modules = Modules { folder, ..Modules::default() };
        for line in dependencies.lines() {
            let Some((file, needed)) = line.split_once(':') else { continue };
            let mut files = vec![file.to_owned()];
            files.extend(needed.split_whitespace().map(str::to_owned));
            modules.needs.insert(module_name(file), files);
        }
        for line in aliases.lines() {
            let mut words = line.split_whitespace();
            let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let entry = (pattern.to_owned(), module.to_owned());
            modules.aliases.entry(kind(pattern).to_owned()).or_default().push(entry);
        }
        modules
    }

    /// The modules whose patterns fit a device's alias.
    fn matching(&self, alias: &str) -> Vec<String> {
        let Some(candidates) = self.aliases.get(kind(alias)) else { return Vec::new() };
        let mut found: Vec<String> = Vec::new();
        for (pattern, module) in candidates {
            if !found.contains(module) && fits(pattern.as_bytes(), alias.as_bytes()) {
                found.push(module.clone());
            }
        }
        found
    }

    /// Loads whatever drives the device with this alias. Devices without a driver here are nothing to talk about.
    pub(crate) fn load_for(&mut self, alias: &str) {
        for module in self.matching(alias) {
            let _ = self.load(&module);
        }
    }

    /// Loads a module by name after those it needs.
    pub(crate) fn load(&mut self, name: &str) -> io::Result<()> {
        let name = name.replace('-', "_");
        if self.loaded.contains(&name) {
            return Ok(());
        }
        let Some(files) = self.needs.get(&name).cloned() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "It is not among the modules of this image"));
        };
        for file in files.iter().rev() {
            let needed = module_name(file);
            if self.loaded.contains(&needed) {
                continue;
            }
            insert(&self.folder.join(file))?;
            self.loaded.insert(needed);
        }
        Ok(())
    }
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// The part of an alias that no pattern leaves open: `pci` of `pci:v*`, `acpi` of `acpi*:PNP0C0C:*`.
fn kind(alias: &str) -> &str {
    alias.split([':', '*', '?', '[']).next().unwrap_or_default()
}

/// Shell-like matching as `modules.alias` uses it: `*`, `?` and sets in brackets.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
                continue;
            }
            Some(b'[') => {
                if let Some(length) = set_fits(&pattern[at_pattern..], text[at_text]) {
                    at_pattern += length;
                    at_text += 1;
                    continue;
                }
            }
            Some(&expected) if expected == b'?' || expected == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
                continue;
            }
            _ => {}
        }
        let Some((pattern_back, text_back)) = star else { return false };
        star = Some((pattern_back, text_back + 1));
        at_pattern = pattern_back + 1;
        at_text = text_back + 1;
    }
    pattern[at_pattern..].iter().all(|&rest| rest == b'*')
}

/// The length of the set at the start of `pattern` if `letter` is in it.
fn set_fits(pattern: &[u8], letter: u8) -> Option<usize> {
    let end = pattern.iter().position(|&byte| byte == b']')?;
    let set = &pattern[1..end];
    let mut at = 0;
    while at < set.len() {
        let range = at + 2 < set.len() && set[at + 1] == b'-';
        let (low, high) = if range { (set[at], set[at + 2]) } else { (set[at], set[at]) };
        if (low..=high).contains(&letter) {
            return Some(end + 1);
        }
        at += if range { 3 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEPENDENCIES: &str = "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
        kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
        kernel/net/core/failover.ko:\n\
        kernel/arch/x86/crypto/crc32c-intel.ko:\n";
    const ALIASES: &str = "# Aliases extracted from modules themselves.\n\
        alias virtio:d00000001v* virtio_net\n\
        alias pci:v00008086d00007010sv*sd*bc*sc*i* ata_piix\n\
        alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
        alias acpi*:LNXPWRBN:* button\n\
        alias fs-ext4 ext4\n";

    #[test]
    fn a_device_finds_its_driver() {
        let modules = Modules::parse(PathBuf::new(), DEPENDENCIES, ALIASES);
        assert_eq!(modules.matching("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(modules.matching("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"), ["ahci"]);
        assert_eq!(modules.matching("pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00"), [""; 0]);
        assert_eq!(modules.matching("acpi:LNXPWRBN:"), ["button"]);
        assert_eq!(modules.matching("acpi:PNP0C0C:"), [""; 0]);
    }

    #[test]
    fn a_module_comes_with_what_it_needs_under_its_kernel_name() {
        let modules = Modules::parse(PathBuf::new(), DEPENDENCIES, ALIASES);
        assert_eq!(modules.needs["virtio_net"].len(), 3);
        assert!(modules.needs.contains_key("crc32c_intel"));
    }

    #[test]
    fn an_absent_module_is_an_error() {
        let mut modules = Modules::parse(PathBuf::new(), DEPENDENCIES, ALIASES);
        assert_eq!(modules.load("nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("v[0-9a]x", "v7x", true),
            ("v[0-9a]x", "vax", true),
            ("v[0-9a]x", "vbx", false),
            ("v[0", "v0", false),
            ("*ab*b", "aabab", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}

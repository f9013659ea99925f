//! What is on the disks: told from their first bytes, before anything is mounted.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::devices::entries;

/// Everything that is looked at lies in this many bytes at the front (ISO 9660 says its name at 32 KiB).
const HEAD: usize = 1024 * 1024;
const SECTOR: u64 = 512;
/// A disk that is smaller than this is no place for containers.
const SMALLEST_DATA_DISK: u64 = 64 * 1024 * 1024;
/// A FAT root folder has at most this many entries worth a look: the label comes first.
const ROOT_ENTRIES: usize = 512;

/// What a disk or partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Zeros at the front and at the end.
    Blank,
    Ext4 {
        label: String,
        /// The size of the file system in bytes.
        size: u64,
    },
    Fat {
        label: String,
    },
    Iso {
        label: String,
    },
    /// Somebody's, whatever it is.
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) node: PathBuf,
    pub(crate) size: u64,
    pub(crate) is_partition: bool,
    pub(crate) is_writable: bool,
    pub(crate) content: Content,
}

impl Disk {
    pub(crate) fn may_become_data(&self) -> bool {
        self.content == Content::Blank
            && !self.is_partition
            && self.is_writable
            && self.size >= SMALLEST_DATA_DISK
    }
}

/// The names of the disks and partitions that are there.
pub(crate) fn names() -> Vec<String> {
    let plain = |name: &String| {
        !["loop", "ram", "zram", "fd", "nbd", "dm-"].iter().any(|kind| name.starts_with(kind))
    };
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    entries("/sys/class/block").iter().filter_map(name).filter(plain).collect()
}

/// Looks at one; nothing if it cannot be read, like a drive without a disc.
pub(crate) fn look(name: &str) -> Option<Disk> {
    let facts = Path::new("/sys/class/block").join(name);
    let number = |file: &str| fs::read_to_string(facts.join(file)).ok()?.trim().parse::<u64>().ok();
    let size = number("size")? * SECTOR;
    if size == 0 {
        return None;
    }
    let node = Path::new("/dev").join(name);
    let content = fs::File::open(&node).and_then(|file| inspect(&file, size)).ok()?;
    Some(Disk {
        node,
        size,
        is_partition: facts.join("partition").exists(),
        is_writable: number("ro") == Some(0),
        content,
    })
}

fn inspect(file: &fs::File, size: u64) -> io::Result<Content> {
    let mut head = vec![0; HEAD.min(usize::try_from(size).unwrap_or(HEAD))];
    file.read_exact_at(&mut head, 0)?;
    Ok(match recognise(&head) {
        Content::Fat { label } if label.is_empty() => Content::Fat { label: label_in_root(file, &head)? },
        Content::Blank => {
            // Partition tables and arrays leave copies of themselves at the end.
            let mut tail = vec![0; head.len()];
            file.read_exact_at(&mut tail, size - head.len() as u64)?;
            if tail.iter().all(|&byte| byte == 0) { Content::Blank } else { Content::Other }
        }
        content => content,
    })
}

fn recognise(head: &[u8]) -> Content {
    if let Some(content) = ext4(head).or_else(|| iso(head)).or_else(|| fat(head)) {
        return content;
    }
    if head.iter().all(|&byte| byte == 0) { Content::Blank } else { Content::Other }
}

fn ext4(head: &[u8]) -> Option<Content> {
    let block = head.get(1024..2048)?;
    if block[0x38..0x3a] != [0x53, 0xef] {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let wide = word(0x60) & 0x80 != 0;
    let blocks = u64::from(word(4)) | if wide { u64::from(word(0x150)) << 32 } else { 0 };
    let size = blocks.checked_mul(1024_u64.checked_shl(word(0x18))?)?;
    Some(Content::Ext4 { label: text(&block[0x78..0x88]), size })
}

fn iso(head: &[u8]) -> Option<Content> {
    let volume = head.get(32 * 1024..32 * 1024 + 2048)?;
    (volume[0] == 1 && &volume[1..6] == b"CD001").then(|| Content::Iso { label: text(&volume[40..72]) })
}

fn fat(head: &[u8]) -> Option<Content> {
    let boot = head.get(..512)?;
    let jumps = boot[0] == 0xeb || boot[0] == 0xe9;
    if boot[510..] != [0x55, 0xaa] || !jumps {
        return None;
    }
    let at = if &boot[82..87] == b"FAT32" {
        71
    } else if &boot[54..57] == b"FAT" {
        43
    } else {
        return None;
    };
    let label = text(&boot[at..at + 11]);
    Some(Content::Fat { label: if label == "NO NAME" { String::new() } else { label } })
}

/// Some tools write a FAT label only as an entry of the root folder.
fn label_in_root(file: &fs::File, boot: &[u8]) -> io::Result<String> {
    let narrow = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let wide =
        |at: usize| u64::from(u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]));
    let (sector, cluster, reserved, copies) =
        (narrow(11), u64::from(boot[13]), narrow(14), u64::from(boot[16]));
    let table = if narrow(22) == 0 { wide(36) } else { narrow(22) };
    let mut at = reserved + copies * table;
    if narrow(22) == 0 {
        at += wide(44).saturating_sub(2).saturating_mul(cluster);
    }
    let mut folder = vec![0; ROOT_ENTRIES * 32];
    let read = at.checked_mul(sector).map_or(Ok(0), |offset| file.read_at(&mut folder, offset))?;
    for entry in folder[..read].chunks_exact(32).take_while(|entry| entry[0] != 0) {
        // The attribute byte of a label; 0x0f would be a part of a long name.
        if entry[11] & 0x3f == 0x08 && entry[0] != 0xe5 {
            return Ok(text(&entry[..11]));
        }
    }
    Ok(String::new())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SIZE: u64 = 4 * 1024 * 1024;

    fn inspected(write: impl FnOnce(&fs::File)) -> Content {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        write(&file);
        inspect(&file, SIZE).unwrap()
    }

    #[test]
    fn a_disk_is_blank_only_if_nothing_is_at_either_end() {
        assert_eq!(inspected(|_| {}), Content::Blank);
        for at in [0, 511, 4096, SIZE - 512, SIZE - 1] {
            assert_eq!(inspected(|file| file.write_all_at(&[1], at).unwrap()), Content::Other, "{at}");
        }
    }

    #[test]
    fn an_ext4_says_its_label_and_size() {
        let content = inspected(|file| {
            file.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
            file.write_all_at(&1024_u32.to_le_bytes(), 1024 + 4).unwrap();
            file.write_all_at(&2_u32.to_le_bytes(), 1024 + 0x18).unwrap();
            file.write_all_at(b"machineos-data", 1024 + 0x78).unwrap();
        });
        assert_eq!(content, Content::Ext4 { label: "machineos-data".to_owned(), size: 4 * 1024 * 1024 });
    }

    #[test]
    fn a_lying_ext4_is_not_trusted() {
        let content = inspected(|file| {
            file.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
            file.write_all_at(&u32::MAX.to_le_bytes(), 1024 + 0x18).unwrap();
        });
        assert_eq!(content, Content::Other);
    }

    #[test]
    fn an_iso_says_its_label() {
        let content = inspected(|file| {
            file.write_all_at(b"\x01CD001\x01", 32768).unwrap();
            file.write_all_at(b"cidata                          ", 32768 + 40).unwrap();
        });
        assert_eq!(content, Content::Iso { label: "cidata".to_owned() });
    }

    fn fat16(file: &fs::File, label: &[u8; 11]) {
        file.write_all_at(&[0xeb, 0x3c, 0x90], 0).unwrap();
        file.write_all_at(&512_u16.to_le_bytes(), 11).unwrap();
        file.write_all_at(&[1, 1, 0, 2], 13).unwrap();
        file.write_all_at(&8_u16.to_le_bytes(), 22).unwrap();
        file.write_all_at(label, 43).unwrap();
        file.write_all_at(b"FAT16   ", 54).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    }

    #[test]
    fn a_fat_says_its_label_wherever_it_is() {
        let named = inspected(|file| fat16(file, b"CIDATA     "));
        assert_eq!(named, Content::Fat { label: "CIDATA".to_owned() });
        let in_root = inspected(|file| {
            fat16(file, b"NO NAME    ");
            file.write_all_at(b"LONGNAME   \x0f", 17 * 512).unwrap();
            file.write_all_at(b"cidata     \x08", 17 * 512 + 32).unwrap();
        });
        assert_eq!(in_root, Content::Fat { label: "cidata".to_owned() });
        let nameless = inspected(|file| fat16(file, b"NO NAME    "));
        assert_eq!(nameless, Content::Fat { label: String::new() });
    }

    #[test]
    fn a_partition_table_is_somebodys() {
        assert_eq!(inspected(|file| file.write_all_at(&[0x55, 0xaa], 510).unwrap()), Content::Other);
    }
}

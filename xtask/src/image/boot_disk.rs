//! A disk that boots kernel and initrd by UEFI, for hypervisors that cannot be handed them: one partition with a loader,
//! and nothing that is ever written to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::tools::{Toolbox, make_folder, output, remove_folder};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where partitions begin and end, in sectors.
const ALIGNMENT: u64 = MIB / SECTOR;
/// FAT32 has at least 65,525 clusters; this is some more of one sector each.
const SMALLEST: u64 = 40 * MIB;
/// For tables, folders and the loader's own files.
const SPARE: u64 = 4 * MIB;
const ENTRIES: u32 = 128;
const ENTRY: u32 = 128;
/// The type of partitions that firmware boots from (UEFI 2.10, 5.3.3), and ids of our own: as they are on the disk.
const SYSTEM_PARTITION: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const DISK: [u8; 16] = *b"machineos-boot-1";
const PARTITION: [u8; 16] = *b"machineos-boot-2";
/// What firmware runs from a disk that it knows nothing of.
const FALLBACK: &str = "::/EFI/BOOT/BOOTX64.EFI";

/// What the disk holds.
pub(super) struct Content<'a> {
    /// systemd-boot.
    pub(super) loader: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) command_line: &'a str,
    /// The time of everything on it.
    pub(super) time: u64,
}

/// Writes the disk. `work` is a folder for what is in between.
pub(super) fn write(to: &Path, content: &Content<'_>, work: &Path, tools: &Toolbox) -> Result<()> {
    remove_folder(work)?;
    make_folder(work)?;
    let partition = work.join("partition");
    file_system(&partition, content, work, tools)?;
    let mut source = File::open(&partition)?;
    let sectors = source.metadata()?.len() / SECTOR;
    let mut disk = OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
    disk.set_len((ALIGNMENT + sectors + ALIGNMENT) * SECTOR)?;
    for (place, bytes) in tables(sectors) {
        disk.seek(SeekFrom::Start(place * SECTOR))?;
        disk.write_all(&bytes)?;
    }
    disk.seek(SeekFrom::Start(ALIGNMENT * SECTOR))?;
    let mut block = vec![0; 1 << 16];
    loop {
        match source.read(&mut block)? {
            0 => break,
            // Holes stay holes.
            count if block[..count].iter().all(|byte| *byte == 0) => {
                disk.seek(SeekFrom::Current(i64::try_from(count)?))?;
            }
            count => disk.write_all(&block[..count])?,
        }
    }
    remove_folder(work)
}

fn file_system(partition: &Path, content: &Content<'_>, work: &Path, tools: &Toolbox) -> Result<()> {
    let mut size = SPARE;
    for file in [content.loader, content.kernel, content.initrd] {
        size += fs::metadata(file).with_context(|| format!("Could not read `{}`", file.display()))?.len();
    }
    File::create(partition)?.set_len(size.next_multiple_of(MIB).max(SMALLEST))?;
    let mut make = tools.command("sbin/mkfs.fat", "mkfs.fat");
    output(make.args(["-F", "32", "-s", "1", "-n", "MACHINEOS", "--invariant"]).arg(partition))?;
    let (settings, entry) = (work.join("loader.conf"), work.join("machineos.conf"));
    fs::write(&settings, "timeout 0\ndefault machineos.conf\neditor no\n")?;
    let command_line = content.command_line;
    fs::write(
        &entry,
        format!("title MachineOS\nlinux /vmlinuz\ninitrd /initrd.img\noptions {command_line}\n"),
    )?;
    let run = |called: &str, arguments: &[&Path]| {
        let mut command = tools.command("usr/bin/mtools", called);
        command
            .env("SOURCE_DATE_EPOCH", content.time.to_string())
            .env("TZ", "UTC")
            .env("MTOOLSRC", "/dev/null");
        output(command.arg("-i").arg(partition).args(arguments)).map(drop)
    };
    run("mmd", &["::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"].map(Path::new))?;
    for (file, place) in [
        (content.loader, FALLBACK),
        (&settings, "::/loader/loader.conf"),
        (&entry, "::/loader/entries/machineos.conf"),
        (content.kernel, "::/vmlinuz"),
        (content.initrd, "::/initrd.img"),
    ] {
        run("mcopy", &[file, Path::new(place)])?;
    }
    Ok(())
}

/// The table of partitions (UEFI 2.10, 5.3) for one of so many sectors: what goes to which sector.
fn tables(sectors: u64) -> Vec<(u64, Vec<u8>)> {
    let (begin, end) = (ALIGNMENT, ALIGNMENT + sectors - 1);
    let last = ALIGNMENT + sectors + ALIGNMENT - 1;
    let table_sectors = u64::from(ENTRIES * ENTRY) / SECTOR;
    let mut entries = [SYSTEM_PARTITION, PARTITION].concat();
    for number in [begin, end, 0] {
        entries.extend(number.to_le_bytes());
    }
    entries.extend("MachineOS".encode_utf16().flat_map(u16::to_le_bytes));
    entries.resize((ENTRIES * ENTRY) as usize, 0);

    let header = |own: u64, other: u64, table: u64| {
        let mut bytes = b"EFI PART\0\0\x01\0".to_vec();
        bytes.extend(92_u32.to_le_bytes());
        bytes.extend([0; 8]);
        for number in [own, other, 2 + table_sectors, last - 1 - table_sectors] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(DISK);
        bytes.extend(table.to_le_bytes());
        for number in [ENTRIES, ENTRY, crc32(&entries)] {
            bytes.extend(number.to_le_bytes());
        }
        let sum = crc32(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    // The table of old, which says that the whole disk is taken.
    let mut protective = vec![0; 446];
    protective.extend([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    protective.extend(1_u32.to_le_bytes());
    protective.extend(u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    protective.resize(510, 0);
    protective.extend([0x55, 0xaa]);

    let copy = last - table_sectors;
    vec![
        (0, protective),
        (1, header(1, last, 2)),
        (2, entries.clone()),
        (copy, entries.clone()),
        (last, header(last, 1, copy)),
    ]
}

/// As in Ethernet (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_tables_say_the_same_of_the_partition() {
        let tables = tables(81_920);
        let at = |place: u64| &tables.iter().find(|(sector, _)| *sector == place).unwrap().1;
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let (first, last) = (at(1), number(at(1), 32));
        assert_eq!(last, 2048 + 81_920 + 2048 - 1);
        assert_eq!(number(at(last), 32), 1);
        assert_eq!(at(2), at(number(at(last), 72)));
        assert_eq!((number(at(2), 32), number(at(2), 40)), (2048, 2048 + 81_919));
        let mut header = first.clone();
        let sum = u32::from_le_bytes(header[16..20].try_into().unwrap());
        header[16..20].fill(0);
        assert_eq!((sum, header.len()), (crc32(&header), 92));
    }
}

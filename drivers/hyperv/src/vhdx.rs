//! A VHDX file, written from the content of a disk: dynamic, so that empty parts take no room ([MS-VHDX]).

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The unit in which the file grows, and in which empty parts are left out.
const BLOCK: u64 = 2 * MIB;
const SECTOR: u32 = 512;
/// The unit in which Linux and Windows like to write today.
const PHYSICAL_SECTOR: u32 = 4096;
/// After so many blocks, the table has a place for a map of sectors, which only differencing disks use ([MS-VHDX] 2.5).
const BLOCKS_PER_MAP: u64 = (1 << 23) * SECTOR as u64 / BLOCK;
/// What the format allows.
const LARGEST_DISK: u64 = 64 << 40;

/// Where everything lies. The first megabyte holds the headers and both copies of the table of regions.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const TABLE: u64 = 3 * MIB;
/// Values begin here within the metadata.
const VALUES: u32 = 64 * 1024;

/// Entries of the table of blocks: the state in the lowest bits, the place in megabytes above the twentieth.
const ZERO_BLOCK: u64 = 2;
const PRESENT_BLOCK: u64 = 6;

const BAT_REGION: Uuid = Uuid::from_u128(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
const METADATA_REGION: Uuid = Uuid::from_u128(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);
const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
const DISK_SIZE: Uuid = Uuid::from_u128(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
const DISK_ID: Uuid = Uuid::from_u128(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR_SIZE: Uuid = Uuid::from_u128(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
/// How many values the metadata has.
const ITEMS: u16 = 5;
const REQUIRED: u32 = 4;
const OF_THE_DISK: u32 = 2;

/// What every VHDX begins with.
pub(crate) const SIGNATURE: &[u8; 8] = b"vhdxfile";

/// Writes a disk of `size` bytes whose content is read from `source`, which may end before that. Returns the size that
/// the disk has: a whole number of megabytes.
///
/// The ids in it come from `identity`: disks that are based on it know it by those, and one that is lost can be written
/// again.
pub(crate) fn write(file: &mut File, source: &mut impl Read, size: u64, identity: &str) -> io::Result<u64> {
    if size == 0 || size > LARGEST_DISK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("A disk cannot have {size} bytes")));
    }
    let size = size.next_multiple_of(MIB);
    let blocks = size.div_ceil(BLOCK);
    let entries = blocks + (blocks - 1) / BLOCKS_PER_MAP;
    let table_size = (entries * 8).next_multiple_of(MIB);
    let mut table = vec![0_u64; usize::try_from(entries).map_err(io::Error::other)?];
    let mut next = TABLE + table_size;
    let empty = vec![0; usize::try_from(BLOCK).map_err(io::Error::other)?];
    let mut block = empty.clone();
    for number in 0..blocks {
        let filled = fill(source, &mut block)?;
        block[filled..].fill(0);
        let entry = usize::try_from(number + number / BLOCKS_PER_MAP).map_err(io::Error::other)?;
        table[entry] = if block == empty {
            ZERO_BLOCK
        } else {
            file.seek(SeekFrom::Start(next))?;
            file.write_all(&block)?;
            let place = next;
            next += BLOCK;
            ((place / MIB) << 20) | PRESENT_BLOCK
        };
    }
    if fill(source, &mut block[..1])? > 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "There is more content than the disk has room for",
        ));
    }
    file.set_len(next)?;
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    put(file, TABLE, &bytes)?;
    put(file, METADATA, &metadata(size, id(identity, "disk")))?;
    let regions = regions(table_size);
    for place in REGIONS {
        put(file, place, &regions)?;
    }
    for (sequence, place) in HEADERS.into_iter().enumerate() {
        put(file, place, &header(sequence as u64 + 1, identity))?;
    }
    let mut identifier = SIGNATURE.to_vec();
    identifier.extend("machine".encode_utf16().flat_map(u16::to_le_bytes));
    put(file, 0, &identifier)?;
    Ok(size)
}

fn put(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(place))?;
    file.write_all(bytes)
}

/// Reads until the buffer is full or there is no more.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The log is empty: its id is zero.
fn header(sequence: u64, identity: &str) -> Vec<u8> {
    let mut bytes = b"head\0\0\0\0".to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(id(identity, "file").to_bytes_le());
    bytes.extend(id(identity, "content").to_bytes_le());
    bytes.extend([0; 16]);
    // Versions of the log and of the format.
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(small(MIB).to_le_bytes());
    bytes.extend(LOG.to_le_bytes());
    bytes.resize(4096, 0);
    sealed(bytes)
}

fn regions(table_size: u64) -> Vec<u8> {
    let mut bytes = b"regi\0\0\0\0".to_vec();
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([0; 4]);
    for (region, place, size) in [(BAT_REGION, TABLE, table_size), (METADATA_REGION, METADATA, MIB)] {
        bytes.extend(region.to_bytes_le());
        bytes.extend(place.to_le_bytes());
        bytes.extend(small(size).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    bytes.resize(64 * 1024, 0);
    sealed(bytes)
}

fn metadata(size: u64, disk: Uuid) -> Vec<u8> {
    let mut parameters = small(BLOCK).to_le_bytes().to_vec();
    parameters.extend([0; 4]);
    let items: [(Uuid, u32, Vec<u8>); ITEMS as usize] = [
        (FILE_PARAMETERS, REQUIRED, parameters),
        (DISK_SIZE, REQUIRED | OF_THE_DISK, size.to_le_bytes().to_vec()),
        (DISK_ID, REQUIRED | OF_THE_DISK, disk.to_bytes_le().to_vec()),
        (LOGICAL_SECTOR, REQUIRED | OF_THE_DISK, SECTOR.to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR_SIZE, REQUIRED | OF_THE_DISK, PHYSICAL_SECTOR.to_le_bytes().to_vec()),
    ];
    let mut bytes = b"metadata\0\0".to_vec();
    bytes.extend(ITEMS.to_le_bytes());
    bytes.extend([0; 20]);
    let mut place = VALUES;
    for (id, flags, value) in &items {
        bytes.extend(id.to_bytes_le());
        bytes.extend(place.to_le_bytes());
        bytes.extend(small(value.len() as u64).to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 4]);
        place += small(value.len() as u64);
    }
    bytes.resize(VALUES as usize, 0);
    bytes.extend(items.into_iter().flat_map(|(_, _, value)| value));
    bytes
}

/// Sizes of tables and values; that of the largest disk's table is 256 MiB.
fn small(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// One of the ids of a disk (RFC 9562, version 8).
fn id(identity: &str, what: &str) -> Uuid {
    let digest = Sha256::digest(format!("{what}\n{identity}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// With its checksum, whose own place counts as zero.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Castagnoli's polynomial (RFC 3720, appendix B.4), bit by bit: it is asked for 136 kilobytes once.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, path::Path, process::Command};

    use super::*;

    /// What `qemu-img` makes of the disk; `None` where there is none.
    fn raw(path: &Path) -> Option<Vec<u8>> {
        let check = Command::new("qemu-img").args(["check", "-f", "vhdx"]).arg(path).output().ok()?;
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        let target = path.with_extension("raw");
        let told = Command::new("qemu-img")
            .args(["convert", "-f", "vhdx", "-O", "raw"])
            .args([path, &target])
            .output()
            .unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        Some(fs::read(target).unwrap())
    }

    #[test]
    fn a_sum_is_the_one_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_disk_is_the_same_to_qemu_and_its_empty_parts_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vhdx");
        let mut content = vec![0; 21 * 1024 * 1024 + 512];
        for (place, byte) in [(0, 1), (510, 0x55), (7 << 20, 2), ((21 << 20) + 511, 3)] {
            content[place] = byte;
        }
        let mut file = File::create_new(&path).unwrap();
        let size = write(&mut file, &mut content.as_slice(), content.len() as u64, "x").unwrap();
        assert_eq!(size, 22 << 20);
        assert_eq!(fs::metadata(&path).unwrap().len(), (4 << 20) + 3 * BLOCK);
        let Some(found) = raw(&path) else {
            skipped::say("qemu-img", "There is no qemu-img: disks were not read by it");
            return;
        };
        assert_eq!(found.len() as u64, size);
        assert!(
            found[..content.len()] == content[..] && found[content.len()..].iter().all(|byte| *byte == 0)
        );
    }

    #[test]
    fn a_disk_with_places_for_maps_in_its_table_is_one_to_qemu() {
        // Of 9 GiB: two places for maps. Content lies before, between and behind them.
        const MARKS: [u64; 3] = [0, (4 << 30) + MIB, (8 << 30) + MIB];
        struct Sparse(u64);
        impl Read for Sparse {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(0);
                for mark in MARKS {
                    let place = mark.checked_sub(self.0).and_then(|place| usize::try_from(place).ok());
                    if let Some(byte) = place.and_then(|place| buffer.get_mut(place)) {
                        *byte = 7;
                    }
                }
                self.0 += buffer.len() as u64;
                Ok(buffer.len())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vhdx");
        let mut file = File::create_new(&path).unwrap();
        let size = 9 << 30;
        write(&mut file, &mut Sparse(0).take(size), size, "x").unwrap();
        let image = format!(
            "json:{{\"driver\":\"vhdx\",\"file\":{{\"driver\":\"file\",\"filename\":\"{}\"}}}}",
            path.display()
        );
        for mark in MARKS {
            let read = format!("read -P 7 {mark} 1");
            let Ok(told) = Command::new("qemu-io").args(["-r", "-c", &read, &image]).output() else {
                skipped::say("qemu-io", "There is no qemu-io: the table of a large disk was not read by it");
                return;
            };
            let text = String::from_utf8_lossy(&told.stdout).into_owned();
            assert!(told.status.success() && !text.contains("failed"), "{mark}: {text}");
        }
    }

    #[test]
    fn content_that_does_not_fit_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(write(&mut file, &mut vec![1; 3 << 20].as_slice(), 1 << 20, "x").is_err());
        assert!(write(&mut file, &mut [].as_slice(), 0, "x").is_err());
    }
}

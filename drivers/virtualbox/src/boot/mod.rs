//! The boot disc of an image that is a kernel and an initial RAM disk: an ISO that the firmware starts.
//!
//! VirtualBox boots from disks and discs only. The disc has no file system that anybody needs: a loader of one sector
//! (`loader.asm`), and the parts of the kernel where the loader's table says.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Made from `loader.asm`.
const LOADER: &[u8] = include_bytes!("loader.bin");
/// Where the loader has its table.
const TABLE: usize = 16;

const SECTOR: usize = 2048;
const PRIMARY: usize = 16;
const BOOT_RECORD: usize = 17;
const TERMINATOR: usize = 18;
const PATH_TABLE_LITTLE: usize = 19;
const PATH_TABLE_BIG: usize = 20;
const ROOT: usize = 21;
const CATALOG: usize = 22;
const LOADER_SECTOR: usize = 23;
const COMMAND_LINE: usize = 24;
const FIRST_PART: usize = 25;

/// Where the loader puts things (Documentation/arch/x86/boot.rst).
const REAL_MODE: u32 = 0x1_0000;
/// Real-mode code, heap and stack share the first 56 KiB.
const HEAP_END: u16 = 0xde00;
const LARGEST_SETUP: usize = 0x8000;
const COMMAND_LINE_ADDRESS: u32 = 0x1_e000;
const PROTECTED_MODE: u32 = 0x10_0000;
/// What the kernel takes besides, and the firmware's tables at the end of the memory.
const ROOM: u64 = 32 << 20;
/// No kernel or initial RAM disk that is meant for a VM is nearly as large.
const LARGEST: u64 = 1 << 30;

/// Why there is no boot disc.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Could not write the boot disc `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is no kernel that can be booted from a disc: {reason}", path.display())]
    Kernel { path: PathBuf, reason: &'static str },
}

/// A boot disc that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disc {
    /// The VM has to have so much memory, in MiB.
    pub(crate) least_memory: u64,
}

/// Looks at what a disc would be made from, and changes nothing. Blocks.
pub(crate) fn look(kernel: &Path, initrd: &Path, command_line: &str) -> Result<Disc, BootError> {
    plan(kernel, initrd, command_line).map(|(_, _, layout)| Disc { least_memory: layout.least_memory() })
}

/// Refuses what cannot be booted.
fn plan(kernel: &Path, initrd: &Path, command_line: &str) -> Result<(Vec<u8>, Setup, Layout), BootError> {
    let broken = |reason| BootError::Kernel { path: kernel.to_owned(), reason };
    let (header, kernel_size) = head(kernel)?;
    let setup = Setup::parse(&header, kernel_size).map_err(broken)?;
    if command_line.len() >= SECTOR.min(setup.longest_command_line) {
        return Err(broken("its command line is too long"));
    }
    let (_, initrd_size) = head(initrd)?;
    let layout = Layout::of(&setup, kernel_size, initrd_size)
        .ok_or_else(|| broken("it and its RAM disk are too large"))?;
    Ok((header, setup, layout))
}

/// Writes the disc, all of it or nothing. The same parts always give the same bytes. Blocks.
pub(crate) fn write(
    path: &Path,
    kernel: &Path,
    initrd: &Path,
    command_line: &str,
) -> Result<Disc, BootError> {
    let (header, setup, layout) = plan(kernel, initrd, command_line)?;
    let failed = |source| BootError::Write { path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let lay_out = || -> io::Result<()> {
        let mut disc = OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?;
        disc.write_all(&layout.beginning(command_line))?;
        disc.write_all(&padded(setup.patched(&header, &layout)))?;
        copy(kernel, setup.size as u64, &mut disc)?;
        copy(initrd, 0, &mut disc)?;
        disc.sync_all()?;
        fs::rename(&partial, path)
    };
    lay_out().map_err(failed)?;
    Ok(Disc { least_memory: layout.least_memory() })
}

fn head(path: &Path) -> Result<(Vec<u8>, u64), BootError> {
    let read = |source| BootError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut head = Vec::new();
    file.take(LARGEST_SETUP as u64).read_to_end(&mut head).map_err(read)?;
    Ok((head, size))
}

/// Copies a file from an offset on, up to the end of a sector.
fn copy(from: &Path, offset: u64, disc: &mut File) -> io::Result<()> {
    let mut source = File::open(from)?;
    source.seek(SeekFrom::Start(offset))?;
    let count = io::copy(&mut source.take(LARGEST), disc)?;
    let over = usize::try_from(count % SECTOR as u64).unwrap_or_default();
    if over > 0 {
        disc.write_all(&vec![0; SECTOR - over])?;
    }
    Ok(())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

/// What the kernel's header says.
#[derive(Debug)]
struct Setup {
    /// Of the real-mode part, in bytes.
    size: usize,
    /// The first address that the kernel leaves alone while it unpacks itself.
    end: u64,
    longest_command_line: usize,
}

impl Setup {
    fn parse(head: &[u8], size: u64) -> Result<Self, &'static str> {
        let byte = |at: usize| head.get(at).copied().unwrap_or_default();
        let number = |at: usize, length: usize| {
            (0..length).rev().fold(0_u64, |number, index| number << 8 | u64::from(byte(at + index)))
        };
        if head.get(0x202..0x206) != Some(b"HdrS") {
            return Err("it has no header");
        }
        // Since Linux 3.8 of 2012 it says where it unpacks itself and how much room that takes.
        if number(0x206, 2) < 0x020c || byte(0x211) & 1 == 0 {
            return Err("it is too old");
        }
        let sectors = match byte(0x1f1) {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let setup = (sectors + 1) * 512;
        if setup > LARGEST_SETUP || setup > head.len() || size > LARGEST {
            return Err("it is too large");
        }
        let end = number(0x258, 8).checked_add(number(0x260, 4)).filter(|end| *end < LARGEST);
        Ok(Self {
            size: setup,
            end: end.ok_or("it wants to be at an address that is too high")?,
            longest_command_line: usize::try_from(number(0x238, 4)).unwrap_or_default(),
        })
    }

    /// The real-mode part as a boot loader hands it over.
    fn patched(&self, head: &[u8], layout: &Layout) -> Vec<u8> {
        let mut setup = head[..self.size].to_vec();
        let mut put = |at: usize, bytes: &[u8]| setup[at..at + bytes.len()].copy_from_slice(bytes);
        // The mode of the screen stays as it is.
        put(0x1fa, &0xffff_u16.to_le_bytes());
        // A boot loader without a number, and the heap may be used.
        put(0x210, &[0xff, head[0x211] | 0x80]);
        put(0x218, &layout.initrd_address.to_le_bytes());
        put(0x21c, &layout.initrd_size.to_le_bytes());
        put(0x224, &HEAP_END.to_le_bytes());
        put(0x228, &COMMAND_LINE_ADDRESS.to_le_bytes());
        setup
    }
}

/// Where everything is, on the disc and in memory.
#[derive(Debug)]
struct Layout {
    setup_sectors: u32,
    kernel_sectors: u32,
    initrd_sectors: u32,
    initrd_address: u32,
    initrd_size: u32,
}

impl Layout {
    fn of(setup: &Setup, kernel: u64, initrd: u64) -> Option<Self> {
        let sectors = |bytes: u64| u32::try_from(bytes.div_ceil(SECTOR as u64)).ok();
        let (initrd_size, kernel) =
            (u32::try_from(initrd).ok().filter(|size| u64::from(*size) <= LARGEST)?, kernel);
        Some(Self {
            setup_sectors: sectors(setup.size as u64)?,
            kernel_sectors: sectors(kernel.checked_sub(setup.size as u64)?)?,
            initrd_sectors: sectors(initrd)?,
            initrd_address: u32::try_from(setup.end.next_multiple_of(1 << 20)).ok()?,
            initrd_size,
        })
    }

    fn least_memory(&self) -> u64 {
        (u64::from(self.initrd_address) + u64::from(self.initrd_size) + ROOM).div_ceil(1 << 20)
    }

    fn sectors(&self) -> u32 {
        number(FIRST_PART) + self.setup_sectors + self.kernel_sectors + self.initrd_sectors
    }

    /// All sectors before the parts of the kernel.
    fn beginning(&self, command_line: &str) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_PART * SECTOR];
        let mut put = |sector: usize, content: &[u8]| {
            bytes[sector * SECTOR..][..content.len()].copy_from_slice(content);
        };
        put(PRIMARY, &volume_descriptor(self.sectors()));
        let mut record = b"\0CD001\x01EL TORITO SPECIFICATION".to_vec();
        record.resize(0x47, 0);
        record.extend(number(CATALOG).to_le_bytes());
        put(BOOT_RECORD, &record);
        put(TERMINATOR, b"\xffCD001\x01");
        let root = number(ROOT);
        put(PATH_TABLE_LITTLE, &[&[1, 0], &root.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
        put(PATH_TABLE_BIG, &[&[1, 0], &root.to_be_bytes()[..], &[0, 1, 0, 0]].concat());
        put(ROOT, &[folder(0), folder(1)].concat());
        put(CATALOG, &catalog());
        put(LOADER_SECTOR, &self.loader());
        put(COMMAND_LINE, command_line.as_bytes());
        bytes
    }

    /// The loader with its table.
    fn loader(&self) -> Vec<u8> {
        let first = number(FIRST_PART);
        let (kernel, initrd) = (first + self.setup_sectors, first + self.setup_sectors + self.kernel_sectors);
        let entries = [
            (first, self.setup_sectors, REAL_MODE),
            (number(COMMAND_LINE), 1, COMMAND_LINE_ADDRESS),
            (kernel, self.kernel_sectors, PROTECTED_MODE),
            (initrd, self.initrd_sectors, self.initrd_address),
        ];
        let mut loader = LOADER.to_vec();
        for (index, (sector, count, address)) in entries.into_iter().enumerate() {
            let entry: Vec<u8> = [sector, count, address].into_iter().flat_map(u32::to_le_bytes).collect();
            loader[TABLE + index * 12..][..12].copy_from_slice(&entry);
        }
        loader
    }
}

/// Sectors here are few.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// El Torito's: whatever is started is this one sector, loaded as it is.
fn catalog() -> Vec<u8> {
    let mut validation = vec![1, 0, 0, 0];
    validation.resize(28, 0);
    // The words add up to nothing: 0x0001 + 0xaa55 + the checksum.
    validation.extend(0_u16.wrapping_sub(1).wrapping_sub(0xaa55).to_le_bytes());
    validation.extend([0x55, 0xaa]);
    let mut entry = vec![0x88, 0, 0, 0, 0, 0];
    // Counted in sectors of 512 bytes.
    entry.extend(4_u16.to_le_bytes());
    entry.extend(number(LOADER_SECTOR).to_le_bytes());
    entry.resize(32, 0);
    [validation, entry].concat()
}

fn both32(value: u32) -> [u8; 8] {
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    [little[0], little[1], little[2], little[3], big[0], big[1], big[2], big[3]]
}

fn both16(value: u16) -> [u8; 4] {
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

/// The entry of the empty folder for itself (0) or its parent (1).
fn folder(name: u8) -> Vec<u8> {
    let mut bytes = vec![34, 0];
    bytes.extend(both32(number(ROOT)));
    bytes.extend(both32(number(SECTOR)));
    // 1 January 2026.
    bytes.extend([126, 1, 1, 0, 0, 0, 0, 2, 0, 0]);
    bytes.extend(both16(1));
    bytes.extend([1, name]);
    bytes
}

fn volume_descriptor(sectors: u32) -> Vec<u8> {
    let text = |text: &str, size: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(size, b' ');
        bytes
    };
    let mut bytes = b"\x01CD001\x01\0".to_vec();
    bytes.extend(text("", 32));
    bytes.extend(text("MACHINE_BOOT", 32));
    bytes.extend([0; 8]);
    bytes.extend(both32(sectors));
    bytes.extend([0; 32]);
    bytes.extend(both16(1));
    bytes.extend(both16(1));
    bytes.extend(both16(2048));
    bytes.extend(both32(10));
    bytes.extend(number(PATH_TABLE_LITTLE).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(number(PATH_TABLE_BIG).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(folder(0));
    for size in [128, 128, 128, 128, 37, 37, 37] {
        bytes.extend(text("", size));
    }
    for date in ["2026010100000000\0", "2026010100000000\0", "0000000000000000\0", "0000000000000000\0"] {
        bytes.extend(date.as_bytes());
    }
    bytes.push(1);
    bytes.resize(SECTOR, 0);
    bytes
}

#[cfg(test)]
mod tests;

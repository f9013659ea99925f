#![allow(clippy::unwrap_used)]
use std::process::Command;

use super::*;

/// What a kernel looks like from outside: a header, and 5000 bytes of nothing but 0x90.
pub(crate) fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 3 * 512];
    kernel[0x1f1] = 2;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x200_0001_u32.to_le_bytes());
    kernel.extend(vec![0x90; 5000]);
    kernel
}

fn written(kernel: &[u8]) -> (tempfile::TempDir, Result<Disc, BootError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("vmlinuz"), kernel).unwrap();
    fs::write(path("initrd.img"), vec![7; 3000]).unwrap();
    let disc = write(&path("boot.iso"), &path("vmlinuz"), &path("initrd.img"), "console=ttyS0");
    (folder, disc)
}

#[test]
fn the_loaders_table_leads_to_the_parts_of_the_kernel() {
    let (folder, disc) = written(&kernel());
    // 16 MiB and 32 MiB and a byte, and then the RAM disk.
    assert_eq!(disc.unwrap(), Disc { least_memory: 49 + 1 + 32 });
    let disc = fs::read(folder.path().join("boot.iso")).unwrap();
    let number = |at: usize| u32::from_le_bytes(disc[at..at + 4].try_into().unwrap());
    let table = LOADER_SECTOR * SECTOR + TABLE;
    let entry = |index: usize| {
        let at = table + index * 12;
        let start = number(at) as usize * SECTOR;
        (&disc[start..start + number(at + 4) as usize * SECTOR], number(at + 8))
    };
    let (setup, address) = entry(0);
    assert_eq!((setup.len(), address), (SECTOR, REAL_MODE));
    assert_eq!(setup[0x210..0x212], [0xff, 0x81]);
    assert_eq!(setup[0x228..0x22c], COMMAND_LINE_ADDRESS.to_le_bytes());
    assert_eq!(setup[0x218..0x21c], (49_u32 << 20).to_le_bytes());
    assert_eq!(setup[0x21c..0x220], 3000_u32.to_le_bytes());
    assert!(entry(1).0.starts_with(b"console=ttyS0\0"));
    let (code, address) = entry(2);
    assert_eq!((code.len(), address), (3 * SECTOR, PROTECTED_MODE));
    assert!(code[..5000].iter().all(|byte| *byte == 0x90) && code[5000..].iter().all(|byte| *byte == 0));
    let (initrd, address) = entry(3);
    assert_eq!((initrd.len(), address), (2 * SECTOR, 49 << 20));
    assert!(initrd[..3000].iter().all(|byte| *byte == 7));
    assert_eq!(number(table + 4 * 12 + 4), 0);
    assert_eq!(disc.len(), number(PRIMARY * SECTOR + 80) as usize * SECTOR);
}

#[test]
fn what_is_no_kernel_is_refused() {
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut kernel = kernel();
        change(&mut kernel);
        let (folder, disc) = written(&kernel);
        assert!(!folder.path().join("boot.iso").exists());
        disc.unwrap_err().to_string()
    };
    for (change, reason) in [
        (Vec::clear as fn(&mut Vec<u8>), "it has no header"),
        (|kernel| kernel[0x202] = 0, "it has no header"),
        (|kernel| kernel[0x206] = 1, "it is too old"),
        (|kernel| kernel[0x1f1] = 255, "it is too large"),
        (|kernel| kernel.truncate(1024), "it is too large"),
        (|kernel| kernel[0x25f] = 1, "it wants to be at an address that is too high"),
        (|kernel| kernel[0x238..0x23c].fill(0), "its command line is too long"),
    ] {
        let told = broken(change);
        assert!(told.ends_with(&format!("from a disc: {reason}")), "{told}");
    }
}

/// So that nobody has to believe bytes.
#[test]
fn the_loader_is_what_its_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/boot/loader.asm");
    let made = folder.path().join("loader.bin");
    let Ok(status) = Command::new("nasm").args(["-f", "bin", "-o"]).arg(&made).arg(source).status() else {
        skipped::say("nasm", "the loader is not made from its source");
        return;
    };
    assert!(status.success());
    assert_eq!(fs::read(made).unwrap(), LOADER);
}

//! An ISO 9660 image (level 1, with Joliet names) of a few files in one folder.

const SECTOR: usize = 2048;
/// Sixteen sectors of system area come first.
const PRIMARY: usize = 16;
const JOLIET: usize = 17;
const TERMINATOR: usize = 18;
/// Path tables: little and big endian for each of the two trees.
const PATH_TABLES: usize = 19;
const PRIMARY_ROOT: usize = 23;
const JOLIET_ROOT: usize = 24;
const FIRST_FILE: usize = 25;
const PATH_TABLE_SIZE: u32 = 10;
/// 1 January 2026, 00:00 UTC: the same content gives the same image.
const DATE: [u8; 7] = [126, 1, 1, 0, 0, 0, 0];
const LONG_DATE: &[u8; 17] = b"2026010100000000\0";
const NO_DATE: &[u8; 17] = b"0000000000000000\0";

/// The image. `files` are names and contents; names are ASCII and differ in their first eight characters.
pub(super) fn iso9660(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut files = files.to_vec();
    files.sort_unstable();
    let mut extents = Vec::with_capacity(files.len());
    let mut next = FIRST_FILE;
    for (_, content) in &files {
        extents.push(next);
        next += content.len().div_ceil(SECTOR).max(1);
    }
    let sectors = next;

    let mut image = vec![0; sectors * SECTOR];
    for (sector, tree) in [(PRIMARY, Tree::Primary), (JOLIET, Tree::Joliet)] {
        let descriptor = volume_descriptor(tree, label, sectors);
        image[sector * SECTOR..][..SECTOR].copy_from_slice(&descriptor);
    }
    image[TERMINATOR * SECTOR..][..7].copy_from_slice(b"\xffCD001\x01");

    for tree in [Tree::Primary, Tree::Joliet] {
        let root = number(tree.root());
        let mut little = vec![1, 0];
        little.extend(root.to_le_bytes());
        little.extend([1, 0, 0, 0]);
        let mut big = vec![1, 0];
        big.extend(root.to_be_bytes());
        big.extend([0, 1, 0, 0]);
        image[tree.path_table() * SECTOR..][..little.len()].copy_from_slice(&little);
        image[(tree.path_table() + 1) * SECTOR..][..big.len()].copy_from_slice(&big);

        let mut folder = record(&[0], tree.root(), SECTOR, true);
        folder.extend(record(&[1], tree.root(), SECTOR, true));
        for ((name, content), extent) in files.iter().zip(&extents) {
            folder.extend(record(&tree.file_name(name), *extent, content.len(), false));
        }
        assert!(folder.len() <= SECTOR, "the folder of a seed fits one sector");
        image[tree.root() * SECTOR..][..folder.len()].copy_from_slice(&folder);
    }
    for ((_, content), extent) in files.iter().zip(&extents) {
        image[extent * SECTOR..][..content.len()].copy_from_slice(content);
    }
    image
}

/// The two folder trees of the image, which share their files.
#[derive(Clone, Copy, PartialEq)]
enum Tree {
    Primary,
    Joliet,
}

impl Tree {
    fn root(self) -> usize {
        if self == Self::Primary { PRIMARY_ROOT } else { JOLIET_ROOT }
    }

    fn path_table(self) -> usize {
        if self == Self::Primary { PATH_TABLES } else { PATH_TABLES + 2 }
    }

    /// Text in this tree's character set, filled up with spaces.
    fn text(self, text: &str, size: usize) -> Vec<u8> {
        let mut bytes = self.encode(text);
        let space = self.encode(" ");
        while bytes.len() < size {
            bytes.extend(&space);
        }
        bytes.truncate(size);
        bytes
    }

    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Primary => text.as_bytes().to_vec(),
            Self::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    fn file_name(self, name: &str) -> Vec<u8> {
        match self {
            Self::Primary => {
                let good = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
                let short: String = name.chars().take(8).map(good).collect();
                format!("{short}.;1").into_bytes()
            }
            Self::Joliet => self.encode(&format!("{name};1")),
        }
    }
}

fn volume_descriptor(tree: Tree, label: &str, sectors: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.push(if tree == Tree::Primary { 1 } else { 2 });
    bytes.extend(b"CD001\x01\0");
    bytes.extend(tree.text("", 32));
    bytes.extend(tree.text(label, 32));
    bytes.extend([0; 8]);
    bytes.extend(both32(sectors));
    let mut escapes = [0; 32];
    if tree == Tree::Joliet {
        escapes[..3].copy_from_slice(b"%/E");
    }
    bytes.extend(escapes);
    bytes.extend(both16(1));
    bytes.extend(both16(1));
    bytes.extend(both16(2048));
    bytes.extend(PATH_TABLE_SIZE.to_le_bytes());
    bytes.extend(PATH_TABLE_SIZE.to_be_bytes());
    bytes.extend(number(tree.path_table()).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(number(tree.path_table() + 1).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(record(&[0], tree.root(), SECTOR, true));
    // Volume set, publisher, preparer, application; then the copyright, abstract and bibliography files.
    for size in [128, 128, 128, 128, 37, 37, 37] {
        bytes.extend(tree.text("", size));
    }
    for date in [LONG_DATE, LONG_DATE, NO_DATE, NO_DATE] {
        bytes.extend(date);
    }
    bytes.push(1);
    bytes.resize(SECTOR, 0);
    bytes
}

/// One entry of a folder.
fn record(name: &[u8], extent: usize, size: usize, folder: bool) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both32(extent));
    bytes.extend(both32(size));
    bytes.extend(DATE);
    bytes.extend([if folder { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    bytes
}

fn both16(value: u16) -> [u8; 4] {
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

fn both32(value: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number(value).to_le_bytes());
    bytes[4..].copy_from_slice(&number(value).to_be_bytes());
    bytes
}

/// Sizes here are bounded by the largest user data, far below 4 GiB.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

//! Which shell has started this program: on Windows no variable tells.

use std::{collections::BTreeMap, io};

use windows_sys::Win32::{
    Foundation::{CloseHandle, HANDLE, INVALID_HANDLE_VALUE},
    System::Diagnostics::ToolHelp::{
        CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
    },
};

/// A shell may have started us through something else, such as a script or a package manager's stand-in.
const GENERATIONS: usize = 8;

/// The shells that are known by the names of their programs.
const SHELLS: [&str; 7] = ["powershell", "pwsh", "cmd", "bash", "zsh", "sh", "fish"];

/// The name of the nearest shell among the programs that have started this one.
pub(super) fn started_by() -> Option<String> {
    let programs = programs().ok()?;
    let mut id = std::process::id();
    for _ in 0..GENERATIONS {
        let parent = programs.get(&id)?.parent;
        let name = &programs.get(&parent)?.name;
        if SHELLS.contains(&name.as_str()) {
            return Some(name.clone());
        }
        id = parent;
    }
    None
}

struct Program {
    parent: u32,
    /// In lower case, without `.exe`.
    name: String,
}

/// All that run, by their ids.
fn programs() -> io::Result<BTreeMap<u32, Program>> {
    let snapshot = Snapshot::take()?;
    let mut found = BTreeMap::new();
    let mut entry = snapshot.next(true);
    while let Some(program) = entry {
        let length = program.szExeFile.iter().position(|&unit| unit == 0).unwrap_or(0);
        let name = String::from_utf16_lossy(&program.szExeFile[..length]).to_ascii_lowercase();
        let name = name.strip_suffix(".exe").unwrap_or(&name).to_owned();
        found.insert(program.th32ProcessID, Program { parent: program.th32ParentProcessID, name });
        entry = snapshot.next(false);
    }
    Ok(found)
}

struct Snapshot(HANDLE);

impl Snapshot {
    #[expect(unsafe_code, reason = "the standard library knows nothing of other processes")]
    fn take() -> io::Result<Self> {
        // SAFETY: the call takes numbers only.
        let handle = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
        if handle == INVALID_HANDLE_VALUE { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    #[expect(unsafe_code, reason = "the standard library knows nothing of other processes")]
    fn next(&self, is_first: bool) -> Option<PROCESSENTRY32W> {
        let size = u32::try_from(size_of::<PROCESSENTRY32W>()).unwrap_or(0);
        let mut entry = PROCESSENTRY32W { dwSize: size, ..PROCESSENTRY32W::default() };
        let call = if is_first { Process32FirstW } else { Process32NextW };
        // SAFETY: the handle is open, and the entry says how large it is.
        (unsafe { call(self.0, &raw mut entry) } != 0).then_some(entry)
    }
}

impl Drop for Snapshot {
    #[expect(unsafe_code, reason = "the standard library knows no snapshots")]
    fn drop(&mut self) {
        // SAFETY: it is ours, and used no more.
        unsafe { CloseHandle(self.0) };
    }
}

//! Access lists.
//!
//! A file's security descriptor names its owner and lists who may do what. A folder of ours gets a list that does not go on
//! with its parent's, gives everything to the user, the system and the administrators, and is inherited by all that is
//! made in it. Drives without access lists (FAT) ignore it, as they have no privacy at all.

mod account;

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::windows::{ffi::OsStrExt as _, io::AsRawHandle as _},
    path::{Path, PathBuf},
    ptr,
};

use account::{Account, Sid};
use windows_sys::Win32::{
    Foundation::{ERROR_SUCCESS, HANDLE, LocalFree},
    Security::{
        ACCESS_ALLOWED_ACE, ACE_HEADER, ACL,
        Authorization::{
            ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
            SE_FILE_OBJECT,
        },
        DACL_SECURITY_INFORMATION, GetAce, INHERIT_ONLY_ACE, OWNER_SECURITY_INFORMATION,
        PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES,
    },
    Storage::FileSystem::CreateDirectoryW,
};

/// Kinds of entries that give something: a plain one, and one with a condition. Both begin alike.
const ALLOWED: u8 = 0;
const ALLOWED_IF: u8 = 9;

pub(crate) fn exposure(file: &File) -> io::Result<Option<String>> {
    let user = Account::current()?;
    let descriptor = Descriptor::of(file)?;
    let owner = descriptor.owner();
    if !(owner.is_the_system() || owner == user.sid()) {
        return Ok(Some(format!("of its owner {}", owner.name())));
    }
    let Some(entries) = descriptor.entries()? else { return Ok(Some("of everybody".to_owned())) };
    let trusted =
        |who: &Sid<'_>| who.is_the_system() || *who == user.sid() || *who == owner || who.is_the_owner();
    Ok(entries.iter().find(|who| !trusted(who)).map(|who| format!("of {}", who.name())))
}

pub(crate) fn remedy(path: &Path) -> String {
    let user = Account::current().map_or_else(|_| "%USERNAME%".to_owned(), |user| user.sid().name());
    format!("icacls \"{}\" /inheritance:r /grant:r \"{user}:F\"", path.display())
}

pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let descriptor = Descriptor::for_the_user_alone(&Account::current()?)?;
    make_with_parents(&std::path::absolute(path)?, &descriptor)
}

fn make_with_parents(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let first = make(path, descriptor);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let made = match (first, parent) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make_with_parents(parent, descriptor)?;
            make(path, descriptor)
        }
        (first, _) => first,
    };
    // Somebody else may have been faster.
    if path.is_dir() { Ok(()) } else { made }
}

#[expect(unsafe_code, reason = "the standard library makes folders without a descriptor only")]
fn make(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    let path: Vec<u16> = verbatim(path).as_os_str().encode_wide().chain([0]).collect();
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    // SAFETY: the path ends in a null, and both live as long as the call takes.
    let made = unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) };
    if made == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An absolute path that may have more than 260 characters.
fn verbatim(path: &Path) -> PathBuf {
    let text = path.as_os_str();
    let Some(plain) = text.to_str() else { return path.to_owned() };
    let mut verbatim = OsString::from(r"\\?\");
    match plain.strip_prefix(r"\\") {
        Some(special) if special.starts_with(['?', '.']) => return path.to_owned(),
        Some(share) => {
            verbatim.push(r"UNC\");
            verbatim.push(share);
        }
        None => verbatim.push(plain),
    }
    verbatim.into()
}

/// A security descriptor that the system has allocated.
struct Descriptor(PSECURITY_DESCRIPTOR, Parts);

/// What lies in it.
struct Parts {
    owner: PSID,
    entries: *mut ACL,
}

impl Drop for Descriptor {
    #[expect(unsafe_code, reason = "it is the system's memory")]
    fn drop(&mut self) {
        // SAFETY: it was allocated for us, and nothing that lies in it outlives it.
        unsafe { LocalFree(self.0) };
    }
}

impl Descriptor {
    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn of(file: &File) -> io::Result<Self> {
        let (mut descriptor, mut owner, mut entries) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the file is open, and the places for the answers outlive the call.
        let status = unsafe {
            GetSecurityInfo(
                file.as_raw_handle() as HANDLE,
                SE_FILE_OBJECT,
                OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
                &raw mut owner,
                ptr::null_mut(),
                &raw mut entries,
                ptr::null_mut(),
                &raw mut descriptor,
            )
        };
        if status != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(status.cast_signed()));
        }
        let descriptor = Self(descriptor, Parts { owner, entries });
        if owner.is_null() { Err(io::Error::other("the file has no owner")) } else { Ok(descriptor) }
    }

    /// Protected from its parent's list; everything is given to the user, the system and the administrators, for what will be
    /// inside as well.
    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn for_the_user_alone(user: &Account) -> io::Result<Self> {
        let text = format!("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;{})", user.sid().text()?);
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = ptr::null_mut();
        // SAFETY: the text ends in a null, and the place for the answer outlives the call.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                ptr::null_mut(),
            )
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(descriptor, Parts { owner: ptr::null_mut(), entries: ptr::null_mut() }))
    }

    #[expect(unsafe_code, reason = "it is the system's memory")]
    fn owner(&self) -> Sid<'_> {
        // SAFETY: it was seen not to be null, and lies in this descriptor.
        unsafe { Sid::at(self.1.owner) }
    }

    /// Who is given anything; `None` where there is no list, and so everybody is.
    #[expect(unsafe_code, reason = "it is the system's memory")]
    fn entries(&self) -> io::Result<Option<Vec<Sid<'_>>>> {
        let list = self.1.entries;
        if list.is_null() {
            return Ok(None);
        }
        // SAFETY: the list lies in this descriptor, which the system has made.
        let count = unsafe { (*list).AceCount };
        let mut found = Vec::new();
        for index in 0..u32::from(count) {
            let mut entry = ptr::null_mut();
            // SAFETY: as above, and the place for the answer outlives the call.
            if unsafe { GetAce(list, index, &raw mut entry) } == 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: every entry begins with its header.
            let header = unsafe { entry.cast::<ACE_HEADER>().read_unaligned() };
            let counts = matches!(header.AceType, ALLOWED | ALLOWED_IF)
                && u32::from(header.AceFlags) & INHERIT_ONLY_ACE == 0;
            if counts {
                // SAFETY: entries of these kinds have this form, and an identifier in the place of its last field.
                let sid = unsafe { &raw mut (*entry.cast::<ACCESS_ALLOWED_ACE>()).SidStart };
                // SAFETY: it lies in this descriptor.
                found.push(unsafe { Sid::at(sid.cast()) });
            }
        }
        Ok(Some(found))
    }
}

//! Who somebody is: security identifiers, and their names.

use std::{io, marker::PhantomData, ptr};

use windows_sys::Win32::{
    Foundation::{CloseHandle, HANDLE, LocalFree},
    Security::{
        Authorization::ConvertSidToStringSidW, EqualSid, GetTokenInformation, IsWellKnownSid,
        LookupAccountSidW, PSID, TOKEN_QUERY, TOKEN_USER, TokenUser, WELL_KNOWN_SID_TYPE,
        WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid, WinLocalSystemSid,
    },
    System::Threading::{GetCurrentProcess, OpenProcessToken},
};

/// Longer than any identifier's text.
const LONGEST_TEXT: usize = 256;

/// The user whom this process runs as.
pub(super) struct Account {
    /// A `TOKEN_USER`, with what it points to after it; in words, so that it is aligned.
    answer: Vec<u64>,
}

impl Account {
    pub(super) fn current() -> io::Result<Self> {
        let token = Token::of_this_process()?;
        // An identifier has 68 bytes at most.
        let mut answer = vec![0_u64; 32];
        token.user(&mut answer)?;
        Ok(Self { answer })
    }

    #[expect(unsafe_code, reason = "the answer of a call")]
    pub(super) fn sid(&self) -> Sid<'_> {
        // SAFETY: the call has filled in what was asked for, whose identifier lies in the same memory.
        unsafe { Sid::at(self.answer.as_ptr().cast::<TOKEN_USER>().read().User.Sid) }
    }
}

struct Token(HANDLE);

impl Token {
    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn of_this_process() -> io::Result<Self> {
        let mut token = ptr::null_mut();
        // SAFETY: the place for the answer outlives the call.
        let done = unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(token)) }
    }

    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn user(&self, answer: &mut [u64]) -> io::Result<()> {
        let size = u32::try_from(size_of_val(answer)).unwrap_or(0);
        let mut needed = 0;
        // SAFETY: the token is open, and there is as much space as is said.
        let done = unsafe {
            GetTokenInformation(self.0, TokenUser, answer.as_mut_ptr().cast(), size, &raw mut needed)
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Token {
    #[expect(unsafe_code, reason = "the standard library knows no tokens")]
    fn drop(&mut self) {
        // SAFETY: it is ours, and used no more.
        unsafe { CloseHandle(self.0) };
    }
}

/// A security identifier, which lies in something that outlives it.
#[derive(Clone, Copy)]
pub(super) struct Sid<'a>(PSID, PhantomData<&'a ()>);

impl PartialEq for Sid<'_> {
    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: both are valid.
        unsafe { EqualSid(self.0, other.0) != 0 }
    }
}

impl Sid<'_> {
    /// # Safety
    /// There is a valid identifier, for as long as the answer lives.
    #[expect(unsafe_code, reason = "a pointer is believed")]
    pub(super) unsafe fn at(pointer: PSID) -> Self {
        Self(pointer, PhantomData)
    }

    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn is(self, kind: WELL_KNOWN_SID_TYPE) -> bool {
        // SAFETY: it is valid.
        unsafe { IsWellKnownSid(self.0, kind) != 0 }
    }

    /// Whether it is the system or its administrators, who can read everything.
    pub(super) fn is_the_system(self) -> bool {
        self.is(WinLocalSystemSid) || self.is(WinBuiltinAdministratorsSid)
    }

    /// Whether it stands for the owner of whatever it is listed at.
    pub(super) fn is_the_owner(self) -> bool {
        self.is(WinCreatorOwnerRightsSid)
    }

    /// `S-1-5-…`.
    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    pub(super) fn text(self) -> io::Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: it is valid, and the place for the answer outlives the call.
        if unsafe { ConvertSidToStringSidW(self.0, &raw mut text) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the answer ends in a null, long before that.
        let length = (0..LONGEST_TEXT).take_while(|&index| unsafe { *text.add(index) } != 0).count();
        // SAFETY: so many units come before it.
        let read = String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) });
        // SAFETY: it was allocated for us.
        unsafe { LocalFree(text.cast()) };
        Ok(read)
    }

    /// `DOMAIN\name`, or the identifier where it has none.
    pub(super) fn name(self) -> String {
        self.looked_up().or_else(|| self.text().ok()).unwrap_or_else(|| "somebody unknown".to_owned())
    }

    #[expect(unsafe_code, reason = "there is no safe form of this call")]
    fn looked_up(self) -> Option<String> {
        let (mut name, mut domain) = ([0_u16; 256], [0_u16; 256]);
        let (mut name_length, mut domain_length, mut kind) = (256, 256, 0);
        // SAFETY: it is valid, and there is as much space as is said.
        let found = unsafe {
            LookupAccountSidW(
                ptr::null(),
                self.0,
                name.as_mut_ptr(),
                &raw mut name_length,
                domain.as_mut_ptr(),
                &raw mut domain_length,
                &raw mut kind,
            )
        };
        if found == 0 {
            return None;
        }
        let text = |units: &[u16], length: u32| {
            String::from_utf16_lossy(units.get(..length as usize).unwrap_or(units))
        };
        let (name, domain) = (text(&name, name_length), text(&domain, domain_length));
        Some(if domain.is_empty() { name } else { format!("{domain}\\{name}") })
    }
}

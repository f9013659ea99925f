//! Standard input on Windows: a console that is raw is read key by key, everything else as the standard library does it.
//!
//! A read of a pipe or of a line cannot be waited for. The thread that is in one stays in it when nobody wants the input
//! any more, and ends with the program, which ends then.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::windows::io::AsRawHandle;
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;
use windows_sys::Win32::Foundation::{HANDLE, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Console::{
    ENABLE_LINE_INPUT, INPUT_RECORD, KEY_EVENT, KEY_EVENT_RECORD, LEFT_CTRL_PRESSED, RIGHT_CTRL_PRESSED,
    ReadConsoleInputW,
};
use windows_sys::Win32::System::Threading::WaitForSingleObject;

use super::CHUNK;

/// How many events of a console are taken at once.
const EVENTS: usize = 128;
/// How soon the thread notices that nobody wants keys any more, in milliseconds.
const LOOK_EVERY: u32 = 100;

/// Keys by their number.
const ALT: u16 = 0x12;
const SPACE: u16 = 0x20;
const TWO: u16 = 0x32;

/// The thread that reads.
pub(super) struct Reader;

impl Reader {
    pub(super) fn start(sender: mpsc::Sender<io::Result<Bytes>>) -> io::Result<Self> {
        let is_raw = winapi_util::console::mode(io::stdin()).is_ok_and(|mode| mode & ENABLE_LINE_INPUT == 0);
        let read = if is_raw { read_keys } else { read_stream };
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            if let Err(error) = read(&sender) {
                let _ = sender.blocking_send(Err(error));
            }
        })?;
        Ok(Self)
    }
}

/// Reads until the end, or until nobody wants more. What a console gives becomes UTF-8.
fn read_stream(sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut stdin = io::stdin();
    loop {
        let mut chunk = vec![0; CHUNK];
        match stdin.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => chunk.truncate(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}

/// Reads keys, and the sequences that the console makes of those that are no characters.
fn read_keys(sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let stdin = io::stdin();
    let mut keys = Keys::default();
    while !sender.is_closed() {
        if !has_events(&stdin)? {
            continue;
        }
        let text = keys.text(read_events(&stdin, &mut [const { MaybeUninit::uninit() }; EVENTS])?);
        if !text.is_empty() && sender.blocking_send(Ok(text.into())).is_err() {
            break;
        }
    }
    Ok(())
}

/// Waits for a moment.
#[expect(unsafe_code, reason = "the standard library does not wait for handles")]
fn has_events(console: &io::Stdin) -> io::Result<bool> {
    // SAFETY: the handle of standard input is never closed.
    match unsafe { WaitForSingleObject(console.as_raw_handle() as HANDLE, LOOK_EVERY) } {
        WAIT_OBJECT_0 => Ok(true),
        WAIT_TIMEOUT => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "the standard library reads characters only, and takes Ctrl-Z for the end")]
fn read_events<'a>(
    console: &io::Stdin,
    space: &'a mut [MaybeUninit<INPUT_RECORD>; EVENTS],
) -> io::Result<&'a [INPUT_RECORD]> {
    let mut count = 0;
    let handle = console.as_raw_handle() as HANDLE;
    let most = u32::try_from(EVENTS).unwrap_or(0);
    // SAFETY: the handle is never closed, and there is space for `EVENTS` events.
    let done = unsafe { ReadConsoleInputW(handle, space.as_mut_ptr().cast(), most, &raw mut count) };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has written `count` events, which are plain data.
    Ok(unsafe { std::slice::from_raw_parts(space.as_ptr().cast(), (count as usize).min(EVENTS)) })
}

/// Turns events into UTF-8.
#[derive(Default)]
struct Keys {
    /// The first half of a character that takes two units of UTF-16.
    half: Option<u16>,
}

impl Keys {
    fn text(&mut self, events: &[INPUT_RECORD]) -> String {
        let mut units: Vec<u16> = self.half.take().into_iter().collect();
        for event in events {
            if u32::from(event.EventType) == KEY_EVENT {
                // The event says which of the union's parts it is.
                #[expect(unsafe_code, reason = "a union of C")]
                // SAFETY: all parts are plain data, and the type of the event is that of this one.
                let key = unsafe { &event.Event.KeyEvent };
                if let Some(unit) = unit(key) {
                    units.extend(std::iter::repeat_n(unit, key.wRepeatCount.max(1).into()));
                }
            }
        }
        self.half = units.pop_if(|last| (0xd800..0xdc00).contains(last));
        String::from_utf16_lossy(&units)
    }
}

/// What a key types, as a unit of UTF-16.
fn unit(key: &KEY_EVENT_RECORD) -> Option<u16> {
    #[expect(unsafe_code, reason = "a union of C")]
    // SAFETY: both parts are plain data; this is the one that the calls for UTF-16 write.
    let unit = unsafe { key.uChar.UnicodeChar };
    if key.bKeyDown == 0 {
        // A character that was typed by its number comes as the Alt key goes up.
        return (key.wVirtualKeyCode == ALT && unit != 0).then_some(unit);
    }
    let is_control = key.dwControlKeyState & (LEFT_CTRL_PRESSED | RIGHT_CTRL_PRESSED) != 0;
    // Ctrl-Space and Ctrl-@ type a null; Shift and its like type nothing.
    let is_null = key.wVirtualKeyCode == 0 || (is_control && matches!(key.wVirtualKeyCode, SPACE | TWO));
    (unit != 0 || is_null).then_some(unit)
}

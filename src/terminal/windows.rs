//! A console of Windows: its modes, and questions on it.
//!
//! A terminal of Cygwin or MSYS is a pipe to us: it is no console, cannot be made raw and cannot be kept from showing what
//! is typed. Whoever runs `machine` there puts `winpty` before it.

use std::fs::File;
use std::io::{self, BufRead, Write};

use winapi_util::{AsHandleRef, console};
use windows_sys::Win32::System::Console::{
    CONSOLE_MODE, DISABLE_NEWLINE_AUTO_RETURN, ENABLE_ECHO_INPUT, ENABLE_LINE_INPUT, ENABLE_PROCESSED_INPUT,
    ENABLE_PROCESSED_OUTPUT, ENABLE_VIRTUAL_TERMINAL_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING,
};

/// What a terminal is taken for whose kind nobody told: a console understands what this one does.
pub(crate) const DEFAULT_KIND: &str = "xterm-256color";

/// The console, and what its modes were: those of its keyboard and those of its screen.
pub(super) struct Modes {
    input: File,
    output: File,
    before_input: CONSOLE_MODE,
    before_output: CONSOLE_MODE,
}

impl Modes {
    /// Those of the console, whatever the standard streams are.
    fn of_console() -> io::Result<Self> {
        let open = |name| File::options().read(true).write(true).open(name);
        let (input, output) = (open("CONIN$")?, open("CONOUT$")?);
        let (before_input, before_output) = (console::mode(&input)?, console::mode(&output)?);
        Ok(Self { input, output, before_input, before_output })
    }

    /// Those of standard input, if it is the console.
    pub(super) fn of_standard_input() -> io::Result<Option<Self>> {
        if is_console(&io::stdin()) { Self::of_console().map(Some) } else { Ok(None) }
    }

    /// Keys come as the sequences that a terminal sends, Ctrl-C among them, and sequences mean something on the screen.
    pub(super) fn make_raw(&self) -> io::Result<()> {
        let cooked = ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT;
        self.set_input((self.before_input & !cooked) | ENABLE_VIRTUAL_TERMINAL_INPUT).map_err(too_old)?;
        let screen = ENABLE_PROCESSED_OUTPUT | ENABLE_VIRTUAL_TERMINAL_PROCESSING;
        let screen = self.before_output | screen | DISABLE_NEWLINE_AUTO_RETURN;
        console::set_mode(&self.output, screen).map_err(too_old)
    }

    pub(super) fn hide_typing(&self) -> io::Result<()> {
        let shown = self.before_input | ENABLE_LINE_INPUT | ENABLE_PROCESSED_INPUT;
        self.set_input(shown & !ENABLE_ECHO_INPUT)
    }

    fn set_input(&self, mode: CONSOLE_MODE) -> io::Result<()> {
        console::set_mode(&self.input, mode)
    }

    pub(super) fn restore(&self) {
        // There is nobody left to tell.
        let _ = console::set_mode(&self.input, self.before_input);
        let _ = console::set_mode(&self.output, self.before_output);
    }
}

fn too_old(error: io::Error) -> io::Error {
    let text =
        format!("This console cannot be a terminal for the host, as those since Windows 10 can: {error}");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// Whether this is a console, and not a pipe to a terminal of Cygwin.
pub(crate) fn is_console(stream: &impl AsHandleRef) -> bool {
    console::mode(stream).is_ok()
}

/// Whether sequences that begin with ESC mean something there; they are made to, where they can.
pub(crate) fn understands_escapes(stream: &impl AsHandleRef) -> bool {
    match console::mode(stream) {
        Ok(mode) if mode & ENABLE_VIRTUAL_TERMINAL_PROCESSING != 0 => true,
        Ok(mode) => console::set_mode(stream, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING).is_ok(),
        // What is no console belongs to somebody who understands them.
        Err(_) => true,
    }
}

/// Where whoever started us can be asked.
pub(super) struct Console;

impl Console {
    #[allow(clippy::unnecessary_wraps, reason = "on unix there may be none")]
    pub(super) fn open() -> Option<Self> {
        Some(Self)
    }

    #[allow(clippy::unused_self, reason = "on unix it is a file of its own")]
    pub(super) fn modes(&self) -> io::Result<Modes> {
        Modes::of_console()
    }

    /// Nothing at the end of the input. The standard library reads a console as Unicode.
    #[allow(clippy::unused_self, reason = "on unix it is a file of its own")]
    pub(super) fn ask_line(&mut self, question: &str) -> io::Result<Option<String>> {
        let mut screen = io::stderr().lock();
        screen.write_all(question.as_bytes())?;
        drop(screen);
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

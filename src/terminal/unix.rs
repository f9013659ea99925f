//! A terminal of unix: its modes, and questions on `/dev/tty`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// A key that does nothing: `_POSIX_VDISABLE`.
const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };

/// What a terminal is taken for whose kind nobody told.
pub(crate) const DEFAULT_KIND: &str = "xterm";

/// Whether sequences that begin with ESC mean something there.
pub(crate) fn understands_escapes(_: &impl AsFd) -> bool {
    true
}

/// A terminal, and what its modes were.
pub(super) struct Modes {
    terminal: OwnedFd,
    before: Termios,
}

impl Modes {
    fn of(terminal: impl AsFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        Ok(Self { terminal: terminal.as_fd().try_clone_to_owned()?, before })
    }

    /// Those of standard input, if it is a terminal.
    pub(super) fn of_standard_input() -> io::Result<Option<Self>> {
        if io::stdin().is_terminal() { Self::of(io::stdin()).map(Some) } else { Ok(None) }
    }

    pub(super) fn make_raw(&self) -> io::Result<()> {
        self.set(OptionalActions::Flush, Termios::make_raw)
    }

    /// The same, and what was typed meanwhile is kept.
    pub(super) fn make_raw_again(&self) -> io::Result<()> {
        self.set(OptionalActions::Drain, Termios::make_raw)
    }

    pub(super) fn hide_typing(&self) -> io::Result<()> {
        self.set(OptionalActions::Flush, |modes| {
            modes.local_modes.remove(LocalModes::ECHO);
            modes.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
            for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
                modes.special_codes[key] = NO_KEY;
            }
        })
    }

    fn set(&self, when: OptionalActions, change: impl FnOnce(&mut Termios)) -> io::Result<()> {
        let mut wanted = self.before.clone();
        change(&mut wanted);
        Ok(tcsetattr(&self.terminal, when, &wanted)?)
    }

    pub(super) fn restore(&self) {
        // There is nobody left to tell.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Where whoever started us can be asked, whatever the standard streams are.
pub(super) struct Console(File);

impl Console {
    pub(super) fn open() -> Option<Self> {
        File::options().read(true).write(true).open("/dev/tty").ok().map(Self)
    }

    pub(super) fn modes(&self) -> io::Result<Modes> {
        Modes::of(&self.0)
    }

    /// Nothing at the end of the input.
    pub(super) fn ask_line(&mut self, question: &str) -> io::Result<Option<String>> {
        self.0.write_all(question.as_bytes())?;
        let mut line = String::new();
        if BufReader::new(&self.0).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

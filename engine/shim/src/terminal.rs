//! The size of a terminal.

use std::io;
use std::os::fd::AsFd;

pub(crate) fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

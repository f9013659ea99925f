//! An upload that tells how far it has come.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use machine_driver::Progress;
use tokio::io::{AsyncRead, ReadBuf};

/// What is sent, counted as it is taken by the connection.
pub(super) struct Counted<'a> {
    content: Cursor<Vec<u8>>,
    progress: &'a dyn Progress,
}

impl<'a> Counted<'a> {
    pub(super) fn new(content: Vec<u8>, progress: &'a dyn Progress) -> Self {
        Self { content: Cursor::new(content), progress }
    }
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.content).poll_read(context, buffer))?;
        self.progress.amount(self.content.position(), self.content.get_ref().len() as u64);
        Poll::Ready(Ok(()))
    }
}
